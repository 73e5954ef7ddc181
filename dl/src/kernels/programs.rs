//! The same kernels for GPUs, in CUDA C++: a program for each folder that has a `cuda.cu`.
//!
//! They are in `f32`. A kernel without sums gives the bits of its counterpart on the CPU, except where that takes a
//! logarithm or the error function from a library. Sums are in an order that shapes fix, most in another than the
//! CPU's; those of squares are exact, and the same. Their arguments are described where they stand; products of
//! matrices are cuBLAS's.

#[cfg(feature = "gpu")]
mod loaded;

#[cfg(feature = "gpu")]
mod gpu_context;

#[cfg(feature = "gpu")]
pub use self::gpu_context::GpuContext;
#[cfg(feature = "gpu")]
pub(crate) use self::gpu_context::{GpuCounts, in_words};
#[cfg(feature = "gpu")]
pub use self::loaded::Kernels;

/// Threads of a block at most: what a program's shared memory is made for.
const THREADS_MAX: usize = 256;
/// Threads of a block at least: those that a GPU runs together.
const THREADS_MIN: usize = 32;
/// Threads that go together and read neighbours, as columns that one block of `column_sums` sums.
const LINE: usize = 32;
/// Rows of a part of a sum of columns, at least: sixteen for each of a block's threads.
const COLUMN_ROWS: usize = 128;
/// Elements of a part of a sum of a channel, at least if it has more rows: 32 for each of a block's threads.
const CHANNEL_ELEMENTS: usize = 8192;
/// Parts that a sum over rows is cut into, at most; one more block makes one of them.
const PARTS_MAX: usize = 128;
/// Blocks that give a GPU enough to do: no sum is cut where there are as many without.
const BLOCKS_ENOUGH: usize = 512;
/// Elements of which one block of `sums_of_pieces` makes one.
const PIECE: usize = 8192;
/// Blocks at most; each then does the work of several.
const BLOCKS_MAX: usize = 1 << 16;

/// The source of a program for GPUs.
#[derive(Debug, Clone, Copy)]
pub struct KernelSource {
    /// Its folder.
    pub name: &'static str,
    /// Its text, with all that it needs.
    pub text: &'static str,
    /// Its entry points.
    pub kernels: &'static [&'static str],
}

macro_rules! programs {
    ($($name:literal: $($kernel:literal)*;)*) => {
        &[$(KernelSource {
            name: $name,
            text: concat!(include_str!("prelude.cuh"), include_str!(concat!($name, "/cuda.cu"))),
            kernels: &[$($kernel),*],
        }),*]
    };
}

/// All of them.
pub const PROGRAMS: &[KernelSource] = programs! {
    "activation": "activation_apply" "activation_rows" "activation_channels" "activation_from_channels" "activation_backward" "activation_backward_columns" "activation_backward_channels" "softmax_rows" "softmax_rows_backward";
    "augment": "augment";
    "batch_norm": "batch_norm_squares" "batch_norm_running" "batch_norm_forward" "batch_norm_along" "batch_norm_backward";
    "dropout": "dropout";
    "element_loss": "element_loss" "element_loss_labels";
    "embedding": "embedding_forward" "embedding_backward";
    "gather": "gather_bytes" "gather_values";
    "gelu": "gelu_forward" "gelu_backward";
    "lane_limit": "lane_limit_squares" "lane_limit" "lane_limit_scale";
    "layer_norm": "layer_norm_moments" "layer_norm_forward" "layer_norm_along" "layer_norm_backward";
    "mask": "mask";
    "softmax_cross_entropy": "softmax_cross_entropy" "weighted_cross_entropy";
    "square_sum": "square_sum_parts" "square_sum" "norm_limit";
    "sums": "add" "column_sums" "channel_sums" "sums_of_pieces";
    "update": "update_plain" "update_statistics" "update_momentum" "update_adam" "update_rms_prop" "update_adagrad" "update_lamb_direction" "update_lamb";
    "windows": "to_columns" "from_columns" "to_channels" "convolve" "pool_largest" "pool_largest_backward_apart" "pool_largest_backward" "pool_mean" "pool_mean_backward";
};

/// How many blocks of how many threads run a kernel. The order of its sums follows from it, and it from shapes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grid {
    /// Blocks.
    pub blocks: u32,
    /// Threads of each, a power of two.
    pub threads: u32,
}

