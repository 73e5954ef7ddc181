//! The kernels of `cuda.cu`, with their lengths checked.
#![allow(unsafe_code)] // starts them

use distdl_engine::device::{Argument, GpuSlice};

use crate::error::{Result, check_length, check_rows};
use crate::kernels::programs::{GpuContext, Grid, ReductionSplit};
use crate::kernels::sums::cuda::{columns, over_parts};

/// Some rows, and for each its mean and what is multiplied with for variance 1.
#[derive(Clone, Copy)]
pub(crate) struct NormalizedRows<'a> {
    pub(crate) columns: usize,
    pub(crate) inputs: GpuSlice<'a>,
    pub(crate) means: GpuSlice<'a>,
    pub(crate) scales: GpuSlice<'a>,
    /// Scratch for sums, of [`ReductionSplit::scratch_of_columns`].
    pub(crate) between: GpuSlice<'a>,
}

impl<'a> NormalizedRows<'a> {
    fn rows(&self) -> Result<usize> {
        let rows = check_rows("the inputs", self.columns, self.inputs.len())?;
        check_length("the means", rows, self.means.len())?;
        check_length("the scales", rows, self.scales.len())?;
        Ok(rows)
    }

    fn columns(&self) -> Argument<'a> {
        Argument::Count(self.columns as u64)
    }

    /// Writes means and scales.
    pub(crate) fn moments(&self, device: &GpuContext, epsilon: f32) -> Result<()> {
        let rows = self.rows()?;
        let [inputs, means, scales] = [self.inputs, self.means, self.scales].map(Argument::Words);
        let (count, epsilon) = (Argument::Count(rows as u64), Argument::Number(epsilon));
        let arguments = [count, self.columns(), epsilon, inputs, means, scales];
        // SAFETY: these are its arguments, with lengths that are checked.
        unsafe { device.run("layer_norm_moments", Grid::of_rows(rows, self.columns), &arguments) }
    }

    /// As [`super::forward`].
    pub(crate) fn forward(
        &self,
        device: &GpuContext,
        (weight, bias): (GpuSlice<'_>, GpuSlice<'_>),
        outputs: GpuSlice<'_>,
    ) -> Result<()> {
        self.rows()?;
        check_length("the weight", self.columns, weight.len())?;
        check_length("the bias", self.columns, bias.len())?;
        check_length("the outputs", self.inputs.len(), outputs.len())?;
        let [means, scales, weight, bias, inputs, to] =
            [self.means, self.scales, weight, bias, self.inputs, outputs].map(Argument::Words);
        let count = Argument::Count(outputs.len() as u64);
        let arguments = [count, self.columns(), means, scales, weight, bias, inputs, to];
        // SAFETY: these are its arguments, with lengths that are checked.
        unsafe { device.run("layer_norm_forward", Grid::of_elements(outputs.len()), &arguments) }
    }

    /// As [`super::backward`].
    pub(crate) fn backward(
        &self,
        device: &GpuContext,
        weight: GpuSlice<'_>,
        gradient: GpuSlice<'_>,
        (by_weight, by_bias): (GpuSlice<'_>, GpuSlice<'_>),
        input_gradient: Option<GpuSlice<'_>>,
    ) -> Result<()> {
        let rows = self.rows()?;
        check_length("the output gradient", self.inputs.len(), gradient.len())?;
        for of_columns in [weight, by_weight, by_bias] {
            check_length("what each column has", self.columns, of_columns.len())?;
        }
        let (parts, to) = (
            ReductionSplit::of_columns(rows, self.columns),
            (self.between, by_weight),
        );
        over_parts(device, parts, 1.0, to, |scale, sums| {
            self.along(device, scale, gradient, (rows, parts), sums)
        })?;
        columns(device, gradient, self.between, by_bias)?;
        let Some(input_gradient) = input_gradient else {
            return Ok(());
        };
        check_length("the input gradient", self.inputs.len(), input_gradient.len())?;
        let (count, columns) = (Argument::Count(rows as u64), self.columns());
        let [means, scales, weight, inputs, gradient, to] =
            [self.means, self.scales, weight, self.inputs, gradient, input_gradient].map(Argument::Words);
        let arguments = [count, columns, means, scales, weight, inputs, gradient, to];
        // SAFETY: these are its arguments, with lengths that are checked.
        unsafe { device.run("layer_norm_backward", Grid::of_rows(rows, self.columns), &arguments) }
    }

    /// Writes the gradients by the weight, of each part.
    fn along(
        &self,
        device: &GpuContext,
        scale: f32,
        gradient: GpuSlice<'_>,
        (rows, parts): (usize, ReductionSplit),
        sums: GpuSlice<'_>,
    ) -> Result<()> {
        check_length("the sums", parts.count * self.columns, sums.len())?;
        let [count, part] = [rows, parts.rows].map(|count| Argument::Count(count as u64));
        let [means, scales, inputs, gradient, to] =
            [self.means, self.scales, self.inputs, gradient, sums].map(Argument::Words);
        let scale = Argument::Number(scale);
        let arguments = [count, self.columns(), part, scale, means, scales, inputs, gradient, to];
        let grid = Grid::of_columns(self.columns, parts);
        // SAFETY: these are its arguments, with lengths that are checked here and by the caller.
        unsafe { device.run("layer_norm_along", grid, &arguments) }
    }
}
