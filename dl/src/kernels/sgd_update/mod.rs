//! Stochastic gradient descent's update.

mod cpu;

use super::Level;
use crate::error::{Result, check_length};

/// `after` = `before` - `learning_rate` * `gradient`, element by element. Errors if lengths differ.
pub fn sgd_update(learning_rate: f32, gradient: &[f32], before: &[f32], after: &mut [f32]) -> Result<()> {
    check_length("the gradient", after.len(), gradient.len())?;
    check_length("the parameters before the step", after.len(), before.len())?;
    cpu::sgd_update(Level::best(), learning_rate, gradient, before, after);
    Ok(())
}
