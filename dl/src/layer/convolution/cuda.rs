//! The convolution on a GPU: by cuDNN where it is asked for and can, else as on the CPU, with more images at once; or,
//! where windows are few elements, by a kernel of its own.

use distdl_engine::device::{ConvolutionOperands, ConvolutionPart, GpuMatrices, GpuMatrix, GpuSlice};

use super::products::{Groups, Products};
use super::{Activation, ConvolutionLayer};
use crate::error::{Result, check_length};
use crate::kernels::activation;
use crate::kernels::programs::{GpuContext, ReductionSplit};
use crate::kernels::sums::cuda as sums;
use crate::kernels::windows::cuda::{self as windows, Images, WINDOW_MAX};
use crate::layer::on_gpu::{GpuBackward, GpuForward, GpuLayer};

/// Some of the images of a pass, and scratch for their columns and for their outputs, channel by channel.
struct ImageChunk<'a> {
    images: Images,
    inputs: std::ops::Range<usize>,
    outputs: std::ops::Range<usize>,
    columns: GpuMatrix<'a>,
    columns_scratch: GpuSlice<'a>,
    values: GpuMatrix<'a>,
    values_scratch: GpuSlice<'a>,
}

/// Scratch for the products of groups, and for their sum.
struct GroupScratch<'a> {
    products: GpuSlice<'a>,
    between: GpuSlice<'a>,
    /// How many products are there.
    count: usize,
}

impl ConvolutionLayer {
    /// How products are cut.
    fn products(&self, device: &GpuContext) -> Products {
        Products {
            inputs: self.inputs,
            channels: self.output.channels,
            pixels: self.output.pixels(),
            has_few_inputs: self.has_few_inputs(),
            memory_bytes: device.memory_bytes(),
        }
    }

    /// Whether a kernel computes outputs without columns.
    fn has_few_inputs(&self) -> bool {
        self.inputs <= WINDOW_MAX
    }

    /// Elements for chunks of so many rows, and for sums over them.
    pub(super) fn scratch_for_products(&self, device: &GpuContext, rows: usize) -> usize {
        let products = self.products(device);
        let scratch = products.scratch_for_chunk(rows) + products.scratch_for_groups(rows).iter().sum::<usize>();
        scratch.max(ReductionSplit::scratch_of_channels(
            rows,
            products.channels,
            products.pixels,
        ))
    }

