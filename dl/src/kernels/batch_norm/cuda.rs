//! The kernels of `cuda.cu`, with their lengths checked.
#![allow(unsafe_code)] // starts them

use distdl_engine::device::{Argument, GpuSlice};

use crate::error::{Result, check_length};
use crate::kernels::programs::{GpuContext, Grid, ReductionSplit};
use crate::kernels::sums::cuda::{channels, over_parts};

/// Inputs as some rows of as many channels as each of the others has elements, each of so many positions.
#[derive(Clone, Copy)]
pub(crate) struct Channels<'a> {
    pub(crate) rows: usize,
    pub(crate) positions: usize,
    pub(crate) epsilon: f32,
    pub(crate) inputs: GpuSlice<'a>,
    pub(crate) mean: GpuSlice<'a>,
    pub(crate) variance: GpuSlice<'a>,
    /// As [`Moments::are_of_inputs`](super::Moments::are_of_inputs).
    pub(crate) are_of_inputs: bool,
    /// Scratch for sums, of [`ReductionSplit::scratch_of_channels`].
    pub(crate) between: GpuSlice<'a>,
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

    fn parts(&self) -> ReductionSplit {
        ReductionSplit::of_channels(self.rows, self.channels(), self.positions)
    }

    fn sides(&self) -> [Argument<'a>; 3] {
        [self.rows, self.channels(), self.positions].map(|count| Argument::Count(count as u64))
    }

    /// Writes mean and variance.
    pub(crate) fn moments(&self, device: &GpuContext) -> Result<()> {
        self.check()?;
        let (shape, count) = ((self.rows, self.positions), self.rows * self.positions);
        let share = (1.0 / count.max(1) as f64) as f32;
        channels(device, shape, share, self.inputs, self.between, self.mean)?;
        let to = (self.between, self.variance);
        over_parts(device, self.parts(), share, to, |scale, sums| {
            self.squares(device, scale, sums)
        })
    }

    fn squares(&self, device: &GpuContext, scale: f32, sums: GpuSlice<'_>) -> Result<()> {
        let [rows, channels, positions] = self.sides();
        let [mean, inputs, to] = [self.mean, self.inputs, sums].map(Argument::Words);
        let (part, scale) = (Argument::Count(self.parts().rows as u64), Argument::Number(scale));
        let arguments = [rows, channels, positions, part, scale, mean, inputs, to];
        self.sum(device, "batch_norm_squares", &arguments, sums)
    }

    fn along(&self, device: &GpuContext, scale: f32, gradient: GpuSlice<'_>, sums: GpuSlice<'_>) -> Result<()> {
        let [rows, channels, positions] = self.sides();
        let [mean, variance, inputs, gradient, to] =
            [self.mean, self.variance, self.inputs, gradient, sums].map(Argument::Words);
        let part = Argument::Count(self.parts().rows as u64);
        let [scale, epsilon] = [scale, self.epsilon].map(Argument::Number);
        let arguments = [
            rows, channels, positions, part, scale, epsilon, mean, variance, inputs, gradient, to,
        ];
        self.sum(device, "batch_norm_along", &arguments, sums)
    }

    /// Starts a kernel that writes `sums`, of each part and channel.
    fn sum(
        &self,
        device: &GpuContext,
        kernel: &'static str,
        arguments: &[Argument<'_>],
        sums: GpuSlice<'_>,
    ) -> Result<()> {
        let parts = self.parts();
        check_length("the sums", parts.count * self.channels(), sums.len())?;
        let grid = Grid::of_channels(self.channels(), self.positions, parts);
        // SAFETY: these are its arguments; lengths of what it reads have been checked, and that of the sums here.
        unsafe { device.run(kernel, grid, arguments) }
    }

    /// Writes what a step's running statistics are made from: means, then variances.
    pub(crate) fn running(&self, device: &GpuContext, running: GpuSlice<'_>) -> Result<()> {
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
        device: &GpuContext,
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
        device: &GpuContext,
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
        let to = (self.between, by_weight);
        over_parts(device, self.parts(), 1.0, to, |scale, sums| {
            self.along(device, scale, gradient, sums)
        })?;
        channels(
            device,
            (self.rows, self.positions),
            1.0,
            gradient,
            self.between,
            by_bias,
        )?;
        let Some(input_gradient) = input_gradient else {
            return Ok(());
        };
        check_length("the input gradient", self.inputs.len(), input_gradient.len())?;
        let [rows, channels, positions] = self.sides();
        let count = (self.rows * self.positions).max(1) as f64;
        let share = if self.are_of_inputs { (1.0 / count) as f32 } else { 0.0 };
        let [epsilon, share] = [self.epsilon, share].map(Argument::Number);
        let [mean, variance, weight, inputs, gradient, by_weight, by_bias, to] = [
            self.mean,
            self.variance,
            weight,
            self.inputs,
            gradient,
            by_weight,
            by_bias,
            input_gradient,
        ]
        .map(Argument::Words);
        let arguments = [
            rows, channels, positions, epsilon, share, mean, variance, weight, inputs, gradient, by_weight, by_bias, to,
        ];
        // SAFETY: these are its arguments, with lengths that are checked.
        unsafe {
            device.run(
                "batch_norm_backward",
                Grid::of_elements(input_gradient.len()),
                &arguments,
            )
        }
    }
}
