//! Records of text that cannot be read, handed on in place of ending what reads them.

use std::iter::FusedIterator;

use serde::{Deserialize, Serialize};

use crate::error::{Result, StorageError};
use crate::object::{ObjectError, shown};
use crate::split::until_error;

/// A part of a text file that is no record of the type asked for. A record itself, to be counted or saved.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, thiserror::Error)]
#[error("{file}, the record at byte {byte}: {problem}")]
pub struct BadRecord {
    /// The path or URL, without what of an address errors leave out: its user and its query.
    pub file: String,
    /// Where it starts, in (decompressed) bytes.
    pub byte: u64,
    /// What is wrong with it.
    pub problem: String,
    /// Its text without a line end, cut to [`BadRecord::TEXT_BYTES_MAX`]; what is not UTF-8 in it is `�`.
    pub text: String,
}

impl BadRecord {
    /// Longest text of its own that it holds, in bytes of the file.
    pub const TEXT_BYTES_MAX: usize = 1 << 10;
}

/// Why there is no next record.
#[derive(Debug)]
pub(crate) enum Unread {
    /// This one is bad; behind it others may be read.
    Record(Box<(ObjectError, BadRecord)>),
    /// No other can be read either.
    All(StorageError),
}

impl Unread {
    /// Of the record `text`, which starts at `byte` of the object `url`.
    pub(crate) fn record(url: &str, byte: u64, text: &[u8], error: ObjectError) -> Self {
        let bad = BadRecord {
            file: shown(url),
            byte,
            problem: match &error {
                ObjectError::Malformed { problem, .. } => problem.clone(),
                ObjectError::NotUtf8 { offset, .. } => format!("byte {offset} is not UTF-8"),
                ObjectError::LineTooLong { bytes_max, .. } => format!("it is longer than {bytes_max} bytes"),
                other => other.to_string(),
            },
            text: beginning(text),
        };
        Self::Record(Box::new((error, bad)))
    }
}

fn beginning(text: &[u8]) -> String {
    let text = text.strip_suffix(b"\n").unwrap_or(text);
    let text = text.strip_suffix(b"\r").unwrap_or(text);
    let mut end = text.len().min(BadRecord::TEXT_BYTES_MAX);
    // No character is cut in two, which has four bytes at most.
    let is_within = |at: usize| text.get(at).is_some_and(|byte| byte & 0xc0 == 0x80);
    if is_within(end) {
        let start = (end.saturating_sub(3)..end).rev().find(|at| !is_within(*at));
        end = start.unwrap_or(end);
    }
    String::from_utf8_lossy(&text[..end]).into_owned()
}

impl From<StorageError> for Unread {
    fn from(error: StorageError) -> Self {
        Self::All(error)
    }
}

impl From<Unread> for StorageError {
    fn from(unread: Unread) -> Self {
        match unread {
            Unread::Record(bad) => bad.0.into(),
            Unread::All(error) => error,
        }
    }
}

/// What `read` gives, bad records among it, until there is no more or all fails.
pub(crate) fn with_bad_records<T>(
    mut read: impl FnMut() -> Result<Option<T>, Unread>,
) -> impl FusedIterator<Item = Result<Result<T, BadRecord>>> {
    until_error(move || match read() {
        Ok(record) => Ok(record.map(Ok)),
        Err(Unread::Record(bad)) => Ok(Some(Err(bad.1))),
        Err(Unread::All(error)) => Err(error),
    })
}

#[cfg(test)]
mod tests;
