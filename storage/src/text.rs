//! Lines of text, JSON lines and records of fixed length, read from objects in pieces: who reads which bytes, and the
//! readers; and text files in the making.
//!
//! Cutting follows Hadoop: a line belongs to the split in which its first byte lies. So any cuts whatever give every
//! line once, and each split is read without knowledge of the others.

mod options;

mod gzip;

mod compression;

mod split;

pub(crate) mod pieces;

pub(crate) mod blocks;

mod lines;

pub(crate) mod raw_lines;

mod json;

mod records;

pub(crate) mod file;

pub use self::compression::Compression;
pub use self::file::{FileCompression, TextFile};
pub use self::json::{read_json_lines, try_read_json_lines};
pub use self::lines::{LineReader, read_lines, read_lines_with};
pub use self::options::TextOptions;
pub use self::records::{RecordReader, RecordSplit, read_records, split_records};
pub(crate) use self::split::text_split;
pub use self::split::{TextSplit, split_text};

#[cfg(test)]
mod tests;
