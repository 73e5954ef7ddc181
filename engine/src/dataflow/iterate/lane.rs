//! One lane: what it computes, and what it writes that into.

use std::sync::Arc;

use crate::dataflow::exchange::Exchange;
use crate::dataflow::vector::Vector;
use crate::error::Result;
use crate::iteration::{Lane, Tallies};
use crate::updates::UpdateFormat;

/// A lane with what it writes into.
pub(super) struct HostedLane {
    pub(super) index: usize,
    lane: Box<dyn Lane>,
    /// As many as may be on their way.
    updates: Vec<Update>,
    /// A copy of the parameters, where it reads one.
    copy: Vec<f32>,
    /// What is computed and waits for its place in a step.
    pub(super) ready: Option<Ready>,
}

struct Update {
    values: Arc<Vector>,
    /// The step that it was a part of last.
    step: Option<u64>,
}

/// An update that is computed.
pub(super) struct Ready {
    pub(super) tallies: Tallies,
    pub(super) values: Arc<Vector>,
    /// The version that was read.
    pub(super) version: u64,
}

impl HostedLane {
    pub(super) fn new(exchange: &Exchange, index: usize, lane: Box<dyn Lane>) -> Self {
        let update = |values: Vector| Update {
            values: Arc::new(values),
            step: None,
        };
        Self {
            index,
            lane,
            updates: exchange.vectors(index).into_iter().map(update).collect(),
            copy: Vec::new(),
            ready: None,
        }
    }

    /// Drops the lane, whose own code may run then.
    pub(super) fn end(self, exchange: &Exchange) {
        exchange.guarded("lane", self.index, || {
            drop(self);
            Ok(())
        });
    }

    /// Whether there is something to write the next update into.
    pub(super) fn has_room(&self, newest: u64) -> bool {
        self.ready.is_none() && self.updates.iter().any(|update| update.is_free(newest))
    }

    /// Computes a step. When this returns, the parameters are let go. What it is written into is gone until it has a
    /// [place](Self::is_part_of).
    pub(super) fn compute(&mut self, exchange: &Exchange, step: u64) -> Result<Ready> {
        let (newest, format) = (exchange.parameters.version(), exchange.iteration.updates);
        if exchange.iteration.staleness.is_asynchronous() {
            let mut copy = std::mem::take(&mut self.copy);
            let version = exchange.copy_latest(&mut copy);
            // What step it becomes a part of is not known before it is complete.
            let ready = self.compute_with(step, (version, &copy), newest, format, &mut |_, _| ());
            self.copy = copy;
            return ready;
        }
        let read = exchange.read_for(step)?;
        let lane = self.index;
        let mut send = |start: usize, end: &[f32]| exchange.send_end(step, lane, start, end);
        let ready = self.compute_with(step, (read.version(), &read), newest, format, &mut send)?;
        exchange.computed(step, lane, &ready.values);
        Ok(ready)
    }

    fn compute_with(
        &mut self,
        step: u64,
        (version, parameters): (u64, &[f32]),
        newest: u64,
        format: UpdateFormat,
        has_end: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<Ready> {
        let free = self.updates.iter().position(|update| update.is_free(newest));
        let free = free.map(|free| self.updates.swap_remove(free).values);
        // If an owner still holds the vector of an earlier step, it is left that one.
        let own = free.and_then(Arc::into_inner);
        let mut values = own.unwrap_or_else(|| Vector::new(parameters.len()));
        let tallies = self.lane.step_from_end(step, parameters, &mut values, has_end)?;
        format.round(&mut values);
        Ok(Ready {
            tallies,
            values: Arc::new(values),
            version,
        })
    }

    /// Notes the step that an update has become a part of.
    pub(super) fn is_part_of(&mut self, values: &Arc<Vector>, step: u64) {
        self.updates.push(Update {
            values: Arc::clone(values),
            step: Some(step),
        });
    }
}

impl Update {
    /// Whether all owners have applied what was in it.
    fn is_free(&self, newest: u64) -> bool {
        self.step.is_none_or(|step| step < newest)
    }
}
