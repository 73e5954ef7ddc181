//! A lane on a GPU.

use std::sync::Arc;

use super::super::device::{LaneDevice, LaneRows, LaneStep, RowSelection};
use super::samples::SamplesOnGpu;
use super::shared_gpu::out_of_memory_as_ok;
use super::shared_gpus::ChosenGpu;
use crate::augmentation::{Augmentation, Drawn};
use crate::batch::Batch;
use crate::error::{Error, Result};
use crate::kernels::programs::GpuCounts;
use crate::kernels::softmax_cross_entropy::check_labels;
use crate::layer::Draw;
use crate::loss::Targets;
use crate::metrics::BatchReport;
use crate::network::{GpuWorkspace, NeuralNetwork, PassRows};

/// A lane on a GPU.
pub(super) struct GpuLane {
    network: NeuralNetwork,
    chosen: ChosenGpu,
    /// There until this is dropped.
    workspace: Option<GpuWorkspace>,
    samples: Option<SamplesOnGpu>,
    /// What is done to samples that are taken there, if anything is.
    drawn: Option<Drawn>,
    /// The first micro-batch of the next step, if it was sent.
    sent: Option<Sent>,
    second_buffer: SecondBuffer,
}

/// Whether there was a try to have room for a micro-batch that goes ahead.
#[derive(Clone, Copy)]
enum SecondBuffer {
    /// Other lanes may not have their room yet.
    Later,
    /// All lanes have begun a step.
    Due,
    /// Without it copies wait for passes.
    Tried,
}

/// A micro-batch that was sent before its step began.
struct Sent {
    draw: Draw,
    sample_indices: Vec<u32>,
    rows: PassRows,
}

impl GpuLane {
    /// A lane on a GPU, whose samples may be there.
    pub(super) fn new(
        network: NeuralNetwork,
        chosen: ChosenGpu,
        workspace: GpuWorkspace,
        samples: Option<SamplesOnGpu>,
        augmentation: Option<Augmentation>,
    ) -> Self {
        Self {
            network,
            chosen,
            workspace: Some(workspace),
            samples,
            drawn: augmentation.map(Drawn::new),
            sent: None,
            second_buffer: SecondBuffer::Later,
        }
    }
}

impl Drop for GpuLane {
    /// Nothing that the GPU works on is freed before it is done.
    fn drop(&mut self) {
        if let Some(workspace) = self.workspace.take() {
            self.chosen.gpu.take_back(workspace);
        }
    }
}

impl LaneDevice for GpuLane {
    fn has_samples(&self) -> bool {
        self.samples.is_some()
    }

    fn gradient(&mut self, step: LaneStep<'_>) -> Result<Option<BatchReport>> {
        let (before, gpus) = (self.counts(), Arc::clone(&self.chosen.gpus));
        let under_way = gpus.counted().begin();
        let computed = self.compute(step);
        if let Ok((_, passes)) = &computed {
            under_way.count(*passes, [before, self.counts()]);
        }
        drop(under_way);
        let report = computed.map(|(report, _)| report);
        self.chosen.unless_lost(report)
    }
}

impl GpuLane {
    fn counts(&self) -> GpuCounts {
        let workspace = self.workspace.as_ref();
        workspace.map_or_else(GpuCounts::default, |workspace| workspace.device().counts())
    }

