//! A lane on a GPU.

use std::sync::Arc;

use super::super::device::{LaneDevice, LaneRows, Pass};
use super::card::{Card, SamplesOnGpu};
use super::cards::Cards;
use crate::batch::Batch;
use crate::error::{Error, Result};
use crate::kernels::programs::DeviceCounts;
use crate::kernels::softmax_cross_entropy::check_labels;
use crate::loss::Targets;
use crate::metrics::BatchReport;
use crate::network::{GpuWorkspace, NeuralNetwork};

/// A lane on a GPU.
pub(super) struct GpuLane {
    network: NeuralNetwork,
    cards: Arc<Cards>,
    card: Arc<Card>,
    /// There until this is dropped.
    workspace: Option<GpuWorkspace>,
    samples: Option<SamplesOnGpu>,
    /// The step whose parameters are there.
    step: Option<u64>,
    /// The gradient of a piece before it is added to a sum; empty until one is.
    piece: Vec<f32>,
}

impl GpuLane {
    /// A lane on `card`, whose samples may be there.
    pub(super) fn new(
        network: NeuralNetwork,
        cards: Arc<Cards>,
        card: &Arc<Card>,
        workspace: GpuWorkspace,
        samples: Option<SamplesOnGpu>,
    ) -> Self {
        Self {
            network,
            cards,
            card: Arc::clone(card),
            workspace: Some(workspace),
            samples,
            step: None,
            piece: Vec::new(),
        }
    }
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
        let (before, cards) = (self.counts(), Arc::clone(&self.cards));
        let under_way = cards.counted().begin();
        let report = self.compute(pass);
        if report.is_ok() {
            under_way.count(1, [before, self.counts()]);
        }
        drop(under_way);
        self.cards.unless_lost(&self.card, report)
    }
}

impl GpuLane {
    fn counts(&self) -> DeviceCounts {
        let workspace = self.workspace.as_ref();
        workspace.map_or_else(DeviceCounts::default, |workspace| workspace.device().counts())
    }

    fn compute(&mut self, pass: Pass<'_>) -> Result<BatchReport> {
        let Some(workspace) = &mut self.workspace else {
            return Err(Error::Internal("a lane that has ended was asked for a step".into()));
        };
        let is_first = pass.draw.first_row == 0;
        if is_first || self.step != Some(pass.draw.step) {
            workspace.set_parameters(pass.parameters)?;
            self.step = Some(pass.draw.step);
        }
        let (network, samples) = (&self.network, self.samples.as_ref());
        let rows = set_rows(workspace, (network, samples), pass.rows)?;
        if is_first {
            return network.gradient_on_gpu(pass.draw, rows, workspace, pass.gradient);
        }
        self.piece.resize(pass.gradient.len(), 0.0);
        let report = network.gradient_on_gpu(pass.draw, rows, workspace, &mut self.piece)?;
        for (sum, value) in pass.gradient.iter_mut().zip(&self.piece) {
            *sum += *value;
        }
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
        (LaneRows::Places(_), None) => Err(Error::Internal("a lane's samples are not on the GPU".into())),
        (LaneRows::Batch(batch), _) => {
            send_batch(workspace, network, batch)?;
            Ok(batch.rows())
        }
    }
}

/// Brings a batch to the workspace. Errors if the network cannot take a row, or its target.
pub(super) fn send_batch(workspace: &mut GpuWorkspace, network: &NeuralNetwork, batch: &Batch) -> Result<()> {
    if let Targets::Labels(labels) = batch.targets() {
        check_labels(labels, network.output_length())?;
    }
    send_inputs(workspace, network, batch)?;
    workspace.set_targets(batch.targets(), batch.rows())
}

/// The same without targets.
pub(super) fn send_inputs(workspace: &mut GpuWorkspace, network: &NeuralNetwork, batch: &Batch) -> Result<()> {
    network.check_inputs_on_gpu(&mut batch.features().iter().copied())?;
    workspace.set_inputs(batch.features(), batch.rows())
}
