//! Apache Arrow IPC files (also called Feather): tables by columns, read a record batch at a time.
//!
//! The footer of a file says where its record batches are, and each belongs to one partition. Rows become values of a
//! type by the names of its fields, through `serde_arrow`. Buffers may be plain or compressed with LZ4 or Zstandard.
//! Streams, which have no footer, cannot be cut and are not read: write files, or Parquet.
//!
//! Dates and times become text, or the whole numbers that the file holds: days, seconds, milliseconds, microseconds or
//! nanoseconds, as its schema says. Files that hold a column in different units are not read as one.

mod blocks;

mod footer;

mod reader;

use std::ops::Range;

use serde::{Deserialize, Serialize};

use self::footer::Footer;
pub use self::reader::read_arrow;
use crate::error::Result;
use crate::object::Object;
use crate::remote::Stores;
use crate::table::{Outline, deal_parts, parts};

/// What to read of Arrow files, and limits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArrowOptions {
    /// Names of the columns that become fields; all are fetched, since they lie together. Default all.
    pub columns: Option<Vec<String>>,
    /// Whether a file may lack the column of a field that is an `Option`, which is `None` then. Otherwise that is an
    /// error, since a name that is misspelt or in other letters would go unseen. A field that is no `Option` needs
    /// `#[serde(default)]`, and no word here; one that is there and not among `columns` is `None` as well. Default
    /// `false`.
    pub columns_may_be_missing: bool,
    /// Most bytes that a record batch or a dictionary may take, stored or unpacked. Default 1 GiB.
    pub batch_bytes_max: u64,
    /// Longest footer, in bytes. Default 64 MiB.
    pub footer_bytes_max: u64,
}

impl Default for ArrowOptions {
    fn default() -> Self {
        Self {
            columns: None,
            columns_may_be_missing: false,
            batch_bytes_max: 1 << 30,
            footer_bytes_max: 64 << 20,
        }
    }
}

/// Successive record batches of a file.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ArrowSplit {
    /// The file.
    pub object: Object,
    /// Its record batches, by 0-based index.
    pub batches: Range<usize>,
}

/// Deals the record batches of `objects`, in their order, to `partitions` groups of about equal numbers of stored
/// bytes. Each footer is read. A batch cannot be cut: it belongs to the group in which its middle lies.
///
/// # Errors
/// A footer cannot be read or is wrong, a column is missing, files hold dates or times of different units in a column,
/// or a batch is beyond its limit.
pub fn split_arrow(
    stores: &Stores,
    objects: &[Object],
    options: &ArrowOptions,
    partitions: usize,
) -> Result<Vec<Vec<ArrowSplit>>> {
    let read = |object: &Object| {
        let footer = Footer::read(stores, object, options)?;
        let sizes: Vec<u64> = footer.batches.iter().map(|block| block.bytes()).collect();
        let has_rows = !sizes.is_empty();
        Ok(Outline {
            schema: footer.schema,
            sizes,
            has_rows,
        })
    };
    let sizes = parts(objects, options.columns.as_deref(), read)?;
    let split = |(index, batches): (usize, Range<usize>)| ArrowSplit {
        object: objects[index].clone(),
        batches,
    };
    let groups = deal_parts(&sizes, partitions).into_iter();
    Ok(groups.map(|group| group.into_iter().map(split).collect()).collect())
}

#[cfg(test)]
mod tests;
