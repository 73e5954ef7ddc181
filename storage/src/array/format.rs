//! Which formats there are, and what the start of a file says.

use super::extent::ArrayExtent;
use super::header::{ArrayHeader, HEADER_BYTES_MAX};
use super::{idx, npy, npz};
use crate::error::Result;
use crate::object::Object;
use crate::remote::Stores;
use crate::text::Compression;
use crate::text::pieces::Pieces;

/// Formats of array files. But for those in archives they may be compressed, as the name says.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ArrayFormat {
    /// IDX: bytes, 2- and 4-byte integers, and floats, big-endian.
    Idx,
    /// NumPy's npy in C order.
    Npy,
    /// An npy in one of NumPy's npz archives.
    Npz {
        /// The name that the array was saved under.
        array: String,
    },
}

impl ArrayFormat {
    /// Where the array of `object` lies and what its header says; one read of its start, and of the directory of an
    /// archive. The length of what is not compressed is checked too.
    pub(super) fn find(&self, stores: &Stores, object: &Object) -> Result<(ArrayExtent, ArrayHeader)> {
        let extent = match self {
            Self::Npz { array } => npz::extent_of(stores, object, array)?,
            Self::Idx | Self::Npy => ArrayExtent {
                range: 0..object.bytes,
                compression: Compression::of_name(&object.url),
            },
        };
        let ArrayExtent { range, compression } = &extent;
        let bytes =
            Pieces::open(stores, object, range.clone(), *compression, HEADER_BYTES_MAX).next(HEADER_BYTES_MAX)?;
        let header = match self {
            Self::Idx => idx::header(&object.url, &bytes)?,
            Self::Npy | Self::Npz { .. } => npy::header(&object.url, &bytes)?,
        };
        if compression.is_none() {
            let elements = (range.end - range.start).saturating_sub(header.header_bytes);
            header.check_elements(&object.url, elements)?;
        }
        Ok((extent, header))
    }
}
