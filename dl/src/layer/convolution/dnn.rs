//! The convolution by cuDNN, where it is asked for and can.

use distdl_engine::device::{Convolution, ConvolutionOperands, ConvolutionPart, GpuSlice};

use super::ConvolutionLayer;
use crate::error::Result;
use crate::kernels::programs::Device;

/// Words that cuDNN may have to work with, in all: 256 MiB.
const WORKSPACE_MAX: usize = 64 << 20;
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
    /// Elements of scratch that cuDNN needs for all parts of a pass over so many rows that it can compute.
    pub(super) fn room_for_cudnn(&self, device: &Device, rows: usize) -> Result<usize> {
        let mut room = 0;
        for part in [
            ConvolutionPart::Outputs,
            ConvolutionPart::Images,
            ConvolutionPart::Filters,
        ] {
            if let Some(words) = self.cudnn_words(device, rows, part)? {
                room = room.max(self.filters_room() + words);
            }
        }
        Ok(room)
    }

    /// How cuDNN computes a part of a pass over so many rows, if it does. That follows from shapes.
    pub(super) fn by_cudnn<'a>(
        &self,
        device: &Device,
        rows: usize,
        part: ConvolutionPart,
        scratch: GpuSlice<'a>,
    ) -> Result<Option<ByCudnn<'a>>> {
        let words = self.cudnn_words(device, rows, part)?;
        // Fewer rows than the scratch is for might want more of it.
        let words = words.filter(|words| self.filters_room() + words <= scratch.len());
        Ok(words.map(|_| ByCudnn {
            convolution: self.convolution(rows),
            part,
            filters: scratch.part(0..self.weight_length()),
            workspace: scratch.part(self.filters_room()..scratch.len()),
        }))
    }

    fn cudnn_words(&self, device: &Device, rows: usize, part: ConvolutionPart) -> Result<Option<usize>> {
        let words = device.convolution_words(self.convolution(rows), part)?;
        Ok(words.filter(|words| *words <= WORKSPACE_MAX))
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
    /// Writes its part from the others.
    pub(super) fn run(self, device: &Device, operands: ConvolutionOperands<'_>) -> Result<()> {
        let (outside, is_written) = (operands.filters, self.part == ConvolutionPart::Filters);
        if outside.is_aligned() {
            return device.convolve(self.convolution, self.part, operands, self.workspace);
        }
        if !is_written {
            device.gpu().copy(outside, self.filters)?;
        }
        let filters = self.filters;
        let operands = ConvolutionOperands { filters, ..operands };
        device.convolve(self.convolution, self.part, operands, self.workspace)?;
        if is_written {
            device.gpu().copy(filters, outside)?;
        }
        Ok(())
    }
}
