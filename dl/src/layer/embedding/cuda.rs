//! An embedding on a GPU. Indices are checked before they go there.

use super::EmbeddingLayer;
use crate::error::{Error, Result};
use crate::kernels::embedding::cuda::Vectors;
use crate::kernels::programs::GpuContext;
use crate::layer::on_gpu::{GpuBackward, GpuForward, GpuLayer};

impl EmbeddingLayer {
    fn vectors(&self) -> Vectors {
        Vectors {
            count: self.num_embeddings,
            width: self.dim,
        }
    }
}

impl GpuLayer for EmbeddingLayer {
    fn forward(&self, device: &GpuContext, pass: GpuForward<'_>) -> Result<()> {
        self.vectors()
            .look_up(device, pass.inputs, pass.parameters, pass.outputs)
    }

    fn backward(&self, device: &GpuContext, pass: GpuBackward<'_>) -> Result<()> {
        if pass.input_gradient.is_some() {
            return Err(Error::Internal("an embedding has no gradient by its indices".into()));
        }
        self.vectors()
            .add_up(device, pass.inputs, pass.output_gradient, pass.gradient)
    }
}
