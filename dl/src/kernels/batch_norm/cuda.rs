//! The kernels of `cuda.cu`, with their lengths checked.
#![allow(unsafe_code)] // starts them

use distdl_engine::device::{Argument, GpuSlice};

use crate::error::{Result, check_length};
use crate::kernels::programs::{Device, Grid};

/// Inputs as some rows of as many channels as each of the others has elements, each of so many positions.
#[derive(Clone, Copy)]
pub(crate) struct Channels<'a> {
    pub(crate) rows: usize,
    pub(crate) positions: usize,
    pub(crate) epsilon: f32,
    pub(crate) inputs: GpuSlice<'a>,
    pub(crate) mean: GpuSlice<'a>,
    pub(crate) variance: GpuSlice<'a>,
}

impl<'a> Channels<'a> {
    fn channels(&self) -> usize {
        self.mean.len()
    }

    fn check(&self) -> Result<()> {
        check_length(
            "the inputs",
            self.rows * self.channels() * self.positions,
            self.inputs.len(),
        )?;
        check_length("the variances", self.channels(), self.variance.len())
    }

    /// Of kernels that sum.
    fn grid(&self) -> Grid {
        Grid::of_rows(self.channels(), self.rows * self.positions)
    }

    fn sides(&self) -> [Argument<'a>; 3] {
        [self.rows, self.channels(), self.positions].map(|count| Argument::Count(count as u64))
    }

    /// Writes mean and variance.
    pub(crate) fn moments(&self, device: &Device) -> Result<()> {
        self.check()?;
        let [rows, channels, positions] = self.sides();
        let [inputs, mean, variance] = [self.inputs, self.mean, self.variance].map(Argument::Words);
        let arguments = [rows, channels, positions, inputs, mean, variance];
        // SAFETY: these are its arguments, with lengths that are checked.
        unsafe { device.run("batch_norm_moments", self.grid(), &arguments) }
    }

    /// Writes what a step's running statistics are made from: means, then variances.
    pub(crate) fn running(&self, device: &Device, running: GpuSlice<'_>) -> Result<()> {
        check_length("the running statistics", 2 * self.channels(), running.len())?;
        check_length("the variances", self.channels(), self.variance.len())?;
        let count = self.rows * self.positions;
        let unbiased = (count as f64 / count.saturating_sub(1).max(1) as f64) as f32;
        let arguments = [
            self.sides()[1],
            Argument::Number(self.rows as f32),
            Argument::Number(unbiased),
            Argument::Words(self.mean),
            Argument::Words(self.variance),
            Argument::Words(running),
        ];
        // SAFETY: these are its arguments, with lengths that are checked.
        unsafe { device.run("batch_norm_running", Grid::of_elements(self.channels()), &arguments) }
    }

    /// As [`super::forward`].
    pub(crate) fn forward(
        &self,
        device: &Device,
        (weight, bias): (GpuSlice<'_>, GpuSlice<'_>),
        outputs: GpuSlice<'_>,
    ) -> Result<()> {
        self.check()?;
        check_length("the weight", self.channels(), weight.len())?;
        check_length("the bias", self.channels(), bias.len())?;
        check_length("the outputs", self.inputs.len(), outputs.len())?;
        let [_, channels, positions] = self.sides();
        let [mean, variance, weight, bias, inputs, to] =
            [self.mean, self.variance, weight, bias, self.inputs, outputs].map(Argument::Words);
        let arguments = [
            Argument::Count(outputs.len() as u64),
            channels,
            positions,
            Argument::Number(self.epsilon),
            mean,
            variance,
            weight,
            bias,
            inputs,
            to,
        ];
        // SAFETY: these are its arguments, with lengths that are checked.
        unsafe { device.run("batch_norm_forward", Grid::of_elements(outputs.len()), &arguments) }
    }

    /// As [`super::backward`].
    pub(crate) fn backward(
        &self,
        device: &Device,
        weight: GpuSlice<'_>,
        gradient: GpuSlice<'_>,
        (by_weight, by_bias): (GpuSlice<'_>, GpuSlice<'_>),
        input_gradient: Option<GpuSlice<'_>>,
    ) -> Result<()> {
        self.check()?;
        check_length("the output gradient", self.inputs.len(), gradient.len())?;
        for of_channels in [weight, by_weight, by_bias] {
            check_length("what each channel has", self.channels(), of_channels.len())?;
        }
        let ([rows, channels, positions], epsilon) = (self.sides(), Argument::Number(self.epsilon));
        let [mean, variance, weight, inputs, gradient, by_weight, by_bias] = [
            self.mean,
            self.variance,
            weight,
            self.inputs,
            gradient,
            by_weight,
            by_bias,
        ]
        .map(Argument::Words);
        let sums = [
            rows, channels, positions, epsilon, mean, variance, inputs, gradient, by_weight, by_bias,
        ];
        // SAFETY: these are its arguments, with lengths that are checked.
        unsafe { device.run("batch_norm_sums", self.grid(), &sums) }?;
        let Some(input_gradient) = input_gradient else {
            return Ok(());
        };
        check_length("the input gradient", self.inputs.len(), input_gradient.len())?;
        let (grid, to) = (Grid::of_elements(input_gradient.len()), Argument::Words(input_gradient));
        let arguments = [
            rows, channels, positions, epsilon, mean, variance, weight, inputs, gradient, by_weight, by_bias, to,
        ];
        // SAFETY: as above.
        unsafe { device.run("batch_norm_backward", grid, &arguments) }
    }
}
