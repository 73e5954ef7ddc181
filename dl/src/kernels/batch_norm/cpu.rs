//! Row by row; where a channel has one position, neighbouring channels are what is vectorised.
#![allow(unsafe_code)] // the dispatch macro calls functions that need CPU features

use super::Moments;
use crate::kernels::sums::sum_of;
use crate::scalar::Scalar;

dispatched! {
    pub(super) fn moments<T: Scalar>(positions: usize, inputs: &[T], mean: &mut [T], variance: &mut [T]) {
        let rows = inputs.len() / (positions * mean.len()).max(1);
        let share = T::from_f64(1.0 / (rows * positions).max(1) as f64);
        add_channels(positions, inputs.len(), mean, |index, _| inputs[index]);
        mean.iter_mut().for_each(|mean| *mean *= share);
        let mean = &*mean;
        let square = |index: usize, channel: usize| {
            let difference = inputs[index] - mean[channel];
            difference * difference
        };
        add_channels(positions, inputs.len(), variance, square);
        variance.iter_mut().for_each(|variance| *variance *= share);
    }
}

/// Channels whose sums are made side by side: those of a row that fill a line of the cache.
const TILE: usize = 16;

/// Writes the sum of `of(index, channel)` over all elements of each channel: those of a row in their own type, the sums
/// of rows in f64, so that many rows lose no digits.
#[inline(always)]
fn add_channels<T: Scalar>(positions: usize, count: usize, sums: &mut [T], of: impl Fn(usize, usize) -> T) {
    let row_length = (positions * sums.len()).max(1);
    for (tile, to) in sums.chunks_mut(TILE).enumerate() {
        let mut totals = [0.0_f64; TILE];
        for row in (0..count).step_by(row_length) {
            for (offset, total) in totals[..to.len()].iter_mut().enumerate() {
                let channel = tile * TILE + offset;
                let first = row + channel * positions;
                let of_row = match positions {
                    1 => of(first, channel),
                    _ => sum_of(positions, |position| of(first + position, channel)),
                };
                *total += of_row.to_f64();
            }
        }
        for (sum, total) in to.iter_mut().zip(totals) {
            *sum = T::from_f64(total);
        }
    }
}

dispatched! {
    pub(super) fn forward<T: Scalar>(
        positions: usize,
        moments: Moments<'_, T>,
        weight_and_bias: (&[T], &[T]),
        inputs: &[T],
        outputs: &mut [T],
    ) {
        let (weight, bias) = weight_and_bias;
        map_channels(positions, weight.len(), outputs, |channel| {
            let (mean, scale) = moments.of(channel);
            let (scale, bias) = (scale * weight[channel], bias[channel]);
            move |index: usize| (inputs[index] - mean) * scale + bias
        });
    }
}

dispatched! {
    pub(super) fn sums<T: Scalar>(
        positions: usize,
        moments: Moments<'_, T>,
        inputs_and_gradient: (&[T], &[T]),
        sums: (&mut [T], &mut [T]),
    ) {
        let (inputs, gradient) = inputs_and_gradient;
        let (by_weight, by_bias) = sums;
        add_channels(positions, inputs.len(), by_bias, |index, _| gradient[index]);
        let along = |index: usize, channel: usize| gradient[index] * (inputs[index] - moments.mean[channel]);
        add_channels(positions, inputs.len(), by_weight, along);
        for (channel, sum) in by_weight.iter_mut().enumerate() {
            *sum *= moments.of(channel).1;
        }
    }
}

dispatched! {
    // With n the normalised channel, the gradient by its inputs is weight * scale * (g - mean of g - n * mean of g *
    // n).
    pub(super) fn backward<T: Scalar>(
        positions: usize,
        moments: Moments<'_, T>,
        weight: &[T],
        inputs_and_gradient: (&[T], &[T]),
        sums: (&[T], &[T]),
        input_gradient: &mut [T],
    ) {
        let (inputs, gradient) = inputs_and_gradient;
        let count = inputs.len() / weight.len().max(1);
        let share = T::from_f64(if moments.are_of_inputs { 1.0 / count.max(1) as f64 } else { 0.0 });
        map_channels(positions, weight.len(), input_gradient, |channel| {
            let (mean, scale) = moments.of(channel);
            let (along, middle) = (sums.0[channel] * share, sums.1[channel] * share);
            let weight = weight[channel] * scale;
            move |index: usize| weight * (gradient[index] - middle - (inputs[index] - mean) * scale * along)
        });
    }
}

