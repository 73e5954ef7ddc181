//! The kernels of `cuda.cu`, with their lengths checked. They change parameters and state where they lie.
#![allow(unsafe_code)] // starts them

use distdl_engine::device::{Argument, GpuSlice};

use crate::error::{Error, Result, check_length};
use crate::kernels::programs::{GpuContext, Grid};
use crate::kernels::square_sum::cuda as square_sum;

/// What the sum of a gradient over samples is multiplied with on a GPU.
#[derive(Debug, Clone, Copy)]
pub struct GpuScale<'a> {
    /// What is known before: 1 / samples.
    pub factor: f32,
    /// Where the norm of the gradient is limited, one word that the factor is to be multiplied with: it is known on the
    /// GPU alone, when the kernel runs.
    pub limit: Option<GpuSlice<'a>>,
}

/// What a scale is multiplied with besides.
type Limit<'a> = Option<GpuSlice<'a>>;

/// Parameters on a GPU, with the sum of their gradients over samples and what an optimizer keeps of them, by slot: all
/// of the handle that it is given with, and apart from each other.
#[derive(Debug, Clone, Copy)]
pub struct GpuShard<'a> {
    pub(crate) gradient_sum: GpuSlice<'a>,
    pub(crate) parameters: GpuSlice<'a>,
    pub(crate) state: &'a [GpuSlice<'a>],
    pub(crate) measures: Option<GpuMeasures<'a>>,
}

/// Room for what an optimizer measures of a tensor.
#[derive(Debug, Clone, Copy)]
pub(crate) struct GpuMeasures<'a> {
    /// One total after the other.
    pub(crate) totals: GpuSlice<'a>,
    /// For a sum over the tensor.
    pub(crate) scratch: GpuSlice<'a>,
}

impl<'a> GpuShard<'a> {
    /// The sum of gradients, as long as the parameters. What it becomes is not used.
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