impl Grid {
    /// For a kernel that treats each of `count` elements by itself.
    pub fn of_elements(count: usize) -> Self {
        Self::new(count.div_ceil(THREADS_MAX), THREADS_MAX)
    }

    /// For a kernel in which a block takes a row (or a channel) of `length` elements at a time, as one that sums does.
    pub fn of_rows(rows: usize, length: usize) -> Self {
        let threads = length.min(THREADS_MAX).next_power_of_two();
        Self::new(rows, threads.max(THREADS_MIN))
    }

    /// For a kernel in which threads that go together take a short line of neighbours at a time.
    pub fn of_lines(lines: usize) -> Self {
        Self::new(lines.div_ceil(THREADS_MAX / LINE), THREADS_MAX)
    }

    /// For a kernel that sums over the rows of each part for each of `columns` columns. All of its blocks run, so that
    /// there are parts and columns for at most 2^31 of them.
    pub fn of_columns(columns: usize, parts: ReductionSplit) -> Self {
        Self {
            blocks: u32::try_from(parts.count * columns.div_ceil(LINE)).unwrap_or(u32::MAX),
            threads: THREADS_MAX as u32,
        }
    }

    /// For a kernel that sums over the rows of each part for each of `channels` channels of so many positions.
    pub fn of_channels(channels: usize, positions: usize, parts: ReductionSplit) -> Self {
        Self::of_rows(parts.count * channels, parts.rows * positions)
    }

    /// For a kernel that makes one element of each piece of rows of `count`, and how many pieces a row has.
    pub fn of_pieces(rows: usize, count: usize) -> (Self, usize) {
        let pieces = count.div_ceil(PIECE);
        (Self::new(rows * pieces, THREADS_MAX), pieces)
    }

    /// For the kernel that makes a part of an exact sum of squares in each block.
    pub fn of_squares(count: usize) -> Self {
        Self::new(count.div_ceil(PIECE).min(BLOCKS_ENOUGH), THREADS_MAX)
    }

    /// For a kernel that is one block.
    pub fn of_one_block() -> Self {
        Self::new(1, THREADS_MAX)
    }

    fn new(blocks: usize, threads: usize) -> Self {
        Self {
            blocks: blocks.min(BLOCKS_MAX) as u32,
            threads: threads as u32,
        }
    }
}

/// How sums over many rows are cut, so that more blocks have something to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReductionSplit {
    /// Rows of each but the last, which may have fewer.
    pub rows: usize,
    /// How many they are; 1 for no rows.
    pub count: usize,
}

impl ReductionSplit {
    /// For the sums of so many columns over `rows` rows.
    pub fn of_columns(rows: usize, columns: usize) -> Self {
        ReductionLimits::of_columns(columns).parts(rows)
    }

    /// For the sums of so many channels over `rows` rows of so many positions each.
    pub fn of_channels(rows: usize, channels: usize, positions: usize) -> Self {
        ReductionLimits::of_channels(channels, positions).parts(rows)
    }

    /// Elements that the sums of so many columns over up to `rows_max` rows need as scratch.
    pub fn scratch_of_columns(rows_max: usize, columns: usize) -> usize {
        ReductionLimits::of_columns(columns).scratch_length(rows_max, columns)
    }

    /// Elements that the sums of so many channels over up to `rows_max` rows need as scratch.
    pub fn scratch_of_channels(rows_max: usize, channels: usize, positions: usize) -> usize {
        ReductionLimits::of_channels(channels, positions).scratch_length(rows_max, channels)
    }
}

/// How fine sums are cut.
struct ReductionLimits {
    rows_min: usize,
    parts_max: usize,
}

impl ReductionLimits {
    fn of_columns(columns: usize) -> Self {
        Self::new(COLUMN_ROWS, columns.div_ceil(LINE))
    }

    fn of_channels(channels: usize, positions: usize) -> Self {
        Self::new(CHANNEL_ELEMENTS / positions.max(1), channels)
    }

    /// `blocks`: those of a part.
    fn new(rows_min: usize, blocks: usize) -> Self {
        Self {
            rows_min: rows_min.max(1),
            parts_max: (BLOCKS_ENOUGH / blocks.max(1)).clamp(1, PARTS_MAX),
        }
    }

