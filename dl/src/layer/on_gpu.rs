//! What layers compute on a GPU.

use std::fmt::Debug;

use distdl_engine::device::GpuSlice;

use super::Mode;
use crate::error::Result;
use crate::kernels::programs::GpuContext;

/// A layer on a GPU: as [`Layer`](super::Layer) in `f32`, with the same slices of parameters and gradients, in the
/// GPU's memory. Its sums are in an order that shapes and the kind of GPU fix, which may be another than the CPU's. It
/// asks the GPU for kernels, copies within it, products and convolutions, so that a step can be a graph; nothing waits
/// for the GPU.
pub trait GpuLayer: Debug + Send + Sync {
    /// Words that do not change, which its passes find on the GPU.
    fn constants(&self) -> Vec<u32> {
        Vec::new()
    }

    /// Elements that a pass over up to `rows` rows needs on this device beside its inputs and outputs.
    fn scratch_length(&self, _device: &GpuContext, _rows: usize) -> usize {
        0
    }

    /// Whether its outputs are its inputs as they lie there. Then it is asked for no pass.
    fn is_view(&self) -> bool {
        false
    }

    /// Writes the outputs from the inputs. Errors if a length does not match, or the GPU fails.
    fn forward(&self, device: &GpuContext, pass: GpuForward<'_>) -> Result<()>;

    /// Writes the gradients of a loss from that by the outputs. Errors as `forward`.
    fn backward(&self, device: &GpuContext, pass: GpuBackward<'_>) -> Result<()>;
}

/// What a forward pass of one layer reads and writes: see [`Forward`](super::Forward).
#[derive(Debug, Clone, Copy)]
pub struct GpuForward<'a> {
    /// The layer's parameters.
    pub parameters: GpuSlice<'a>,
    /// Rows x input length.
    pub inputs: GpuSlice<'a>,
    /// Number of rows.
    pub rows: usize,
    /// What the pass is for.
    pub mode: Mode,
    /// The layer's [constants](GpuLayer::constants).
    pub constants: GpuSlice<'a>,
    /// At least as many elements as [`GpuLayer::scratch_length`].
    pub scratch: GpuSlice<'a>,
    /// Rows x output length.
    pub outputs: GpuSlice<'a>,
}

/// What a backward pass of one layer reads and writes: see [`Backward`](super::Backward).
#[derive(Debug, Clone, Copy)]
pub struct GpuBackward<'a> {
    /// The layer's parameters.
    pub parameters: GpuSlice<'a>,
    /// The inputs of the forward pass, rows x input length.
    pub inputs: GpuSlice<'a>,
    /// The outputs of the forward pass, rows x output length.
    pub outputs: GpuSlice<'a>,
    /// Number of rows.
    pub rows: usize,
    /// What the forward pass was for.
    pub mode: Mode,
    /// The layer's [constants](GpuLayer::constants).
    pub constants: GpuSlice<'a>,
    /// As [`GpuForward::scratch`].
    pub scratch: GpuSlice<'a>,
    /// The gradient by the outputs, rows x output length; the layer may overwrite it.
    pub output_gradient: GpuSlice<'a>,
    /// Where the gradient by the inputs goes, rows x input length; `None` if nobody wants it.
    pub input_gradient: Option<GpuSlice<'a>>,
    /// Where the gradient by the parameters goes; overwritten.
    pub gradient: GpuSlice<'a>,
}
