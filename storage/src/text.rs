//! Lines of text and records of fixed length, read from objects in pieces: who reads which bytes, and the readers.
//!
//! Cutting follows Hadoop: a line belongs to the split in which its first byte lies. So any cuts whatever give every
//! line once, and each split is read without knowledge of the others.

mod options;

mod gzip;

mod split;

mod pieces;

mod lines;

mod records;

pub use self::gzip::{gunzip, is_gzip};
pub use self::lines::{LineReader, read_lines, read_lines_with};
pub use self::options::TextOptions;
pub use self::records::{RecordReader, RecordSplit, read_records, split_records};
pub use self::split::{TextSplit, split_text};

#[cfg(test)]
mod tests;
