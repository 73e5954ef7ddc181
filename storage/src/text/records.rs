//! Records of one fixed length, after a header.

use std::ops::Range;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::compression::Compression;
use super::options::TextOptions;
use super::pieces::Pieces;
use super::split::byte_extent;
use crate::error::Result;
use crate::object::{Object, ObjectError};
use crate::remote::Stores;
use crate::split::{Extent, deal};

/// Successive records of an object.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RecordSplit {
    /// Where the records are.
    pub object: Object,
    /// Their bytes; all that is compressed together, header included, if anything is.
    pub range: Range<u64>,
    /// A record's length, in bytes.
    pub record_bytes: u64,
    /// The header's length, in (decompressed) bytes.
    pub header_bytes: u64,
    /// How the object is compressed.
    pub compression: Option<Compression>,
}

/// Cuts the records of `objects`, in their order, into `partitions` groups of equal numbers of records, as
/// [`split_text`](super::split_text) does with bytes. Each object holds a header of `header_bytes`, which is left out,
/// and then records of `record_bytes`.
///
/// # Errors
/// `record_bytes` is 0 or more than memory has, or an object does not hold a whole number of records. Of a compressed
/// object that shows only when it is read.
pub fn split_records(
    objects: &[Object],
    record_bytes: u64,
    header_bytes: u64,
    partitions: usize,
) -> Result<Vec<Vec<RecordSplit>>> {
    for object in objects {
        if record_bytes == 0 || usize::try_from(record_bytes).is_err() {
            return Err(
                ObjectError::unsupported(&object.url, "a record must hold at least 1 byte and fit memory").into(),
            );
        }
        if Compression::of_name(&object.url).is_none() {
            check_whole(&object.url, object.bytes, record_bytes, header_bytes)?;
        }
    }
    let unit_bytes = record_bytes.max(1);
    let extent = |object: &Object| byte_extent(object, object.bytes.saturating_sub(header_bytes) / unit_bytes);
    let extents: Vec<Extent> = objects.iter().map(extent).collect();
    let split = |(index, units): (usize, Range<u64>)| {
        let object: &Object = &objects[index];
        let position = |unit| header_bytes + unit * record_bytes;
        let compression = Compression::of_name(&object.url);
        RecordSplit {
            object: object.clone(),
            range: match compression {
                Some(_) => 0..object.bytes,
                None => position(units.start)..position(units.end),
            },
            record_bytes,
            header_bytes,
            compression,
        }
    };
    let groups = deal(&extents, partitions).into_iter();
    Ok(groups.map(|group| group.into_iter().map(split).collect()).collect())
}

fn check_whole(url: &str, bytes: u64, record_bytes: u64, header_bytes: u64) -> Result<(), ObjectError> {
    let remainder = match bytes.checked_sub(header_bytes) {
        Some(body) => body % record_bytes,
        None => bytes,
    };
    if remainder == 0 && bytes >= header_bytes {
        return Ok(());
    }
    Err(ObjectError::NotWholeRecords {
        url: url.to_owned(),
        bytes,
        header_bytes,
        record_bytes,
        remainder,
    })
}

/// The records of a split, each a view of the piece it was read with. After an error there are none.
#[derive(Debug)]
#[must_use = "records are read as they are asked for"]
pub struct RecordReader {
    split: RecordSplit,
    pieces: Pieces,
    /// Bytes per read; a whole number of records.
    piece_bytes: usize,
    /// Header bytes still to be left out.
    header_left: u64,
    /// Where the next piece starts, in (decompressed) bytes.
    position: u64,
    piece: Bytes,
    finished: bool,
}

/// The records of `split`.
///
/// # Errors
/// A split with records of 0 bytes; reading itself starts with the first record.
pub fn read_records(stores: &Stores, split: &RecordSplit) -> Result<RecordReader> {
    let Some(record_bytes) = usize::try_from(split.record_bytes).ok().filter(|bytes| *bytes > 0) else {
        return Err(
            ObjectError::unsupported(&split.object.url, "a record must hold at least 1 byte and fit memory").into(),
        );
    };
    let piece_bytes = TextOptions::default().piece_bytes;
    let position = if split.compression.is_some() {
        0
    } else {
        split.range.start
    };
    Ok(RecordReader {
        split: split.clone(),
        pieces: Pieces::open(
            stores,
            &split.object,
            split.range.clone(),
            split.compression,
            piece_bytes,
        ),
        piece_bytes: (piece_bytes / record_bytes).max(1) * record_bytes,
        header_left: if split.compression.is_some() {
            split.header_bytes
        } else {
            0
        },
        position,
        piece: Bytes::new(),
        finished: false,
    })
}

impl RecordReader {
    fn refill(&mut self) -> Result<()> {
        while self.header_left > 0 {
            let header = self
                .pieces
                .next(self.header_left.min(self.piece_bytes as u64) as usize)?;
            self.position += header.len() as u64;
            if header.is_empty() {
                break;
            }
            self.header_left -= header.len() as u64;
        }
        let left = if self.split.compression.is_some() {
            u64::MAX
        } else {
            self.split.range.end - self.position
        };
        self.piece = self.pieces.next(left.min(self.piece_bytes as u64) as usize)?;
        self.position += self.piece.len() as u64;
        if self.piece.len() < self.piece_bytes {
            self.finished = true;
            if self.split.compression.is_some() {
                let RecordSplit {
                    object,
                    record_bytes,
                    header_bytes,
                    ..
                } = &self.split;
                check_whole(&object.url, self.position, *record_bytes, *header_bytes)?;
            }
        }
        Ok(())
    }
}

impl Iterator for RecordReader {
    type Item = Result<Bytes>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.piece.is_empty()
            && !self.finished
            && let Err(error) = self.refill()
        {
            (self.finished, self.piece) = (true, Bytes::new());
            return Some(Err(error));
        }
        match self.piece.is_empty() {
            true => None,
            // Pieces and splits hold whole records, so a record never spans two.
            false => Some(Ok(self.piece.split_to(self.split.record_bytes as usize))),
        }
    }
}

impl std::iter::FusedIterator for RecordReader {}
