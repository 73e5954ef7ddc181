//! Messages between a member and the name node: few, small, and made of types that evolve, so through serde.
//!
//! A message is 24 bytes of length, XXH3 of the body and XXH3 of the 16 bytes before, little endian, and then the body
//! in postcard's format. After an error nothing more can be read from the connection.

use std::io::{self, IoSlice, Read, Write};

use serde::Serialize;
use serde::de::DeserializeOwned;
use xxhash_rust::xxh3::xxh3_64;

use super::wire::{read_growing, read_or_end, write_all_pieces};

/// Largest message of a process that has shaken hands and not joined yet: it has only little to say.
pub(crate) const JOIN_BYTES_MAX: u64 = 64 << 10;
/// Largest message afterwards: results of an action are in it. As much as a frame of the journal holds.
pub(crate) const MESSAGE_BYTES_MAX: u64 = u32::MAX as u64;
/// Largest report, of which the most may be the answer that is sent and kept.
pub(crate) const REPORT_BYTES_MAX: u64 = MESSAGE_BYTES_MAX - (1 << 20);
/// Results of one action at most, which leaves room in a message for what goes with them.
pub(crate) const ANSWER_BYTES_MAX: u64 = MESSAGE_BYTES_MAX - (1 << 28);

const START_BYTES: usize = 24;

/// Why a message was not taken or not sent.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum ControlError {
    /// It is longer than the limit.
    #[error(
        "a message of {bytes} bytes is longer than the {bytes_max} that are allowed; let the action return less, or save its result instead"
    )]
    TooLong {
        /// Its length.
        bytes: u64,
        /// The limit.
        bytes_max: u64,
    },
    /// Bits were changed on the way, or the connection is out of step.
    #[error("a message does not match its checksum; check the network and the memory of both hosts")]
    Checksum,
    /// It came as it was sent, but is not a message of the type awaited.
    #[error("a message is not of the form awaited; start all processes from the same build of the program")]
    Malformed,
    /// It cannot be written in postcard's format.
    #[error("a message cannot be sent: {0}")]
    Unsendable(#[source] postcard::Error),
    /// The connection ended within a message.
    #[error("the connection ended within a message; the process at the other side is gone")]
    Ended,
    /// The connection broke, or did nothing for as long as its limit of time is.
    #[error("the connection broke: {0}")]
    Io(io::Error),
}

impl From<io::Error> for ControlError {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::UnexpectedEof {
            Self::Ended
        } else {
            Self::Io(error)
        }
    }
}

/// A message that can be sent.
pub(crate) struct Encoded {
    start: [u8; START_BYTES],
    body: Vec<u8>,
}

impl Encoded {
    /// `message`, of at most `bytes_max` bytes.
    ///
    /// # Errors
    /// `TooLong` or `Unsendable`.
    pub(crate) fn new<T: Serialize + ?Sized>(message: &T, bytes_max: u64) -> Result<Self, ControlError> {
        let body = postcard::to_stdvec(message).map_err(ControlError::Unsendable)?;
        let bytes = body.len() as u64;
        if bytes > bytes_max {
            return Err(ControlError::TooLong { bytes, bytes_max });
        }
        let start = encode_start(bytes, xxh3_64(&body));
        Ok(Self { start, body })
    }

    /// Sends it. Messages of several threads must not be sent at the same time.
    ///
    /// # Errors
    /// The connection failed; a part of the message may have been sent.
    pub(crate) fn send(&self, writer: impl Write) -> Result<(), ControlError> {
        let mut pieces = [IoSlice::new(&self.start), IoSlice::new(&self.body)];
        Ok(write_all_pieces(writer, &mut pieces)?)
    }
}

/// Sends `message`, of at most `bytes_max` bytes. Messages of several threads must not be sent at the same time.
///
/// # Errors
/// `TooLong` before anything was sent; otherwise a part of the message may have been sent.
pub(crate) fn send<T: Serialize + ?Sized>(writer: impl Write, message: &T, bytes_max: u64) -> Result<(), ControlError> {
    Encoded::new(message, bytes_max)?.send(writer)
}

/// Waits for the next message, of at most `bytes_max` bytes; `None` if the connection ended between two messages. The
/// buffer grows with what arrives, as in [`super::wire::read_bytes`].
///
/// # Errors
/// If the message is too long, cut short, changed on the way, or not a `T` with nothing after it.
pub(crate) fn receive<T: DeserializeOwned>(mut reader: impl Read, bytes_max: u64) -> Result<Option<T>, ControlError> {
    let mut start = [0; START_BYTES];
    if !read_or_end(&mut reader, &mut start)? {
        return Ok(None);
    }
    let (bytes, checksum) = decode_start(&start)?;
    if bytes > bytes_max {
        return Err(ControlError::TooLong { bytes, bytes_max });
    }
    let body = read_growing(reader, bytes)?;
    if xxh3_64(&body) != checksum {
        return Err(ControlError::Checksum);
    }
    match postcard::take_from_bytes(&body) {
        Ok((message, [])) => Ok(Some(message)),
        _ => Err(ControlError::Malformed),
    }
}

fn encode_start(bytes: u64, checksum: u64) -> [u8; START_BYTES] {
    let mut start = [0; START_BYTES];
    start[..8].copy_from_slice(&bytes.to_le_bytes());
    start[8..16].copy_from_slice(&checksum.to_le_bytes());
    let own_checksum = xxh3_64(&start[..16]);
    start[16..].copy_from_slice(&own_checksum.to_le_bytes());
    start
}

/// Length and checksum of the body. The length is checked by itself: with a wrong one the reader would wait for bytes
/// that never come.
fn decode_start(start: &[u8; START_BYTES]) -> Result<(u64, u64), ControlError> {
    let word = |index: usize| {
        let mut word = [0; 8];
        word.copy_from_slice(&start[8 * index..8 * index + 8]);
        u64::from_le_bytes(word)
    };
    if xxh3_64(&start[..16]) != word(2) {
        return Err(ControlError::Checksum);
    }
    Ok((word(0), word(1)))
}

#[cfg(test)]
mod tests;
