//! Apache Parquet: tables by columns, read a row group at a time and written with Snappy.
//!
//! The footer of a file says where its row groups are, and each belongs to one partition. Only the columns that are
//! asked for are read. Rows become values of a type by the names of its fields, through `serde_arrow`. Pages may be
//! plain or compressed with Snappy, gzip, LZ4 or Zstandard.
//!
//! Dates and times become text, or the whole numbers that the file holds: days, milliseconds, microseconds or
//! nanoseconds, as its schema says. Times of the type INT96, which older programs write, are microseconds since 1970.
//! Files that hold a column in different units are not read as one.

mod nesting;

mod footer;

mod reader;

mod writer;

use std::ops::Range;

use serde::{Deserialize, Serialize};

pub use self::reader::read_parquet;
pub use self::writer::{ParquetWriter, ROW_GROUP_ROWS};
use crate::error::Result;
use crate::object::Object;
use crate::remote::Stores;
use crate::table::{deal_parts, parts};

/// What to read of Parquet files, and limits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParquetOptions {
    /// Names of the columns that are read; those within others come with them. Default all.
    pub columns: Option<Vec<String>>,
    /// Whether a file may lack the column of a field that is an `Option`, which is `None` then. Otherwise that is an
    /// error, since a name that is misspelt or in other letters would go unseen. A field that is no `Option` needs
    /// `#[serde(default)]`, and no word here; one that is there and not among `columns` is `None` as well. Default
    /// `false`.
    pub columns_may_be_missing: bool,
    /// Most bytes that the columns of a row group may take, stored or unpacked, as the footer says. They are held in
    /// memory as they are stored while the group is read; beside them a page of each column, which the format limits to
    /// 2 GiB. One in gzip or LZ4 that claims less than it holds is unpacked all the same: to at most 1032 or 255 times
    /// of what is stored. Default 1 GiB.
    pub row_group_bytes_max: u64,
    /// Longest footer, in bytes. Default 64 MiB.
    pub footer_bytes_max: u64,
}

impl Default for ParquetOptions {
    fn default() -> Self {
        Self {
            columns: None,
            columns_may_be_missing: false,
            row_group_bytes_max: 1 << 30,
            footer_bytes_max: 64 << 20,
        }
    }
}

/// Successive row groups of a file.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ParquetSplit {
    /// The file.
    pub object: Object,
    /// Its row groups, by 0-based index.
    pub row_groups: Range<usize>,
}

/// Deals the row groups of `objects`, in their order, to `partitions` groups of about equal numbers of stored bytes.
/// Each footer is read. A row group cannot be cut: it belongs to the group in which its middle lies.
///
/// # Errors
/// A footer cannot be read or is wrong, a column is missing, files hold dates or times of different units in a column,
/// or a row group is beyond its limit.
pub fn split_parquet(
    stores: &Stores,
    objects: &[Object],
    options: &ParquetOptions,
    partitions: usize,
) -> Result<Vec<Vec<ParquetSplit>>> {
    let read = |object: &Object| footer::outline(stores, object, options);
    let sizes = parts(objects, options.columns.as_deref(), read)?;
    let split = |(index, row_groups): (usize, Range<usize>)| ParquetSplit {
        object: objects[index].clone(),
        row_groups,
    };
    let groups = deal_parts(&sizes, partitions).into_iter();
    Ok(groups.map(|group| group.into_iter().map(split).collect()).collect())
}

#[cfg(test)]
mod tests;
