//! Means and deviations of features, from sums that are exact and so do not depend on the order of records.

use std::borrow::Cow;

use distdl_engine::incremental::Totals;
use distdl_engine::{Dataset, EngineError};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result, check_length};
use crate::samples::{Features, Samples};

/// Samples of which mean and variance are exact before they are rounded once.
const SAMPLES_MAX: i64 = 1 << 32;

/// A feature as a fixed-point number with `fraction_bits` bits behind the point, rounded to the nearest; what
/// [`Totals`] sums exactly.
///
/// # Errors
/// If it is not finite, or too large: values go up to `2^(31 - fraction_bits)`.
pub fn fixed_point(value: f32, fraction_bits: u32) -> Result<i32> {
    rounded(f64::from(value) * 2f64.powi(fraction_bits as i32)).ok_or_else(|| {
        Error::Samples(format!(
            "{value} has no place in a fixed-point number with {fraction_bits} bits behind the point; use fewer bits, or \
             filter it out"
        ))
    })
}

/// The nearest whole number, if it has 32 bits.
fn rounded(value: f64) -> Option<i32> {
    let whole = value.round();
    let has_place = whole >= f64::from(i32::MIN) && whole <= f64::from(i32::MAX);
    has_place.then_some(whole as i32)
}

/// Brings each feature to mean 0 and deviation 1. It can be kept beside a model in any of serde's formats.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Unchecked")]
pub struct Normalization {
    mean: Vec<f32>,
    deviation: Vec<f32>,
}

/// What was read from outside and may make no sense.
#[derive(Deserialize)]
struct Unchecked {
    mean: Vec<f32>,
    deviation: Vec<f32>,
}

impl TryFrom<Unchecked> for Normalization {
    type Error = Error;

    fn try_from(unchecked: Unchecked) -> Result<Self> {
        Self::from_parts(unchecked.mean, unchecked.deviation)
    }
}

impl Normalization {
    /// With these means and deviations, one of each for a feature.
    ///
    /// # Errors
    /// If they are not equally many, a mean is not finite, or a deviation is not a finite number above 0.
    pub fn from_parts(mean: Vec<f32>, deviation: Vec<f32>) -> Result<Self> {
        check_length("the deviations", mean.len(), deviation.len())?;
        let is_wrong =
            |(mean, deviation): (&f32, &f32)| !(mean.is_finite() && deviation.is_finite() && *deviation > 0.0);
        match mean.iter().zip(&deviation).position(is_wrong) {
            Some(feature) => Err(Error::Samples(format!(
                "feature {feature} cannot be normalised with the mean {} and the deviation {}; a mean is finite, and a deviation a \
                 finite number above 0",
                mean[feature], deviation[feature]
            ))),
            None => Ok(Self { mean, deviation }),
        }
    }

    /// From the totals of some samples, whose values times `scale` are the features: the scale of bytes, or
    /// `2^-fraction_bits` of [`fixed_point`]. It is a function of the samples as a multiset. A feature that is the same
    /// everywhere is only moved.
    ///
    /// # Errors
    /// If there are no samples, or more than 2^32; if the scale is not a finite number above 0, or takes a mean or a
    /// deviation beyond what `f32` has.
    pub fn new(totals: &Totals, scale: f32) -> Result<Self> {
        if !(scale.is_finite() && scale > 0.0) {
            return Err(Error::Samples(format!(
                "features cannot be normalised with the scale {scale}; give a finite number above 0, such as 1/255 for bytes"
            )));
        }
        Self::scaled(totals, |_| scale.into())
    }

