//! The convolution on a GPU: by cuDNN where it is asked for and can, else as on the CPU, with more images at once.

use distdl_engine::device::{ConvolutionOperands, ConvolutionPart, GpuMatrix, GpuSlice};

use super::ConvolutionLayer;
use crate::error::{Result, check_length};
use crate::kernels::activation;
use crate::kernels::programs::{Device, Parts};
use crate::kernels::windows::cuda::{self as windows, Images};
use crate::layer::on_gpu::{GpuBackward, GpuForward, GpuLayer};

/// Elements of the columns of the images that are multiplied at once, where one image has no more: 64 MiB.
const COLUMNS_MAX: usize = 1 << 24;

/// Some of the images of a pass, and room for their columns and for their outputs, channel by channel.
struct Piece<'a> {
    images: Images,
    inputs: std::ops::Range<usize>,
    outputs: std::ops::Range<usize>,
    columns: GpuMatrix<'a>,
    columns_room: GpuSlice<'a>,
    values: GpuMatrix<'a>,
    values_room: GpuSlice<'a>,
}

impl ConvolutionLayer {
    /// Images of `rows` that are multiplied at once.
    fn images_on_gpu(&self, rows: usize) -> usize {
        (COLUMNS_MAX / (self.inputs * self.output.pixels())).clamp(1, rows.max(1))
    }

    /// Elements for pieces of so many rows, and for sums over them.
    pub(super) fn room_for_products(&self, rows: usize) -> usize {
        let (channels, pixels) = (self.output.channels, self.output.pixels());
        let columns = self.images_on_gpu(rows) * (self.inputs + channels) * pixels;
        columns.max(Parts::room_of_channels(rows, channels, pixels))
    }

    /// All images, in pieces.
    fn pieces<'a>(&self, rows: usize, scratch: GpuSlice<'a>) -> impl Iterator<Item = Piece<'a>> + use<'a> {
        let (layer, step) = (*self, self.images_on_gpu(rows));
        (0..rows).step_by(step).map(move |first| {
            let images = Images {
                count: step.min(rows - first),
                channels: layer.output.channels,
                pixels: layer.output.pixels(),
            };
            let width = images.count * images.pixels;
            let (columns, values) = (layer.inputs * width, images.channels * width);
            let (columns_room, values_room) = (scratch.part(0..columns), scratch.part(columns..columns + values));
            Piece {
                images,
                inputs: first * layer.input_image()..(first + images.count) * layer.input_image(),
                outputs: first * layer.output_image()..(first + images.count) * layer.output_image(),
                columns: GpuMatrix::new(columns_room, layer.inputs, width),
                columns_room,
                values: GpuMatrix::new(values_room, images.channels, width),
                values_room,
            }
        })
    }

    /// Writes the windows of a piece as its columns.
    fn write_columns(&self, device: &Device, piece: &Piece<'_>, images: GpuSlice<'_>) -> Result<()> {
        let images = images.part(piece.inputs.clone());
        windows::to_columns(device, &self.windows, piece.images.count, images, piece.columns_room)
    }

    fn check_on_gpu(
        &self,
        device: &Device,
        rows: usize,
        [parameters, inputs, outputs, scratch]: [usize; 4],
    ) -> Result<()> {
        check_length(
            "the layer's parameters",
            self.weight_length() + self.bias_length(),
            parameters,
        )?;
        check_length("the layer's inputs", rows * self.input_image(), inputs)?;
        check_length("the layer's outputs", rows * self.output_image(), outputs)?;
        let wanted = GpuLayer::scratch_length(self, device, rows);
        check_length("the layer's scratch", wanted, scratch.min(wanted))
    }

    /// The gradients that are wanted.
    fn backward_by_products(
        &self,
        device: &Device,
        pass: &GpuBackward<'_>,
        filter_gradient: Option<GpuSlice<'_>>,
        input_gradient: Option<GpuSlice<'_>>,
    ) -> Result<()> {
        let filters = |values| GpuMatrix::new(values, self.output.channels, self.inputs);
        for (index, piece) in self.pieces(pass.rows, pass.scratch).enumerate() {
            let output_gradient = pass.output_gradient.part(piece.outputs.clone());
            piece.images.by_channel(device, output_gradient, piece.values_room)?;
            if let Some(gradient) = filter_gradient {
                self.write_columns(device, &piece, pass.inputs)?;
                device.multiply(filters(gradient), piece.values, piece.columns.transpose(), index > 0)?;
            }
            if let Some(gradient) = input_gradient {
                device.multiply(piece.columns, filters(pass.parameters).transpose(), piece.values, false)?;
                let (count, to) = (piece.images.count, gradient.part(piece.inputs));
                windows::from_columns(device, &self.windows, count, piece.columns_room, to)?;
            }
        }
        Ok(())
    }
}

