//! A network's pass on a GPU: all that it needs lies in the GPU's memory, allocated once.

use std::ops::Range;
use std::ptr;
use std::sync::{Arc, Weak};

use distdl_engine::device::{GpuBuffer, GpuPort, GpuSlice};

use super::wiring::GradientBuffers;
use super::{NeuralNetwork, Placed, gradient_buffers};
use crate::error::{Error, Result, check_length};
use crate::kernels::gather::cuda::{Batch, GpuSamples, Places, PlacesPort, gather};
use crate::kernels::programs::Device;
use crate::kernels::sums::cuda as sums;
use crate::layer::{Draw, GpuBackward, GpuForward, GpuLayer, Mode};
use crate::loss::{GpuTargets, Targets};
use crate::metrics::BatchReport;

/// Words of a pass's tallies: the sum of losses, and the number of hits.
pub(crate) const TALLY: usize = 4;

/// What shapes a workspace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WorkspaceShape {
    /// Rows of a pass, at most.
    pub(crate) rows_max: usize,
    /// Passes whose gradients are summed here, at most.
    pub(crate) pieces_max: usize,
    /// The words of a row's target; none for a label, which is one.
    pub(crate) target_length: Option<usize>,
    /// Whether there is a backward pass.
    pub(crate) has_gradient: bool,
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
    shape: WorkspaceShape,
    parameters: GpuPort,
    /// Whose they are, if others have the same.
    parameters_of: Weak<Vec<f32>>,
    gradient: GpuPort,
    /// The sum of the gradients of pieces, while another is computed.
    held: GpuBuffer,
    /// Where the rows are taken from, among samples that are there.
    places: PlacesPort,
    inputs: GpuPort,
    targets: GpuPort,
    /// Of each layer, none of views.
    outputs: Vec<GpuBuffer>,
    /// Gradients by outputs, and which layer has them where.
    gradients: Vec<GpuBuffer>,
    buffers: GradientBuffers,
    scratch: GpuBuffer,
    /// Where frozen layers write a gradient, which is thrown away: where it would lie there is always 0.
    unwanted: GpuBuffer,
    /// What layers find there unchanged, one behind the other, then the loss; and where that of each is.
    constants: GpuBuffer,
    constants_of: Vec<Range<usize>>,
    /// Of each row its loss, and whether it is right.
    losses: GpuBuffer,
    /// Sums of parts of them.
    between: GpuBuffer,
    /// Their sums, of each piece.
    tallies: GpuPort,
    /// Behind what it works on.
    device: Device,
}

impl NeuralNetwork {
    /// What each layer is on a GPU. An error says which one cannot be there.
    pub(crate) fn on_gpu(&self) -> Result<Vec<&dyn GpuLayer>, String> {
        let layers = self.layers.iter().enumerate().map(|(index, Placed { layer, .. })| {
            let missing = || format!("layer {index} ({}) has no kernels for GPUs", layer.kind());
            layer.on_gpu().ok_or_else(missing)
        });
        layers.collect()
    }

    /// Errors if the first layer cannot take some input of whole rows. Those are looked at only if a layer wants it.
    pub(crate) fn check_inputs_on_gpu(&self, inputs: &mut dyn Iterator<Item = f32>) -> Result<()> {
        let first = self.layers.first().and_then(|placed| placed.layer.on_gpu());
        first.map_or(Ok(()), |first| first.check_inputs(inputs))
    }