    /// All images, in chunks.
    fn chunks<'a>(
        &self,
        device: &GpuContext,
        rows: usize,
        scratch: GpuSlice<'a>,
    ) -> impl Iterator<Item = ImageChunk<'a>> + use<'a> {
        let layer = *self;
        layer.products(device).chunks(rows).map(move |chunk| {
            let images = Images {
                count: chunk.len(),
                channels: layer.output.channels,
                pixels: layer.output.pixels(),
            };
            let width = images.count * images.pixels;
            let (columns, values) = (layer.inputs * width, images.channels * width);
            let (columns_scratch, values_scratch) = (scratch.part(0..columns), scratch.part(columns..columns + values));
            ImageChunk {
                images,
                inputs: chunk.start * layer.input_image()..chunk.end * layer.input_image(),
                outputs: chunk.start * layer.output_image()..chunk.end * layer.output_image(),
                columns: GpuMatrix::new(columns_scratch, layer.inputs, width),
                columns_scratch,
                values: GpuMatrix::new(values_scratch, images.channels, width),
                values_scratch,
            }
        })
    }

    /// Writes the windows of a chunk as its columns.
    fn write_columns(&self, device: &GpuContext, chunk: &ImageChunk<'_>, images: GpuSlice<'_>) -> Result<()> {
        let images = images.part(chunk.inputs.clone());
        windows::to_columns(device, &self.windows, chunk.images.count, images, chunk.columns_scratch)
    }

    fn check_on_gpu(
        &self,
        device: &GpuContext,
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

    /// Writes the product of each group of a chunk behind those that are there.
    fn multiply_groups<'a>(
        &self,
        device: &GpuContext,
        groups: Groups,
        chunk: &ImageChunk<'a>,
        output_gradient: GpuSlice<'_>,
        scratch: &mut GroupScratch<'_>,
    ) -> Result<()> {
        let (channels, length, pixels) = (self.output.channels, self.weight_length(), chunk.images.pixels);
        let (width, side) = (chunk.images.count * pixels, groups.images * pixels);
        let (whole, left) = groups.of(chunk.images.count);
        let mut next = |count: usize| {
            let begin = scratch.count * length;
            scratch.count += count;
            scratch.products.part(begin..begin + count * length)
        };
        if whole > 0 {
            let products = GpuMatrices::new(next(whole), whole, length, [channels, self.inputs], self.inputs);
            let columns = GpuMatrices::new(chunk.columns_scratch, whole, side, [self.inputs, side], width);
            let values = match groups.are_single {
                true => GpuMatrices::new(output_gradient, whole, channels * pixels, [channels, pixels], pixels),
                false => GpuMatrices::new(chunk.values_scratch, whole, side, [channels, side], width),
            };
            device.multiply_each(products, values, columns.transpose())?;
        }
        if left > 0 {
            let product = GpuMatrix::new(next(1), channels, self.inputs);
            let of_left = |scratch: GpuSlice<'a>, rows| {
                GpuMatrix::with_stride(scratch.part(whole * side..scratch.len()), [rows, left * pixels], width)
            };
            let values = of_left(chunk.values_scratch, channels);
            let columns = of_left(chunk.columns_scratch, self.inputs);
            device.multiply(product, values, columns.transpose(), false)?;
        }
        Ok(())
    }

    /// The gradients that are wanted.
    fn backward_by_products(
        &self,
        device: &GpuContext,
        pass: &GpuBackward<'_>,
        filter_gradient: Option<GpuSlice<'_>>,
        input_gradient: Option<GpuSlice<'_>>,
    ) -> Result<()> {
        let filters = |values| GpuMatrix::new(values, self.output.channels, self.inputs);
        let cut = self.products(device);
        let (groups, of_chunks) = (cut.groups(pass.rows), cut.scratch_for_chunk(pass.rows));
        let [products, between] = cut.scratch_for_groups(pass.rows);
        let mut scratch = GroupScratch {
            products: pass.scratch.part(of_chunks..of_chunks + products),
            between: pass.scratch.part(of_chunks + products..of_chunks + products + between),
            count: 0,
        };
        let are_single = groups.is_some_and(|groups| groups.are_single);
        for (index, chunk) in self.chunks(device, pass.rows, pass.scratch).enumerate() {
            let output_gradient = pass.output_gradient.part(chunk.outputs.clone());
            if !are_single || input_gradient.is_some() {
                chunk.images.by_channel(device, output_gradient, chunk.values_scratch)?;
            }
            if let Some(gradient) = filter_gradient {
                self.write_columns(device, &chunk, pass.inputs)?;
                match groups {
                    Some(groups) => self.multiply_groups(device, groups, &chunk, output_gradient, &mut scratch)?,
                    None => device.multiply(filters(gradient), chunk.values, chunk.columns.transpose(), index > 0)?,
                }
            }
            if let Some(gradient) = input_gradient {
                device.multiply(chunk.columns, filters(pass.parameters).transpose(), chunk.values, false)?;
                let (count, to) = (chunk.images.count, gradient.part(chunk.inputs));
                windows::from_columns(device, &self.windows, count, chunk.columns_scratch, to)?;
            }
        }
        match (groups, filter_gradient) {
            (Some(_), Some(gradient)) => {
                let products = scratch.products.part(0..scratch.count * self.weight_length());
                sums::columns(device, products, scratch.between, gradient)
            }
            _ => Ok(()),
        }
    }
}

impl GpuLayer for ConvolutionLayer {
    fn scratch_length(&self, device: &GpuContext, rows: usize) -> usize {
        let products = self.scratch_for_products(device, rows);
        match device.dnn() {
            Some(_) => products.max(self.scratch_for_cudnn(device, rows)),
            None => products,
        }
    }

    fn forward(&self, device: &GpuContext, pass: GpuForward<'_>) -> Result<()> {
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
        for chunk in self.chunks(device, pass.rows, pass.scratch) {
            if self.has_few_inputs() {
                let counts = (chunk.images.count, self.output.channels);
                let is_relu = self.activation == Activation::Relu;
                let (images, outputs) = (pass.inputs.part(chunk.inputs), pass.outputs.part(chunk.outputs));
                let of_pass = [pass.parameters, images, outputs];
                windows::convolve(device, &self.windows, counts, [self.has_bias, is_relu], of_pass)?;
                if !is_relu {
                    activation::cuda::apply(device, self.activation, self.output_image(), outputs)?;
                }
                continue;
            }
            self.write_columns(device, &chunk, pass.inputs)?;
            device.multiply(chunk.values, weight, chunk.columns, false)?;
            let (from, to) = (chunk.values_scratch, pass.outputs.part(chunk.outputs));
            let sides = (self.output.channels, self.output.pixels());
            activation::cuda::forward_from_channels(device, self.activation, sides, bias, (from, to))?;
        }
        Ok(())
    }

    fn backward(&self, device: &GpuContext, pass: GpuBackward<'_>) -> Result<()> {
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
