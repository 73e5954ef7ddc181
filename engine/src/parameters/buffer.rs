//! Numbers that many threads write, each its own range, while others read them elsewhere.
#![allow(unsafe_code)] // what is written behind a shared reference is kept apart by the book, not by the compiler

use std::cell::UnsafeCell;
use std::ops::Range;

/// The parameters of one version, or their state: slot after slot, each as long as the parameters.
pub(super) struct Buffer(Box<[UnsafeCell<f32>]>);

// SAFETY: the values are reached only through guards, and `Book` sees to it, under a lock, that while a range is
// written through one guard no other guard gives access to it.
unsafe impl Sync for Buffer {}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Buffer of {} values", self.0.len())
    }
}

impl Buffer {
    pub(super) fn new(values: Vec<f32>) -> Self {
        Self(values.into_iter().map(UnsafeCell::new).collect())
    }

    /// Values of a range.
    ///
    /// # Safety
    /// For the lifetime asked for, nobody may write to the range.
    pub(super) unsafe fn read(&self, range: Range<usize>) -> &[f32] {
        let cells = &self.0[range];
        // SAFETY: `UnsafeCell<f32>` lies in memory as `f32`; the range is in bounds; nobody writes to it, says the
        // caller.
        unsafe { std::slice::from_raw_parts(cells.as_ptr().cast(), cells.len()) }
    }

    /// Values of a range, to be written.
    ///
    /// # Safety
    /// For the lifetime asked for, nobody else may read or write the range.
    #[expect(
        clippy::mut_from_ref,
        reason = "that nobody else has the range is the caller's promise"
    )]
    pub(super) unsafe fn write(&self, range: Range<usize>) -> &mut [f32] {
        let cells = &self.0[range];
        // SAFETY: the cells may be changed behind `&self`; the range is in bounds and the caller's alone.
        unsafe { std::slice::from_raw_parts_mut(UnsafeCell::raw_get(cells.as_ptr()), cells.len()) }
    }
}
