//! Records of delimited text, read and written: RFC 4180, in UTF-8, with other delimiters where asked for.
//!
//! A quoted field may hold line ends, and only who reads a file from its start knows whether a line end is one of
//! those. So a file is cut at line ends only as long as no field holds any ([`CsvOptions::quoted_newlines`] is off, as
//! it is by default); a field that does is then an error, never a wrong record. Otherwise each file is read whole by
//! one partition.

mod fields;

mod reader;

mod writer;

use std::ops::Range;

pub use self::reader::{read_csv, try_read_csv};
pub use self::writer::CsvWriter;
use crate::object::Object;
use crate::split::{Extent, deal};
use crate::text::{TextOptions, TextSplit, split_text, text_split};

/// How delimited text is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CsvOptions {
    /// What is between two fields, an ASCII character. Default `,`.
    pub delimiter: u8,
    /// What is around a field that holds a delimiter, a line end or a quote, an ASCII character; a quote in it is
    /// doubled. `None`: a field is all that is between two delimiters. Default `"`.
    pub quote: Option<u8>,
    /// Whether white space at either end of a field is none of it, be the field quoted or not, and a name of a column
    /// or not. Default `false`.
    pub trim: bool,
    /// Whether the first record of each file names the columns. Fields go to those of the record type by name then,
    /// else by position. Default `true`.
    pub header: bool,
    /// Whether a header may lack the column of a field that is an `Option`, which is `None` then. Otherwise that is an
    /// error, since a name that is misspelt would go unseen. A field that is no `Option` needs `#[serde(default)]`, and
    /// no word here. Default `false`.
    pub columns_may_be_missing: bool,
    /// Whether quoted fields may hold line ends. Each file is read by one partition then. Default `false`.
    pub quoted_newlines: bool,
    /// Limits; a record counts as a line, with all its line ends. Default `None`: those of the configuration
    /// (`line_size`), or without one those of [`TextOptions`].
    pub text: Option<TextOptions>,
}

impl Default for CsvOptions {
    fn default() -> Self {
        Self {
            delimiter: b',',
            quote: Some(b'"'),
            trim: false,
            header: true,
            columns_may_be_missing: false,
            quoted_newlines: false,
            text: None,
        }
    }
}

impl CsvOptions {
    pub(crate) fn text(&self) -> TextOptions {
        self.text.unwrap_or_default()
    }
}

/// Cuts the records of `objects`, in their order, into `partitions` groups of about equal numbers of bytes, as
/// [`split_text`] does; each object as a whole if its fields may hold line ends.
pub fn split_csv(objects: &[Object], options: &CsvOptions, partitions: usize) -> Vec<Vec<TextSplit>> {
    if !options.quoted_newlines {
        return split_text(objects, partitions);
    }
    let extent = |object: &Object| Extent {
        // An empty file, which a compressed one cannot be, is read to find that out.
        units: object.bytes.max(1),
        whole: true,
    };
    let extents: Vec<Extent> = objects.iter().map(extent).collect();
    let split = |(index, range): (usize, Range<u64>)| text_split(&objects[index], range);
    let groups = deal(&extents, partitions).into_iter();
    groups.map(|group| group.into_iter().map(split).collect()).collect()
}

#[cfg(test)]
mod tests;
