//! Values become records.

use std::io::{self, Write};

use csv::Writer;
use serde::Serialize;

use super::CsvOptions;
use super::reader::check;
use crate::error::Result;
use crate::object::ObjectError;
use crate::text::file::failed;
use crate::text::{FileCompression, TextFile};

/// Makes a file of delimited text, record by record in memory, that [`read_csv`](super::read_csv) reads with the same
/// options.
#[derive(Debug)]
pub struct CsvWriter {
    url: String,
    writer: Writer<Sink>,
    options: CsvOptions,
    records: u64,
}

impl CsvWriter {
    /// `url` is what errors call the file.
    ///
    /// # Errors
    /// As [`CsvWriter::with_file`].
    pub fn new(url: &str, options: &CsvOptions) -> Result<Self> {
        Self::with_file(TextFile::new(url, FileCompression::None), options)
    }

    /// The same for a file that may be compressed, and has no text yet.
    ///
    /// # Errors
    /// Options that make no sense together, or with which what is written is not what is read: without a quote, since a
    /// field may hold a delimiter, or with white space trimmed.
    pub fn with_file(file: TextFile, options: &CsvOptions) -> Result<Self> {
        let url = file.url().to_owned();
        check(&url, options)?;
        if options.quote.is_none() {
            let remedy = "records are written with quotes where fields need them; set `CsvOptions::quote`";
            return Err(ObjectError::unsupported(&url, remedy).into());
        }
        if options.trim {
            let remedy =
                "white space around fields is written, and would not be read again; set `CsvOptions::trim` to `false`";
            return Err(ObjectError::unsupported(&url, remedy).into());
        }
        Ok(Self {
            url,
            writer: writer(file, options, options.header),
            options: options.clone(),
            records: 0,
        })
    }

    /// Appends a record: a struct, or what has as many fields each time and no names if there is to be no header. The
    /// first struct has the header before it, if there is to be one.
    ///
    /// # Errors
    /// A value that is no row of fields, has no names for the header, or has a line end within a field where
    /// [`CsvOptions::quoted_newlines`] is off, or is longer than
    /// [`TextOptions::line_bytes_max`](crate::text::TextOptions::line_bytes_max): nobody could read it again.
    pub fn push(&mut self, record: &impl Serialize) -> Result<()> {
        self.write(record)?;
        let bytes = &self.writer.get_ref().written;
        let is_first = self.records == 0;
        let header = is_first && self.options.header;
        let alone = if header { self.bytes_alone(record)? } else { bytes.len() };
        if header && bytes.len() == alone {
            let remedy = "write structs, or set `CsvOptions::header` to `false`";
            return Err(self.malformed("it has no names for the header", remedy));
        }
        let (bytes_max, of_header) = (self.options.text().line_bytes_max, bytes.len() - alone);
        // Without the end of its line.
        if alone.max(of_header) > bytes_max.saturating_add(1) {
            let remedy = "raise `TextOptions::line_bytes_max` (`line_size` in a configuration), for who reads it too, or save shorter records";
            return Err(self.malformed(&format!("it, or the header, has more than {bytes_max} bytes"), remedy));
        }
        let lines = bytes.iter().filter(|byte| **byte == b'\n').count();
        if !self.options.quoted_newlines && lines > 1 + usize::from(header) {
            let remedy = "set `CsvOptions::quoted_newlines`, for who reads it too, or save JSON lines";
            return Err(self.malformed("a field has a line end in it", remedy));
        }
        if is_first && bytes.starts_with("\u{feff}".as_bytes()) {
            let remedy = "map the records such that the file begins with something else, or save JSON lines";
            return Err(self.malformed("it begins with a byte order mark, which readers drop", remedy));
        }
        self.records += 1;
        Ok(())
    }

    /// The file. No text if there was no record.
    ///
    /// # Errors
    /// The text cannot be compressed.
    pub fn finish(self) -> Result<Vec<u8>> {
        match self.writer.into_inner() {
            Ok(sink) => sink.file.finish(),
            Err(error) => Err(failed(&self.url, error.error()).into()),
        }
    }

    fn write(&mut self, record: &impl Serialize) -> Result<()> {
        let written = self.writer.serialize(record);
        let written = written.and_then(|()| Ok(self.writer.flush()?));
        written.map_err(|error| {
            self.malformed(
                &error.to_string(),
                "map the records to structs or tuples of plain values",
            )
        })
    }

    /// How long a record is without a header.
    fn bytes_alone(&self, record: &impl Serialize) -> Result<usize> {
        let mut alone = Self {
            url: self.url.clone(),
            writer: writer(TextFile::new(&self.url, FileCompression::None), &self.options, false),
            options: self.options.clone(),
            records: self.records,
        };
        alone.write(record)?;
        Ok(alone.writer.get_ref().written.len())
    }

    fn malformed(&self, problem: &str, remedy: &str) -> crate::error::StorageError {
        ObjectError::malformed(&self.url, format!("record {}", self.records), problem, remedy).into()
    }
}

/// A file, and what was last written to it between two flushes.
#[derive(Debug)]
struct Sink {
    file: TextFile,
    written: Vec<u8>,
    flushed: bool,
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if std::mem::take(&mut self.flushed) {
            self.written.clear();
        }
        self.file.write_all(bytes)?;
        self.written.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.flushed = true;
        Ok(())
    }
}

fn writer(file: TextFile, options: &CsvOptions, header: bool) -> Writer<Sink> {
    csv::WriterBuilder::new()
        .delimiter(options.delimiter)
        .quote(options.quote.unwrap_or_default())
        .has_headers(header)
        .from_writer(Sink {
            file,
            written: Vec::new(),
            flushed: false,
        })
}
