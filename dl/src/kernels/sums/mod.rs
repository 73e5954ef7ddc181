//! Sums over many elements, in an order that their number alone fixes.

mod cpu;
#[cfg(feature = "gpu")]
pub(crate) mod cuda;

pub(in crate::kernels) use cpu::sum_of;

use super::Level;
use crate::scalar::Scalar;

/// The sum of the squares of all elements.
pub fn sum_of_squares<T: Scalar>(elements: &[T]) -> f64 {
    cpu::sum_of_squares(Level::best(), elements)
}

/// Adds `values` to `sums`, each to its; those that one of them has more are left alone.
pub fn add<T: Scalar>(values: &[T], sums: &mut [T]) {
    cpu::add(Level::best(), values, sums);
}

/// The sum of all elements.
pub fn sum<T: Scalar>(elements: &[T]) -> T {
    cpu::sum(Level::best(), elements)
}