/// Writes to each element what the function of its channel gives for its index.
#[inline(always)]
fn map_channels<T: Scalar, F: Fn(usize) -> T>(
    positions: usize,
    channels: usize,
    to: &mut [T],
    of: impl Fn(usize) -> F,
) {
    let row = (positions * channels).max(1);
    for (row_index, to) in to.chunks_exact_mut(row).enumerate() {
        for (channel, to) in to.chunks_exact_mut(positions.max(1)).enumerate() {
            let (function, first) = (of(channel), row_index * row + channel * positions);
            for (position, to) in to.iter_mut().enumerate() {
                *to = function(first + position);
            }
        }
    }
}

impl<T: Scalar> Moments<'_, T> {
    /// Mean of a channel, and what it is multiplied with for variance 1.
    #[inline(always)]
    fn of(&self, channel: usize) -> (T, T) {
        let variance = self.variance[channel] + T::from_f64(self.epsilon);
        (self.mean[channel], T::ONE / variance.square_root())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::Level;

    #[test]
    fn many_rows_lose_no_digits() {
        const ROWS: usize = 1 << 18;
        for (channels, positions) in [(19, 1), (2, 3)] {
            let row = channels * positions;
            let inputs: Vec<f32> = (0..ROWS * row)
                .map(|index| 10.0 + (index * 7_919 % 2_003) as f32 / 2_003.0)
                .collect();
            let (mut mean, mut variance) = (vec![f32::NAN; channels], vec![f32::NAN; channels]);
            moments(Level::best(), positions, &inputs, &mut mean, &mut variance);
            for channel in 0..channels {
                let rows = inputs
                    .chunks(row)
                    .flat_map(|row| &row[channel * positions..][..positions]);
                let values: Vec<f64> = rows.map(|value| f64::from(*value)).collect();
                let expected = values.iter().sum::<f64>() / values.len() as f64;
                let squares: f64 = values.iter().map(|value| (value - expected).powi(2)).sum();
                let error = (f64::from(mean[channel]) - expected).abs() / expected;
                assert!(
                    error < 2e-7,
                    "mean {channel} of {channels}: {} for {expected}",
                    mean[channel]
                );
                let expected = squares / values.len() as f64;
                let error = (f64::from(variance[channel]) - expected).abs() / expected;
                assert!(
                    error < 1e-6,
                    "variance {channel} of {channels}: {} for {expected}",
                    variance[channel]
                );
            }
        }
    }

    #[test]
    fn all_levels_give_the_same_bits() {
        let numbers = |count: usize| {
            let number = |index: usize| (index * 7_919 % 2_003) as f32 / 99.0 - 9.0;
            (0..count).map(number).collect::<Vec<f32>>()
        };
        for (channels, positions) in [(1, 1), (40, 1), (3, 25)] {
            let (weight, inputs) = (numbers(channels), numbers(channels * positions * 5));
            let run = |level| {
                let (mut mean, mut variance) = (vec![f32::NAN; channels], vec![f32::NAN; channels]);
                moments(level, positions, &inputs, &mut mean, &mut variance);
                let moments = Moments {
                    mean: &mean,
                    variance: &variance,
                    epsilon: 1e-5,
                    are_of_inputs: true,
                };
                let mut outputs = vec![f32::NAN; inputs.len()];
                forward(level, positions, moments, (&weight, &weight), &inputs, &mut outputs);
                let (mut by_weight, mut by_bias) = (mean.clone(), mean.clone());
                let mut by_inputs = outputs.clone();
                let values = (&inputs[..], &outputs[..]);
                sums(level, positions, moments, values, (&mut by_weight, &mut by_bias));
                backward(
                    level,
                    positions,
                    moments,
                    &weight,
                    values,
                    (&by_weight, &by_bias),
                    &mut by_inputs,
                );
                let all = [&mean[..], &variance, &outputs, &by_weight, &by_bias, &by_inputs].concat();
                all.iter().map(|value| value.to_bits()).collect::<Vec<_>>()
            };
            for level in Level::available() {
                assert_eq!(run(level), run(Level::PORTABLE), "{channels} {positions} {level:?}");
            }
        }
    }
}