    /// Computes micro-batch after micro-batch, and says how many they were, too. Nobody waits before the sum of their
    /// gradients is on its way: rows that do not stay there are gathered and copied while those before are computed.
    fn compute(&mut self, step: LaneStep<'_>) -> Result<(BatchReport, u64)> {
        let (Some(workspace), network) = (&mut self.workspace, &self.network) else {
            return Err(Error::Internal("a lane that has ended was asked for a step".into()));
        };
        let RowSelection { draw, sample_indices } = step.selection;
        workspace.set_parameters(step.parameters)?;
        if let Some(samples) = &self.samples {
            workspace.set_sample_indices(samples.as_ref().rows, sample_indices)?;
            if let Some(drawn) = &mut self.drawn {
                workspace.set_transforms(&drawn.take(draw, sample_indices.len()))?;
            }
        }
        let rows_max = workspace.shape().rows_max.max(1);
        let mut micro_batches: Vec<PassRows> = Vec::new();
        for (micro_batch, sample_indices) in sample_indices.chunks(rows_max).enumerate() {
            if micro_batch > 0 {
                workspace.accumulate(micro_batch)?;
            }
            let first = micro_batch * rows_max;
            let first_row = first as u64;
            let draw = Draw { first_row, ..draw };
            let selection = RowSelection { draw, sample_indices };
            micro_batches.push(match &self.samples {
                Some(samples) => {
                    let rows = first..first + sample_indices.len();
                    let there = workspace.sample_indices().part(rows.clone());
                    workspace.take_rows(samples.as_ref(), there, workspace.transforms(rows))?;
                    samples.rows(sample_indices)
                }
                None => {
                    let is_it = |sent: &Sent| sent.draw == draw && sent.sample_indices == sample_indices;
                    let rows = match self.sent.take().filter(is_it) {
                        Some(sent) => sent.rows,
                        None => send_batch(workspace, network, step.rows.gather(selection)?)?,
                    };
                    workspace.swap_inputs()?;
                    rows
                }
            });
            network.pass_on_gpu(draw, sample_indices.len(), workspace, workspace.tallies(micro_batch))?;
        }
        workspace.fetch_gradient(micro_batches.len())?;
        let ahead = step.ahead;
        match (&self.samples, &mut self.drawn) {
            (None, _) => {
                self.second_buffer = match self.second_buffer {
                    SecondBuffer::Later => SecondBuffer::Due,
                    SecondBuffer::Due => {
                        // None may lack what another only likes to have. Once: looking for room waits for the whole
                        // GPU.
                        let _ = out_of_memory_as_ok(workspace.double_rows())?;
                        SecondBuffer::Tried
                    }
                    SecondBuffer::Tried => SecondBuffer::Tried,
                };
                let first = RowSelection {
                    sample_indices: &ahead.sample_indices[..ahead.sample_indices.len().min(rows_max)],
                    ..ahead
                };
                self.sent = send_ahead(workspace, network, first, step.rows)?;
            }
            (Some(_), Some(drawn)) => drawn.draw_ahead([(ahead.draw, ahead.sample_indices.len())].into_iter()),
            (Some(_), None) => {}
        }
        let report = workspace.take_gradient(&micro_batches, step.gradient)?;
        Ok((report, micro_batches.len() as u64))
    }
}

/// Sends a micro-batch of a step that has not begun. What is wrong with its rows is for that step to say.
fn send_ahead(
    workspace: &mut GpuWorkspace,
    network: &NeuralNetwork,
    selection: RowSelection<'_>,
    rows: &mut dyn LaneRows,
) -> Result<Option<Sent>> {
    let RowSelection { draw, sample_indices } = selection;
    if sample_indices.is_empty() {
        return Ok(None);
    }
    let sent = rows
        .gather(selection)
        .and_then(|batch| send_batch(workspace, network, batch));
    match sent {
        Ok(rows) => Ok(Some(Sent {
            draw,
            sample_indices: sample_indices.to_vec(),
            rows,
        })),
        Err(error @ Error::Device(_)) => Err(error),
        Err(_) => Ok(None),
    }
}

/// Sends a batch to the workspace, to be swapped in. Errors if the network cannot take a row, or its target.
pub(super) fn send_batch(workspace: &mut GpuWorkspace, network: &NeuralNetwork, batch: &Batch) -> Result<PassRows> {
    let (targets, count) = (batch.targets(), batch.rows());
    if let Targets::Labels(labels) = targets {
        check_labels(labels, network.output_length())?;
    }
    send_inputs(workspace, network, batch)?;
    workspace.set_targets(targets, count)?;
    let weight = network.loss().weight(targets, count);
    Ok(PassRows { count, weight })
}

/// Sends a batch without targets to the workspace. Errors if the network cannot take a row.
pub(super) fn send_inputs(workspace: &mut GpuWorkspace, network: &NeuralNetwork, batch: &Batch) -> Result<()> {
    network.check_inputs(&mut batch.features().iter().copied())?;
    workspace.set_inputs(batch.features(), batch.rows())
}