    fn parts(&self, rows: usize) -> ReductionSplit {
        let each = self.rows_min.max(rows.div_ceil(self.parts_max)).min(rows.max(1));
        ReductionSplit {
            rows: each,
            count: rows.div_ceil(each).max(1),
        }
    }

    /// Fewer rows never need more.
    fn scratch_length(&self, rows_max: usize, sums: usize) -> usize {
        match rows_max.div_ceil(self.rows_min).min(self.parts_max) {
            0 | 1 => 0,
            count => count * sums,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_entry_point_is_listed_once_and_under_its_program() {
        let mut names = Vec::new();
        for program in PROGRAMS {
            let entries = program.text.split("extern \"C\" __global__ void ").skip(1);
            let entries: Vec<&str> = entries.filter_map(|entry| Some(entry.split_once('(')?.0)).collect();
            assert_eq!(entries, program.kernels, "{}", program.name);
            names.extend(entries);
        }
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }

    #[test]
    fn the_numbers_of_the_programs_are_those_of_the_grids() {
        let sums = PROGRAMS
            .iter()
            .find(|program| program.name == "sums")
            .map(|sums| sums.text);
        for line in [
            format!("const u32 THREADS_MAX = {THREADS_MAX};"),
            format!("const u32 LINE = {LINE};"),
            format!("const u64 PIECE = {PIECE};"),
        ] {
            assert!(sums.is_some_and(|text| text.contains(&line)), "{line}");
        }
    }

    #[test]
    fn grids_follow_from_shapes_and_have_limits() {
        let grid = |blocks, threads| Grid { blocks, threads };
        assert_eq!(Grid::of_elements(0), grid(0, 256));
        assert_eq!(Grid::of_elements(257), grid(2, 256));
        assert_eq!(Grid::of_elements(usize::MAX), grid(1 << 16, 256));
        assert_eq!(Grid::of_rows(3, 10), grid(3, 32));
        assert_eq!(Grid::of_rows(3, 33), grid(3, 64));
        assert_eq!(Grid::of_rows(3, usize::MAX), grid(3, 256));
        assert_eq!(Grid::of_lines(9), grid(2, 256));
        assert_eq!(Grid::of_columns(33, ReductionSplit::of_columns(129, 33)), grid(4, 256));
        assert_eq!(
            Grid::of_channels(3, 2, ReductionSplit::of_channels(9, 3, 2)),
            grid(3, 32)
        );
        assert_eq!(Grid::of_pieces(3, 8193), (grid(6, 256), 2));
        assert_eq!(Grid::of_squares(8193), grid(2, 256));
        assert_eq!(Grid::of_squares(usize::MAX), grid(512, 256));
    }

    #[test]
    fn splits_cover_all_rows_and_fit_their_scratch() {
        let parts = |rows, count| ReductionSplit { rows, count };
        assert_eq!(ReductionSplit::of_columns(0, 3), parts(1, 1));
        assert_eq!(ReductionSplit::of_columns(128, 3), parts(128, 1));
        assert_eq!(ReductionSplit::of_columns(129, 3), parts(128, 2));
        assert_eq!(ReductionSplit::of_columns(128 * 128 + 1, 3), parts(129, 128));
        assert_eq!(ReductionSplit::of_columns(1024, 4096), parts(256, 4));
        assert_eq!(ReductionSplit::of_columns(1024, 1 << 20), parts(1024, 1));
        assert_eq!(ReductionSplit::of_channels(1024, 6, 576), parts(14, 74));
        assert_eq!(ReductionSplit::of_channels(129, 3, 50_000), parts(2, 65));
        for positions in [1, 10, 576, 50_000] {
            let mut scratch_before = 0;
            for rows in (0..2000).chain([8191, 8192, 8193, 1 << 20, (1 << 20) + 1]) {
                let (parts, scratch) = (
                    ReductionSplit::of_channels(rows, 3, positions),
                    ReductionSplit::scratch_of_channels(rows, 3, positions),
                );
                assert!((parts.count - 1) * parts.rows < rows.max(1) && rows <= parts.count * parts.rows);
                assert!(parts.count == 1 || 3 * parts.count <= scratch, "{rows} x {positions}");
                assert!(scratch_before <= scratch);
                scratch_before = scratch;
            }
        }
    }
}
