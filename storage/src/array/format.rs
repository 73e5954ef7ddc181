//! Where in an object the array lies.

use super::header::{ArrayHeader, HEADER_BYTES_MAX};
use super::{idx, npy};
use crate::error::Result;
use crate::object::Object;
use crate::remote::Stores;
use crate::text::Compression;
use crate::text::pieces::Pieces;

/// Formats of array files, each perhaps compressed, as the name says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ArrayFormat {
    /// IDX: bytes, 2- and 4-byte integers, and floats, big-endian.
    Idx,
    /// NumPy's npy in C order.
    Npy,
}

impl ArrayFormat {
    /// What the header of `object` says; one read of its start. The length of a file that is not compressed is checked
    /// too.
    pub(super) fn header(self, stores: &Stores, object: &Object) -> Result<ArrayHeader> {
        let compression = Compression::of_name(&object.url);
        let bytes = Pieces::open(stores, object, 0, compression, HEADER_BYTES_MAX).next(HEADER_BYTES_MAX)?;
        let header = match self {
            Self::Idx => idx::header(&object.url, &bytes)?,
            Self::Npy => npy::header(&object.url, &bytes)?,
        };
        if compression.is_none() {
            header.check_elements(&object.url, object.bytes - header.header_bytes)?;
        }
        Ok(header)
    }
}
