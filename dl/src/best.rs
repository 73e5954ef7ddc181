//! The best models of a training, and whether it still gets better.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// A model that was among the best.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct BestModel {
    /// What it was judged by; less is better.
    pub value: f64,
    /// Steps that had been taken.
    pub step: u64,
    /// Its parameters.
    pub parameters: Vec<f32>,
}

impl BestModel {
    fn with_parameters(&self, parameters: Vec<f32>) -> Arc<Self> {
        Arc::new(Self { parameters, ..*self })
    }
}

/// Keeps the parameters of the best models in memory, and says when there was no better one for too long (early
/// stopping). It sees what the driver program shows it, so it is the same in all processes. Checkpoints of the training
/// hold it as it was last shown something, and [`resumed`](Self::resumed) takes it from there; without checkpoints a
/// program may write it down in any of serde's formats.
///
/// ```no_run
/// # use distdl_dl::{BestModels, Result, Samples, Training};
/// # use distdl_engine::Dataset;
/// # fn train(training: &mut Training, validation: &Dataset<Samples>, file: &std::path::Path) -> Result<()> {
/// let mut best = BestModels::new(1).with_patience(3).resumed(training);
/// while best.goes_on() && (best.is_due(training) || training.epoch() < 20) {
///     // Not where the last program was stopped between an epoch and what follows it.
///     if !best.is_due(training) {
///         training.run_epoch(|_| ())?;
///     }
///     best.show(training.error(validation)?.mean_loss(), training)?;
/// }
/// if let Some(model) = best.models().first() {
///     // Not `set_parameters`: the newest checkpoint stays what a longer training goes on from. Of many processes one writes the
///     // file, by `Context::once`.
///     training.network().save(file, &model.parameters)?;
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BestModels {
    count: usize,
    patience: Option<u32>,
    least_change: f64,
    /// Shared by all that is cloned from this, as checkpoints are: each holds as many values as the network has.
    models: Vec<Arc<BestModel>>,
    /// The value that has to be undercut; none before the first. Infinity would have no place in JSON.
    mark: Option<f64>,
    /// How many were shown since that did so.
    in_vain: u32,
    /// Steps that had been taken when it was last shown something; none before that.
    shown: Option<u64>,
}

impl BestModels {
    /// Keeps so many models, and goes on for ever.
    pub fn new(count: usize) -> Self {
        Self {
            count,
            patience: None,
            least_change: 0.0,
            models: Vec::new(),
            mark: None,
            in_vain: 0,
            shown: None,
        }
    }

    /// Stops when so many models in a row were no better than one before; at least 1.
    #[must_use]
    pub fn with_patience(self, patience: u32) -> Self {
        Self {
            patience: Some(patience.max(1)),
            ..self
        }
    }

    /// By how much a value must be less than the last that counted as better, to count as better itself; 0 unless told.
    #[must_use]
    pub fn with_least_change(self, least_change: f64) -> Self {
        Self { least_change, ..self }
    }

    /// Errors if no value could count as better.
    pub(crate) fn check(&self) -> Result<()> {
        match self.least_change.is_finite() {
            true => Ok(()),
            false => Err(Error::Options(format!(
                "a model cannot be told to be better by {}; give `with_least_change` a finite number",
                self.least_change
            ))),
        }
    }

    /// Counts the value of a model, and keeps its parameters if it is among the best.
    pub(crate) fn note(&mut self, value: f64, step: u64, parameters: impl FnOnce() -> Vec<f32>) {
        self.shown = Some(step);
        let undercuts = |mark| value < mark - self.least_change;
        if value.is_finite() && self.mark.is_none_or(undercuts) {
            (self.mark, self.in_vain) = (Some(value), 0);
        } else {
            self.in_vain = self.in_vain.saturating_add(1);
        }
        // Of equal ones the first is the best.
        let place = self.models.partition_point(|model| model.value <= value);
        if place < self.count && value.is_finite() {
            self.models.truncate(self.count - 1);
            let parameters = parameters();
            let model = BestModel {
                value,
                step,
                parameters,
            };
            self.models.insert(place, Arc::new(model));
        }
    }

    /// As `other` stands: with its models, as far as they are to be kept, and what it has counted.
    pub(crate) fn going_on_as(self, other: &Self) -> Self {
        Self {
            models: other.models.iter().take(self.count).cloned().collect(),
            mark: other.mark,
            in_vain: other.in_vain,
            shown: other.shown,
            ..self
        }
    }

