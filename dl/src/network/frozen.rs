//! Layers that training leaves as they are.

use super::{NeuralNetwork, WiredLayer};
use crate::error::{Error, Result};
use crate::layer::{Mode, Statistics};
use crate::scalar::Scalar;

impl<T: Scalar> NeuralNetwork<T> {
    /// This network with these layers, by 0-based index, and no others frozen: training leaves their parameters as they
    /// are, to the bit, and they compute as in evaluation, so that batch norm takes its running statistics and dropout
    /// leaves nothing out. No gradient is computed below the first layer that learns; what is frozen counts in no norm
    /// of the gradient, and no optimizer and no decay reaches it. A checkpoint of a training is gone on from with the
    /// same layers frozen; for others its parameters are [loaded](Self::load_checkpoint).
    ///
    /// ```
    /// # use distdl_dl::{Dense, Features, Input, Loss, NeuralNetwork, SampleTargets, Samples, TrainingOptions};
    /// # use distdl_engine::{Config, Context};
    /// # let context = Context::new(Config::default())?;
    /// # let samples = Samples::new(1, Features::F32(vec![0.5; 200]), SampleTargets::Labels(vec![1; 200]))?;
    /// # let data = context.parallelize(samples.split(2)?, 2).cache();
    /// let network = NeuralNetwork::dense(1, &[8], 2)?;
    /// let parameters = network.initialize(7)?; // or those of a model file
    /// let options = TrainingOptions { initial_parameters: Some(parameters.clone().into()), ..TrainingOptions::default() };
    /// let mut training = network.with_frozen([0])?.train(&data, options)?;
    /// training.run_epoch(|_| ())?;
    /// let (first, last) = (0..16, 16..34);
    /// assert_eq!(training.parameters()[first.clone()], parameters[first]);
    /// assert_ne!(training.parameters()[last.clone()], parameters[last]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// If there is no layer of an index, or no layer with parameters is left to learn.
    pub fn with_frozen(&self, layers: impl IntoIterator<Item = usize>) -> Result<Self> {
        let mut wired_layers = self.layers.to_vec();
        wired_layers.iter_mut().for_each(|wired| wired.is_frozen = false);
        for index in layers {
            let count = self.layers.len();
            let layer = wired_layers.get_mut(index).ok_or_else(|| {
                Error::Options(format!(
                    "layer {index} is to be frozen, and the network has {count}; give indices from 0 to {}",
                    count.saturating_sub(1)
                ))
            })?;
            layer.is_frozen = true;
        }
        if wired_layers
            .iter()
            .all(|wired| wired.is_frozen || wired.range.is_empty())
        {
            return Err(Error::Options(
                "all layers with parameters are frozen, so there is nothing to train; leave one of them to learn"
                    .to_owned(),
            ));
        }
        let layout = self.layout.clone();
        Ok(Self::of(self.input, wired_layers.into(), layout, self.loss.clone()))
    }

    /// Whether the parameters of a layer, by 0-based index, stay as they are.
    pub fn is_frozen(&self, layer: usize) -> bool {
        self.layers.get(layer).is_some_and(|wired| wired.is_frozen)
    }

    /// What a pass is for to a layer.
    pub(super) fn mode_of(&self, layer: usize, mode: Mode) -> Mode {
        match self.is_frozen(layer) {
            true => Mode::Evaluation,
            false => mode,
        }
    }

    /// All parameters that no gradient changes, in ascending order: running statistics, and what is frozen as such that
    /// never move.
    pub(crate) fn not_learnt(&self) -> Vec<Statistics> {
        self.layers.iter().filter_map(WiredLayer::not_learnt).collect()
    }
}

/// What the words of a layer end with.
pub(super) fn words(is_frozen: bool) -> &'static str {
    if is_frozen { ", frozen" } else { "" }
}
