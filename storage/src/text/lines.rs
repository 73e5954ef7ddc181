//! The lines of a split, as text.

use super::blocks::{Blocks, LongLines, line_length};
use super::options::TextOptions;
use super::split::TextSplit;
use crate::error::Result;
use crate::object::ObjectError;
use crate::remote::Stores;

/// The lines of a split, without their ends (`\n` or `\r\n`). After an error there are none.
#[derive(Debug)]
#[must_use = "lines are read as they are asked for"]
pub struct LineReader {
    blocks: Blocks,
    /// Whole lines, where they start, and how far they have been handed out.
    block: String,
    block_start: u64,
    block_position: usize,
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
    Ok(LineReader {
        blocks: Blocks::open(stores, split, options, LongLines::Refused)?,
        block: String::new(),
        block_start: 0,
        block_position: 0,
    })
}

impl LineReader {
    /// The next line, in place: cheaper than the iterator where no owned line is needed.
    ///
    /// # Errors
    /// The object cannot be read, a line is too long, or the bytes are not UTF-8.
    pub fn next_line(&mut self) -> Result<Option<&str>> {
        if self.block_position == self.block.len() && !self.refill()? {
            return Ok(None);
        }
        let start = self.block_position;
        let (bytes, length) = line_length(&self.block.as_bytes()[start..]);
        let offset = self.block_start + start as u64;
        if bytes > self.blocks.line_bytes_max() {
            self.block_position = self.block.len();
            self.blocks.finish();
            return Err(self.blocks.too_long(offset));
        }
        self.block_position += length;
        Ok(Some(without_end(text_of(offset, &self.block[start..start + length]))))
    }

    fn refill(&mut self) -> Result<bool> {
        self.block_position = 0;
        let Some(block) = self.blocks.next(std::mem::take(&mut self.block).into_bytes())? else {
            return Ok(false);
        };
        self.block_start = block.start;
        self.block = String::from_utf8(block.bytes).map_err(|error| {
            self.blocks.finish();
            ObjectError::NotUtf8 {
                url: self.blocks.url().to_owned(),
                offset: block.start + error.utf8_error().valid_up_to() as u64,
            }
        })?;
        Ok(true)
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
