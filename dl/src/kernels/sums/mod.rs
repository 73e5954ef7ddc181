//! Sums over many elements, in an order that their number alone fixes.

mod cpu;
#[cfg(feature = "gpu")]
pub(crate) mod cuda;

#[cfg(feature = "gpu")]
pub(in crate::kernels) use cpu::BLOCK;
pub(in crate::kernels) use cpu::sum_of;

use super::Level;
use crate::error::{Result, check_length};
use crate::scalar::Scalar;

/// The sum of the squares of all elements.
pub fn sum_of_squares<T: Scalar>(elements: &[T]) -> f64 {
    cpu::sum_of_squares(Level::best(), elements)
}

/// Adds `values` to `sums`, each to its. Errors, and adds nothing, if they are not equally many.
pub fn add<T: Scalar>(values: &[T], sums: &mut [T]) -> Result<()> {
    check_length("the values", sums.len(), values.len())?;
    cpu::add(Level::best(), values, sums);
    Ok(())
}

/// The sum of all elements.
pub fn sum<T: Scalar>(elements: &[T]) -> T {
    cpu::sum(Level::best(), elements)
}
