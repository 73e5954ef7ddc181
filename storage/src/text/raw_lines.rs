//! The lines of a split as the bytes that they are, so that one which is bad keeps nobody from the next.

use super::blocks::{Block, Blocks, LongLines, line_length};
use super::options::TextOptions;
use super::split::TextSplit;
use crate::error::Result;
use crate::remote::Stores;

/// Whether reading goes on behind a bad record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AfterBad {
    End,
    GoOn,
}

#[derive(Debug)]
pub(crate) struct RawLineReader {
    blocks: Blocks,
    block: Block,
    block_position: usize,
}

/// A line with its end.
#[derive(Debug)]
pub(crate) struct RawLine<'a> {
    /// Where it starts, in (decompressed) bytes.
    pub(crate) start: u64,
    /// All of it, or if it is too long its beginning.
    pub(crate) bytes: &'a [u8],
    /// How many bytes it may have, if it has more.
    pub(crate) bytes_max: Option<usize>,
}

impl RawLineReader {
    /// # Errors
    /// An option of 0; reading itself starts with the first line.
    pub(crate) fn open(stores: &Stores, split: &TextSplit, options: TextOptions, after_bad: AfterBad) -> Result<Self> {
        let long_lines = match after_bad {
            AfterBad::End => LongLines::Refused,
            AfterBad::GoOn => LongLines::Cut,
        };
        Ok(Self {
            blocks: Blocks::open(stores, split, options, long_lines)?,
            block: Block::default(),
            block_position: 0,
        })
    }

    /// The next line.
    ///
    /// # Errors
    /// The object cannot be read; or, if nobody reads on after that, a line is too long.
    pub(crate) fn next(&mut self) -> Result<Option<RawLine<'_>>> {
        if self.block_position == self.block.bytes.len() {
            let used_up = std::mem::take(&mut self.block.bytes);
            self.block_position = 0;
            let Some(block) = self.blocks.next(used_up)? else {
                return Ok(None);
            };
            self.block = block;
        }
        let from = self.block_position;
        let (bytes, length) = line_length(&self.block.bytes[from..]);
        let bytes_max = self.blocks.line_bytes_max();
        let start = self.block.start + from as u64;
        self.block_position += length;
        // What follows the first line lies as far behind it as it was long.
        self.block.start += std::mem::take(&mut self.block.dropped);
        let is_too_long = bytes > bytes_max;
        Ok(Some(RawLine {
            start,
            // Behind that a part of it may be missing.
            bytes: &self.block.bytes[from..from + if is_too_long { bytes_max + 1 } else { length }],
            bytes_max: is_too_long.then_some(bytes_max),
        }))
    }
}
