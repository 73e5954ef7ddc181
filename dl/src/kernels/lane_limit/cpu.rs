//! The sums and the loops.

use std::ops::Range;

use crate::kernels::sums::sum_of_squares;

/// What makes a norm as long as it may be. The small number is PyTorch's.
pub(crate) fn factor_to(norm_max: f32, norm: f64) -> f32 {
    (f64::from(norm_max) / (norm + 1e-6)) as f32
}

/// As [`limit_norm`](super::limit_norm), whose ranges lie within the gradient.
pub(super) fn limit_norm(norm_max: f32, weight: f64, ranges: &[Range<usize>], gradient: &mut [f32]) {
    let ranges = ranges.iter().filter(|range| !range.is_empty());
    let squares = ranges.clone().map(|range| sum_of_squares(&gradient[range.clone()]));
    let mut squares = squares.sum::<f64>();
    if squares.is_infinite() {
        // Squares of large numbers are, in 32 bits.
        let values = ranges.clone().flat_map(|range| &gradient[range.clone()]);
        squares = values.map(|value| f64::from(*value).powi(2)).sum();
    }
    let norm = squares.sqrt() / if weight > 0.0 { weight } else { 1.0 };
    let factor = factor_to(norm_max, norm);
    if norm.is_finite() && factor < 1.0 {
        for range in ranges {
            gradient[range.clone()].iter_mut().for_each(|value| *value *= factor);
        }
    }
}
