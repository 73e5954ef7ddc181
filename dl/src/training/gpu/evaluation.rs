//! Evaluation on a GPU.

use std::sync::Arc;

use super::super::device::EvaluationDevice;
use super::card::Card;
use super::cards::Cards;
use super::lane::{send_batch, send_inputs};
use crate::batch::Batch;
use crate::error::{Error, Result};
use crate::metrics::BatchReport;
use crate::network::{GpuWorkspace, NeuralNetwork};

/// A task's evaluation on a GPU, whose workspace has the parameters.
pub(super) struct GpuEvaluation {
    network: NeuralNetwork,
    cards: Arc<Cards>,
    card: Arc<Card>,
    /// There until this is dropped.
    workspace: Option<GpuWorkspace>,
}

impl GpuEvaluation {
    /// With these parameters.
    pub(super) fn new(
        network: &NeuralNetwork,
        (cards, card): (&Arc<Cards>, &Arc<Card>),
        mut workspace: GpuWorkspace,
        parameters: &Arc<Vec<f32>>,
    ) -> Result<Self> {
        workspace.share_parameters(parameters)?;
        Ok(Self {
            network: network.clone(),
            cards: Arc::clone(cards),
            card: Arc::clone(card),
            workspace: Some(workspace),
        })
    }

    fn workspace(&mut self) -> Result<&mut GpuWorkspace> {
        let ended = || Error::Internal("an evaluation that has ended was asked for a batch".into());
        self.workspace.as_mut().ok_or_else(ended)
    }
}

impl Drop for GpuEvaluation {
    /// Nothing that the GPU works on is freed before it is done.
    fn drop(&mut self) {
        if let Some(workspace) = self.workspace.take() {
            self.card.take_back(workspace);
        }
    }
}

impl EvaluationDevice for GpuEvaluation {
    fn report(&mut self, batch: &Batch) -> Result<Option<BatchReport>> {
        let network = self.network.clone();
        let report = self.workspace().and_then(|workspace| {
            let rows = send_batch(workspace, &network, batch)?;
            workspace.turn_to_sent()?;
            network.evaluate_on_gpu(rows, workspace)
        });
        self.cards.unless_lost(&self.card, report)
    }

    fn outputs(&mut self, batch: &Batch, outputs: &mut [f32]) -> Result<bool> {
        let network = self.network.clone();
        let written = self.workspace().and_then(|workspace| {
            send_inputs(workspace, &network, batch)?;
            workspace.turn_to_sent()?;
            network.predict_on_gpu(batch.rows(), workspace, outputs)
        });
        Ok(self.cards.unless_lost(&self.card, written)?.is_some())
    }
}