    /// As [`new`](Self::new), with a scale for each feature.
    fn scaled(totals: &Totals, scale: impl Fn(usize) -> f64) -> Result<Self> {
        if !(1..=SAMPLES_MAX).contains(&totals.count) {
            return Err(Error::Samples(match totals.count {
                0 => "there are no samples to normalise by; check their source and filters".into(),
                count => format!("{count} samples have no exact mean; from 1 to 2^32 have"),
            }));
        }
        let count = i128::from(totals.count);
        let mean = |(feature, sum): (usize, &i128)| (*sum as f64 / count as f64 * scale(feature)) as f32;
        let deviation = |(feature, (sum, squares)): (usize, (&i128, &i128))| {
            // 2^126 at most: values have 32 bits, and there are 2^32 samples.
            let variance = (count * squares - sum * sum) as f64 / (count * count) as f64;
            // What is too little for a number counts as none.
            match (variance.sqrt() * scale(feature)) as f32 {
                0.0 => 1.0,
                deviation => deviation,
            }
        };
        let sums_and_squares = totals.sums.iter().zip(&totals.squares);
        Self::from_parts(
            totals.sums.iter().enumerate().map(mean).collect(),
            sums_and_squares.enumerate().map(deviation).collect(),
        )
    }

    /// From all samples of a dataset, as MLlib's `StandardScaler` with mean and deviation, but for the deviation, which
    /// is that of the samples and not an estimate from them (divided by n and not n - 1). A feature is rounded to the
    /// 2^30th part of its largest magnitude in the data; all else is exact, so it is a function of the samples as a
    /// multiset. Takes two passes over the data, which is best persisted.
    ///
    /// ```
    /// # use distdl_dl::{Features, Normalization, SampleTargets, Samples};
    /// # use distdl_engine::{Config, Context};
    /// # let context = Context::new(Config::default())?;
    /// let samples = Samples::new(2, Features::F32(vec![1.0, 7.0, 5.0, 7.0]), SampleTargets::Labels(vec![0, 1]))?;
    /// let data = context.parallelize(samples.split(2)?, 2).cache();
    /// let normalization = Normalization::fit(&data)?;
    /// assert_eq!(normalization.mean(), [3.0, 7.0]);
    /// assert_eq!(normalization.deviation(), [2.0, 1.0], "what is the same everywhere is only moved");
    /// let normalized = normalization.transform(&data).collect()?;
    /// assert_eq!(normalized[1].features(), &Features::F32(vec![1.0, 0.0]));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// If there are no samples, or blocks have different numbers of features, or a feature is not finite; otherwise as
    /// any action.
    #[track_caller]
    pub fn fit(data: &Dataset<Samples>) -> Result<Self> {
        let found = data.run_partitions(|partition, blocks| {
            let (mut largest, mut rows) = (Vec::new(), 0);
            for samples in blocks {
                note_magnitudes(&mut largest, &samples, (partition, rows))?;
                rows += samples.len();
            }
            Ok(largest)
        })?;
        let mut largest = Vec::new();
        found.iter().try_for_each(|found| note_row(&mut largest, found))?;
        // Below 2^30 of them make the largest.
        let step = |largest: &f32| libm::ldexp(1.0, libm::frexp((*largest).into()).1 - 30);
        let steps: Vec<f64> = largest.iter().map(step).collect();
        let scales = steps.clone();
        let totals = data.run_partitions(move |_, blocks| {
            let mut totals = Totals::default();
            for samples in blocks {
                add(&mut totals, &samples, &steps)?;
            }
            Ok(totals)
        })?;
        let mut sum = Totals::default();
        for totals in totals.iter().filter(|totals| totals.count > 0) {
            sum.merge(totals);
        }
        Self::scaled(&sum, |feature| scales[feature])
    }

    /// The dataset with its features normalised; as [`apply`](Self::apply) for each of its blocks.
    #[track_caller]
    pub fn transform(&self, data: &Dataset<Samples>) -> Dataset<Samples> {
        let normalization = self.clone();
        let mut hasher = blake3::Hasher::new();
        for value in self.mean.iter().chain(&self.deviation) {
            hasher.update(&value.to_le_bytes());
        }
        data.try_map_with_parameters(format!("normalization {}", hasher.finalize()), move |samples| {
            normalization.apply(&samples)
        })
    }

    /// The mean of each feature.
    pub fn mean(&self) -> &[f32] {
        &self.mean
    }

    /// The deviation of each feature; 1 where it is 0.
    pub fn deviation(&self) -> &[f32] {
        &self.deviation
    }

