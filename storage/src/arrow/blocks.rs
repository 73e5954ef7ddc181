//! Blocks of a file, each a message and its buffers, looked at before they are believed.

use std::ops::Range;

use arrow_buffer::Buffer;
use arrow_ipc::{Block, root_as_message};

use crate::error::Result;
use crate::object::{Object, ObjectError};
use crate::remote::Stores;
use crate::table::FETCH;

/// Before the message: a mark and its length. Old files have the length only.
const MARK: [u8; 4] = [0xff; 4];
/// Before a compressed buffer: what it unpacks to.
const LENGTH_BYTES: usize = 8;

/// A block that lies within its file and its limit.
#[derive(Debug, Clone)]
pub(super) struct CheckedBlock {
    pub(super) block: Block,
    range: Range<u64>,
    message_bytes: usize,
}

impl CheckedBlock {
    pub(super) fn new(object: &Object, block: Block, bytes_max: u64) -> Result<Self, ObjectError> {
        let length = |length: i64| u64::try_from(length).ok();
        let range = length(block.offset()).zip(length(block.metaDataLength().into()));
        let range = range
            .zip(length(block.bodyLength()))
            .and_then(|((start, message), body)| {
                let end = start.checked_add(message)?.checked_add(body)?;
                (end <= object.bytes).then_some((start..end, message))
            });
        let Some((range, message)) = range else {
            let problem = "a block lies outside of the file";
            return Err(ObjectError::malformed(&object.url, "its footer", problem, FETCH));
        };
        if range.end - range.start > bytes_max {
            return Err(too_large(object, &range, range.end - range.start, bytes_max));
        }
        Ok(Self {
            block,
            range,
            message_bytes: message as usize,
        })
    }

    /// Its stored length.
    pub(super) fn bytes(&self) -> u64 {
        self.range.end - self.range.start
    }

    /// Fetches it, and compares what it unpacks to with the limit: the decoder makes room for whatever is promised.
    pub(super) fn read(&self, stores: &Stores, object: &Object, bytes_max: u64) -> Result<Buffer> {
        let bytes = stores.read_range(object, self.range.clone())?;
        // A copy, since the decoder wants its numbers aligned.
        let buffer = Buffer::from_slice_ref(&bytes[..]);
        let (message, body) = buffer.split_at(self.message_bytes);
        match unpacked_bytes(message, body) {
            Some(unpacked) if unpacked <= bytes_max => Ok(buffer),
            Some(unpacked) => Err(too_large(object, &self.range, unpacked, bytes_max).into()),
            None => {
                let place = format!("the block at byte {}", self.range.start);
                let problem = "its message is damaged";
                Err(ObjectError::malformed(&object.url, place, problem, FETCH).into())
            }
        }
    }
}

fn too_large(object: &Object, range: &Range<u64>, bytes: u64, bytes_max: u64) -> ObjectError {
    let problem = format!("it takes {bytes} bytes, above the limit of {bytes_max}");
    let remedy = "write smaller record batches, or raise `ArrowOptions::batch_bytes_max`";
    let place = format!("the block at byte {}", range.start);
    ObjectError::malformed(&object.url, place, problem, remedy)
}

/// What the buffers unpack to, in bytes; `None` if the message is none of a batch, or a buffer lies outside of the
/// block.
fn unpacked_bytes(message: &[u8], body: &[u8]) -> Option<u64> {
    let marked = message.strip_prefix(&MARK).unwrap_or(message);
    let message = root_as_message(marked.get(4..)?).ok()?;
    let batch = match message.header_as_dictionary_batch() {
        Some(dictionary) => dictionary.data()?,
        None => message.header_as_record_batch()?,
    };
    let is_packed = batch.compression().is_some();
    let mut total = 0_u64;
    for buffer in batch.buffers()? {
        let start = usize::try_from(buffer.offset()).ok()?;
        let length = usize::try_from(buffer.length()).ok()?;
        let stored = body.get(start..start.checked_add(length)?)?;
        let bytes = match stored.split_first_chunk::<LENGTH_BYTES>() {
            Some((promised, rest)) if is_packed => match i64::from_le_bytes(*promised) {
                // It is stored as it is.
                -1 => rest.len() as u64,
                promised => u64::try_from(promised).ok()?,
            },
            _ => stored.len() as u64,
        };
        total = total.saturating_add(bytes);
    }
    Some(total)
}
