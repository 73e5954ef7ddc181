//! The convolution on a GPU: as on the CPU, with more images at once.

use distdl_engine::device::{GpuMatrix, GpuSlice};

use super::ConvolutionLayer;
use crate::error::{Result, check_length};
use crate::kernels::programs::{Device, Parts};
use crate::kernels::windows::cuda::{self as windows, Images};
use crate::kernels::{activation, sums};
use crate::layer::on_gpu::{GpuBackward, GpuForward, GpuLayer};

/// Elements of the columns of the images that are multiplied at once, where one image has no more: 64 MiB.
const COLUMNS_MAX: usize = 1 << 24;

/// Some of the images of a pass, and room for their columns and for their outputs, channel by channel.
struct Piece<'a> {
    images: Images,
    inputs: std::ops::Range<usize>,
    outputs: std::ops::Range<usize>,
    columns: GpuSlice<'a>,
    values: GpuSlice<'a>,
}

impl ConvolutionLayer {
    /// Images of `rows` that are multiplied at once.
    fn images_on_gpu(&self, rows: usize) -> usize {
        (COLUMNS_MAX / (self.inputs * self.output.pixels())).clamp(1, rows.max(1))
    }

    /// All images, in pieces.
    fn pieces<'a>(&self, rows: usize, scratch: GpuSlice<'a>) -> impl Iterator<Item = Piece<'a>> + use<'a> {
        let (layer, step) = (*self, self.images_on_gpu(rows));
        (0..rows).step_by(step).map(move |first| {
            let (count, pixels) = (step.min(rows - first), layer.output.pixels());
            let (columns, values) = (layer.inputs * count * pixels, layer.output.channels * count * pixels);
            let images = Images {
                count,
                channels: layer.output.channels,
                pixels,
            };
            Piece {
                images,
                inputs: first * layer.input_image()..(first + count) * layer.input_image(),
                outputs: first * layer.output_image()..(first + count) * layer.output_image(),
                columns: scratch.part(0..columns),
                values: scratch.part(columns..columns + values),
            }
        })
    }

    fn check_on_gpu(
        &self,
        rows: usize,
        parameters: usize,
        inputs: usize,
        outputs: usize,
        scratch: usize,
    ) -> Result<()> {
        check_length(
            "the layer's parameters",
            self.weight_length() + self.output.channels,
            parameters,
        )?;
        check_length("the layer's inputs", rows * self.input_image(), inputs)?;
        check_length("the layer's outputs", rows * self.output_image(), outputs)?;
        let wanted = GpuLayer::scratch_length(self, rows);
        check_length("the layer's scratch", wanted, scratch.min(wanted))
    }
}

impl GpuLayer for ConvolutionLayer {
    fn scratch_length(&self, rows: usize) -> usize {
        let (channels, pixels) = (self.output.channels, self.output.pixels());
        let columns = self.images_on_gpu(rows) * (self.inputs + channels) * pixels;
        columns.max(Parts::room_of_channels(rows, channels, pixels))
    }

    fn forward(&self, device: &Device, pass: GpuForward<'_>) -> Result<()> {
        let (parameters, scratch) = (pass.parameters.len(), pass.scratch.len());
        self.check_on_gpu(pass.rows, parameters, pass.inputs.len(), pass.outputs.len(), scratch)?;
        let (channels, bias) = (
            self.output.channels,
            pass.parameters.part(self.weight_length()..parameters),
        );
        let weight = GpuMatrix::new(pass.parameters, channels, self.inputs);
        for piece in self.pieces(pass.rows, pass.scratch) {
            let Piece {
                images,
                columns,
                values,
                ..
            } = piece;
            let width = images.count * images.pixels;
            windows::to_columns(
                device,
                &self.windows,
                images.count,
                pass.inputs.part(piece.inputs),
                columns,
            )?;
            let (to, from) = (
                GpuMatrix::new(values, channels, width),
                GpuMatrix::new(columns, self.inputs, width),
            );
            device.multiply(to, weight, from, false)?;
            images.by_image(device, values, bias, pass.outputs.part(piece.outputs))?;
        }
        activation::cuda::forward(device, self.activation, self.output_image(), None, pass.outputs)
    }

    fn backward(&self, device: &Device, pass: GpuBackward<'_>) -> Result<()> {
        let (parameters, scratch) = (pass.parameters.len(), pass.scratch.len());
        self.check_on_gpu(pass.rows, parameters, pass.inputs.len(), pass.outputs.len(), scratch)?;
        check_length("the layer's gradient", parameters, pass.gradient.len())?;
        activation::cuda::derive(
            device,
            self.activation,
            self.output_image(),
            pass.outputs,
            pass.output_gradient,
        )?;
        let channels = self.output.channels;
        let weight = GpuMatrix::new(pass.parameters, channels, self.inputs);
        let weight_gradient = GpuMatrix::new(pass.gradient, channels, self.inputs);
        let bias_gradient = pass.gradient.part(self.weight_length()..parameters);
        sums::cuda::channels(
            device,
            (pass.rows, self.output.pixels()),
            1.0,
            pass.output_gradient,
            pass.scratch,
            bias_gradient,
        )?;
        for (index, piece) in self.pieces(pass.rows, pass.scratch).enumerate() {
            let Piece {
                images,
                columns,
                values,
                ..
            } = piece;
            let width = images.count * images.pixels;
            images.by_channel(device, pass.output_gradient.part(piece.outputs), values)?;
            windows::to_columns(
                device,
                &self.windows,
                images.count,
                pass.inputs.part(piece.inputs.clone()),
                columns,
            )?;
            let values = GpuMatrix::new(values, channels, width);
            let of_columns = GpuMatrix::new(columns, self.inputs, width);
            device.multiply(weight_gradient, values, of_columns.transpose(), index > 0)?;
            if let Some(input_gradient) = pass.input_gradient {
                device.multiply(of_columns, weight.transpose(), values, false)?;
                let to = input_gradient.part(piece.inputs);
                windows::from_columns(device, &self.windows, images.count, columns, to)?;
            }
        }
        Ok(())
    }
}
