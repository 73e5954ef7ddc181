//! The kernels of `cuda.cu`, with their lengths checked. They change parameters and state where they lie.
#![allow(unsafe_code)] // starts them

use distdl_engine::device::{Argument, GpuSlice};

use crate::error::{Result, check_length};
use crate::kernels::programs::{Device, Grid};

/// Parameters on a GPU, with the sum of their gradients over samples and what an optimizer keeps of them, by slot: all of the
/// handle that it is given with, and apart from each other.
#[derive(Debug, Clone, Copy)]
pub struct GpuShard<'a> {
    pub(crate) gradient_sum: GpuSlice<'a>,
    pub(crate) parameters: GpuSlice<'a>,
    pub(crate) state: &'a [GpuSlice<'a>],
}

impl<'a> GpuShard<'a> {
    /// The sum of gradients, as long as the parameters.
    pub fn gradient_sum(self) -> GpuSlice<'a> {
        self.gradient_sum
    }

    /// The parameters, to be changed where they are.
    pub fn parameters(self) -> GpuSlice<'a> {
        self.parameters
    }

    /// The slots of state, each as long as the parameters, to be changed where they are.
    pub fn state(self) -> &'a [GpuSlice<'a>] {
        self.state
    }

    /// Starts `kernel` with some numbers, and then the gradient, the parameters, and of the slots those that it `takes`: the
    /// others of its places are left empty.
    fn run(self, device: &Device, kernel: &'static str, numbers: &[Argument<'a>], takes: &[bool]) -> Result<()> {
        let count = self.parameters.len();
        check_length("the gradient", count, self.gradient_sum.len())?;
        let taken = takes.iter().filter(|is_taken| **is_taken).count();
        check_length("the slots of the optimizer's state", taken, self.state.len())?;
        self.state
            .iter()
            .try_for_each(|slot| check_length("the optimizer's state", count, slot.len()))?;
        let mut arguments = vec![Argument::Count(count as u64)];
        arguments.extend_from_slice(numbers);
        arguments.extend([self.gradient_sum, self.parameters].map(Argument::Words));
        let mut slots = self.state.iter();
        arguments.extend(takes.iter().map(|is_taken| match is_taken {
            true => slots.next().map_or(Argument::Absent, |slot| Argument::Words(*slot)),
            false => Argument::Absent,
        }));
        // SAFETY: the functions below give each kernel its arguments, whose lengths were checked; whoever makes a shard vouches
        // that they are apart.
        unsafe { device.run(kernel, Grid::of_elements(count), &arguments) }
    }
}

/// `parameters` -= rate * `gradient_sum`.
pub(crate) fn plain(device: &Device, rate: f32, shard: GpuShard<'_>) -> Result<()> {
    shard.run(device, "update_plain", &[Argument::Number(rate)], &[])
}

/// Moves running statistics, which are the parameters, towards `scale` times their sums.
pub(crate) fn statistics(device: &Device, scale: f32, momentum: f32, shard: GpuShard<'_>) -> Result<()> {
    let numbers = [scale, momentum].map(Argument::Number);
    shard.run(device, "update_statistics", &numbers, &[])
}

/// `numbers` are those of the kernel, in order. There is a slot if `has_momentum`.
pub(crate) fn momentum(
    device: &Device,
    numbers: [f32; 5],
    nesterov: bool,
    has_momentum: bool,
    shard: GpuShard<'_>,
) -> Result<()> {
    let [rate, scale, decay, momentum, share] = numbers.map(Argument::Number);
    let numbers = [rate, scale, decay, momentum, share, Argument::Kind(nesterov.into())];
    shard.run(device, "update_momentum", &numbers, &[has_momentum])
}

/// `numbers` are those of the kernel, in order. There is a third slot if it `takes_largest`.
pub(crate) fn adam(device: &Device, numbers: [f32; 9], takes_largest: bool, shard: GpuShard<'_>) -> Result<()> {
    let numbers = numbers.map(Argument::Number);
    shard.run(device, "update_adam", &numbers, &[true, true, takes_largest])
}

/// `numbers` are those of the kernel, in order. There is a slot for means if it `is_centered`, and then one for steps if it
/// `has_momentum`.
pub(crate) fn rms_prop(
    device: &Device,
    numbers: [f32; 7],
    (is_centered, has_momentum): (bool, bool),
    shard: GpuShard<'_>,
) -> Result<()> {
    let numbers = numbers.map(Argument::Number);
    shard.run(device, "update_rms_prop", &numbers, &[true, is_centered, has_momentum])
}

/// `numbers` are those of the kernel, in order.
pub(crate) fn adagrad(device: &Device, numbers: [f32; 5], shard: GpuShard<'_>) -> Result<()> {
    shard.run(device, "update_adagrad", &numbers.map(Argument::Number), &[true])
}
