//! Where an array lies in an npz archive: a zip file of npy files, as `numpy.savez` and `savez_compressed` write it.

use std::io::{self, BufReader, Read, Seek, SeekFrom};

use zip::result::ZipError;
use zip::{CompressionMethod, ZipArchive};

use super::extent::ArrayExtent;
use super::header::FETCH;
use crate::error::{Result, StorageError};
use crate::object::{Object, ObjectError};
use crate::remote::Stores;
use crate::text::Compression;

/// The directory of an archive is read in pieces of so many bytes.
const PIECE_BYTES: usize = 64 << 10;
/// Names of arrays that an error lists.
const LISTED_MAX: usize = 20;
const PLACE: &str = "the directory of the archive";

/// The extent of `array`, which the archive holds as a file of that name with `.npy`.
///
/// # Errors
/// The archive cannot be read or is none, or has no such array, or it is packed in a way that NumPy never packs.
pub(super) fn extent_of(stores: &Stores, object: &Object, array: &str) -> Result<ArrayExtent> {
    let reader = ObjectReader {
        stores,
        object,
        position: 0,
    };
    let mut archive = match ZipArchive::new(BufReader::with_capacity(PIECE_BYTES, reader)) {
        Ok(archive) => archive,
        Err(error) => return Err(unreadable(object, &error)),
    };
    let Some(index) = archive.index_for_name(&format!("{array}.npy")) else {
        return Err(absent(object, array, archive.file_names()).into());
    };
    let entry = archive
        .by_index_raw(index)
        .map_err(|error| unreadable(object, &error))?;
    let start = entry.data_start().unwrap_or(object.bytes);
    let range = start..start.saturating_add(entry.compressed_size());
    let compression = match entry.compression() {
        _ if entry.encrypted() || range.end > object.bytes => None,
        CompressionMethod::Stored => Some(None),
        CompressionMethod::DEFLATE => Some(Some(Compression::Deflate { crc32: entry.crc32() })),
        _ => None,
    };
    let problem = || format!("`{array}` is encrypted, cut, or packed in another way than NumPy packs arrays");
    let remedy = "write it with `numpy.savez` or `numpy.savez_compressed`";
    match compression {
        Some(compression) => Ok(ArrayExtent { range, compression }),
        None => Err(ObjectError::malformed(&object.url, PLACE, problem(), remedy).into()),
    }
}

fn absent<'a>(object: &Object, array: &str, names: impl Iterator<Item = &'a str>) -> ObjectError {
    let mut names: Vec<&str> = names.filter_map(|name| name.strip_suffix(".npy")).collect();
    names.sort_unstable();
    let more = names.len().saturating_sub(LISTED_MAX);
    names.truncate(LISTED_MAX);
    let rest = if more > 0 {
        format!(" and {more} more")
    } else {
        String::new()
    };
    let problem = format!("there is no array `{array}` in it");
    let remedy = format!("it has {}{rest}", names.join(", "));
    ObjectError::malformed(&object.url, PLACE, problem, remedy)
}

fn unreadable(object: &Object, error: &ZipError) -> StorageError {
    if let ZipError::Io(io) = error
        && let Some(failure) = io.get_ref().and_then(|inner| inner.downcast_ref::<StorageError>())
    {
        return failure.clone();
    }
    ObjectError::malformed(&object.url, PLACE, error.to_string(), FETCH).into()
}

/// The bytes of an object, for a reader that jumps.
struct ObjectReader<'a> {
    stores: &'a Stores,
    object: &'a Object,
    position: u64,
}

impl Read for ObjectReader<'_> {
    fn read(&mut self, target: &mut [u8]) -> io::Result<usize> {
        let start = self.position.min(self.object.bytes);
        let end = self.object.bytes.min(start.saturating_add(target.len() as u64));
        if start == end {
            return Ok(0);
        }
        let read = self.stores.read_range(self.object, start..end);
        let bytes = read.map_err(io::Error::other)?;
        target[..bytes.len()].copy_from_slice(&bytes);
        self.position = end;
        Ok(bytes.len())
    }
}

impl Seek for ObjectReader<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let position = match to {
            SeekFrom::Start(position) => Some(position),
            SeekFrom::End(offset) => self.object.bytes.checked_add_signed(offset),
            SeekFrom::Current(offset) => self.position.checked_add_signed(offset),
        };
        self.position = position.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        Ok(self.position)
    }
}
