//! A lane on a GPU.

use std::sync::Arc;

use super::super::device::{LaneDevice, LaneRows, Pass};
use super::GpuLanes;
use super::card::{Card, SamplesOnGpu};
use crate::error::{Error, Result};
use crate::kernels::softmax_cross_entropy::check_labels;
use crate::loss::Targets;
use crate::metrics::BatchReport;
use crate::network::{GpuWorkspace, NeuralNetwork};

/// A lane on a GPU.
pub(super) struct GpuLane {
    pub(super) network: NeuralNetwork,
    pub(super) of: Arc<GpuLanes>,
    pub(super) card: Arc<Card>,
    /// There until this is dropped.
    pub(super) workspace: Option<GpuWorkspace>,
    pub(super) samples: Option<SamplesOnGpu>,
    /// The step whose parameters are there.
    pub(super) step: Option<u64>,
    /// The gradient of a piece before it is added to a sum; empty until one is.
    pub(super) piece: Vec<f32>,
}

impl Drop for GpuLane {
    /// Nothing that the GPU works on is freed before it is done.
    fn drop(&mut self) {
        if let Some(workspace) = self.workspace.take() {
            self.card.take_back(workspace);
        }
    }
}

impl LaneDevice for GpuLane {
    fn has_samples(&self) -> bool {
        self.samples.is_some()
    }

    fn gradient(&mut self, pass: Pass<'_>) -> Result<Option<BatchReport>> {
        self.of.counted.begin();
        let report = self.compute(pass);
        self.of.counted.end();
        self.of.unless_lost(&self.card, report)
    }
}

impl GpuLane {
    fn compute(&mut self, pass: Pass<'_>) -> Result<BatchReport> {
        let Some(workspace) = &mut self.workspace else {
            return Err(Error::Training("a lane that has ended was asked for a step".into()));
        };
        let before = workspace.device().gpu().copied_bytes();
        let is_first = pass.draw.first_row == 0;
        if is_first || self.step != Some(pass.draw.step) {
            workspace.set_parameters(pass.parameters)?;
            self.step = Some(pass.draw.step);
        }
        let rows = set_rows(workspace, (&self.network, self.samples.as_ref()), pass.rows)?;
        let report = match is_first {
            true => self
                .network
                .gradient_on_gpu(pass.draw, rows, workspace, pass.gradient)?,
            false => {
                self.piece.resize(pass.gradient.len(), 0.0);
                let report = self
                    .network
                    .gradient_on_gpu(pass.draw, rows, workspace, &mut self.piece)?;
                for (sum, value) in pass.gradient.iter_mut().zip(&self.piece) {
                    *sum += *value;
                }
                report
            }
        };
        self.of
            .counted
            .add_copies(before, workspace.device().gpu().copied_bytes());
        Ok(report)
    }
}

/// Brings rows to the workspace, and says how many they are.
fn set_rows(
    workspace: &mut GpuWorkspace,
    (network, samples): (&NeuralNetwork, Option<&SamplesOnGpu>),
    rows: LaneRows<'_>,
) -> Result<usize> {
    match (rows, samples) {
        (LaneRows::Places(places), Some(samples)) => {
            workspace.take_rows(samples.as_ref(), places)?;
            Ok(places.len())
        }
        (LaneRows::Places(_), None) => Err(Error::Training("a lane's samples are not on the GPU".into())),
        (LaneRows::Batch(batch), _) => {
            if let Targets::Labels(labels) = batch.targets() {
                check_labels(labels, network.output_length())?;
            }
            workspace.set_rows(batch.features(), batch.targets(), batch.rows())?;
            Ok(batch.rows())
        }
    }
}
