//! The convolution by cuDNN, where it is asked for and can.

use distdl_engine::device::{Convolution, ConvolutionOperands, ConvolutionPart, GpuSlice};

use super::ConvolutionLayer;
use crate::error::Result;
use crate::kernels::programs::Device;

/// Words that cuDNN may have to work with, in all: 256 MiB; and for passes over few rows: 32 MiB.
const WORKSPACE_MAX: usize = 64 << 20;
const WORKSPACE_MIN: usize = 8 << 20;
/// Words that each thing in the scratch begins at a multiple of: what kernels read at once.
const LINE: usize = 64;

/// A part of a pass that cuDNN computes.
pub(super) struct ByCudnn<'a> {
    convolution: Convolution,
    part: ConvolutionPart,
    /// Room for filters that begin where cuDNN does not take them: those of a layer lie behind those of others.
    filters: GpuSlice<'a>,
    workspace: GpuSlice<'a>,
}

impl ConvolutionLayer {
    /// Elements of scratch for passes over so many rows by cuDNN.
    pub(super) fn room_for_cudnn(&self, rows: usize) -> usize {
        self.filters_room() + self.workspace_max(rows)
    }

    /// How cuDNN computes a part of a pass over so many rows, if it does. That follows from shapes.
    pub(super) fn by_cudnn<'a>(
        &self,
        device: &Device,
        rows: usize,
        part: ConvolutionPart,
        scratch: GpuSlice<'a>,
    ) -> Result<Option<ByCudnn<'a>>> {
        let convolution = self.convolution(rows);
        let words = device.convolution_words(convolution, part)?;
        let words = words.filter(|words| *words <= self.workspace_max(rows));
        Ok(words.map(|words| ByCudnn {
            convolution,
            part,
            filters: scratch.part(0..self.weight_length()),
            workspace: scratch.part(self.filters_room()..self.filters_room() + words),
        }))
    }

    /// Words that cuDNN may have for so many rows: as many as the columns of products, within limits. The same rows have the
    /// same in any workspace.
    fn workspace_max(&self, rows: usize) -> usize {
        self.room_for_products(rows).clamp(WORKSPACE_MIN, WORKSPACE_MAX)
    }

    fn filters_room(&self) -> usize {
        self.weight_length().next_multiple_of(LINE)
    }

    fn convolution(&self, rows: usize) -> Convolution {
        let image = self.windows.image;
        Convolution {
            images: rows,
            channels: image.channels,
            height: image.height,
            width: image.width,
            filters: self.output.channels,
            size: self.windows.size,
            stride: self.windows.stride,
            padding: self.windows.padding,
        }
    }
}

impl ByCudnn<'_> {
    /// Writes its part from the others. `false` if cuDNN finds that it cannot.
    pub(super) fn run(self, device: &Device, operands: ConvolutionOperands<'_>) -> Result<bool> {
        let (outside, is_written) = (operands.filters, self.part == ConvolutionPart::Filters);
        if outside.is_aligned() {
            return device.convolve(self.convolution, self.part, operands, self.workspace);
        }
        if !is_written {
            device.gpu().copy(outside, self.filters)?;
        }
        let filters = self.filters;
        let operands = ConvolutionOperands { filters, ..operands };
        let is_done = device.convolve(self.convolution, self.part, operands, self.workspace)?;
        if is_done && is_written {
            device.gpu().copy(filters, outside)?;
        }
        Ok(is_done)
    }
}