    /// The samples with their features normalised, as `F32`. With other statistics all of them are other samples: as
    /// long as the statistics have changed little, it is cheaper to keep a normalisation than to renew it.
    ///
    /// ```
    /// # use distdl_dl::{Features, Normalization, SampleTargets, Samples};
    /// let normalization = Normalization::from_parts(vec![10.0], vec![5.0])?; // as a file beside the model may say
    /// let test = Samples::new(1, Features::F32(vec![20.0, 5.0]), SampleTargets::Labels(vec![0, 1]))?;
    /// assert_eq!(normalization.apply(&test)?.features(), &Features::F32(vec![2.0, -1.0]));
    /// # Ok::<(), distdl_dl::Error>(())
    /// ```
    ///
    /// # Errors
    /// If they have another number of features.
    pub fn apply(&self, samples: &Samples) -> Result<Samples> {
        let length = samples.feature_length();
        check_length("the features of a sample", self.mean.len(), length)?;
        let normal =
            |(place, value): (usize, f32)| (value - self.mean[place % length]) / self.deviation[place % length];
        let features = values(samples.features())
            .iter()
            .copied()
            .enumerate()
            .map(normal)
            .collect();
        Samples::new(length, Features::F32(features), samples.targets().clone())
    }
}

/// Features as numbers.
fn values(features: &Features) -> Cow<'_, [f32]> {
    match features {
        Features::U8 { bytes, scale } => bytes.iter().map(|byte| f32::from(*byte) * scale).collect(),
        Features::F32(values) => Cow::Borrowed(values),
    }
}

/// Raises the largest magnitude of each feature to what samples have, which lie behind so many rows of a partition.
fn note_magnitudes(
    largest: &mut Vec<f32>,
    samples: &Samples,
    (partition, before): (usize, usize),
) -> Result<(), EngineError> {
    let length = samples.feature_length();
    for (row, features) in values(samples.features()).chunks_exact(length).enumerate() {
        if let Some(feature) = features.iter().position(|value| !value.is_finite()) {
            let (value, row) = (features[feature], before + row);
            return Err(EngineError::invalid(
                format!(
                    "a normalisation of samples, of which row {row} of partition {partition} has {value} as feature {feature}"
                ),
                "filter it out, or give it a number",
            ));
        }
        note_row(largest, features)?;
    }
    Ok(())
}

/// Raises the largest magnitude of each feature; an error if there are others of them than before.
fn note_row(largest: &mut Vec<f32>, row: &[f32]) -> Result<(), EngineError> {
    if largest.is_empty() {
        largest.resize(row.len(), 0.0);
    }
    if !row.is_empty() && largest.len() != row.len() {
        return Err(EngineError::invalid(
            format!(
                "a normalisation of samples with {} and with {} features",
                largest.len(),
                row.len()
            ),
            "give all of them the same features",
        ));
    }
    largest
        .iter_mut()
        .zip(row)
        .for_each(|(largest, value)| *largest = largest.max(value.abs()));
    Ok(())
}

