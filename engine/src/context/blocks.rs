//! What other processes ask of this one's blocks.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use distdl_storage::{BlockId, StorageError, Unpoisoned};

use super::Context;
use crate::error::panic_text;
use crate::id::DatasetId;
use crate::metrics::Size;

impl Context {
    /// A block of this process in a frame, if it is here. A damaged one is not, nor is one whose records cannot be read
    /// back, unless nothing else would bring it; it is an error if open files or memory are wanting, as it is still
    /// here.
    pub(super) fn block_frame(&self, id: BlockId) -> Result<Option<Vec<u8>>, StorageError> {
        let node = self
            .inner
            .graph
            .lock()
            .unpoisoned()
            .node(DatasetId(id.dataset))
            .map(Arc::clone);
        let Some(node) = node else {
            return Ok(None);
        };
        let codec = node.record_type.codec;
        let encode = || {
            let block = self.store().get(id, codec)?;
            block.map(|block| codec.encode(&block)).transpose()
        };
        // Whoever asks waits for an answer, and the thread that gives it is the only one.
        let frame = catch_unwind(AssertUnwindSafe(encode)).unwrap_or_else(|panic| {
            Err(StorageError::Encode {
                type_name: node.record_type.name,
                reason: panic_text(&*panic),
            })
        });
        match frame {
            Ok(frame) => Ok(frame),
            Err(error) if error.is_want_of_resources() => Err(error),
            Err(error @ (StorageError::Decode { .. } | StorageError::Encode { .. })) if node.is_cut() => Err(error),
            Err(_) => {
                // Else it would be asked for again in each round, since what is here is told.
                let _ = self.store().remove(id);
                Ok(None)
            }
        }
    }

    /// Keeps a copy of a block that another process has computed. `None` if it cannot be kept, or nobody wants it any
    /// more.
    pub(super) fn keep_copy(&self, id: BlockId, frame: Vec<u8>) -> Option<()> {
        // As above: what records do when they are read must not end the thread.
        catch_unwind(AssertUnwindSafe(|| self.decode_copy(id, frame))).ok()?
    }

    fn decode_copy(&self, id: BlockId, frame: Vec<u8>) -> Option<()> {
        let node = || {
            self.inner
                .graph
                .lock()
                .unpoisoned()
                .node(DatasetId(id.dataset))
                .map(Arc::clone)
        };
        let (kind, level) = (node()?.record_type, node()?.level()?);
        let block = kind.codec.decode(frame.into()).ok()?;
        let size = Size {
            records: block.len() as u64,
            memory_bytes: block.memory_bytes(),
        };
        let kept = self
            .resources()
            .retry_after_eviction(|| self.store().put(id, &block, level))
            .ok()?;
        match node().filter(|node| node.level().is_some()) {
            Some(node) => self.metrics().copied(node.id, id.partition as usize, size),
            // It was dropped meanwhile, with all the blocks that it had.
            None => self.drop_blocks(DatasetId(id.dataset)),
        }
        kept.then_some(())
    }
}
