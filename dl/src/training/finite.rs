//! Whether parameters, the optimizer's state and the data of a training are finite.

use std::sync::Arc;

use distdl_engine::Dataset;

use super::Training;
use crate::error::{Error, Result};
use crate::samples::{Features, SampleTargets, Samples};

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

/// The first number of samples that is NaN or infinite, and where it is.
fn not_finite(data: &Dataset<Samples>) -> Result<Option<String>> {
    let found = data.run_partitions(|partition, blocks| {
        let mut before = 0;
        for samples in blocks {
            if let Some((row, what)) = not_finite_in(&samples) {
                let sample = before + row;
                return Ok(Some(format!("sample {sample} of partition {partition} has {what}")));
            }
            before += samples.len();
        }
        Ok(None)
    })?;
    Ok(found.into_iter().flatten().next())
}

/// The row of the first such number, and what it is.
fn not_finite_in(samples: &Samples) -> Option<(usize, String)> {
    let find = |values: &[f32], length: usize, name: &str| {
        let place = values.iter().position(|value| !value.is_finite())?;
        let what = format!("{} as {name} {}", values[place], place % length);
        Some((place / length, what))
    };
    let feature = match samples.features() {
        Features::F32(values) => find(values, samples.feature_length(), "feature"),
        Features::U8 { .. } => None,
    };
    feature.or_else(|| match samples.targets() {
        SampleTargets::Values { length, values } => find(values, *length, "target value"),
        SampleTargets::Labels(_) | SampleTargets::None => None,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use distdl_engine::{Config, Context};

    use super::*;

    #[test]
    fn the_first_number_that_is_not_finite_is_named_by_its_place_in_the_partition() {
        let context = Context::new(Config::default()).unwrap();
        let block = |features: [f32; 4], values: [f32; 4]| {
            let targets = SampleTargets::Values {
                length: 2,
                values: values.to_vec(),
            };
            Samples::new(2, Features::F32(features.to_vec()), targets).unwrap()
        };
        let zeros = [0.0; 4];
        let of = |blocks| not_finite(&context.parallelize(blocks, 1)).unwrap();
        assert_eq!(of(vec![block(zeros, zeros); 2]), None);
        let targets = [0.0, 0.0, 0.0, f32::NAN];
        let says = "sample 3 of partition 0 has NaN as target value 1";
        assert_eq!(of(vec![block(zeros, zeros), block(zeros, targets)]).unwrap(), says);
        let features = [0.0, 0.0, f32::INFINITY, 0.0];
        let says = "sample 1 of partition 0 has inf as feature 0";
        assert_eq!(of(vec![block(features, targets), block(zeros, targets)]).unwrap(), says);
    }
}
