//! The buffers of a network's passes.

use super::NeuralNetwork;
use crate::error::{Error, Result, check_length};
use crate::layer::Draw;
use crate::scalar::Scalar;

/// The buffers of one network's forward and backward pass, for up to a number of rows.
#[derive(Debug)]
pub struct Workspace<T: Scalar = f32> {
    pub(super) rows_max: usize,
    /// Outputs of each layer.
    pub(super) outputs: Vec<Vec<T>>,
    /// Gradients by outputs, in the buffers that the network's layers take turns at.
    pub(super) gradients: Vec<Vec<T>>,
    /// What layers need meanwhile.
    pub(super) scratch: Vec<T>,
    /// The gradient of a piece before it is added to a sum; empty until one is.
    pub(super) piece: Vec<T>,
    pub(super) draw: Draw,
}

impl<T: Scalar> Workspace<T> {
    /// The most rows that it has space for.
    pub fn rows_max(&self) -> usize {
        self.rows_max
    }

    /// Says which step of training the next gradients are part of: what layers do by chance is keyed by it.
    pub fn set_draw(&mut self, draw: Draw) {
        self.draw = draw;
    }

    pub(super) fn check(&self, network: &NeuralNetwork<T>, rows: usize) -> Result<()> {
        if rows > self.rows_max {
            return Err(Error::Rows {
                rows,
                rows_max: self.rows_max,
            });
        }
        check_length(
            "the workspace (made for another network?)",
            network.layers.len(),
            self.outputs.len(),
        )?;
        check_length(
            "the gradients of the workspace (made for another network?)",
            network.buffers.count(),
            self.gradients.len(),
        )?;
        for (placed, outputs) in network.layers.iter().zip(&self.outputs) {
            let scratch = placed.layer.scratch_length();
            check_length(
                "the scratch of the workspace (made for another network?)",
                scratch,
                scratch.min(self.scratch.len()),
            )?;
            let expected = self.rows_max * placed.layer.output_length();
            check_length(
                "a buffer of the workspace (made for another network?)",
                expected,
                outputs.len(),
            )?;
        }
        Ok(())
    }
}
