//! A network's pass on a GPU: all that it needs lies in the GPU's memory, allocated once.

mod workspace;

use distdl_engine::device::GpuSlice;

use super::wiring::GradientBuffers;
use super::{NeuralNetwork, WiredLayer};
use crate::error::{Error, Result};
use crate::kernels::sums::cuda as sums;
use crate::layer::{Draw, GpuBackward, GpuForward, GpuLayer, Mode};
use crate::loss::GpuTargets;
use crate::metrics::BatchReport;
pub(crate) use workspace::{GpuWorkspace, PassRows, TALLY, WorkspaceShape};

impl NeuralNetwork {
    /// What each layer is on a GPU. An error says which one, or that the loss, cannot be there.
    pub(crate) fn on_gpu(&self) -> Result<Vec<&dyn GpuLayer>, String> {
        self.loss.on_gpu()?;
        let layers = self.layers.iter().enumerate().map(|(index, WiredLayer { layer, .. })| {
            let missing = || format!("layer {index} ({}) has no kernels for GPUs", layer.kind());
            layer.on_gpu().ok_or_else(missing)
        });
        layers.collect()
    }

    /// As [`gradient`](Self::gradient), of the rows that lie in the workspace. Nobody waits for the GPU: the gradient
    /// stays in the workspace, and `tallies`, four words, get the sum of losses and the number of hits.
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
        for (index, (layer, WiredLayer { range, wires, .. })) in layers.filter(|(_, (layer, _))| !layer.is_view()) {
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
        for (index, (layer, WiredLayer { range, wires, .. })) in layers.filter(|(_, (layer, _))| !layer.is_view()) {
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
        let scratch = 2 * of_rows * sums::total_scratch(rows);
        sums::totals(
            device,
            losses.part(0..2 * of_rows * rows),
            workspace.between.words().part(0..scratch),
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
        let WiredLayer { layer, wires, .. } = &self.layers[index];
        if layer.on_gpu().is_some_and(GpuLayer::is_view) {
            return self.rows_on_gpu(wires.inputs, rows, workspace);
        }
        workspace.outputs[index].words().part(0..rows * layer.output_length())
    }
}
