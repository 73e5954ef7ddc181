//! Means and deviations of features, from sums that are exact and so do not depend on the order of records.

use distdl_engine::incremental::Totals;

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
    let scaled = (f64::from(value) * 2f64.powi(fraction_bits as i32)).round();
    if scaled >= f64::from(i32::MIN) && scaled <= f64::from(i32::MAX) {
        return Ok(scaled as i32);
    }
    Err(Error::Samples(format!(
        "{value} has no place in a fixed-point number with {fraction_bits} bits behind the point; use fewer bits, or \
         filter it out"
    )))
}

/// Brings each feature to mean 0 and deviation 1.
#[derive(Debug, Clone, PartialEq)]
pub struct Normalization {
    mean: Vec<f32>,
    deviation: Vec<f32>,
}

impl Normalization {
    /// From the totals of some samples, whose values times `scale` are the features: the scale of bytes, or
    /// `2^-fraction_bits` of [`fixed_point`]. It is a function of the samples as a multiset. A feature that is the same
    /// everywhere is only moved.
    ///
    /// # Errors
    /// If there are no samples, or more than 2^32.
    pub fn new(totals: &Totals, scale: f32) -> Result<Self> {
        if !(1..=SAMPLES_MAX).contains(&totals.count) {
            return Err(Error::Samples(format!(
                "{} samples have no exact mean; from 1 to 2^32 have",
                totals.count
            )));
        }
        let (count, scale) = (i128::from(totals.count), f64::from(scale));
        let mean = |sum: &i128| (*sum as f64 / count as f64 * scale) as f32;
        let deviation = |(sum, squares): (&i128, &i128)| {
            // 2^126 at most: values have 32 bits, and there are 2^32 samples.
            let variance = (count * squares - sum * sum) as f64 / (count * count) as f64;
            match variance > 0.0 {
                true => (variance.sqrt() * scale) as f32,
                false => 1.0,
            }
        };
        Ok(Self {
            mean: totals.sums.iter().map(mean).collect(),
            deviation: totals.sums.iter().zip(&totals.squares).map(deviation).collect(),
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

    /// The samples with their features normalised, as `F32`. With other statistics all of them are other samples: as long
    /// as the statistics have changed little, it is cheaper to keep a normalisation than to renew it.
    ///
    /// # Errors
    /// If they have another number of features.
    pub fn apply(&self, samples: &Samples) -> Result<Samples> {
        let length = samples.feature_length();
        check_length("the features of a sample", self.mean.len(), length)?;
        let normal =
            |(place, value): (usize, f32)| (value - self.mean[place % length]) / self.deviation[place % length];
        let features: Vec<f32> = match samples.features() {
            Features::U8 { bytes, scale } => {
                let values = bytes.iter().map(|byte| f32::from(*byte) * scale);
                values.enumerate().map(normal).collect()
            }
            Features::F32(values) => values.iter().copied().enumerate().map(normal).collect(),
        };
        Samples::new(length, Features::F32(features), samples.targets().clone())
    }
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