impl GpuLayer for ConvolutionLayer {
    fn scratch_length(&self, device: &Device, rows: usize) -> usize {
        let products = self.room_for_products(rows);
        match device.dnn() {
            Some(_) => products.max(self.room_for_cudnn(rows)),
            None => products,
        }
    }

    fn forward(&self, device: &Device, pass: GpuForward<'_>) -> Result<()> {
        let parameters = pass.parameters.len();
        let lengths = [pass.parameters, pass.inputs, pass.outputs, pass.scratch].map(GpuSlice::len);
        self.check_on_gpu(device, pass.rows, lengths)?;
        let (filters, bias) = (
            pass.parameters.part(0..self.weight_length()),
            self.has_bias
                .then(|| pass.parameters.part(self.weight_length()..parameters)),
        );
        let operands = ConvolutionOperands {
            images: pass.inputs,
            filters,
            outputs: pass.outputs,
        };
        if self.is_written_by_cudnn(device, pass.rows, ConvolutionPart::Outputs, operands, pass.scratch)? {
            let pixels = self.output.pixels();
            return match bias {
                Some(bias) => activation::cuda::forward_channels(device, self.activation, pixels, bias, pass.outputs),
                None => activation::cuda::apply(device, self.activation, self.output_image(), pass.outputs),
            };
        }
        let weight = GpuMatrix::new(filters, self.output.channels, self.inputs);
        for piece in self.pieces(pass.rows, pass.scratch) {
            self.write_columns(device, &piece, pass.inputs)?;
            device.multiply(piece.values, weight, piece.columns, false)?;
            let (from, to) = (piece.values_room, pass.outputs.part(piece.outputs));
            let sides = (self.output.channels, self.output.pixels());
            activation::cuda::forward_from_channels(device, self.activation, sides, bias, (from, to))?;
        }
        Ok(())
    }

    fn backward(&self, device: &Device, pass: GpuBackward<'_>) -> Result<()> {
        let parameters = pass.parameters.len();
        let lengths = [pass.parameters, pass.inputs, pass.outputs, pass.scratch].map(GpuSlice::len);
        self.check_on_gpu(device, pass.rows, lengths)?;
        check_length("the layer's gradient", parameters, pass.gradient.len())?;
        let outputs = pass.output_gradient;
        if self.has_bias {
            let bias_gradient = pass.gradient.part(self.weight_length()..parameters);
            activation::cuda::backward_channels(
                device,
                self.activation,
                self.output.pixels(),
                pass.outputs,
                outputs,
                (pass.scratch, bias_gradient),
            )?;
        } else {
            activation::cuda::derive(device, self.activation, self.output_image(), pass.outputs, outputs)?;
        }
        let [filters, filter_gradient] = [pass.parameters, pass.gradient].map(|all| all.part(0..self.weight_length()));
        let by_cudnn = |part, images, filters| {
            let operands = ConvolutionOperands {
                images,
                filters,
                outputs,
            };
            self.is_written_by_cudnn(device, pass.rows, part, operands, pass.scratch)
        };
        let filter_gradient = match by_cudnn(ConvolutionPart::Filters, pass.inputs, filter_gradient)? {
            true => None,
            false => Some(filter_gradient),
        };
        let input_gradient = match pass.input_gradient {
            Some(images) if by_cudnn(ConvolutionPart::Images, images, filters)? => None,
            left => left,
        };
        if filter_gradient.is_none() && input_gradient.is_none() {
            return Ok(());
        }
        self.backward_by_products(device, &pass, filter_gradient, input_gradient)
    }
}
