//! Losses on a GPU.

use distdl_engine::device::GpuSlice;

use super::Loss;
use crate::error::Result;
use crate::kernels::element_loss::cuda::{forward_backward, forward_backward_labels};
use crate::kernels::programs::Device;
use crate::kernels::softmax_cross_entropy;

/// What the outputs for some rows should be, in the memory of a GPU: see [`Targets`](super::Targets). Labels are indices
/// of classes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum GpuTargets<'a> {
    Labels(GpuSlice<'a>),
    Values(GpuSlice<'a>),
}

impl Loss {
    /// Whether it has kernels for GPUs.
    pub(crate) fn is_on_gpu(&self) -> bool {
        !matches!(self, Loss::WeightedCrossEntropy { .. })
    }

    /// As [`gradient`](Self::gradient); the losses of the rows, and whether they are right, where they have labels, go to
    /// two words for each.
    pub(crate) fn gradient_on_gpu(
        &self,
        device: &Device,
        rows: usize,
        (outputs, targets): (GpuSlice<'_>, GpuTargets<'_>),
        gradient: GpuSlice<'_>,
        (losses, correct): (GpuSlice<'_>, GpuSlice<'_>),
    ) -> Result<()> {
        let columns = outputs.len().checked_div(rows).unwrap_or(0);
        match (self.of_elements(), targets) {
            (None, GpuTargets::Labels(labels)) => {
                let sums = (losses, correct);
                softmax_cross_entropy::cuda::forward_backward(device, columns, outputs, labels, gradient, sums)
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
