//! Whole objects in gzip format.

use std::io::Read;

use bytes::Bytes;
use flate2::read::MultiGzDecoder;

use crate::error::Result;
use crate::object::ObjectError;

/// Whether `bytes` begin as a gzip file does.
pub fn is_gzip(bytes: &[u8]) -> bool {
    bytes.starts_with(&[0x1f, 0x8b])
}

/// Whether an object is in gzip format by its name.
pub(super) fn is_gzip_name(url: &str) -> bool {
    let address = url.starts_with("http://") || url.starts_with("https://");
    let path = url.split(['?', '#']).next().filter(|_| address).unwrap_or(url);
    path.len() > 3 && path.as_bytes()[path.len() - 3..].eq_ignore_ascii_case(b".gz")
}

/// `bytes` decompressed if they begin as a gzip file does, else as they are. A file of several gzip members is read
/// to its end. `name` is what errors call it.
///
/// # Errors
/// The file is cut off or damaged, or holds more than `bytes_max` bytes.
pub fn gunzip(name: &str, bytes: Bytes, bytes_max: u64) -> Result<Bytes> {
    if !is_gzip(&bytes) {
        return Ok(bytes);
    }
    let mut inflated = Vec::new();
    MultiGzDecoder::new(&bytes[..])
        .take(bytes_max.saturating_add(1))
        .read_to_end(&mut inflated)
        .map_err(|error| ObjectError::Gzip {
            url: name.to_owned(),
            message: error.to_string(),
        })?;
    match inflated.len() as u64 > bytes_max {
        true => Err(ObjectError::InflatesTooLarge {
            url: name.to_owned(),
            bytes_max,
        }
        .into()),
        false => Ok(inflated.into()),
    }
}
