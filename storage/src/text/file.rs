//! Text files in the making.

use std::io::{self, Write};

use flate2::write::GzEncoder;
use ruzstd::encoding::{CompressionLevel, compress_to_vec};

use crate::error::Result;
use crate::object::{ObjectError, remedy};

/// The format that text is compressed in when it is written.
///
/// Of 5 MB of JSON lines one core makes 1.5 MB in gzip format at 15 MB/s (31 MB/s with the feature `parquet`, which
/// brings another compressor), and 2.1 MB in zstd format at 48 MB/s. Reading zstd takes twice as long as reading gzip.
/// So zstd is for programs that wait for their output, or for readers that ask for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum FileCompression {
    /// Plain text.
    #[default]
    None,
    /// Gzip, RFC 1952. Names end in `.gz`. A file being written takes what it is compressed to, and some 300 KB.
    Gzip,
    /// Zstandard, RFC 8878, in one frame with a checksum. Names end in `.zst`. A file being written is held as plain
    /// text until it is whole.
    Zstd,
}

impl FileCompression {
    /// What names of such files end in, by which readers know them.
    pub fn ending(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Gzip => ".gz",
            Self::Zstd => ".zst",
        }
    }
}

/// A text file as it comes to be, in memory: the text, or what it is compressed to.
#[derive(Debug)]
pub struct TextFile {
    url: String,
    form: Form,
}

#[derive(Debug)]
enum Form {
    Plain(Vec<u8>),
    Gzip(Box<GzEncoder<Vec<u8>>>),
    /// The text: the compressor takes it as a whole.
    Zstd(Vec<u8>),
}

impl TextFile {
    /// A file without text, which errors call `url`, to be compressed. Its header has neither name nor time: a program
    /// makes the same bytes of the same text each time.
    pub fn new(url: &str, compression: FileCompression) -> Self {
        let form = match compression {
            FileCompression::None => Form::Plain(Vec::new()),
            FileCompression::Gzip => Form::Gzip(Box::new(GzEncoder::new(Vec::new(), flate2::Compression::default()))),
            FileCompression::Zstd => Form::Zstd(Vec::new()),
        };
        Self {
            url: url.to_owned(),
            form,
        }
    }

    /// Appends text.
    ///
    /// # Errors
    /// It cannot be compressed.
    pub fn append(&mut self, text: &[u8]) -> Result<()> {
        Ok(self.write_all(text).map_err(|error| failed(&self.url, &error))?)
    }

    /// The bytes of the file.
    ///
    /// # Errors
    /// The text cannot be compressed.
    pub fn finish(self) -> Result<Vec<u8>> {
        match self.form {
            Form::Plain(bytes) => Ok(bytes),
            Form::Gzip(encoder) => Ok(encoder.finish().map_err(|error| failed(&self.url, &error))?),
            // The only level that it has.
            Form::Zstd(text) => Ok(compress_to_vec(&text[..], CompressionLevel::Fastest)),
        }
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }
}

impl Write for TextFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.form {
            Form::Plain(file) | Form::Zstd(file) => file.write(bytes),
            Form::Gzip(encoder) => encoder.write(bytes),
        }
    }

    /// Nothing: a compressor that is flushed compresses less.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

pub(crate) fn failed(url: &str, error: &io::Error) -> ObjectError {
    ObjectError::Io {
        url: url.to_owned(),
        action: "make its text",
        message: error.to_string(),
        remedy: remedy(error),
    }
}
