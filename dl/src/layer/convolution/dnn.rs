//! The convolution by cuDNN, where it is asked for and can.

use distdl_engine::device::{ALIGNMENT_WORDS, Convolution, ConvolutionOperands, ConvolutionPart, GpuSlice};

use super::ConvolutionLayer;
use crate::error::Result;
use crate::kernels::programs::GpuContext;
use crate::shape::Sides;

/// Words that cuDNN may have to work with, in all: 256 MiB; and for passes over few rows: 32 MiB.
const WORKSPACE_WORDS_MAX: usize = 64 << 20;
const WORKSPACE_WORDS_MIN: usize = 8 << 20;

impl ConvolutionLayer {
    /// Elements of scratch for passes over so many rows by cuDNN.
    pub(super) fn scratch_for_cudnn(&self, device: &GpuContext, rows: usize) -> usize {
        behind(self.workspace_words_max(device, rows)) + self.weight_length()
    }

    /// Writes a part of a pass over so many rows from the others, if cuDNN is there and can: `false` if not. That
    /// follows from shapes and the kind of GPU.
    pub(super) fn is_written_by_cudnn(
        &self,
        device: &GpuContext,
        rows: usize,
        part: ConvolutionPart,
        operands: ConvolutionOperands<'_>,
        scratch: GpuSlice<'_>,
    ) -> Result<bool> {
        let (Some(dnn), gpu, convolution) = (device.dnn(), device.gpu(), self.convolution(rows)) else {
            return Ok(false);
        };
        let words = dnn
            .workspace_bytes(gpu, convolution, part)?
            .map(|bytes| bytes.div_ceil(4));
        let Some(words) = words.filter(|words| *words <= self.workspace_words_max(device, rows)) else {
            return Ok(false);
        };
        let workspace = scratch.part(0..words);
        let outside = operands.filters;
        if outside.is_aligned() {
            return Ok(dnn.convolve(gpu, convolution, part, operands, workspace)?);
        }
        // Filters of a layer lie behind those of others, where cuDNN may not take them.
        let filters = scratch.part(behind(words)..behind(words) + self.weight_length());
        let is_written = part == ConvolutionPart::Filters;
        if !is_written {
            gpu.copy(outside, filters)?;
        }
        let operands = ConvolutionOperands { filters, ..operands };
        let is_done = dnn.convolve(gpu, convolution, part, operands, workspace)?;
        if is_done && is_written {
            gpu.copy(filters, outside)?;
        }
        Ok(is_done)
    }

    /// Words that cuDNN may have for so many rows: as many as products have, within limits. It follows from the rows of
    /// the pass and not of the scratch: equal passes are computed alike in any.
    fn workspace_words_max(&self, device: &GpuContext, rows: usize) -> usize {
        self.scratch_for_products(device, rows)
            .clamp(WORKSPACE_WORDS_MIN, WORKSPACE_WORDS_MAX)
    }

    fn convolution(&self, rows: usize) -> Convolution {
        let image = self.windows.image;
        Convolution {
            images: rows,
            channels: image.channels,
            height: image.height,
            width: image.width,
            filters: self.output.channels,
            size: by_side(self.windows.size),
            stride: by_side(self.windows.stride),
            padding: by_side(self.windows.padding),
        }
    }
}

fn by_side(sides: Sides) -> [usize; 2] {
    [sides.height, sides.width]
}

/// Where filters may begin behind so many words to work with, which begin where the scratch does, as well aligned as
/// memory can be.
fn behind(words: usize) -> usize {
    words.next_multiple_of(ALIGNMENT_WORDS)
}
