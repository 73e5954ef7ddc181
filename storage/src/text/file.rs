//! Text files in the making.

use std::io::{self, Write};

use flate2::write::GzEncoder;

use crate::error::Result;
use crate::object::{ObjectError, remedy};

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
}

impl TextFile {
    /// A file without text, which errors call `url`, to be compressed in gzip format if that is asked for. Its header
    /// has neither name nor time: a program makes the same bytes of the same text each time.
    pub fn new(url: &str, gzip: bool) -> Self {
        let form = match gzip {
            true => Form::Gzip(Box::new(GzEncoder::new(Vec::new(), flate2::Compression::default()))),
            false => Form::Plain(Vec::new()),
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
        }
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }
}

impl Write for TextFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.form {
            Form::Plain(file) => file.write(bytes),
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
