//! Evaluation on a GPU.

use std::sync::Arc;

use super::super::device::{BlockRows, Evaluates, EvaluationDevice, SampleBlock};
use super::lane::{send_batch, send_inputs};
use super::samples::SamplesOnGpu;
use super::shared_gpus::ChosenGpu;
use crate::batch::Batch;
use crate::error::{Error, Result};
use crate::metrics::BatchReport;
use crate::network::{GpuWorkspace, NeuralNetwork, PassRows};

/// A task's evaluation on a GPU, whose workspace has the parameters.
pub(super) struct GpuEvaluation {
    network: NeuralNetwork,
    chosen: ChosenGpu,
    /// There until this is dropped.
    workspace: Option<GpuWorkspace>,
    /// What it has, by which others know this evaluation.
    parameters: Arc<Vec<f32>>,
    evaluates: Evaluates,
    /// The block whose rows come, and its samples if they are there.
    block: Option<(SampleBlock, Option<SamplesOnGpu>)>,
}

impl GpuEvaluation {
    /// With these parameters.
    pub(super) fn new(
        network: &NeuralNetwork,
        chosen: ChosenGpu,
        mut workspace: GpuWorkspace,
        parameters: &Arc<Vec<f32>>,
        evaluates: Evaluates,
    ) -> Result<Self> {
        workspace.share_parameters(parameters)?;
        Ok(Self {
            network: network.clone(),
            chosen,
            workspace: Some(workspace),
            parameters: Arc::clone(parameters),
            evaluates,
            block: None,
        })
    }

    /// Loss and hits of rows.
    fn evaluate(&mut self, rows: &mut BlockRows<'_>) -> Result<BatchReport> {
        let pass = self.bring(rows, send_batch)?;
        self.network
            .evaluate_on_gpu(pass, self.workspace.as_mut().ok_or_else(ended)?)
    }

    /// Outputs for rows, which need no targets.
    fn predict(&mut self, rows: &mut BlockRows<'_>, outputs: &mut [f32]) -> Result<()> {
        let send = |workspace: &mut GpuWorkspace, network: &NeuralNetwork, batch: &Batch| {
            let (count, weight) = (batch.rows(), batch.rows() as f64);
            send_inputs(workspace, network, batch).map(|()| PassRows { count, weight })
        };
        let pass = self.bring(rows, send)?;
        let workspace = self.workspace.as_ref().ok_or_else(ended)?;
        self.network.predict_on_gpu(pass.count, workspace, outputs)
    }

    /// Brings rows to where passes read them: they are taken from samples that stay there, or sent by `send`.
    fn bring(
        &mut self,
        rows: &mut BlockRows<'_>,
        send: impl FnOnce(&mut GpuWorkspace, &NeuralNetwork, &Batch) -> Result<PassRows>,
    ) -> Result<PassRows> {
        let (workspace, network) = (self.workspace.as_mut().ok_or_else(ended)?, &self.network);
        if self.block.as_ref().is_none_or(|(block, _)| *block != rows.block) {
            // What was there of another may go.
            self.block = None;
            let stays = match self.evaluates {
                Evaluates::Again => rows.block.is_determinate && !self.chosen.gpus.have_ended(),
                Evaluates::Once => false,
            };
            let samples = match stays {
                true => self.chosen.gpu.keep_block(workspace, network, rows, &self.parameters)?,
                false => None,
            };
            self.block = Some((rows.block, samples));
        }
        match &self.block {
            Some((_, Some(samples))) => {
                let sample_indices: Vec<u32> = (rows.rows.start as u32..rows.rows.end as u32).collect();
                workspace.set_sample_indices(samples.as_ref().rows, &sample_indices)?;
                workspace.take_rows(samples.as_ref(), workspace.sample_indices(), None)?;
                Ok(samples.rows(&sample_indices))
            }
            _ => {
                let pass = send(workspace, network, rows.batch()?)?;
                workspace.swap_inputs()?;
                Ok(pass)
            }
        }
    }
}

fn ended() -> Error {
    Error::Internal("an evaluation that has ended was asked for rows".into())
}

impl Drop for GpuEvaluation {
    /// Nothing that the GPU works on is freed before it is done.
    fn drop(&mut self) {
        if let Some(workspace) = self.workspace.take() {
            self.chosen.gpu.take_back(workspace);
        }
        self.block = None;
        // What was in use when the training ended.
        if self.chosen.gpus.have_ended() {
            self.chosen.gpu.forget_samples();
        }
    }
}

impl EvaluationDevice for GpuEvaluation {
    fn report(&mut self, rows: &mut BlockRows<'_>) -> Result<Option<BatchReport>> {
        let report = self.evaluate(rows);
        self.chosen.unless_lost(report)
    }

    fn outputs(&mut self, rows: &mut BlockRows<'_>, outputs: &mut [f32]) -> Result<bool> {
        let written = self.predict(rows, outputs);
        Ok(self.chosen.unless_lost(written)?.is_some())
    }
}