/// Adds samples in whole numbers of the features' steps.
fn add(totals: &mut Totals, samples: &Samples, steps: &[f64]) -> Result<(), EngineError> {
    let changed = || {
        EngineError::invalid(
            "a normalisation of samples that were others when they were read again",
            "persist them first",
        )
    };
    let whole = |(value, step): (&f32, &f64)| rounded(f64::from(*value) / step).ok_or_else(changed);
    for features in values(samples.features()).chunks_exact(samples.feature_length()) {
        if features.len() != steps.len() {
            return Err(changed());
        }
        let row = features.iter().zip(steps).map(whole).collect::<Result<Vec<i32>, _>>()?;
        totals.add(&row, 1);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::samples::SampleTargets;

    fn totals(samples: &[[i32; 2]]) -> Totals {
        let mut totals = Totals::default();
        samples.iter().for_each(|values| totals.add(values, 1));
        totals
    }

    #[test]
    fn what_was_written_down_is_the_same_and_nonsense_is_refused() {
        let kept = Normalization::from_parts(vec![1.5, -2.0], vec![0.25, 3.0]).unwrap();
        let text = serde_json::to_string(&kept).unwrap();
        assert_eq!(serde_json::from_str::<Normalization>(&text).unwrap(), kept);
        let error = serde_json::from_str::<Normalization>(&text.replace("3.0", "0.0")).unwrap_err();
        assert!(error.to_string().contains("feature 1"), "{error}");
        assert!(Normalization::from_parts(vec![0.0], vec![]).is_err());
        assert!(Normalization::from_parts(vec![f32::NAN], vec![1.0]).is_err());
    }

    #[test]
    fn a_scale_that_makes_no_sense_is_refused() {
        // One feature varies and the other does not, whose deviation has no scale.
        let totals = totals(&[[1, 7], [3, 7]]);
        for scale in [0.0, -1.0, f32::NAN, f32::INFINITY] {
            let error = Normalization::new(&totals, scale).unwrap_err();
            assert!(matches!(error, Error::Samples(_)), "{scale}: {error}");
            assert!(error.to_string().contains("the scale"), "{error}");
        }
        assert!(Normalization::new(&totals, f32::MAX).is_err(), "means are infinite");
        assert!(Normalization::new(&totals, f32::MIN_POSITIVE).is_ok());
    }

    #[test]
    fn what_is_normalised_has_mean_0_and_deviation_1() {
        let bytes: Vec<u8> = (0..200u32).map(|place| (place * place * 7 % 251) as u8).collect();
        let values: Vec<[i32; 2]> = bytes.chunks(2).map(|pair| [pair[0].into(), pair[1].into()]).collect();
        let features = Features::U8 { bytes, scale: 0.5 };
        let samples = Samples::new(2, features, SampleTargets::Labels(vec![0; 100])).unwrap();
        let normalization = Normalization::new(&totals(&values), 0.5).unwrap();
        let Features::F32(normal) = normalization.apply(&samples).unwrap().features().clone() else {
            panic!("bytes came back")
        };
        for place in 0..2 {
            let of = || normal.iter().skip(place).step_by(2).map(|value| f64::from(*value));
            let mean = of().sum::<f64>() / 100.0;
            let variance = of().map(|value| (value - mean).powi(2)).sum::<f64>() / 100.0;
            assert!(mean.abs() < 1e-6 && (variance - 1.0).abs() < 1e-5, "{mean} {variance}");
        }
    }

    #[test]
    fn statistics_have_the_same_bits_after_any_retraction() {
        let mut totals = totals(&[[1, 250], [3, 0], [200, 7]]);
        let before = Normalization::new(&totals, 1.0 / 255.0).unwrap();
        totals.add(&[77, -5], 1);
        assert_ne!(Normalization::new(&totals, 1.0 / 255.0).unwrap(), before);
        totals.add(&[77, -5], -1);
        assert_eq!(Normalization::new(&totals, 1.0 / 255.0).unwrap(), before);
    }

    #[test]
    fn the_largest_values_do_not_overflow() {
        let mut totals = Totals::default();
        totals.add(&[i32::MIN], SAMPLES_MAX / 2);
        totals.add(&[i32::MAX], SAMPLES_MAX / 2);
        let normalization = Normalization::new(&totals, 1.0).unwrap();
        assert_eq!(normalization.mean(), [-0.5]);
        assert_eq!(normalization.deviation(), [2f32.powi(31)]);
        totals.add(&[0], 1);
        assert!(Normalization::new(&totals, 1.0).is_err());
        assert!(Normalization::new(&Totals::default(), 1.0).is_err());
    }

    #[test]
    fn what_is_the_same_everywhere_is_only_moved() {
        let normalization = Normalization::new(&totals(&[[5, 1], [5, 3]]), 1.0).unwrap();
        assert_eq!(normalization.deviation(), [1.0, 1.0]);
        assert_eq!(normalization.mean(), [5.0, 2.0]);
    }

    #[test]
    fn fixed_point_numbers_are_rounded_and_have_limits() {
        assert_eq!(fixed_point(0.75, 2).unwrap(), 3);
        assert_eq!(fixed_point(-0.7, 2).unwrap(), -3);
        assert_eq!(fixed_point(-2.0, 30).unwrap(), i32::MIN);
        for value in [2.0, f32::NAN, f32::INFINITY] {
            assert!(fixed_point(value, 30).is_err(), "{value}");
        }
    }
}
