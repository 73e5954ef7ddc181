//! Sums of gradients: one node of the fixed tree over lanes, and the division by the number of samples at its root.

mod cpu;

use super::Level;
use crate::error::{Result, check_length};

/// `sum` += `addend`, element by element. Errors if lengths differ.
pub fn add(sum: &mut [f32], addend: &[f32]) -> Result<()> {
    check_length("the addend", sum.len(), addend.len())?;
    cpu::add(Level::best(), sum, addend);
    Ok(())
}

/// `values` *= `factor`, element by element.
pub fn scale(values: &mut [f32], factor: f32) {
    cpu::scale(Level::best(), values, factor);
}
