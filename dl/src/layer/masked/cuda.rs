//! The partially connected layer on a GPU: the dense one, with what belongs to no connection set to 0 before and after.

use distdl_engine::device::GpuSlice;

use super::MaskedLayer;
use crate::error::{Error, Result, check_length};
use crate::kernels::mask::cuda::apply;
use crate::kernels::programs::GpuContext;
use crate::layer::on_gpu::{GpuBackward, GpuForward, GpuLayer};
use crate::scalar::Scalar;

impl<T: Scalar> MaskedLayer<T> {
    fn dense_on_gpu(&self) -> Result<&dyn GpuLayer> {
        let missing = || Error::Internal("a dense layer has no kernels for GPUs".into());
        self.dense.on_gpu().ok_or_else(missing)
    }

    /// The parameters as they count, and what is left of the scratch.
    fn masked_on_gpu<'a>(
        &self,
        device: &GpuContext,
        (parameters, connected): (GpuSlice<'a>, GpuSlice<'a>),
        scratch: GpuSlice<'a>,
    ) -> Result<(GpuSlice<'a>, GpuSlice<'a>)> {
        let (wanted, weights) = (parameters.len(), connected.len());
        check_length("the masked layer's weights", self.connected.len(), weights.min(wanted))?;
        check_length("the masked layer's scratch", wanted, scratch.len().min(wanted))?;
        let masked = scratch.part(0..wanted);
        apply(device, connected, parameters.part(0..weights), masked.part(0..weights))?;
        device
            .gpu()
            .copy(parameters.part(weights..wanted), masked.part(weights..wanted))?;
        Ok((masked, scratch.part(wanted..scratch.len())))
    }
}

impl<T: Scalar> GpuLayer for MaskedLayer<T> {
    /// For each weight whether it exists.
    fn constants(&self) -> Vec<u32> {
        self.connected.iter().map(|connected| u32::from(*connected)).collect()
    }

    fn scratch_length(&self, device: &GpuContext, rows: usize) -> usize {
        let dense = self
            .dense
            .on_gpu()
            .map_or(0, |dense| dense.scratch_length(device, rows));
        self.connected.len() + self.dense.output_length() + dense
    }

    fn forward(&self, device: &GpuContext, pass: GpuForward<'_>) -> Result<()> {
        let weights = (pass.parameters, pass.constants);
        let (parameters, scratch) = self.masked_on_gpu(device, weights, pass.scratch)?;
        let pass = GpuForward {
            parameters,
            scratch,
            ..pass
        };
        self.dense_on_gpu()?.forward(device, pass)
    }

    fn backward(&self, device: &GpuContext, pass: GpuBackward<'_>) -> Result<()> {
        let weights = (pass.parameters, pass.constants);
        let (parameters, scratch) = self.masked_on_gpu(device, weights, pass.scratch)?;
        let dense = GpuBackward {
            parameters,
            scratch,
            ..pass
        };
        self.dense_on_gpu()?.backward(device, dense)?;
        let gradient = pass.gradient.part(0..pass.constants.len());
        apply(device, pass.constants, gradient, gradient)
    }
}