    /// This without parameters, and its models with them.
    pub(crate) fn into_parts(mut self) -> (Self, Vec<Arc<BestModel>>) {
        let bare = |model: &Arc<BestModel>| model.with_parameters(Vec::new());
        let bare = self.models.iter().map(bare).collect();
        let models = std::mem::replace(&mut self.models, bare);
        (self, models)
    }

    /// What was taken apart: `parameters` gives those of the model at a place.
    pub(crate) fn with_parameters<E>(mut self, parameters: impl Fn(usize) -> Result<Vec<f32>, E>) -> Result<Self, E> {
        for (place, model) in self.models.iter_mut().enumerate() {
            *model = model.with_parameters(parameters(place)?);
        }
        Ok(self)
    }

    /// Steps that had been taken when this was last shown a model; none before that.
    pub fn shown_at(&self) -> Option<u64> {
        self.shown
    }

    /// Whether there may be better ones to come.
    pub fn goes_on(&self) -> bool {
        self.patience.is_none_or(|patience| self.in_vain < patience)
    }

    /// The best models so far, the best one first. They are shared with what is cloned from this.
    pub fn models(&self) -> &[Arc<BestModel>] {
        &self.models
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn shown(best: &mut BestModels, values: &[f64]) -> Vec<bool> {
        let mut went_on = Vec::new();
        for (step, value) in (0..).zip(values) {
            best.note(*value, step, || vec![step as f32]);
            went_on.push(best.goes_on());
        }
        went_on
    }

    #[test]
    fn it_stops_when_nothing_was_better_for_too_long() {
        let values = [3.0, 2.0, 2.0, 2.5, 1.0, f64::NAN, 1.0, 0.5];
        let went_on = shown(&mut BestModels::new(0).with_patience(2), &values);
        assert_eq!(went_on, [true, true, true, false, true, true, false, true]);
        let small = shown(
            &mut BestModels::new(0).with_patience(1).with_least_change(0.6),
            &[3.0, 2.5, 2.3],
        );
        assert_eq!(small, [true, false, true], "2.3 is less than 3.0 by more than 0.6");
        assert!(shown(&mut BestModels::new(0), &values).iter().all(|goes_on| *goes_on));
    }

    #[test]
    fn it_goes_on_where_it_was_kept() {
        let values = [f64::INFINITY, f64::NEG_INFINITY, f64::NAN, 3.0, 2.0, 2.5, 2.5, 1.0];
        let begun = BestModels::new(2).with_patience(3);
        let mut whole = begun.clone();
        let expected = shown(&mut whole, &values);
        assert_eq!(expected, [true, true, false, true, true, true, true, true]);
        for cut in 0..=values.len() {
            let mut first = begun.clone();
            let mut went_on = shown(&mut first, &values[..cut]);
            let json = serde_json::to_string(&first).unwrap();
            let mut second: BestModels = serde_json::from_str(&json).unwrap();
            assert_eq!(second, first, "kept before value {cut}");
            went_on.extend(shown(&mut second, &values[cut..]));
            assert_eq!(went_on, expected, "kept before value {cut}");
        }
        assert_eq!(
            whole.models().iter().map(|model| model.value).collect::<Vec<_>>(),
            [1.0, 2.0]
        );
    }

    #[test]
    fn what_is_kept_of_it_has_the_same_parameters_and_no_copies() {
        let mut best = BestModels::new(2);
        shown(&mut best, &[3.0, 1.0, 2.0]);
        let (bare, models) = best.clone().into_parts();
        let resumed = BestModels::new(2).going_on_as(&best);
        for (place, model) in best.models().iter().enumerate() {
            assert!(Arc::ptr_eq(model, &models[place]) && Arc::ptr_eq(model, &resumed.models()[place]));
            assert!(bare.models()[place].parameters.is_empty() && !model.parameters.is_empty());
        }
        let again = bare.with_parameters(|place| Ok::<_, ()>(models[place].parameters.clone()));
        assert_eq!(again, Ok(best));
    }

    proptest! {
        #[test]
        fn the_best_are_those_of_a_stable_sort(values in prop::collection::vec(-3..3i8, 0..20), count in 0..5usize) {
            let values: Vec<f64> = values.into_iter().map(f64::from).collect();
            let mut best = BestModels::new(count);
            shown(&mut best, &values);
            let mut expected: Vec<(u64, f64)> = (0..).zip(values).collect();
            expected.sort_by(|left, right| left.1.total_cmp(&right.1));
            expected.truncate(count);
            let got: Vec<(u64, f64)> = best.models().iter().map(|model| (model.step, model.value)).collect();
            prop_assert_eq!(got, expected);
            prop_assert!(best.models().iter().all(|model| model.parameters == [model.step as f32]));
        }
    }
}
