//! What all steps of a training follow.

use super::TrainingOptions;
use super::order::KnownOrders;
use crate::deal::Deal;
use crate::network::NeuralNetwork;

/// What all steps of a training follow, wherever they are computed.
#[derive(Debug, Clone)]
pub(super) struct TrainingPlan {
    pub(super) network: NeuralNetwork,
    pub(super) deal: Deal,
    pub(super) options: TrainingOptions,
    /// The first step that was applied, or will be, with the optimizer's state at 0.
    pub(super) state_begin: u64,
    /// What the schedule's learning rate is multiplied with.
    pub(super) rate_factor: f32,
    /// In which order lanes walk through their samples, as far as that was asked for.
    pub(super) orders: KnownOrders,
}

impl TrainingPlan {
    /// The learning rate of a step, before that of a layer.
    pub(super) fn learning_rate(&self, step: u64) -> f32 {
        self.options.learning_rate(step) * self.rate_factor
    }

    /// Which update of the optimizer's state a step is, from 0.
    pub(super) fn update_of(&self, step: u64) -> u64 {
        step - self.state_begin
    }
}
