//! The limit of the norm of a lane's gradient.

mod cpu;
#[cfg(feature = "gpu")]
pub(crate) mod cuda;

use std::ops::Range;

pub(crate) use cpu::factor_to;

use crate::error::{Result, check_length};

/// Scales the sum of the gradients of samples of this weight so that the norm of their mean is at most `norm_max`, both
/// by some ranges alone, as `torch.nn.utils.clip_grad_norm_` does. A gradient that is not finite stays as it is, so
/// that it is found.
///
/// # Errors
/// If a range ends behind the gradient, which stays as it is then.
pub fn limit_norm(norm_max: f32, weight: f64, ranges: &[Range<usize>], gradient: &mut [f32]) -> Result<()> {
    let ranges_there = ranges.iter().filter(|range| !range.is_empty());
    let end = ranges_there.map(|range| range.end).max().unwrap_or(0);
    check_length("the gradient", end, gradient.len().min(end))?;
    cpu::limit_norm(norm_max, weight, ranges, gradient);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_leaves_statistics_alone_and_what_is_not_finite() -> Result<()> {
        let mut gradient = [6.0, 100.0, 8.0];
        let learnt = [0..1, 2..3];
        limit_norm(1.0, 2.0, &learnt, &mut gradient)?;
        assert_eq!(gradient[1], 100.0);
        let norm = gradient[0].hypot(gradient[2]) / 2.0;
        assert!((norm - 1.0).abs() < 1e-5, "{gradient:?}");
        let mut infinite = [f32::INFINITY, 1.0, 1.0];
        limit_norm(1.0, 1.0, &learnt, &mut infinite)?;
        assert_eq!(infinite, [f32::INFINITY, 1.0, 1.0]);
        let mut large = [3e30, 1.0, 4e30];
        limit_norm(1.0, 1.0, &learnt, &mut large)?;
        assert!(
            (large[0] - 0.6).abs() < 1e-5 && (large[2] - 0.8).abs() < 1e-5,
            "{large:?}"
        );
        let mut short = [3.0, 4.0];
        assert!(limit_norm(1.0, 1.0, &learnt, &mut short).is_err());
        assert_eq!(short, [3.0, 4.0]);
        Ok(())
    }
}
