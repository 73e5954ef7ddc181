//! The factor of the learning rate that the driver program sets, and what sets it where a measured value stands still.

use serde::{Deserialize, Serialize};

use super::Training;
use crate::error::{Error, Result};

/// The least by which a rate is lowered: PyTorch's `eps`.
const LEAST_CHANGE: f64 = 1e-8;

impl Training {
    /// The learning rate of the next step: the schedule's, or without one the optimizer's, times
    /// [`rate_factor`](Self::rate_factor); a layer's own factor ([`layer_rates`](crate::TrainingOptions::layer_rates))
    /// left out.
    pub fn learning_rate(&self) -> f32 {
        self.plan.learning_rate(self.step)
    }

    /// What the schedule's learning rate is multiplied with; 1 until it is set.
    pub fn rate_factor(&self) -> f32 {
        self.plan.rate_factor
    }

    /// Multiplies the schedule's learning rate with `factor` from the next step on. Checkpoints hold the factor, and a
    /// training that goes on from one has it; one that was written before this very step is written again. In a cluster
    /// all driver programs must set the same.
    ///
    /// # Errors
    /// If the factor is negative or not finite; if the checkpoint cannot be written.
    pub fn set_rate_factor(&mut self, factor: f32) -> Result<()> {
        self.check_unity()?;
        if !(factor.is_finite() && factor >= 0.0) {
            return Err(Error::Options(format!(
                "the learning rate cannot be multiplied with {factor}; give a number that is not below 0"
            )));
        }
        let has_changed = factor.to_bits() != self.plan.rate_factor.to_bits();
        self.plan.rate_factor = factor;
        match has_changed {
            true => self.write_checkpoint_anew(),
            false => Ok(()),
        }
    }
}

/// Lowers the learning rate of a training where a measured value, such as the loss on validation data, gets no better:
/// `torch.optim.lr_scheduler.ReduceLROnPlateau` with the modes `min` and `rel`, step by step. It sees what the driver
/// program shows it, so it is the same in all processes.
///
/// The factor that it has come to is in the training's checkpoints; its counts are not, and begin anew in a program
/// that is started again, unless the program keeps them (it can be serialised).
///
/// ```no_run
/// # use distdl_dl::{Plateau, Result, Samples, Training};
/// # use distdl_engine::Dataset;
/// # fn train(training: &mut Training, validation: &Dataset<Samples>) -> Result<()> {
/// let mut plateau = Plateau::new(0.5, 2);
/// while training.epoch() < 20 {
///     training.run_epoch(|_| ())?;
///     let loss = training.error(validation)?.mean_loss();
///     plateau.show(loss, training)?;
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plateau {
    factor: f32,
    patience: u32,
    threshold: f64,
    cooldown: u32,
    rate_min: f32,
    /// None before the first value that is finite; infinity has no place in JSON.
    best: Option<f64>,
    /// How many values in a row were no better.
    in_vain: u32,
    /// For how many values to come none is counted.
    cooling: u32,
}

impl Default for Plateau {
    /// PyTorch's: a tenth of the rate when 11 values in a row are no better.
    fn default() -> Self {
        Self::new(0.1, 10)
    }
}

impl Plateau {
    /// Multiplies the rate with `factor`, from 0 to below 1, when more than `patience` values in a row were no better.
    pub fn new(factor: f32, patience: u32) -> Self {
        Self {
            factor,
            patience,
            threshold: 1e-4,
            cooldown: 0,
            rate_min: 0.0,
            best: None,
            in_vain: 0,
            cooling: 0,
        }
    }

    /// By which share of the best value another must be less than it to count as better; 1e-4 unless told.
    #[must_use]
    pub fn with_threshold(self, threshold: f64) -> Self {
        Self { threshold, ..self }
    }

    /// For how many values none is counted after the rate was lowered; 0 unless told.
    #[must_use]
    pub fn with_cooldown(self, cooldown: u32) -> Self {
        Self { cooldown, ..self }
    }

    /// What the rate, schedule and factor together, is not lowered below; 0 unless told.
    #[must_use]
    pub fn with_rate_min(self, rate_min: f32) -> Self {
        Self { rate_min, ..self }
    }

