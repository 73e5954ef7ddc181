//! Bytes of an object, in order and a piece at a time, decompressed where they are compressed.

use std::io::{self, Read};
use std::ops::Range;

use bytes::{Buf, Bytes};
use flate2::read::MultiGzDecoder;

use crate::error::{Result, StorageError};
use crate::object::{Object, ObjectError};
use crate::remote::Stores;

/// Room made before a decompressed piece is known to be that long, in bytes.
const CAPACITY_BYTES_MAX: usize = 4 << 20;

/// Successive pieces of an object.
#[derive(Debug)]
pub(super) enum Pieces {
    Plain(Ranges),
    Gzip(Box<MultiGzDecoder<RangesRead>>),
}

impl Pieces {
    /// The bytes of `object` from `start` on; all of them if it is compressed.
    pub(super) fn open(stores: &Stores, object: &Object, start: u64, compressed: bool, piece_bytes: usize) -> Self {
        let mut ranges = Ranges {
            stores: stores.clone(),
            object: object.clone(),
            position: start,
            whole: None,
        };
        if !compressed {
            return Self::Plain(ranges);
        }
        ranges.position = 0;
        Self::Gzip(Box::new(MultiGzDecoder::new(RangesRead {
            ranges,
            piece: Bytes::new(),
            piece_bytes,
        })))
    }

    /// The next bytes: as many as asked for, fewer at the object's end, none after it.
    pub(super) fn next(&mut self, bytes_max: usize) -> Result<Bytes> {
        match self {
            Self::Plain(ranges) => ranges.next(bytes_max),
            Self::Gzip(decoder) => {
                let mut bytes = Vec::with_capacity(bytes_max.min(CAPACITY_BYTES_MAX));
                let read = decoder.by_ref().take(bytes_max as u64).read_to_end(&mut bytes);
                read.map_err(|error| inflate_failed(&decoder.get_ref().ranges.object, error))?;
                Ok(bytes.into())
            }
        }
    }
}

/// An error of the reader below the decoder comes back as it was; all others are the decoder's.
fn inflate_failed(object: &Object, error: io::Error) -> StorageError {
    let gzip = |message: String| {
        ObjectError::Gzip {
            url: object.url.clone(),
            message,
        }
        .into()
    };
    match error.downcast::<StorageError>() {
        Ok(below) => below,
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => gzip("it ends too early".into()),
        Err(error) => gzip(error.to_string()),
    }
}

/// Successive ranges of an object's stored bytes.
#[derive(Debug)]
pub(super) struct Ranges {
    stores: Stores,
    object: Object,
    position: u64,
    /// The object itself, once its server has turned out not to serve ranges.
    whole: Option<Bytes>,
}

impl Ranges {
    fn next(&mut self, bytes_max: usize) -> Result<Bytes> {
        let end = self.object.bytes.min(self.position.saturating_add(bytes_max as u64));
        let range = self.position.min(end)..end;
        self.position = end;
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        if self.whole.is_none() {
            match self.stores.read_range(&self.object, range.clone()) {
                Err(StorageError::Object(ObjectError::RangesNotServed { .. })) => {
                    tracing::warn!(object = %self.object, "its server does not serve ranges: each split reads all of it");
                    self.whole = Some(self.stores.read(&self.object)?);
                }
                answer => return answer,
            }
        }
        Ok(self.whole.as_ref().map_or_else(Bytes::new, |whole| slice(whole, range)))
    }
}

/// `read` has checked that the object's length is the one that the range was made for.
fn slice(whole: &Bytes, range: Range<u64>) -> Bytes {
    whole.slice(range.start as usize..range.end as usize)
}

/// The same for a decoder.
#[derive(Debug)]
pub(super) struct RangesRead {
    ranges: Ranges,
    piece: Bytes,
    piece_bytes: usize,
}

impl Read for RangesRead {
    fn read(&mut self, target: &mut [u8]) -> io::Result<usize> {
        if self.piece.is_empty() {
            self.piece = self.ranges.next(self.piece_bytes).map_err(io::Error::other)?;
        }
        let length = self.piece.len().min(target.len());
        self.piece.copy_to_slice(&mut target[..length]);
        Ok(length)
    }
}
