//! Bytes of an object, in order and a piece at a time, decompressed where they are compressed.

use std::io::{self, Read};
use std::ops::Range;

use bytes::{Buf, Bytes};

use super::compression::{Compression, Decoder};
use crate::error::{Result, StorageError};
use crate::object::{Object, ObjectError};
use crate::remote::Stores;

/// Room made before a decompressed piece is known to be that long, in bytes.
const CAPACITY_BYTES_MAX: usize = 4 << 20;

/// Successive pieces of an object.
#[derive(Debug)]
pub(crate) enum Pieces {
    Plain(Ranges),
    Packed(Packed),
}

/// Pieces that are decompressed.
#[derive(Debug)]
pub(crate) struct Packed {
    object: Object,
    compression: Compression,
    decoder: Decoder<RangesRead>,
}

impl Pieces {
    /// The bytes of `object` in `range`, which is all that is compressed together if anything is.
    pub(crate) fn open(
        stores: &Stores,
        object: &Object,
        range: Range<u64>,
        compression: Option<Compression>,
        piece_bytes: usize,
    ) -> Self {
        let ranges = Ranges {
            stores: stores.clone(),
            object: object.clone(),
            position: range.start,
            end: range.end.min(object.bytes),
            whole: None,
        };
        match compression {
            None => Self::Plain(ranges),
            Some(compression) => {
                let source = RangesRead {
                    ranges,
                    piece: Bytes::new(),
                    piece_bytes,
                    failure: None,
                };
                Self::Packed(Packed {
                    object: object.clone(),
                    compression,
                    decoder: Decoder::new(compression, source),
                })
            }
        }
    }

    /// The next bytes: as many as asked for, fewer at the object's end, none after it.
    pub(crate) fn next(&mut self, bytes_max: usize) -> Result<Bytes> {
        match self {
            Self::Plain(ranges) => ranges.next(bytes_max),
            Self::Packed(packed) => packed.next(bytes_max),
        }
    }
}

impl Packed {
    fn next(&mut self, bytes_max: usize) -> Result<Bytes> {
        let mut bytes = Vec::with_capacity(bytes_max.min(CAPACITY_BYTES_MAX));
        let read = self.decoder.by_ref().take(bytes_max as u64).read_to_end(&mut bytes);
        // What failed below comes first: the decoder took it for damage or for the end.
        if let Some(failure) = self.decoder.source().and_then(|source| source.failure.take()) {
            return Err(failure);
        }
        read.map_err(|error| not_decompressed(&self.object, self.compression, &error))?;
        Ok(bytes.into())
    }
}

fn not_decompressed(object: &Object, compression: Compression, error: &io::Error) -> ObjectError {
    ObjectError::NotDecompressed {
        url: object.url.clone(),
        format: compression.name(),
        message: match ends_early(error) {
            true => "it ends too early".into(),
            false => error.to_string(),
        },
    }
}

/// Whether an error, or one of those below it, is that there were no more bytes.
fn ends_early(error: &io::Error) -> bool {
    let mut below: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = below {
        let io = error.downcast_ref::<io::Error>();
        if io.is_some_and(|error| error.kind() == io::ErrorKind::UnexpectedEof) {
            return true;
        }
        // The source of an error made by `io::Error::other` skips what was put into it.
        let inner = io
            .and_then(|error| error.get_ref())
            .map(|inner| inner as &(dyn std::error::Error + 'static));
        below = inner.or_else(|| error.source());
    }
    false
}

/// Successive ranges of an object's stored bytes.
#[derive(Debug)]
pub(crate) struct Ranges {
    stores: Stores,
    object: Object,
    position: u64,
    end: u64,
    /// The object itself, once its server has turned out not to serve ranges.
    whole: Option<Bytes>,
}

impl Ranges {
    fn next(&mut self, bytes_max: usize) -> Result<Bytes> {
        let end = self.end.min(self.position.saturating_add(bytes_max as u64));
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
pub(crate) struct RangesRead {
    ranges: Ranges,
    piece: Bytes,
    piece_bytes: usize,
    /// What ended the bytes before the object's end.
    failure: Option<StorageError>,
}

impl Read for RangesRead {
    fn read(&mut self, target: &mut [u8]) -> io::Result<usize> {
        if self.piece.is_empty() {
            match self.ranges.next(self.piece_bytes) {
                Ok(piece) => self.piece = piece,
                Err(error) => {
                    self.failure = Some(error);
                    return Err(io::Error::other("the object cannot be read"));
                }
            }
        }
        let length = self.piece.len().min(target.len());
        self.piece.copy_to_slice(&mut target[..length]);
        Ok(length)
    }
}
