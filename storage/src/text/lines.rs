//! The lines of a split. Memory holds one piece of the object and the line that spans its end.

use memchr::{memchr, memrchr};

use super::options::TextOptions;
use super::pieces::Pieces;
use super::split::TextSplit;
use crate::error::{Result, StorageError};
use crate::object::ObjectError;
use crate::remote::Stores;

/// First piece read beyond a split's end to finish its last line, in bytes; doubled while the line goes on.
const TAIL_BYTES: usize = 16 << 10;

/// The lines of a split, without their ends (`\n` or `\r\n`). After an error there are none.
#[derive(Debug)]
#[must_use = "lines are read as they are asked for"]
pub struct LineReader {
    url: String,
    pieces: Pieces,
    options: TextOptions,
    /// Where the first piece starts.
    begin: u64,
    /// Lines starting from here on belong to the next split.
    end: u64,
    /// Where the next piece starts.
    position: u64,
    /// Whether the line being read began in the split before.
    skipping: bool,
    /// The start of a line that goes on in the next piece.
    carried: Vec<u8>,
    /// Whole lines, and how far they have been handed out.
    block: String,
    block_position: usize,
    tail_bytes: usize,
    finished: bool,
}

/// The lines of `split`, with the default limits.
///
/// # Errors
/// An option of 0; reading itself starts with the first line.
pub fn read_lines(stores: &Stores, split: &TextSplit) -> Result<LineReader> {
    read_lines_with(stores, split, TextOptions::default())
}

/// The lines of `split`, with other limits.
///
/// # Errors
/// An option of 0; reading itself starts with the first line.
pub fn read_lines_with(stores: &Stores, split: &TextSplit, options: TextOptions) -> Result<LineReader> {
    if options.piece_bytes == 0 || options.line_bytes_max == 0 {
        return Err(ObjectError::unsupported(&split.object.url, "`TextOptions` must be greater than 0").into());
    }
    // The byte before the split tells whether a line starts with the split.
    let compressed = split.compression.is_some();
    let start = match compressed {
        true => 0,
        false => split.range.start.saturating_sub(1),
    };
    Ok(LineReader {
        url: split.object.url.clone(),
        pieces: Pieces::open(
            stores,
            &split.object,
            start..split.object.bytes,
            split.compression,
            options.piece_bytes,
        ),
        options,
        begin: start,
        end: if compressed { u64::MAX } else { split.range.end },
        position: start,
        skipping: !compressed && split.range.start > 0,
        carried: Vec::new(),
        block: String::new(),
        block_position: 0,
        tail_bytes: TAIL_BYTES.min(options.piece_bytes),
        finished: !compressed && split.range.is_empty(),
    })
}

impl LineReader {
    /// The next line, in place: cheaper than the iterator where no owned line is needed.
    ///
    /// # Errors
    /// The object cannot be read, a line is too long, or the bytes are not UTF-8.
    pub fn next_line(&mut self) -> Result<Option<&str>> {
        Ok(self
            .next_whole_line()?
            .map(|(start, line)| without_end(text_of(start, line))))
    }

    /// Where the next line starts, in (decompressed) bytes, and the line with its end.
    pub(crate) fn next_whole_line(&mut self) -> Result<Option<(u64, &str)>> {
        while self.block_position == self.block.len() {
            if self.finished {
                return Ok(None);
            }
            if let Err(error) = self.refill() {
                self.finished = true;
                return Err(error);
            }
        }
        let start = self.block_position;
        let rest = &self.block[start..];
        let (bytes, length) = match memchr(b'\n', rest.as_bytes()) {
            Some(newline) => (newline, newline + 1),
            None => (rest.len(), rest.len()),
        };
        let offset = self.position - (self.carried.len() + rest.len()) as u64;
        if bytes > self.options.line_bytes_max {
            (self.finished, self.block_position) = (true, self.block.len());
            return Err(self.too_long(offset));
        }
        self.block_position += length;
        Ok(Some((offset, &self.block[start..start + length])))
    }

