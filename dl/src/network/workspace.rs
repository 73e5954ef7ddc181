//! The buffers of a network's passes.

use super::NeuralNetwork;
use crate::error::{Error, Result, check_length};
use crate::layer::Draw;
use crate::scalar::{Scalar, try_zeros};
use std::collections::TryReserveError;

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
    /// The gradient of a micro-batch before it is added to a sum; empty until one is.
    pub(super) micro_batch_gradient: Vec<T>,
    pub(super) draw: Draw,
}

impl<T: Scalar> NeuralNetwork<T> {
    /// As [`workspace`](Self::workspace). Errors if there is no memory for it.
    pub(crate) fn try_workspace(&self, rows_max: usize) -> Result<Workspace<T>, TryReserveError> {
        let mut workspace = self.workspace(0);
        for (outputs, wired) in workspace.outputs.iter_mut().zip(self.layers.iter()) {
            *outputs = try_zeros(rows_max, wired.layer.output_length())?;
        }
        let widest = self.widest();
        for gradient in &mut workspace.gradients {
            *gradient = try_zeros(rows_max, widest)?;
        }
        workspace.rows_max = rows_max;
        Ok(workspace)
    }

    /// Elements of the longest output row.
    pub(super) fn widest(&self) -> usize {
        let lengths = self.layers.iter().map(|wired| wired.layer.output_length());
        lengths.max().unwrap_or(0)
    }

    /// Elements that a row takes in a workspace, and beside it the row of its inputs.
    pub(crate) fn buffered_row_length(&self) -> usize {
        self.row_length()
            .saturating_add(self.buffers.count().saturating_mul(self.widest()))
    }
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
        for (wired, outputs) in network.layers.iter().zip(&self.outputs) {
            let scratch = wired.layer.scratch_length();
            check_length(
                "the scratch of the workspace (made for another network?)",
                scratch,
                scratch.min(self.scratch.len()),
            )?;
            let expected = self.rows_max * wired.layer.output_length();
            check_length(
                "a buffer of the workspace (made for another network?)",
                expected,
                outputs.len(),
            )?;
        }
        Ok(())
    }
}
