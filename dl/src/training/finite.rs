//! Whether parameters and the optimizer's state of a training are finite, and if not, whether its data is.

use std::sync::Arc;

use super::Training;
use super::look::not_finite;
use crate::error::{Error, Result};

impl Training {
    /// Errors if a parameter is not finite.
    pub(super) fn check_parameters(&mut self) -> Result<()> {
        let found = self.first_not_finite(&self.parameters.latest());
        match found.map(|(tensor, value)| self.not_finite_behind(format!("a value of {tensor}"), value)) {
            None => Ok(()),
            Some(error) => Err(self.with_input(error)),
        }
    }

    /// Errors if a parameter or a value of the optimizer's state is not finite, which a loss that is summed in f64 may
    /// not show: it must not go on to a checkpoint.
    pub(super) fn check_values(&mut self) -> Result<()> {
        self.check_parameters()?;
        let parameters = Arc::clone(&self.parameters);
        let latest = parameters.latest();
        let mut slots = (0..parameters.slots()).filter_map(|slot| latest.state(slot));
        match slots.find_map(|state| self.first_not_finite(state)) {
            None => Ok(()),
            Some((tensor, value)) => {
                let what = format!("a value of the optimizer's state for {tensor}");
                Err(self.with_input(self.not_finite_behind(what, value)))
            }
        }
    }

    /// Errors if an initial parameter is not finite.
    pub(super) fn check_beginning(&self) -> Result<()> {
        match self.first_not_finite(&self.parameters.latest()) {
            None => Ok(()),
            Some((tensor, value)) => Err(Error::Options(format!(
                "a value of {tensor} is {value} to begin with; check the initial parameters, or the limit of \
                 `Initialization::Uniform`"
            ))),
        }
    }

    /// Errors if one of the parameters that a program gives is not finite.
    pub(super) fn check_given(&self, parameters: &[f32]) -> Result<()> {
        match self.first_not_finite(parameters) {
            None => Ok(()),
            Some((tensor, value)) => Err(Error::Options(format!(
                "a value of {tensor} is {value} in the parameters that `set_parameters` was given; check where they come from"
            ))),
        }
    }

    /// The first value that is not finite of as many as there are parameters, and its tensor.
    fn first_not_finite(&self, values: &[f32]) -> Option<(String, f32)> {
        self.plan
            .network
            .parameter_layout()
            .entries()
            .iter()
            .find_map(|tensor| {
                let value = values[tensor.range.clone()].iter().find(|value| !value.is_finite())?;
                Some((tensor.name.clone(), *value))
            })
    }

    /// The error of a value that is found behind the steps so far: the last one of those is named.
    fn not_finite_behind(&self, what: String, value: f32) -> Error {
        Error::NotFinite {
            step: self.step.saturating_sub(1),
            what: format!("{what} behind it").into(),
            value: f64::from(value),
            input: None,
        }
    }

    /// An error of steps; where something is not finite it says what of the data is not, if anything is.
    pub(super) fn with_input(&mut self, error: Error) -> Error {
        match error {
            Error::NotFinite { step, what, value, .. } => Error::NotFinite {
                step,
                what,
                value,
                input: self.not_finite(),
            },
            error => error,
        }
    }

    /// The first number of the data that is not finite, and where it is. Data that has none is looked at once.
    fn not_finite(&mut self) -> Option<String> {
        if self.is_data_finite {
            return None;
        }
        let found = not_finite(&self.data);
        self.is_data_finite = matches!(found, Ok(None));
        // What cannot be read is another matter.
        found.unwrap_or_default()
    }
}
