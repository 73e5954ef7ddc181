//! What a network's passes on a GPU need there.

use std::ops::Range;
use std::ptr;
use std::sync::{Arc, Weak};

use distdl_engine::device::{DoubleBuffer, GpuBuffer, GpuPort, GpuSlice};

use super::super::wiring::GradientBuffers;
use super::super::{NeuralNetwork, WiredLayer, gradient_buffers};
use crate::error::{Error, Result, check_length};
use crate::kernels::augment::TRANSFORM_LENGTH;
use crate::kernels::augment::cuda::{TRANSFORM_WORDS, augment};
use crate::kernels::gather::cuda::{GpuBatch, GpuSamples, SampleIndices, SampleIndicesPort, gather};
use crate::kernels::programs::GpuContext;
use crate::kernels::sums::cuda as sums;
use crate::layer::GpuLayer;
use crate::loss::Targets;
use crate::metrics::BatchReport;
use crate::shape::{Image, Shape};

/// Words of a pass's tallies: the sum of losses, and the number of hits.
pub(crate) const TALLY: usize = 4;

/// What shapes a workspace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WorkspaceShape {
    /// Rows of a pass, at most.
    pub(crate) rows_max: usize,
    /// Passes whose gradients are summed here, at most.
    pub(crate) micro_batches_max: usize,
    /// The words of a row's target, 0 if there is none; none for a label, which is one.
    pub(crate) target_length: Option<usize>,
    /// Whether there is a backward pass.
    pub(crate) has_gradient: bool,
    /// Whether rows are pictures that are changed when they are taken from samples.
    pub(crate) augments: bool,
}

/// How many rows a pass has, and what they weigh.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PassRows {
    pub(crate) count: usize,
    pub(crate) weight: f64,
}

impl WorkspaceShape {
    /// What a pass of some rows reports, by its tallies.
    pub(crate) fn report(&self, rows: PassRows, [loss_sum, correct]: [f64; 2]) -> BatchReport {
        let has_labels = self.target_length.is_none();
        BatchReport {
            loss_sum,
            correct: has_labels.then_some(correct as u64),
            samples: rows.count as u64,
            weight: rows.weight,
        }
    }
}

/// The buffers of one network's passes on a GPU, for up to a number of rows.
#[derive(Debug)]
pub(crate) struct GpuWorkspace {
    pub(super) shape: WorkspaceShape,
    pub(super) parameters: GpuPort,
    /// Whose they are, if others have the same.
    pub(super) parameters_of: Weak<Vec<f32>>,
    pub(super) gradient: GpuPort,
    /// The sum of the gradients of micro-batches, while another is computed.
    pub(super) gradient_sum: GpuBuffer,
    /// Which samples the rows are taken from, of those that are there.
    pub(super) sample_indices: SampleIndicesPort,
    /// What is done to those rows.
    pub(super) transforms: GpuPort,
    /// Rows before that.
    pub(super) pictures: GpuBuffer,
    pub(super) inputs: DoubleBuffer,
    /// What inputs are, where they are changed.
    pub(super) image: Option<Image>,
    pub(super) targets: DoubleBuffer,
    /// Of each layer, none of views.
    pub(super) outputs: Vec<GpuBuffer>,
    /// Gradients by outputs, and which layer has them where.
    pub(super) gradients: Vec<GpuBuffer>,
    pub(super) buffers: GradientBuffers,
    pub(super) scratch: GpuBuffer,
    /// Where frozen layers write a gradient, which is thrown away: where it would lie there is always 0.
    pub(super) unwanted: GpuBuffer,
    /// What layers find there unchanged, one behind the other, then the loss; and where that of each is.
    pub(super) constants: GpuBuffer,
    pub(super) constants_of: Vec<Range<usize>>,
    /// Of each row its loss, and whether it is right.
    pub(super) losses: GpuBuffer,
    /// Sums of parts of them.
    pub(super) between: GpuBuffer,
    /// Their sums, of each micro-batch.
    pub(super) tallies: GpuPort,
    /// Behind what it works on.
    pub(super) device: GpuContext,
}