    /// All buffers of passes. This is the only place where a GPU's memory is allocated for a pass.
    pub(crate) fn workspace_on_gpu(&self, device: Device, shape: WorkspaceShape) -> Result<GpuWorkspace> {
        let rows_max = shape.rows_max;
        let layers = self.on_gpu().map_err(Error::Gpu)?;
        let lengths = self.layers.iter().map(|placed| placed.layer.output_length());
        // The loss writes the gradient by the outputs, whoever wants it.
        let widest = match shape.has_gradient {
            true => lengths.clone().max().unwrap_or(0),
            false => self.output_length(),
        };
        let parameters = self.parameter_count();
        let scratch = layers.iter().map(|layer| layer.scratch_length(&device, rows_max)).max();
        let words = |length: usize| device.allocate(length);
        let (mut constants, mut constants_of) = (Vec::new(), Vec::new());
        let of_layers = layers.iter().map(|layer| layer.constants());
        let of_loss = self.loss.class_weights().iter().map(|weight| weight.to_bits());
        for of_one in of_layers.chain([of_loss.collect()]) {
            let before = constants.len();
            constants.extend(of_one);
            constants_of.push(before..constants.len());
        }
        let constants_there = words(constants.len())?;
        device.gpu().write(&constants, constants_there.words())?;
        let rows = |length: usize| device.allocate(rows_max.saturating_mul(length));
        let port = |length: usize| device.port(length);
        let port_of_rows = |length: usize| device.port(rows_max.saturating_mul(length));
        let buffers = gradient_buffers(&self.layers, |index| layers[index].is_view());
        let gradient = port(if shape.has_gradient { parameters } else { 0 })?;
        let frozen = self
            .layers
            .iter()
            .filter(|placed| placed.is_frozen && shape.has_gradient);
        let mut unwanted = 0;
        for Placed { range, .. } in frozen {
            unwanted = unwanted.max(range.len());
            device
                .gpu()
                .write(&vec![0.0_f32; range.len()], gradient.words().part(range.clone()))?;
        }
        Ok(GpuWorkspace {
            shape,
            parameters: port(parameters)?,
            parameters_of: Weak::new(),
            gradient,
            unwanted: words(unwanted)?,
            held: words(if shape.pieces_max > 1 { parameters } else { 0 })?,
            places: PlacesPort::new(&device, rows_max.saturating_mul(shape.pieces_max))?,
            inputs: port_of_rows(self.input_length())?,
            targets: port_of_rows(shape.target_length.unwrap_or(1))?,
            outputs: lengths
                .zip(&layers)
                .map(|(length, layer)| rows(if layer.is_view() { 0 } else { length }))
                .collect::<Result<_>>()?,
            gradients: (0..buffers.count()).map(|_| rows(widest)).collect::<Result<_>>()?,
            buffers,
            scratch: words(scratch.unwrap_or(0))?,
            constants: constants_there,
            constants_of,
            losses: rows(4)?,
            between: words(4 * sums::total_room(rows_max))?,
            tallies: port(TALLY.saturating_mul(shape.pieces_max))?,
            device,
        })
    }

    /// As [`gradient`](Self::gradient), of the rows that lie in the workspace. Nobody waits for the GPU: the gradient stays in
    /// the workspace, and `tallies`, four words, get the sum of losses and the number of hits.
    pub(crate) fn pass_on_gpu(
        &self,
        draw: Draw,
        rows: usize,
        workspace: &GpuWorkspace,
        tallies: GpuSlice<'_>,
    ) -> Result<()> {
        let layers = self.on_gpu().map_err(Error::Gpu)?;
        let mode = Mode::Training(draw);
        self.forward_on_gpu(&layers, mode, rows, workspace)?;
        self.loss_on_gpu(rows, workspace, tallies)?;
        self.backward_on_gpu(&layers, mode, rows, workspace)
    }

    /// As [`error_batch`](Self::error_batch), of the rows that lie in the workspace.
    pub(crate) fn evaluate_on_gpu(&self, rows: PassRows, workspace: &mut GpuWorkspace) -> Result<BatchReport> {
        let layers = self.on_gpu().map_err(Error::Gpu)?;
        self.forward_on_gpu(&layers, Mode::Evaluation, rows.count, workspace)?;
        self.loss_on_gpu(rows.count, workspace, workspace.tallies(0))?;
        workspace.fetch_tallies(1)?;
        workspace.take_report(&[rows])
    }

    /// Writes the outputs of the last layer for the rows that lie in the workspace, rows x output length.
    pub(crate) fn predict_on_gpu(&self, rows: usize, workspace: &GpuWorkspace, outputs: &mut [f32]) -> Result<()> {
        let layers = self.on_gpu().map_err(Error::Gpu)?;
        self.forward_on_gpu(&layers, Mode::Evaluation, rows, workspace)?;
        let there = self.outputs_on_gpu(layers.len() - 1, rows, workspace);
        Ok(workspace.device.gpu().read(there, outputs)?)
    }