    /// Makes the measure of an index, of as many as the optimizer has, the exact sum of the squares of `values`, of
    /// which there are as many as parameters, and says where it is: an `f64`, NaN if a value is not finite, which ends
    /// the training. A measure that is not made is 0, or that of another step. Errors if there is no such measure,
    /// lengths differ, or the GPU fails.
    pub fn measure(self, device: &GpuContext, index: usize, values: GpuSlice<'_>) -> Result<GpuSlice<'a>> {
        let Some(GpuMeasures { totals, scratch }) = self.measures else {
            return Err(Error::Internal("an optimizer without measures has measured".into()));
        };
        let own = square_sum::TOTAL * index..square_sum::TOTAL * (index + 1);
        check_length("the measures", own.end, totals.len().min(own.end))?;
        check_length("what is measured", self.parameters.len(), values.len())?;
        let total = totals.part(own);
        let rest = square_sum::parts(device, values, scratch)?;
        square_sum::total(device, scratch.part(0..scratch.len() - rest.len()), total)?;
        Ok(total)
    }

    /// Starts `kernel` with some numbers, and then the gradient, the parameters, of the slots those that it `takes`:
    /// the others of its places are left empty; at last the limit of the scale.
    fn run(
        self,
        device: &GpuContext,
        kernel: &'static str,
        numbers: &[Argument<'a>],
        takes: &[bool],
        limit: Limit<'_>,
    ) -> Result<()> {
        let count = self.check(takes)?;
        let mut arguments = vec![Argument::Count(count as u64)];
        arguments.extend_from_slice(numbers);
        arguments.extend([self.gradient_sum, self.parameters].map(Argument::Words));
        let mut slots = self.state.iter();
        arguments.extend(takes.iter().map(|is_taken| match is_taken {
            true => slots.next().map_or(Argument::Absent, |slot| Argument::Words(*slot)),
            false => Argument::Absent,
        }));
        arguments.push(match limit {
            Some(limit) => Argument::Words(limit.part(0..1)),
            None => Argument::Absent,
        });
        // SAFETY: the functions below give each kernel its arguments, whose lengths were checked; whoever makes a shard
        // vouches that they are apart.
        unsafe { device.run(kernel, Grid::of_elements(count), &arguments) }
    }

    /// How many parameters there are. Errors if lengths differ, or slots from those that are taken.
    fn check(self, takes: &[bool]) -> Result<usize> {
        let count = self.parameters.len();
        check_length("the gradient", count, self.gradient_sum.len())?;
        let taken = takes.iter().filter(|is_taken| **is_taken).count();
        check_length("the slots of the optimizer's state", taken, self.state.len())?;
        self.state
            .iter()
            .try_for_each(|slot| check_length("the optimizer's state", count, slot.len()))?;
        Ok(count)
    }
}

/// `parameters` -= rate * scale * `gradient_sum`.
pub(crate) fn plain(device: &GpuContext, rate: f32, scale: GpuScale<'_>, shard: GpuShard<'_>) -> Result<()> {
    let numbers = [rate, scale.factor].map(Argument::Number);
    shard.run(device, "update_plain", &numbers, &[], scale.limit)
}

/// Moves running statistics, which are the parameters, towards `scale` times their sums.
pub(crate) fn statistics(device: &GpuContext, scale: f32, momentum: f32, shard: GpuShard<'_>) -> Result<()> {
    let count = shard.check(&[])?;
    let arguments = [
        Argument::Count(count as u64),
        Argument::Number(scale),
        Argument::Number(momentum),
        Argument::Words(shard.gradient_sum),
        Argument::Words(shard.parameters),
    ];
    // SAFETY: these are its arguments, with lengths that are checked; whoever makes a shard vouches that they are
    // apart.
    unsafe { device.run("update_statistics", Grid::of_elements(count), &arguments) }
}

/// `numbers` are those of the kernel, in order. There is a slot if `has_momentum`.
pub(crate) fn momentum(
    device: &GpuContext,
    numbers: [f32; 5],
    nesterov: bool,
    has_momentum: bool,
    limit: Limit<'_>,
    shard: GpuShard<'_>,
) -> Result<()> {
    let [rate, scale, decay, momentum, share] = numbers.map(Argument::Number);
    let numbers = [rate, scale, decay, momentum, share, Argument::Kind(nesterov.into())];
    shard.run(device, "update_momentum", &numbers, &[has_momentum], limit)
}

/// `numbers` are those of the kernel, in order. There is a third slot if it `takes_largest`.
pub(crate) fn adam(
    device: &GpuContext,
    numbers: [f32; 9],
    takes_largest: bool,
    limit: Limit<'_>,
    shard: GpuShard<'_>,
) -> Result<()> {
    let (numbers, takes) = (numbers.map(Argument::Number), [true, true, takes_largest]);
    shard.run(device, "update_adam", &numbers, &takes, limit)
}

/// `numbers` are those of the kernel, in order. There is a slot for means if it `is_centered`, and then one for steps
/// if it `has_momentum`.
pub(crate) fn rms_prop(
    device: &GpuContext,
    numbers: [f32; 7],
    (is_centered, has_momentum): (bool, bool),
    limit: Limit<'_>,
    shard: GpuShard<'_>,
) -> Result<()> {
    let (numbers, takes) = (numbers.map(Argument::Number), [true, is_centered, has_momentum]);
    shard.run(device, "update_rms_prop", &numbers, &takes, limit)
}

/// `numbers` are those of the kernel, in order.
pub(crate) fn adagrad(device: &GpuContext, numbers: [f32; 5], limit: Limit<'_>, shard: GpuShard<'_>) -> Result<()> {
    shard.run(device, "update_adagrad", &numbers.map(Argument::Number), &[true], limit)
}

/// Has the gradient be the direction that parameters are to move in. `numbers` are those of the kernel, in order.
pub(crate) fn lamb_direction(
    device: &GpuContext,
    numbers: [f32; 8],
    limit: Limit<'_>,
    shard: GpuShard<'_>,
) -> Result<()> {
    let numbers = numbers.map(Argument::Number);
    shard.run(device, "update_lamb_direction", &numbers, &[true, true], limit)
}

/// Moves parameters in the direction that the gradient is, by the rate times the root of the ratio of both totals:
/// those of the squares of parameters and of directions.
pub(crate) fn lamb(device: &GpuContext, rate: f32, totals: [GpuSlice<'_>; 2], shard: GpuShard<'_>) -> Result<()> {
    let count = shard.parameters.len();
    check_length("the gradient", count, shard.gradient_sum.len())?;
    for total in totals {
        check_length("the total", square_sum::TOTAL, total.len())?;
    }
    let arguments = [
        Argument::Count(count as u64),
        Argument::Number(rate),
        Argument::Words(shard.gradient_sum),
        Argument::Words(shard.parameters),
        Argument::Words(totals[0]),
        Argument::Words(totals[1]),
    ];
    // SAFETY: these are its arguments, with lengths that are checked; whoever makes a shard vouches that they are
    // apart.
    unsafe { device.run("update_lamb", Grid::of_elements(count), &arguments) }
}