impl NeuralNetwork {
    /// All buffers of passes. This is the only place where a GPU's memory is allocated for a pass.
    pub(crate) fn workspace_on_gpu(&self, device: GpuContext, shape: WorkspaceShape) -> Result<GpuWorkspace> {
        let rows_max = shape.rows_max;
        let layers = self.on_gpu().map_err(Error::Gpu)?;
        let lengths = self.layers.iter().map(|wired| wired.layer.output_length());
        // The loss writes the gradient by the outputs, whoever wants it.
        let widest = match shape.has_gradient {
            true => lengths.clone().max().unwrap_or(0),
            false => self.output_length(),
        };
        let parameters = self.parameter_count();
        let scratch = layers.iter().map(|layer| layer.scratch_length(&device, rows_max)).max();
        let words = |length: usize| device.allocate(length);
        let (constants, constants_of) = self.constants_on_gpu(&device, &layers)?;
        let rows = |length: usize| device.allocate(rows_max.saturating_mul(length));
        let port = |length: usize| device.port(length);
        let port_of_rows = |length: usize| device.port(rows_max.saturating_mul(length));
        let feed = |length: usize| device.double_buffer(rows_max.saturating_mul(length));
        let buffers = gradient_buffers(&self.layers, |index| layers[index].is_view());
        let gradient = port(if shape.has_gradient { parameters } else { 0 })?;
        let unwanted = match shape.has_gradient {
            true => self.clear_frozen(&device, gradient.words())?,
            false => 0,
        };
        Ok(GpuWorkspace {
            shape,
            parameters: port(parameters)?,
            parameters_of: Weak::new(),
            gradient,
            unwanted: words(unwanted)?,
            gradient_sum: words(if shape.micro_batches_max > 1 { parameters } else { 0 })?,
            sample_indices: SampleIndicesPort::new(&device, rows_max.saturating_mul(shape.micro_batches_max))?,
            transforms: port_of_rows(if shape.augments {
                TRANSFORM_WORDS * shape.micro_batches_max
            } else {
                0
            })?,
            pictures: rows(if shape.augments { self.input_length() } else { 0 })?,
            image: match self.input_shape() {
                Shape::Image(image) if shape.augments => Some(image),
                _ => None,
            },
            inputs: feed(self.input_length())?,
            targets: feed(shape.target_length.unwrap_or(1))?,
            outputs: lengths
                .zip(&layers)
                .map(|(length, layer)| rows(if layer.is_view() { 0 } else { length }))
                .collect::<Result<_>>()?,
            gradients: (0..buffers.count()).map(|_| rows(widest)).collect::<Result<_>>()?,
            buffers,
            scratch: words(scratch.unwrap_or(0))?,
            constants,
            constants_of,
            losses: rows(4)?,
            between: words(4 * sums::total_scratch(rows_max))?,
            tallies: port(TALLY.saturating_mul(shape.micro_batches_max))?,
            device,
        })
    }

    /// What layers find on a GPU unchanged, one behind the other, then the loss; and where that of each is.
    fn constants_on_gpu(
        &self,
        device: &GpuContext,
        layers: &[&dyn GpuLayer],
    ) -> Result<(GpuBuffer, Vec<Range<usize>>)> {
        let (mut constants, mut constants_of) = (Vec::new(), Vec::new());
        let of_layers = layers.iter().map(|layer| layer.constants());
        let of_loss = self.loss.class_weights().iter().map(|weight| weight.to_bits());
        for of_one in of_layers.chain([of_loss.collect()]) {
            let before = constants.len();
            constants.extend(of_one);
            constants_of.push(before..constants.len());
        }
        let there = device.allocate(constants.len())?;
        device.gpu().write(&constants, there.words())?;
        Ok((there, constants_of))
    }

    /// Sets the gradient of frozen layers to 0, and says how long the longest is.
    fn clear_frozen(&self, device: &GpuContext, gradient: GpuSlice<'_>) -> Result<usize> {
        let mut longest = 0;
        for WiredLayer { range, .. } in self.layers.iter().filter(|wired| wired.is_frozen) {
            longest = longest.max(range.len());
            let zeros = vec![0.0_f32; range.len()];
            device.gpu().write(&zeros, gradient.part(range.clone()))?;
        }
        Ok(longest)
    }
}

impl GpuWorkspace {
    /// What shapes it.
    pub(crate) fn shape(&self) -> WorkspaceShape {
        self.shape
    }

    /// What its kernels run on.
    pub(crate) fn device(&self) -> &GpuContext {
        &self.device
    }