    /// Reads on until there are whole lines in the block, or none are left.
    fn refill(&mut self) -> Result<()> {
        let piece_bytes = self.piece_bytes();
        let piece = self.pieces.next(piece_bytes)?;
        let mut bytes = &piece[..];
        let at_end = bytes.is_empty();
        self.position += bytes.len() as u64;
        if self.skipping && !at_end {
            let Some(newline) = memchr(b'\n', bytes) else {
                self.finished = self.position >= self.end;
                // Who reads the split in which it begins says where that is.
                return match self.position - self.begin > self.options.line_bytes_max as u64 + 1 {
                    true => Err(self.too_long(self.begin)),
                    false => Ok(()),
                };
            };
            self.skipping = false;
            bytes = &bytes[newline + 1..];
        }
        let bytes_start = self.position - bytes.len() as u64;
        if at_end || bytes_start >= self.end && self.carried.is_empty() {
            self.finished = true;
            return self.fill_block(&[], bytes_start);
        }
        self.take_lines(bytes, bytes_start)
    }

    /// Moves the whole lines among the carried bytes and `bytes` into the block; carries what is left.
    fn take_lines(&mut self, bytes: &[u8], bytes_start: u64) -> Result<()> {
        if bytes_start + bytes.len() as u64 >= self.end {
            // The last line is the one that holds the last byte before the end.
            let from = (self.end - 1).saturating_sub(bytes_start) as usize;
            if let Some(newline) = memchr(b'\n', &bytes[from..]) {
                let whole = &bytes[..=from + newline];
                self.finished = true;
                self.position = bytes_start + whole.len() as u64;
                return self.fill_block(whole, self.position);
            }
        }
        if let Some(newline) = memrchr(b'\n', bytes) {
            let (whole, rest) = bytes.split_at(newline + 1);
            self.fill_block(whole, bytes_start + whole.len() as u64)?;
            self.carried.extend_from_slice(rest);
            return Ok(());
        }
        self.carried.extend_from_slice(bytes);
        match self.carried.len() > self.options.line_bytes_max {
            true => Err(self.too_long(self.position - self.carried.len() as u64)),
            false => Ok(()),
        }
    }

    /// The carried bytes and `bytes`, whose last is the one before `end`, become the block.
    fn fill_block(&mut self, bytes: &[u8], end: u64) -> Result<()> {
        let mut whole = std::mem::take(&mut self.block).into_bytes();
        whole.clear();
        whole.reserve(self.carried.len() + bytes.len());
        whole.extend_from_slice(&self.carried);
        whole.extend_from_slice(bytes);
        self.carried.clear();
        self.block_position = 0;
        let start = end - whole.len() as u64;
        self.block = String::from_utf8(whole).map_err(|error| ObjectError::NotUtf8 {
            url: self.url.clone(),
            offset: start + error.utf8_error().valid_up_to() as u64,
        })?;
        Ok(())
    }

    fn piece_bytes(&mut self) -> usize {
        if self.position >= self.end {
            let tail_bytes = self.tail_bytes;
            self.tail_bytes = (tail_bytes * 2).min(self.options.piece_bytes);
            return tail_bytes;
        }
        let left = usize::try_from(self.end - self.position).unwrap_or(usize::MAX);
        left.min(self.options.piece_bytes)
    }

    fn too_long(&self, offset: u64) -> StorageError {
        ObjectError::LineTooLong {
            url: self.url.clone(),
            offset,
            bytes_max: self.options.line_bytes_max,
        }
        .into()
    }
}

/// A line without the byte order mark that some programs put in front of a text.
pub(super) fn text_of(start: u64, line: &str) -> &str {
    match start {
        0 => line.strip_prefix('\u{feff}').unwrap_or(line),
        _ => line,
    }
}

fn without_end(line: &str) -> &str {
    let bare = line.strip_suffix('\n');
    bare.map_or(line, |bare| bare.strip_suffix('\r').unwrap_or(bare))
}

impl Iterator for LineReader {
    type Item = Result<String>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_line().map(|line| line.map(str::to_owned)).transpose()
    }
}

impl std::iter::FusedIterator for LineReader {}