    /// Shows a training and a value that was measured of it, less for a better one; NaN is no better than any. Says
    /// whether the rate was lowered for the steps to come.
    ///
    /// ```
    /// # use distdl_dl::{Features, NeuralNetwork, Plateau, SampleTargets, Samples, TrainingOptions};
    /// # use distdl_engine::{Config, Context};
    /// # let context = Context::new(Config::default())?;
    /// # let points: Vec<f32> = (0..200).map(|point| point as f32 / 100.0 - 1.0).collect();
    /// # let labels = points.iter().map(|point| u32::from(*point > 0.0)).collect();
    /// # let samples = Samples::new(1, Features::F32(points), SampleTargets::Labels(labels))?;
    /// # let data = context.parallelize(samples.split(2)?, 2).cache();
    /// # let network = NeuralNetwork::dense(1, &[8], 2)?;
    /// # let mut training = network.train(&data, TrainingOptions::default())?;
    /// let mut plateau = Plateau::new(0.5, 1);
    /// let mut lowered = Vec::new();
    /// for loss in [0.9, 0.9, 0.9, 0.9] {
    ///     lowered.push(plateau.show(loss, &mut training)?);
    /// }
    /// assert_eq!(lowered, [false, false, true, false], "when more than 1 in a row was no better than the best");
    /// assert_eq!(training.rate_factor(), 0.5, "what the schedule says is multiplied with it");
    /// assert_eq!(training.learning_rate(), 0.05);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// If the factor to multiply with is not from 0 to below 1, or the threshold is not finite; otherwise as
    /// [`Training::set_rate_factor`].
    pub fn show(&mut self, value: f64, training: &mut Training) -> Result<bool> {
        if !(0.0..1.0).contains(&self.factor) {
            return Err(Error::Options(format!(
                "a plateau that multiplies the rate with {} does not lower it; give a factor from 0 to below 1",
                self.factor
            )));
        }
        if !self.threshold.is_finite() {
            return Err(Error::Options(format!(
                "a plateau cannot tell what is better by a threshold of {}; give a finite number",
                self.threshold
            )));
        }
        if !self.count(value) {
            return Ok(false);
        }
        let base = f64::from(training.plan.options.learning_rate(training.step));
        let lowered = self.lowered(base * f64::from(training.plan.rate_factor));
        let Some(rate) = lowered else {
            return Ok(false);
        };
        training.set_rate_factor((rate / base) as f32)?;
        Ok(true)
    }

    /// Whether a value is one too many that was no better.
    fn count(&mut self, value: f64) -> bool {
        if value < self.best.unwrap_or(f64::INFINITY) * (1.0 - self.threshold) {
            (self.best, self.in_vain) = (Some(value), 0);
        } else {
            self.in_vain = self.in_vain.saturating_add(1);
        }
        if self.cooling > 0 {
            (self.cooling, self.in_vain) = (self.cooling - 1, 0);
        }
        let is_reached = self.in_vain > self.patience;
        if is_reached {
            (self.cooling, self.in_vain) = (self.cooldown, 0);
        }
        is_reached
    }

    /// What a rate is lowered to, if it is lower by something that counts.
    fn lowered(&self, rate: f64) -> Option<f64> {
        let lowered = (rate * f64::from(self.factor)).max(self.rate_min.into());
        (rate - lowered > LEAST_CHANGE).then_some(lowered)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// The rates behind each value, beginning at 1.
    fn rates(mut plateau: Plateau, values: &[f64]) -> Vec<f64> {
        let mut rate = 1.0;
        let mut rates = Vec::new();
        for value in values {
            if plateau.count(*value) {
                rate = plateau.lowered(rate).unwrap_or(rate);
            }
            rates.push(rate);
        }
        rates
    }

    #[test]
    fn rates_are_those_of_pytorchs_algorithm() {
        let plateau = Plateau::new(0.5, 1)
            .with_threshold(0.125)
            .with_cooldown(2)
            .with_rate_min(0.1875);
        // By hand. 0.95 and 0.9 are not below 0.875; two values are then not counted; 0.49 is not below 0.4375.
        let values = [
            (1.0, 1.0),
            (0.95, 1.0),
            (0.9, 0.5),
            (0.5, 0.5),
            (0.49, 0.5),
            (0.49, 0.5),
            (0.49, 0.25),
            (0.49, 0.25),
            (0.49, 0.25),
            (0.49, 0.25),
            (f64::NAN, 0.1875),
            (0.49, 0.1875),
            (0.49, 0.1875),
            (0.49, 0.1875),
            (0.49, 0.1875),
            (0.4, 0.1875),
        ];
        assert_eq!(
            rates(plateau, &values.map(|(value, _)| value)),
            values.map(|(_, rate)| rate)
        );
        // No patience at all: only the first value of each is better.
        let impatient = Plateau::new(0.5, 0).with_threshold(0.0);
        assert_eq!(
            rates(impatient, &[f64::NAN, f64::INFINITY, 2.0, 2.0, 1.0, 1.0]),
            [0.5, 0.25, 0.25, 0.125, 0.125, 0.0625]
        );
        let default = rates(Plateau::default(), &[1.0; 12]);
        assert_eq!((default[10], f64::from(default[11] as f32)), (1.0, f64::from(0.1f32)));
    }

    #[test]
    fn a_rate_is_lowered_by_something_that_counts_or_left_as_it_is() {
        let plateau = Plateau::new(0.5, 0).with_rate_min(0.25);
        let lowered = [1.0, 0.4, 0.25, 0.1].map(|rate| plateau.lowered(rate));
        assert_eq!(lowered, [Some(0.5), Some(0.25), None, None]);
        assert_eq!(Plateau::new(0.5, 0).lowered(1e-8), None);
    }

    #[test]
    fn counts_go_on_where_they_were_kept() {
        let values = [1.0, 1.0, 1.0, 0.9, 0.9, 0.9, 0.9];
        let mut whole = Plateau::new(0.5, 2).with_cooldown(1);
        let expected = values.map(|value| whole.count(value));
        for cut in 0..values.len() {
            let mut first = Plateau::new(0.5, 2).with_cooldown(1);
            let mut got: Vec<bool> = values[..cut].iter().map(|value| first.count(*value)).collect();
            let json = serde_json::to_string(&first).unwrap();
            let mut second: Plateau = serde_json::from_str(&json).unwrap();
            got.extend(values[cut..].iter().map(|value| second.count(*value)));
            assert_eq!(got, expected, "kept before value {cut}");
        }
        assert!(expected.contains(&true));
    }
}