    fn forward_on_gpu(
        &self,
        layers: &[&dyn GpuLayer],
        mode: Mode,
        rows: usize,
        workspace: &GpuWorkspace,
    ) -> Result<()> {
        let layers = layers.iter().zip(&*self.layers).enumerate();
        for (index, (layer, Placed { range, wires, .. })) in layers.filter(|(_, (layer, _))| !layer.is_view()) {
            let outputs = self.outputs_on_gpu(index, rows, workspace);
            layer.forward(
                &workspace.device,
                GpuForward {
                    parameters: workspace.parameters.words().part(range.clone()),
                    inputs: self.rows_on_gpu(wires.inputs, rows, workspace),
                    rows,
                    mode: self.mode_of(index, mode),
                    constants: workspace.constants_of(index),
                    scratch: workspace.scratch.words(),
                    outputs,
                },
            )?;
            if let Some(added) = wires.added {
                sums::add(&workspace.device, self.rows_on_gpu(added, rows, workspace), outputs)?;
            }
        }
        Ok(())
    }

    fn backward_on_gpu(
        &self,
        layers: &[&dyn GpuLayer],
        mode: Mode,
        rows: usize,
        workspace: &GpuWorkspace,
    ) -> Result<()> {
        let layers = layers.iter().zip(&*self.layers).enumerate().rev();
        for (index, (layer, Placed { range, wires, .. })) in layers.filter(|(_, (layer, _))| !layer.is_view()) {
            let inputs = self.rows_on_gpu(wires.inputs, rows, workspace);
            let outputs = self.outputs_on_gpu(index, rows, workspace);
            let Some(buffers) = workspace.buffers.of(index) else {
                continue;
            };
            let gradient = |buffer: usize, length: usize| workspace.gradients[buffer].words().part(0..length);
            layer.backward(
                &workspace.device,
                GpuBackward {
                    parameters: workspace.parameters.words().part(range.clone()),
                    inputs,
                    outputs,
                    rows,
                    mode: self.mode_of(index, mode),
                    constants: workspace.constants_of(index),
                    scratch: workspace.scratch.words(),
                    output_gradient: gradient(buffers.output, outputs.len()),
                    input_gradient: buffers.input.map(|input| gradient(input, inputs.len())),
                    gradient: match self.is_frozen(index) {
                        true => workspace.unwanted.words().part(0..range.len()),
                        false => workspace.gradient.words().part(range.clone()),
                    },
                },
            )?;
            for sum in &buffers.sums {
                let [values, sums] = sum.map(|of| gradient(of, inputs.len()));
                sums::add(&workspace.device, values, sums)?;
            }
        }
        Ok(())
    }

    /// Loss and hits, and the gradient by the outputs where the backward pass of the last layer looks for it.
    fn loss_on_gpu(&self, rows: usize, workspace: &GpuWorkspace, tallies: GpuSlice<'_>) -> Result<()> {
        let last = self.layers.len() - 1;
        let outputs = self.outputs_on_gpu(last, rows, workspace);
        let targets = workspace.targets.words();
        let targets = match workspace.shape.target_length {
            None => GpuTargets::Labels(targets.part(0..rows)),
            Some(length) => GpuTargets::Values(targets.part(0..rows * length)),
        };
        let gradient = workspace.gradients[GradientBuffers::LOSS]
            .words()
            .part(0..outputs.len());
        let losses = workspace.losses.words();
        let (of_loss, of_hits) = (losses.part(0..2 * rows), losses.part(2 * rows..4 * rows));
        let device = &workspace.device;
        let weights = workspace.constants_of(self.layers.len());
        self.loss
            .gradient_on_gpu(device, weights, rows, (outputs, targets), gradient, (of_loss, of_hits))?;
        // Values are not hit.
        let of_rows = match workspace.shape.target_length {
            None => 2,
            Some(_) => 1,
        };
        let room = 2 * of_rows * sums::total_room(rows);
        sums::totals(
            device,
            losses.part(0..2 * of_rows * rows),
            workspace.between.words().part(0..room),
            tallies.part(0..2 * of_rows),
        )
    }

    /// The rows that so many layers have made: see [`Wires`].
    fn rows_on_gpu<'a>(&self, layers: usize, rows: usize, workspace: &'a GpuWorkspace) -> GpuSlice<'a> {
        match layers.checked_sub(1) {
            Some(last) => self.outputs_on_gpu(last, rows, workspace),
            None => workspace.inputs.words().part(0..rows * self.input_length()),
        }
    }

    fn outputs_on_gpu<'a>(&self, index: usize, rows: usize, workspace: &'a GpuWorkspace) -> GpuSlice<'a> {
        let Placed { layer, wires, .. } = &self.layers[index];
        if layer.on_gpu().is_some_and(GpuLayer::is_view) {
            return self.rows_on_gpu(wires.inputs, rows, workspace);
        }
        workspace.outputs[index].words().part(0..rows * layer.output_length())
    }
}

