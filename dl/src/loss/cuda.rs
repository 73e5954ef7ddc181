//! Losses on a GPU.

use distdl_engine::device::GpuSlice;

use super::{Loss, Targets};
use crate::error::{Error, Result};
use crate::kernels::element_loss::cuda::{forward_backward, forward_backward_labels};
use crate::kernels::programs::GpuContext;
use crate::kernels::softmax_cross_entropy::cuda::{forward_backward as of_labels, smoothed};

/// What the outputs for some rows should be, in the memory of a GPU: see [`Targets`]. Labels are indices
/// of classes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum GpuTargets<'a> {
    Labels(GpuSlice<'a>),
    Values(GpuSlice<'a>),
}

impl Loss {
    /// An error says why it cannot be there.
    pub(crate) fn on_gpu(&self) -> Result<(), String> {
        match self.as_own() {
            Some(_) => Err(format!(
                "the loss {} is the program's own and has no kernels for GPUs",
                self.name()
            )),
            None => Ok(()),
        }
    }

    /// The weights of classes, which the GPU is to have; none where all are 1.
    pub(crate) fn class_weights(&self) -> &[f32] {
        self.smoothed().map_or(&[], |smoothed| smoothed.class_weights)
    }

    /// What a row of a label weighs.
    pub(crate) fn weight_of(&self, label: u32) -> f32 {
        self.class_weights().get(label as usize).copied().unwrap_or(1.0)
    }

    /// What rows of these targets weigh together, as a [report](crate::BatchReport::weight) says.
    pub(crate) fn weight(&self, targets: Targets<'_>, rows: usize) -> f64 {
        match targets {
            Targets::Labels(labels) if !self.class_weights().is_empty() => {
                let weights = labels.iter().map(|label| f64::from(self.weight_of(*label)));
                weights.sum()
            }
            _ => rows as f64,
        }
    }

    /// As [`gradient`](Self::gradient), where `class_weights` are on the GPU; the losses of the rows, and whether they
    /// are right, where they have labels, go to two words for each.
    pub(crate) fn gradient_on_gpu(
        &self,
        device: &GpuContext,
        class_weights: GpuSlice<'_>,
        rows: usize,
        (outputs, targets): (GpuSlice<'_>, GpuTargets<'_>),
        gradient: GpuSlice<'_>,
        (losses, correct): (GpuSlice<'_>, GpuSlice<'_>),
    ) -> Result<()> {
        if let Err(reason) = self.on_gpu() {
            return Err(Error::Gpu(reason));
        }
        let columns = outputs.len().checked_div(rows).unwrap_or(0);
        match (self.of_elements(), targets) {
            (None, GpuTargets::Labels(labels)) => {
                let sums = (losses, correct);
                match &self.smoothed() {
                    Some(targets) => smoothed(
                        device,
                        (targets, class_weights),
                        columns,
                        outputs,
                        labels,
                        gradient,
                        sums,
                    ),
                    None => of_labels(device, columns, outputs, labels, gradient, sums),
                }
            }
            (None, GpuTargets::Values(_)) => Err(self.wants_labels()),
            (Some(loss), GpuTargets::Labels(labels)) => {
                forward_backward_labels(device, loss, (outputs, labels), gradient, (losses, correct))
            }
            (Some(loss), GpuTargets::Values(values)) => {
                forward_backward(device, loss, rows, (outputs, values), gradient, losses)
            }
        }
    }
}
