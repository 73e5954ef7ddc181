//! Rows of a block of samples into rows of a batch.

mod cpu;
#[cfg(feature = "gpu")]
pub(crate) mod cuda;

use super::Level;
use crate::error::{Result, check_length};
use crate::scalar::Scalar;

/// `row` = `bytes` * `scale`, element by element. Errors if lengths differ.
pub fn scale_bytes<T: Scalar>(bytes: &[u8], scale: f32, row: &mut [T]) -> Result<()> {
    check_length("the row", bytes.len(), row.len())?;
    cpu::scale_bytes(Level::best(), bytes, T::from_f32(scale), row);
    Ok(())
}

/// `row` = `values`, widened if need be. Errors if lengths differ.
pub fn copy_values<T: Scalar>(values: &[f32], row: &mut [T]) -> Result<()> {
    check_length("the row", values.len(), row.len())?;
    cpu::copy_values(Level::best(), values, row);
    Ok(())
}