impl GpuWorkspace {
    /// What shapes it.
    pub(crate) fn shape(&self) -> WorkspaceShape {
        self.shape
    }

    /// What its kernels run on.
    pub(crate) fn device(&self) -> &Device {
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

    /// The same with parameters of several, unless they are there.
    pub(crate) fn share_parameters(&mut self, parameters: &Arc<Vec<f32>>) -> Result<()> {
        if !ptr::eq(self.parameters_of.as_ptr(), Arc::as_ptr(parameters)) {
            self.set_parameters(parameters)?;
            // Nothing else is made in that place while this is there.
            self.parameters_of = Arc::downgrade(parameters);
        }
        Ok(())
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

    /// Sends the places of rows of all pieces, among so many samples that are on the GPU.
    pub(crate) fn set_places(&mut self, samples: usize, places: &[u32]) -> Result<()> {
        self.places.send(&self.device, samples, places)
    }

    /// Those that were sent.
    pub(crate) fn places(&self) -> Places<'_> {
        self.places.places()
    }

    /// Takes rows from samples that are on the GPU.
    pub(crate) fn take_rows(&self, samples: GpuSamples<'_>, places: Places<'_>) -> Result<()> {
        self.check_rows(places.len())?;
        let to = Batch {
            inputs: self.inputs.words(),
            targets: self.targets.words(),
            lengths: self.row_lengths(),
        };
        gather(&self.device, samples, places, to)
    }

    /// Words of a row's inputs, and of its target.
    fn row_lengths(&self) -> (usize, usize) {
        (self.input_length(), self.shape.target_length.unwrap_or(1))
    }

    fn constants_of(&self, layer: usize) -> GpuSlice<'_> {
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

    /// Where the tallies of a piece go.
    pub(crate) fn tallies(&self, piece: usize) -> GpuSlice<'_> {
        self.tallies.words().part(TALLY * piece..TALLY * (piece + 1))
    }

    /// Keeps the sum of the gradients of some pieces, of which the last one is in the gradient, while the next is computed.
    pub(crate) fn hold(&self, pieces: usize) -> Result<()> {
        match pieces {
            1 => Ok(self.device.gpu().copy(self.gradient(), self.held.words())?),
            _ => sums::add(&self.device, self.gradient(), self.held.words()),
        }
    }

    /// Waits for the GPU, and takes the sum of the gradients of these pieces, the last of which is in the gradient.
    pub(crate) fn take_gradient(&mut self, pieces: &[PassRows], gradient: &mut [f32]) -> Result<BatchReport> {
        check_length("the gradient", self.gradient.words().len(), gradient.len())?;
        if pieces.len() > 1 {
            // As a sum the other way round: it has the same bits.
            sums::add(&self.device, self.held.words(), self.gradient.words())?;
        }
        let to = bytemuck::cast_slice_mut::<f32, u8>(gradient);
        self.gradient.fetch(self.device.gpu(), to.len())?;
        self.fetch_tallies(pieces.len())?;
        to.copy_from_slice(&self.gradient.take(self.device.gpu())?[..to.len()]);
        self.take_report(pieces)
    }

    fn fetch_tallies(&mut self, pieces: usize) -> Result<()> {
        Ok(self.tallies.fetch(self.device.gpu(), pieces * size_of::<[f64; 2]>())?)
    }

    /// Waits for the tallies of these pieces, and adds them up.
    fn take_report(&mut self, pieces: &[PassRows]) -> Result<BatchReport> {
        let (mut total, mut tallies) = (BatchReport::default(), [0.0_f64; 2]);
        let bytes = self.tallies.take(self.device.gpu())?;
        for (piece, of_piece) in pieces.iter().zip(bytes.chunks_exact(size_of_val(&tallies))) {
            bytemuck::cast_slice_mut::<f64, u8>(&mut tallies).copy_from_slice(of_piece);
            total.merge(&self.shape.report(*piece, tallies));
        }
        Ok(total)
    }
}