    /// The parameters, which passes read.
    pub(crate) fn parameters(&self) -> GpuSlice<'_> {
        self.parameters.words()
    }

    /// The gradient, which passes write.
    pub(crate) fn gradient(&self) -> GpuSlice<'_> {
        self.gradient.words()
    }

    /// Begins to fetch the parameters.
    pub(crate) fn fetch_parameters(&mut self) -> Result<()> {
        let bytes = self.parameters.buffer().bytes();
        Ok(self.parameters.fetch(self.device.gpu(), bytes)?)
    }

    /// Waits for parameters that were fetched.
    pub(crate) fn take_parameters(&mut self, parameters: &mut [f32]) -> Result<()> {
        check_length("the parameters", self.parameters.words().len(), parameters.len())?;
        let to = bytemuck::cast_slice_mut::<f32, u8>(parameters);
        to.copy_from_slice(&self.parameters.take(self.device.gpu())?[..to.len()]);
        Ok(())
    }

    /// Sends parameters to the GPU.
    pub(crate) fn set_parameters(&mut self, parameters: &[f32]) -> Result<()> {
        check_length("the parameters", self.parameters.words().len(), parameters.len())?;
        self.parameters_of = Weak::new();
        Ok(self.parameters.send(self.device.gpu(), parameters)?)
    }

    /// Sends parameters that several use to the GPU, unless they are there.
    pub(crate) fn share_parameters(&mut self, parameters: &Arc<Vec<f32>>) -> Result<()> {
        if !ptr::eq(self.parameters_of.as_ptr(), Arc::as_ptr(parameters)) {
            self.set_parameters(parameters)?;
            // Nothing else is made in that place while this is there, and what is there does not change in place:
            // `Arc::get_mut` fails while there is a `Weak`.
            self.parameters_of = Arc::downgrade(parameters);
        }
        Ok(())
    }

    /// Sees to it that there is room for the rows of two passes: one's are copied while the other is computed.
    pub(crate) fn double_rows(&mut self) -> Result<()> {
        self.inputs.add_second(self.device.gpu())?;
        Ok(self.targets.add_second(self.device.gpu())?)
    }

    /// Swaps to inputs and targets that were sent: passes from now on are of those.
    pub(crate) fn swap_inputs(&mut self) -> Result<()> {
        self.inputs.swap(self.device.gpu())?;
        Ok(self.targets.swap(self.device.gpu())?)
    }

    /// Sends inputs to the GPU.
    pub(crate) fn set_inputs(&mut self, inputs: &[f32], rows: usize) -> Result<()> {
        self.check_rows(rows)?;
        check_length("the inputs", rows * self.input_length(), inputs.len())?;
        Ok(self.inputs.send(self.device.gpu(), inputs)?)
    }

    /// Sends targets to the GPU. Labels are indices of classes.
    pub(crate) fn set_targets(&mut self, targets: Targets<'_>, rows: usize) -> Result<()> {
        self.check_rows(rows)?;
        let gpu = self.device.gpu();
        match (targets, self.shape.target_length) {
            (Targets::Labels(labels), None) => {
                check_length("the labels", rows, labels.len())?;
                self.targets.send(gpu, labels)?;
            }
            (Targets::Values(values), Some(length)) => {
                check_length("the target values", rows * length, values.len())?;
                self.targets.send(gpu, values)?;
            }
            _ => {
                let problem = "targets are of another kind than the workspace is made for";
                return Err(Error::Samples(problem.into()));
            }
        }
        Ok(())
    }

    /// Sends which samples the rows of all micro-batches are, of so many samples that are on the GPU.
    pub(crate) fn set_sample_indices(&mut self, samples: usize, sample_indices: &[u32]) -> Result<()> {
        self.sample_indices.send(&self.device, samples, sample_indices)
    }

    /// Those that were sent.
    pub(crate) fn sample_indices(&self) -> SampleIndices<'_> {
        self.sample_indices.sent()
    }

    /// Sends what is done to the rows of all micro-batches.
    pub(crate) fn set_transforms(&mut self, transforms: &[[u64; TRANSFORM_LENGTH]]) -> Result<()> {
        Ok(self.transforms.send(self.device.gpu(), transforms)?)
    }

    /// What is done to some of those rows; `None` if rows stay as they are.
    pub(crate) fn transforms(&self, rows: Range<usize>) -> Option<GpuSlice<'_>> {
        let words = TRANSFORM_WORDS * rows.start..TRANSFORM_WORDS * rows.end;
        self.shape.augments.then(|| self.transforms.words().part(words))
    }

    /// Takes rows from samples that are on the GPU, and changes them by the transforms, if there are any.
    pub(crate) fn take_rows(
        &self,
        samples: GpuSamples<'_>,
        sample_indices: SampleIndices<'_>,
        transforms: Option<GpuSlice<'_>>,
    ) -> Result<()> {
        self.check_rows(sample_indices.len())?;
        let (inputs, change) = (self.inputs.words(), self.image.zip(transforms));
        let to = GpuBatch {
            inputs: change.map_or(inputs, |_| self.pictures.words()),
            targets: self.targets.words(),
            lengths: self.row_lengths(),
        };
        gather(&self.device, samples, sample_indices, to)?;
        let Some((image, transforms)) = change else {
            return Ok(());
        };
        let length = sample_indices.len() * self.input_length();
        let (from, to) = (self.pictures.words().part(0..length), inputs.part(0..length));
        augment(&self.device, image, transforms, from, to)
    }

    /// Words of a row's inputs, and of its target.
    fn row_lengths(&self) -> (usize, usize) {
        (self.input_length(), self.shape.target_length.unwrap_or(1))
    }

    pub(super) fn constants_of(&self, layer: usize) -> GpuSlice<'_> {
        self.constants.words().part(self.constants_of[layer].clone())
    }

    fn input_length(&self) -> usize {
        self.inputs.words().len().checked_div(self.shape.rows_max).unwrap_or(0)
    }

    fn check_rows(&self, rows: usize) -> Result<()> {
        match rows <= self.shape.rows_max {
            true => Ok(()),
            false => Err(Error::Rows {
                rows,
                rows_max: self.shape.rows_max,
            }),
        }
    }

    /// Where the tallies of a micro-batch go.
    pub(crate) fn tallies(&self, micro_batch: usize) -> GpuSlice<'_> {
        self.tallies
            .words()
            .part(TALLY * micro_batch..TALLY * (micro_batch + 1))
    }

    /// Keeps the sum of the gradients of some micro-batches, of which the last one is in the gradient, while the next
    /// is computed.
    pub(crate) fn accumulate(&self, micro_batches: usize) -> Result<()> {
        match micro_batches {
            1 => Ok(self.device.gpu().copy(self.gradient(), self.gradient_sum.words())?),
            _ => sums::add(&self.device, self.gradient(), self.gradient_sum.words()),
        }
    }

    /// Begins to fetch the sum of the gradients of so many micro-batches, the last of which is in the gradient.
    pub(crate) fn fetch_gradient(&mut self, micro_batches: usize) -> Result<()> {
        if micro_batches > 1 {
            // As a sum the other way round: it has the same bits.
            sums::add(&self.device, self.gradient_sum.words(), self.gradient.words())?;
        }
        let bytes = self.gradient.buffer().bytes();
        self.gradient.fetch(self.device.gpu(), bytes)?;
        self.fetch_tallies(micro_batches)
    }

    /// Waits for the gradient of these micro-batches, which was fetched.
    pub(crate) fn take_gradient(&mut self, micro_batches: &[PassRows], gradient: &mut [f32]) -> Result<BatchReport> {
        check_length("the gradient", self.gradient.words().len(), gradient.len())?;
        let to = bytemuck::cast_slice_mut::<f32, u8>(gradient);
        to.copy_from_slice(&self.gradient.take(self.device.gpu())?[..to.len()]);
        self.take_report(micro_batches)
    }

    pub(super) fn fetch_tallies(&mut self, micro_batches: usize) -> Result<()> {
        Ok(self
            .tallies
            .fetch(self.device.gpu(), micro_batches * size_of::<[f64; 2]>())?)
    }

    /// Waits for the tallies of these micro-batches, and adds them up.
    pub(super) fn take_report(&mut self, micro_batches: &[PassRows]) -> Result<BatchReport> {
        let (mut total, mut tallies) = (BatchReport::default(), [0.0_f64; 2]);
        let bytes = self.tallies.take(self.device.gpu())?;
        for (micro_batch, of_micro_batch) in micro_batches.iter().zip(bytes.chunks_exact(size_of_val(&tallies))) {
            bytemuck::cast_slice_mut::<f64, u8>(&mut tallies).copy_from_slice(of_micro_batch);
            total.merge(&self.shape.report(*micro_batch, tallies));
        }
        Ok(total)
    }
}
