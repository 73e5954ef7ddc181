//! Outputs that are kept from an earlier round of the action: sent again, instead of computed again.

use std::sync::Arc;

use super::shuffles::Address;
use super::{BATCHES_PER_TURN, Tasks};
use crate::batch::TaskResult;
use crate::dataflow::parcel::Payload;
use crate::outputs::Part;
use crate::plan::Output;

/// A partition whose output is being sent again.
pub(super) struct Resending {
    partition: usize,
    /// Its output, once it is looked up.
    parts: Option<Arc<[Part]>>,
    next: usize,
    /// How many batches each bucket has been sent.
    sequences: Vec<u64>,
}

impl Resending {
    pub(super) fn new(partition: usize) -> Self {
        Self {
            partition,
            parts: None,
            next: 0,
            sequences: Vec::new(),
        }
    }
}

impl Tasks {
    /// Sends some more of a kept output. If it cannot be read after all, another plan computes it.
    pub(super) fn resend(&mut self) -> TaskResult<()> {
        let Output::Shuffle(shuffle) = self.stage().output else {
            return Ok(());
        };
        let Some(mut resending) = self.resending.take() else {
            return Ok(());
        };
        if self.job.incomplete.load(std::sync::atomic::Ordering::SeqCst) {
            return Ok(());
        }
        let outputs = &self.job.resources.outputs;
        let parts = resending
            .parts
            .take()
            .or_else(|| outputs.of(shuffle, resending.partition));
        let Some(parts) = parts else {
            self.job.lose();
            return Ok(());
        };
        let end = parts.len().min(resending.next + BATCHES_PER_TURN);
        for part in &parts[resending.next..end] {
            if let Err(error) = self.send_part(&mut resending, part) {
                let partition = resending.partition;
                tracing::warn!(%shuffle, partition, "what it had sent is lost, computing it again: {error}");
                self.job.resources.outputs.forget(shuffle, partition);
                self.job.lose();
                return Ok(());
            }
        }
        if end < parts.len() {
            (resending.next, resending.parts) = (end, Some(parts));
            self.resending = Some(resending);
        } else {
            self.job.resources.metrics.sent_again();
            self.job.progress.task_ended();
            self.announce(resending.partition);
        }
        Ok(())
    }

    fn send_part(&mut self, resending: &mut Resending, (bucket, stored): &Part) -> crate::error::Result<()> {
        let sequences = &mut resending.sequences;
        sequences.resize(sequences.len().max(bucket + 1), 0);
        let address = Address {
            source: resending.partition,
            bucket: *bucket,
            sequence: sequences[*bucket],
        };
        sequences[*bucket] += 1;
        let (here, elsewhere) = self.targets(address);
        if !elsewhere.is_empty() {
            self.post(&elsewhere, address, &stored.read()?);
        }
        if let Some(kind) = self.kind().filter(|_| !here.is_empty()) {
            // It stays where it is until it is read.
            self.deliver(&here, address, Payload::Stored(stored.clone(), kind), None);
        }
        Ok(())
    }
}
