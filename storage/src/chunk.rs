//! Remote objects in pieces that their content names.
//!
//! An object is fetched in *segments* of a fixed length, and each segment is cut into *chunks* where its content says
//! so. So a segment can be asked for without knowledge of the others, and what two objects or two versions have in
//! common falls into the same chunks, up to the ends of segments. A chunk's name is its BLAKE3 hash.

use std::fmt;
use std::ops::Range;

use fastcdc::v2020::FastCDC;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::bloom::Digest;
use crate::error::{Result, StorageError};
use crate::object::{Object, shown};

/// What is fetched at once, in bytes.
pub(crate) const SEGMENT_BYTES: u64 = 4 << 20;

/// Shortest chunk but for the last of a segment, usual one and longest one, in bytes.
const CHUNK_BYTES_MIN: u32 = 64 << 10;
const CHUNK_BYTES_USUAL: u32 = 256 << 10;
pub(crate) const CHUNK_BYTES_MAX: u32 = 512 << 10;

const CHECKSUM_BYTES: usize = 32;

/// Longest list of chunks, in bytes: a segment of shortest chunks under the longest URL takes less.
pub(crate) const LIST_BYTES_MAX: u64 = 64 << 10;

/// Longest URL of an object that is kept, in bytes.
pub(crate) const URL_BYTES_MAX: usize = 16 << 10;

/// A piece of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Chunk {
    pub(crate) digest: Digest,
    /// Where it starts in the object, in bytes.
    pub(crate) offset: u64,
    pub(crate) length: u32,
}

impl Chunk {
    pub(crate) fn range(&self) -> Range<u64> {
        self.offset..self.offset.saturating_add(u64::from(self.length))
    }

    /// Whether these are its bytes.
    pub(crate) fn is(&self, bytes: &[u8]) -> bool {
        bytes.len() as u64 == u64::from(self.length) && *blake3::hash(bytes).as_bytes() == self.digest
    }
}

/// Cuts bytes that start at `offset` of an object.
pub(crate) fn cut(bytes: &[u8], offset: u64) -> Vec<Chunk> {
    let cuts = FastCDC::new(bytes, CHUNK_BYTES_MIN, CHUNK_BYTES_USUAL, CHUNK_BYTES_MAX);
    cuts.map(|cut| Chunk {
        digest: *blake3::hash(&bytes[cut.offset..cut.offset + cut.length]).as_bytes(),
        offset: offset + cut.offset as u64,
        length: cut.length as u32,
    })
    .collect()
}

/// One version of one object.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Version {
    pub(crate) url: String,
    pub(crate) version: String,
    /// Length of the object, in bytes.
    pub(crate) bytes: u64,
}

impl Version {
    /// Nothing for an object without a version, which nobody could tell from the next one.
    pub(crate) fn of(object: &Object) -> Option<Self> {
        let version = object.version.clone().filter(|_| object.url.len() <= URL_BYTES_MAX)?;
        Some(Self {
            url: object.url.clone(),
            version,
            bytes: object.bytes,
        })
    }

    /// The name of the URL's folder.
    pub(crate) fn folder_name(&self) -> String {
        blake3::hash(self.url.as_bytes()).to_hex().to_string()
    }

    /// The names of its segments up to their index.
    pub(crate) fn prefix(&self) -> String {
        let hash = blake3::hash(self.version.as_bytes()).to_hex();
        format!("{}-{}", &hash[..32], self.bytes)
    }

    /// The name of the file that says which version it has grown from.
    pub(crate) fn grown_name(&self) -> String {
        format!("{}-grown", self.prefix())
    }

    /// What the Bloom filter knows that file by.
    pub(crate) fn grown_key(&self) -> Digest {
        list_key(&self.folder_name(), &self.grown_name())
    }

    /// Whether this may be what the other version has grown from.
    pub(crate) fn is_before(&self, other: &Self) -> bool {
        self.url == other.url && self.bytes < other.bytes
    }

    pub(crate) fn segment(&self, index: u64) -> Segment {
        Segment {
            version: self.clone(),
            index,
        }
    }

    /// The indices of the segments that hold a range.
    pub(crate) fn indices(range: &Range<u64>) -> Range<u64> {
        range.start / SEGMENT_BYTES..range.end.div_ceil(SEGMENT_BYTES)
    }

    /// A number that differs from version to version.
    pub(crate) fn draw(&self, counter: u64) -> u64 {
        let mut hasher = blake3::Hasher::new_derive_key("distdl 2026 chunks to compare");
        hasher.update(self.version.as_bytes()).update(&counter.to_le_bytes());
        let mut drawn = [0; 8];
        hasher.finalize_xof().fill(&mut drawn);
        u64::from_le_bytes(drawn)
    }
}

/// A segment of a version, by its index.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Segment {
    pub(crate) version: Version,
    pub(crate) index: u64,
}

impl fmt::Display for Segment {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "segment {} of {}", self.index, shown(&self.version.url))
    }
}

impl Segment {
    /// Its bytes within the object.
    pub(crate) fn range(&self) -> Range<u64> {
        let start = self.index.saturating_mul(SEGMENT_BYTES);
        start..start.saturating_add(SEGMENT_BYTES).min(self.version.bytes)
    }

    /// The name of its list of chunks.
    pub(crate) fn file_name(&self) -> String {
        format!("{}-{}", self.version.prefix(), self.index)
    }

    /// What the Bloom filter knows it by.
    pub(crate) fn key(&self) -> Digest {
        list_key(&self.version.folder_name(), &self.file_name())
    }
}

/// What the Bloom filter knows a list of chunks by.
pub(crate) fn list_key(folder_name: &str, file_name: &str) -> Digest {
    let mut hasher = blake3::Hasher::new_derive_key("distdl 2026 list of chunks");
    hasher
        .update(folder_name.as_bytes())
        .update(b"/")
        .update(file_name.as_bytes());
    *hasher.finalize().as_bytes()
}

/// Which chunks a segment consists of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ChunkList {
    pub(crate) segment: Segment,
    pub(crate) chunks: Vec<Chunk>,
}

impl ChunkList {
    /// The list of a file, if it is whole and its chunks lie end to end over a segment.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        decode(bytes).filter(Self::is_whole)
    }

    fn is_whole(&self) -> bool {
        let range = self.segment.range();
        let mut end = range.start;
        let follows = |chunk: &Chunk| {
            let range = chunk.range();
            let follows = range.start == end && chunk.length > 0;
            end = range.end;
            follows
        };
        self.chunks.iter().all(follows) && end == range.end
    }

    /// The chunks that hold a part of a range.
    pub(crate) fn within<'a>(&'a self, range: &'a Range<u64>) -> impl Iterator<Item = &'a Chunk> {
        let overlaps = |chunk: &&Chunk| chunk.range().start < range.end && range.start < chunk.range().end;
        self.chunks.iter().filter(overlaps)
    }
}

/// A value as a file: itself and its BLAKE3.
pub(crate) fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>> {
    let mut bytes = postcard::to_stdvec(value).map_err(|error| StorageError::Encode {
        type_name: std::any::type_name::<T>(),
        reason: error.to_string(),
    })?;
    bytes.extend_from_slice(blake3::hash(&bytes).as_bytes());
    Ok(bytes)
}

/// The value of a file, if that is as it was written.
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    let (body, checksum) = bytes.split_last_chunk::<CHECKSUM_BYTES>()?;
    let is_whole = blake3::hash(body).as_bytes() == checksum;
    is_whole.then(|| postcard::from_bytes(body).ok())?
}

#[cfg(test)]
mod tests;
