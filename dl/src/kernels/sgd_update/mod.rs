//! Stochastic gradient descent's update.

mod cpu;

use super::Level;
use crate::error::{Result, check_length};

/// `parameters` -= `learning_rate` * `gradient`, element by element. Errors if lengths differ.
pub fn sgd_update(learning_rate: f32, gradient: &[f32], parameters: &mut [f32]) -> Result<()> {
    check_length("the gradient", parameters.len(), gradient.len())?;
    cpu::sgd_update(Level::best(), learning_rate, gradient, parameters);
    Ok(())
}
