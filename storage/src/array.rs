//! Arrays of numbers in files: IDX, as MNIST has it, and NumPy's npy, alone or in an npz archive.
//!
//! A record is what one index of the outermost side selects, its elements in row-major order. A header says where each
//! of them lies, so a file is cut between any two; only a compressed one is read from its start by one partition.

mod element;

mod header;

mod extent;

mod idx;

mod npy;

mod npz;

mod format;

mod rows;

mod write;

pub use self::element::{Element, ElementKind};
pub use self::extent::ArrayExtent;
pub use self::format::ArrayFormat;
pub use self::header::{ArrayHeader, ROW_BYTES_MAX};
pub use self::rows::{Array, ArraySplit, RowReader, read_array, read_rows, split_arrays};
pub use self::write::NpyWriter;

#[cfg(test)]
mod tests;
