//! Resident steps: a device takes whole steps, and parameters and optimizer's state stay there from step to step.

use std::sync::Arc;

use distdl_engine::{Iteration, LaneData, StepReport};

use super::device::ResidentTraining;
use super::failed::Failed;
use super::lane_samples::{LanePart, LaneSamples};
use super::run::lane_loader;
use super::update::tensors_are_whole;
use super::{Compression, Training};
use crate::error::Result;

impl Training {
    /// Takes steps of an iteration, from the first on, on a device that all of the training has room on, and returns
    /// how many: none where there is no such device, or where steps are more than gradients, their sum and an update of
    /// each tensor by itself.
    pub(super) fn run_resident(
        &self,
        iteration: &Iteration,
        failed: &Failed,
        observe: &mut dyn FnMut(&StepReport),
    ) -> distdl_engine::Result<u64> {
        let devices = self.devices.lanes().filter(|_| self.is_plain());
        let Some(devices) = devices.filter(|devices| devices.can_be_resident(&self.plan.options, self.data.id()))
        else {
            return Ok(0);
        };
        let make = |lanes: Vec<LaneData<Arc<LanePart>>>| {
            let samples = lanes.into_iter().zip(&self.plan.deal.lengths);
            let samples = samples.map(|(data, length)| LaneSamples::new(data.partitions, *length));
            let training = samples.collect::<Result<_>>().map(|samples| ResidentTraining {
                plan: &self.plan,
                dataset: self.data.id(),
                samples,
                failed,
            });
            let resident = training.and_then(|training| devices.resident_steps(training));
            resident.map_err(|error| failed.keep(error))
        };
        self.data
            .iterate_resident(iteration, &self.parameters, lane_loader(failed.clone()), make, observe)
    }

    /// Whether a step is nothing but the gradients of samples, whose norms may be limited, their sum over
    /// lanes, and an update of each tensor by itself; and nobody has said where it is to be computed.
    fn is_plain(&self) -> bool {
        let options = &self.plan.options;
        options.placement.is_none()
            && options.compression == Compression::None
            && tensors_are_whole(&self.plan.network, options)
    }
}
