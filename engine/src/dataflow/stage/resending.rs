//! Outputs that are kept from an earlier round of the action: sent again, instead of computed again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::shuffles::Address;
use super::{BATCHES_PER_TURN, Tasks};
use crate::batch::TaskResult;
use crate::dataflow::parcel::Payload;
use crate::error::Result;
use crate::outputs::BucketFrame;
use crate::plan::Output;

/// A partition whose output is being sent again.
pub(super) struct Resending {
    partition: usize,
    /// Its output, once it is looked up.
    parts: Option<Arc<[BucketFrame]>>,
    next: usize,
    /// How many batches each bucket has been sent.
    sequences: BTreeMap<usize, u64>,
}

impl Resending {
    pub(super) fn new(partition: usize) -> Self {
        Self {
            partition,
            parts: None,
            next: 0,
            sequences: BTreeMap::new(),
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
        if self.job.incomplete.load(Ordering::SeqCst) {
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
                self.job.resources.outputs.forget(shuffle);
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

    fn send_part(&mut self, resending: &mut Resending, (bucket, stored): &BucketFrame) -> Result<()> {
        let sent = resending.sequences.entry(*bucket).or_default();
        let address = Address {
            source: resending.partition,
            bucket: *bucket,
            sequence: *sent,
        };
        *sent += 1;
        let (here, elsewhere) = self.targets(address);
        if here.is_empty() && elsewhere.is_empty() {
            return Ok(());
        }
        // Read even if it may stay where it is: what is damaged must show before anybody counts on it.
        let frame = stored.read()?;
        self.post(&elsewhere, address, &frame);
        if let Some(kind) = self.kind().filter(|_| !here.is_empty()) {
            let memory = &self.job.parcel_memory;
            let (payload, charge) = match memory.reserve(frame.len() as u64, here.len()) {
                Some(charge) => (Payload::Frame(frame.into()), charge),
                None => {
                    let payload = Payload::Stored(stored.clone(), Arc::new(kind));
                    (payload, memory.count(here.len()))
                }
            };
            self.deliver(&here, address, payload, &charge);
        }
        Ok(())
    }
}
