//! The whole lines of a split, many at a time. Memory holds one piece of the object and the line that spans its end.

use memchr::{memchr, memrchr};

use super::options::TextOptions;
use super::pieces::Pieces;
use super::split::TextSplit;
use crate::error::{Result, StorageError};
use crate::object::ObjectError;
use crate::remote::Stores;

/// First piece read beyond a split's end to finish its last line, in bytes; doubled while the line goes on.
const TAIL_BYTES: usize = 16 << 10;

/// Reads the lines of a split in blocks.
#[derive(Debug)]
pub(super) struct Blocks {
    url: String,
    pieces: Pieces,
    options: TextOptions,
    long_lines: LongLines,
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
    /// How much of that line has been dropped since.
    dropped: u64,
    block: Block,
    tail_bytes: usize,
    finished: bool,
}

/// What becomes of a line beyond the limit that is not in memory whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LongLines {
    /// It is an error.
    Refused,
    /// Of it come the first bytes, one more than the limit allows at least.
    Cut,
}

/// Whole lines.
#[derive(Debug, Default)]
pub(super) struct Block {
    /// Where they start, in (decompressed) bytes.
    pub(super) start: u64,
    pub(super) bytes: Vec<u8>,
    /// How many bytes the first of them lacks.
    pub(super) dropped: u64,
}

impl Blocks {
    /// # Errors
    /// An option of 0; reading itself starts with the first block.
    pub(super) fn open(
        stores: &Stores,
        split: &TextSplit,
        options: TextOptions,
        long_lines: LongLines,
    ) -> Result<Self> {
        if options.piece_bytes == 0 || options.line_bytes_max == 0 {
            return Err(ObjectError::unsupported(&split.object.url, "`TextOptions` must be greater than 0").into());
        }
        // The byte before the split tells whether a line starts with the split.
        let compressed = split.compression.is_some();
        let start = match compressed {
            true => 0,
            false => split.range.start.saturating_sub(1),
        };
        Ok(Self {
            url: split.object.url.clone(),
            pieces: Pieces::open(
                stores,
                &split.object,
                start..split.object.bytes,
                split.compression,
                options.piece_bytes,
            ),
            options,
            long_lines,
            begin: start,
            end: if compressed { u64::MAX } else { split.range.end },
            position: start,
            skipping: !compressed && split.range.start > 0,
            carried: Vec::new(),
            dropped: 0,
            block: Block::default(),
            tail_bytes: TAIL_BYTES.min(options.piece_bytes),
            finished: !compressed && split.range.is_empty(),
        })
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    pub(super) fn line_bytes_max(&self) -> usize {
        self.options.line_bytes_max
    }

    /// Nothing more is read.
    pub(super) fn finish(&mut self) {
        self.finished = true;
    }

    /// The next block, which is not empty, in the room of one that is used up.
    ///
    /// # Errors
    /// The object cannot be read, or a line is too long.
    pub(super) fn next(&mut self, mut used_up: Vec<u8>) -> Result<Option<Block>> {
        used_up.clear();
        self.block.bytes = used_up;
        while self.block.bytes.is_empty() {
            if self.finished {
                return Ok(None);
            }
            if let Err(error) = self.refill() {
                self.finished = true;
                return Err(error);
            }
        }
        Ok(Some(std::mem::take(&mut self.block)))
    }

    /// Reads the next piece, which may complete lines or be the last.
    fn refill(&mut self) -> Result<()> {
        let piece_bytes = self.piece_bytes();
        let piece = self.pieces.next(piece_bytes)?;
        let mut bytes = &piece[..];
        let at_end = bytes.is_empty();
        self.position += bytes.len() as u64;
        if self.skipping && !at_end {
            let Some(newline) = memchr(b'\n', bytes) else {
                self.finished = self.position >= self.end;
                let is_too_long = self.position - self.begin > (self.options.line_bytes_max as u64).saturating_add(1);
                // Who reads the split in which it begins says where that is.
                return match is_too_long && self.long_lines == LongLines::Refused {
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
            self.fill_block(&[], bytes_start);
            return Ok(());
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
                self.fill_block(whole, self.position);
                return Ok(());
            }
        }
        if let Some(newline) = memrchr(b'\n', bytes) {
            let (whole, rest) = bytes.split_at(newline + 1);
            self.fill_block(whole, bytes_start + whole.len() as u64);
            self.carried.extend_from_slice(rest);
            return Ok(());
        }
        self.carried.extend_from_slice(bytes);
        let excess = self.carried.len().saturating_sub(self.options.line_bytes_max);
        match self.long_lines {
            LongLines::Refused if excess > 0 => Err(self.too_long(self.position - self.carried.len() as u64)),
            LongLines::Cut if excess > 1 => {
                // The one byte too many tells that it was too long.
                self.carried.truncate(self.options.line_bytes_max + 1);
                self.dropped += excess as u64 - 1;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// The carried bytes and `bytes`, whose last is the one before `end`, become the block.
    fn fill_block(&mut self, bytes: &[u8], end: u64) {
        let block = &mut self.block;
        block.bytes.reserve(self.carried.len() + bytes.len());
        block.bytes.extend_from_slice(&self.carried);
        block.bytes.extend_from_slice(bytes);
        self.carried.clear();
        block.dropped = std::mem::take(&mut self.dropped);
        block.start = end - block.bytes.len() as u64 - block.dropped;
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

    /// The error of a line that starts at `offset`.
    pub(super) fn too_long(&self, offset: u64) -> StorageError {
        too_long(&self.url, offset, self.options.line_bytes_max).into()
    }
}

pub(crate) fn too_long(url: &str, offset: u64, bytes_max: usize) -> ObjectError {
    ObjectError::LineTooLong {
        url: url.to_owned(),
        offset,
        bytes_max,
    }
}

/// How long the first line in `bytes` is, which are not empty: without its end, and with it.
pub(super) fn line_length(bytes: &[u8]) -> (usize, usize) {
    match memchr(b'\n', bytes) {
        Some(newline) => (newline, newline + 1),
        None => (bytes.len(), bytes.len()),
    }
}
