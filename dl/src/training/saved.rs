//! What checkpoints hold of a training, and when it writes one; and what is kept in memory of the beginning of some
//! steps.

use std::sync::Arc;

use distdl_engine::Parameters;

use super::Training;
use crate::checkpoint::{CheckpointContents, Checkpoints};
use crate::error::Result;

impl Training {
    /// Goes on from a checkpoint, if that is wanted and there is one.
    pub(super) fn resume(&mut self) -> Result<()> {
        let Some(checkpoints) = &mut self.checkpoints else {
            return Ok(());
        };
        let layout = self.plan.network.parameter_layout();
        let loaded = checkpoints.load(self.data.context(), layout, self.plan.options.optimizer.state_slots())?;
        if let Some(loaded) = loaded {
            self.step = loaded.step;
            self.plan.state_begin = loaded.state_begin;
            self.plan.rate_factor = loaded.rate_factor;
            self.best = loaded.best;
            self.parameters = Arc::new(loaded.parameters.with_lag(self.plan.options.staleness.lag()));
        }
        Ok(())
    }

    /// Writes a checkpoint if one is due.
    pub(super) fn save(&mut self, at_end: bool) -> Result<()> {
        let checkpoints = self.checkpoints.as_ref();
        match checkpoints.is_some_and(|checkpoints| checkpoints.is_due(self.step, at_end)) {
            true => self.write_checkpoint(),
            false => Ok(()),
        }
    }

    /// Writes the checkpoint before this very step once more, if there is one, as something else of the training has
    /// changed.
    pub(super) fn write_checkpoint_anew(&mut self) -> Result<()> {
        let newest = self.checkpoints.as_ref().and_then(Checkpoints::newest);
        match newest == Some(self.step) {
            true => self.write_checkpoint(),
            false => Ok(()),
        }
    }

    /// Writes a checkpoint, if there are to be any. Errors if a parameter or the optimizer's state is not finite.
    fn write_checkpoint(&mut self) -> Result<()> {
        self.check_values()?;
        let contents = CheckpointContents {
            step: self.step,
            epoch: self.epoch(),
            state_begin: self.plan.state_begin,
            rate_factor: self.plan.rate_factor,
            best: self.best.clone(),
            layout: self.plan.network.parameter_layout().clone(),
            parameters: Arc::clone(&self.parameters),
        };
        match &mut self.checkpoints {
            Some(checkpoints) => checkpoints.save(self.data.context(), contents),
            None => Ok(()),
        }
    }

    /// A copy of the parameters and their state, as the next steps begin with them, where lanes keep parts of gradients
    /// back: these are lost with the lanes when steps fail. In a cluster nothing goes on with a training whose steps
    /// have failed.
    pub(super) fn beginning(&self) -> Result<Option<Parameters>> {
        if self.plan.options.compression.top_k().is_none() || self.data.context().is_in_cluster() {
            return Ok(None);
        }
        let latest = self.parameters.latest();
        let copy = Parameters::with_state(latest.to_vec(), self.parameters.slots())?;
        for slot in 0..self.parameters.slots() {
            if let Some(state) = latest.state(slot) {
                copy.install_state(copy.version(), slot, 0, state)?;
            }
        }
        Ok(Some(copy.with_lag(self.plan.options.staleness.lag())))
    }
}
