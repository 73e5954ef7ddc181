//! Files in the making, in each format that is saved.

use std::fmt::{Display, Write};

use distdl_storage::Record;
use distdl_storage::array::{Element, NpyWriter};
use distdl_storage::csv::{CsvOptions, CsvWriter};
#[cfg(feature = "parquet")]
use distdl_storage::parquet::ParquetWriter;
use distdl_storage::remote::Existing;
use distdl_storage::text::{FileCompression, TextFile};

use crate::error::{EngineError, Result};

/// How files are saved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SaveOptions {
    /// The format that files are compressed in. Their names end in `.gz` or `.zst` then, by which all that reads them
    /// knows; each is read by one partition. Without times and names in them, a program makes the same bytes of the
    /// same records each time. Default [`FileCompression::None`]. Not for npy and Parquet files.
    pub compression: FileCompression,
    /// What is done where something has the name already: it stays and saving is refused, or it is replaced at the very
    /// end, all at once. Default [`Existing::Refuse`].
    pub existing: Existing,
}

impl SaveOptions {
    /// How names of parts of a kind end.
    pub(super) fn ending(self, kind: &str) -> String {
        format!("{kind}{}", self.compression.ending())
    }

    /// An error if what has a format without need or use for it is to be compressed.
    pub(super) fn must_be_plain(self, format: &str) -> Result<()> {
        match self.compression {
            FileCompression::None => Ok(()),
            _ => Err(EngineError::invalid(
                format!("{format} files are not compressed as a whole"),
                "leave `SaveOptions::compression` at `FileCompression::None`",
            )),
        }
    }
}

/// Makes one file of records, in memory.
pub(super) trait Encoder<T> {
    fn push(&mut self, record: T) -> Result<()>;

    /// The bytes of the file.
    fn finish(self) -> Result<Vec<u8>>;
}

/// A line for each record.
#[derive(Debug)]
pub(super) struct TextLines {
    file: TextFile,
    line: String,
}

/// Begins files that errors call `url`.
pub(super) fn text_lines(url: &str, options: SaveOptions) -> impl Fn() -> Result<TextLines> + Send + Sync + use<> {
    let url = url.to_owned();
    move || {
        Ok(TextLines {
            file: TextFile::new(&url, options.compression),
            line: String::new(),
        })
    }
}

impl<T: Display> Encoder<T> for TextLines {
    fn push(&mut self, record: T) -> Result<()> {
        self.line.clear();
        // Writing to a string cannot fail, so it is the record's own doing.
        writeln!(self.line, "{record}").map_err(|error| {
            let name = std::any::type_name::<T>();
            EngineError::invalid(
                format!("a record of {name} has no text form: its `Display` failed ({error})"),
                "map the records to what can be displayed first",
            )
        })?;
        Ok(self.file.append(self.line.as_bytes())?)
    }

    fn finish(self) -> Result<Vec<u8>> {
        Ok(self.file.finish()?)
    }
}

/// A JSON value on a line for each record.
#[derive(Debug)]
pub(super) struct JsonLines {
    file: TextFile,
    line: Vec<u8>,
}

pub(super) fn json_lines(url: &str, options: SaveOptions) -> impl Fn() -> Result<JsonLines> + Send + Sync + use<> {
    let url = url.to_owned();
    move || {
        Ok(JsonLines {
            file: TextFile::new(&url, options.compression),
            line: Vec::new(),
        })
    }
}

impl<T: Record> Encoder<T> for JsonLines {
    fn push(&mut self, record: T) -> Result<()> {
        self.line.clear();
        serde_json::to_writer(&mut self.line, &record).map_err(|error| {
            let name = std::any::type_name::<T>();
            EngineError::invalid(
                format!("a record of {name} has no JSON form: {error}"),
                "map the records first, such that the keys of maps are strings or numbers",
            )
        })?;
        self.line.push(b'\n');
        Ok(self.file.append(&self.line)?)
    }

    fn finish(self) -> Result<Vec<u8>> {
        Ok(self.file.finish()?)
    }
}

pub(super) fn csv_file(
    url: &str,
    options: CsvOptions,
    saving: SaveOptions,
) -> impl Fn() -> Result<CsvWriter> + Send + Sync + use<> {
    let url = url.to_owned();
    move || Ok(CsvWriter::with_file(TextFile::new(&url, saving.compression), &options)?)
}

impl<T: Record> Encoder<T> for CsvWriter {
    fn push(&mut self, record: T) -> Result<()> {
        Ok(CsvWriter::push(self, &record)?)
    }

    fn finish(self) -> Result<Vec<u8>> {
        Ok(CsvWriter::finish(self)?)
    }
}

#[cfg(feature = "parquet")]
pub(super) fn parquet_file<T: Record>(
    url: &str,
    options: SaveOptions,
) -> Result<impl Fn() -> Result<ParquetWriter<T>> + Send + Sync + use<T>> {
    options.must_be_plain("Parquet")?;
    let url = url.to_owned();
    Ok(move || Ok(ParquetWriter::new(&url)?))
}

#[cfg(feature = "parquet")]
impl<T: Record> Encoder<T> for ParquetWriter<T> {
    fn push(&mut self, record: T) -> Result<()> {
        Ok(ParquetWriter::push(self, record)?)
    }

    fn finish(self) -> Result<Vec<u8>> {
        Ok(ParquetWriter::finish(self)?)
    }
}

impl<T: Element> Encoder<Vec<T>> for NpyWriter<T> {
    fn push(&mut self, record: Vec<T>) -> Result<()> {
        Ok(NpyWriter::push(self, &record)?)
    }

    fn finish(self) -> Result<Vec<u8>> {
        Ok(NpyWriter::finish(self))
    }
}
