//! Sixteen sums at a time, so that they fill vector registers; then those from left to right.
#![allow(unsafe_code)] // the dispatch macro calls functions that need CPU features

use crate::scalar::Scalar;

const SUMS: usize = 16;
/// Elements that are summed in their own type; the sums of such blocks are added in f64.
pub(in crate::kernels) const BLOCK: usize = 4096;

/// The sum of `of(index)` over all indices below `count`.
#[inline(always)]
pub(in crate::kernels) fn sum_of<T: Scalar>(count: usize, of: impl Fn(usize) -> T) -> T {
    let mut sums = [T::ZERO; SUMS];
    let whole = count - count % SUMS;
    for start in (0..whole).step_by(SUMS) {
        for (offset, sum) in sums.iter_mut().enumerate() {
            *sum += of(start + offset);
        }
    }
    let mut total = sums.into_iter().fold(T::ZERO, |total, sum| total + sum);
    for index in whole..count {
        total += of(index);
    }
    total
}

dispatched! {
    pub(super) fn sum<T: Scalar>(elements: &[T]) -> T {
        sum_of(elements.len(), |index| elements[index])
    }
}

dispatched! {
    pub(super) fn add<T: Scalar>(values: &[T], sums: &mut [T]) {
        for (sum, value) in sums.iter_mut().zip(values) {
            *sum += *value;
        }
    }
}

dispatched! {
    pub(super) fn sum_of_squares<T: Scalar>(elements: &[T]) -> f64 {
        let blocks = elements.chunks(BLOCK);
        blocks.map(|block| sum_of(block.len(), |index| block[index] * block[index]).to_f64()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::Level;

    #[test]
    fn all_levels_give_the_same_bits_and_the_sum_is_right() {
        for count in [0, 1, 15, 16, 47, 9000] {
            let elements: Vec<f32> = (0..count).map(|index| (index * 7_919 % 2_003) as f32 / 999.0).collect();
            let expected: f64 = elements.iter().map(|value| f64::from(*value).powi(2)).sum();
            let portable = sum_of_squares(Level::PORTABLE, &elements);
            assert!(
                (portable - expected).abs() <= 1e-6 * expected,
                "{count}: {portable} {expected}"
            );
            let added: Vec<f32> = elements.iter().map(|value| value + 0.1).collect();
            for level in Level::available() {
                let mut sums = vec![0.1; count];
                add(level, &elements, &mut sums);
                assert_eq!(sums, added, "{level:?}");
                assert_eq!(
                    sum_of_squares(level, &elements).to_bits(),
                    portable.to_bits(),
                    "{level:?}"
                );
            }
        }
    }

    #[test]
    fn what_are_not_equally_many_are_not_added() {
        let mut sums = [1.0, 2.0];
        for values in [&[1.0][..], &[1.0; 3]] {
            assert!(super::super::add(values, &mut sums).is_err());
        }
        assert_eq!(sums, [1.0, 2.0]);
    }
}
