//! Who runs kernels.

use bytemuck::Pod;
use distdl_dl::kernels::programs::Grid;

/// What a kernel is given: memory of the host, which the runner takes to where the kernel runs and back.
pub(crate) enum Argument<'a> {
    Read(&'a [u8]),
    Change(&'a mut [u8]),
    Absent,
    Kind(u32),
    Count(u64),
    Number(f32),
    Wide(f64),
}

pub(crate) trait Runner: Sync {
    /// What failures call it.
    fn name(&self) -> &str;

    /// Runs a kernel to its end.
    fn run(&self, kernel: &str, grid: Grid, arguments: &mut [Argument<'_>]);
}

pub(crate) fn read<T: Pod>(values: &[T]) -> Argument<'_> {
    Argument::Read(bytemuck::cast_slice(values))
}

pub(crate) fn change<T: Pod>(values: &mut [T]) -> Argument<'_> {
    Argument::Change(bytemuck::cast_slice_mut(values))
}

pub(crate) fn count<'a>(count: usize) -> Argument<'a> {
    Argument::Count(count as u64)
}

pub(crate) fn number(number: f32) -> Argument<'static> {
    Argument::Number(number)
}

pub(crate) fn wide(number: f64) -> Argument<'static> {
    Argument::Wide(number)
}

pub(crate) fn kind(kind: u32) -> Argument<'static> {
    Argument::Kind(kind)
}
