//! Sums over many elements, in an order that their number alone fixes.

mod cpu;

use super::Level;
use crate::scalar::Scalar;

/// The sum of the squares of all elements.
pub fn sum_of_squares<T: Scalar>(elements: &[T]) -> f64 {
    cpu::sum_of_squares(Level::best(), elements)
}
