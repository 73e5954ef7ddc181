//! How the products of a convolution on a GPU are cut: into chunks of images, and of these into groups. It follows from
//! shapes and, below 8 GiB, from how much memory GPUs of its kind have; and so do the bits.

use std::ops::Range;

use crate::kernels::programs::ReductionSplit;

/// Elements of the columns and outputs of the images that are multiplied at once, where one image has no more: 256 MiB,
/// or this share of a GPU's memory.
const ELEMENTS_MAX: usize = 1 << 26;
const MEMORY_SHARE: u64 = 32;
/// Images at once, at most: as many products cuBLAS takes in one batch for sure.
const IMAGES_MAX: usize = (1 << 16) - 1;

/// Sides of the parts of a product that a GPU's processors take one by one, as a rule; and parts that give them enough
/// to do.
const TILE: usize = 64;
const TILES_ENOUGH: usize = 512;
/// Groups that images are summed in, at most; and pixels of each, at least.
const GROUPS_MAX: usize = 64;
const GROUP_PIXELS: usize = 256;

/// What a convolution multiplies: a matrix of channels x inputs, and for each image columns of inputs x pixels.
#[derive(Debug, Clone, Copy)]
pub(super) struct Products {
    pub(super) inputs: usize,
    pub(super) channels: usize,
    /// Of an image of outputs.
    pub(super) pixels: usize,
    /// Whether columns are for gradients alone, as a kernel computes outputs without them.
    pub(super) has_few_inputs: bool,
    /// Of GPUs of this kind.
    pub(super) memory_bytes: u64,
}

/// How the gradient by the filters is summed. It is a product of few rows and columns over very many pixels, of which a
/// GPU's processors could do little at a time: so each group of images has a product of its own, and these are added
/// up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Groups {
    /// Images of each, but the last of a chunk.
    pub(super) images: usize,
    /// Whether each is one image, whose pixels lie together as they are.
    pub(super) are_single: bool,
}

impl Groups {
    /// The groups of a chunk that have as many images as they may, and the images of the last if that has fewer.
    pub(super) fn of(self, images: usize) -> (usize, usize) {
        (images / self.images, images % self.images)
    }
}

impl Products {
    /// Images of `rows` that are multiplied at once.
    fn images(self, rows: usize) -> usize {
        let each = (self.inputs + self.channels) * self.pixels;
        (self.elements_max() / each).min(IMAGES_MAX).clamp(1, rows.max(1))
    }

    fn elements_max(self) -> usize {
        let share = self.memory_bytes / MEMORY_SHARE / size_of::<f32>() as u64;
        usize::try_from(share).map_or(ELEMENTS_MAX, |share| share.min(ELEMENTS_MAX))
    }

    /// All images, in chunks.
    pub(super) fn chunks(self, rows: usize) -> impl Iterator<Item = Range<usize>> {
        let step = self.images(rows);
        (0..rows).step_by(step).map(move |first| first..rows.min(first + step))
    }

    /// Elements of a chunk's columns and outputs.
    pub(super) fn scratch_for_chunk(self, rows: usize) -> usize {
        self.images(rows) * (self.inputs + self.channels) * self.pixels
    }

    /// How the gradient by the filters is summed over so many rows; `None` if that is one product for each chunk.
    pub(super) fn groups(self, rows: usize) -> Option<Groups> {
        if self.are_single() {
            return (rows > 1).then_some(Groups {
                images: 1,
                are_single: true,
            });
        }
        let images = rows.div_ceil(self.groups_max()).max(self.group_min());
        (self.groups_max() > 1 && images < self.images(rows)).then_some(Groups {
            images,
            are_single: false,
        })
    }

    /// Whether each image is a group: its product is no larger than its outputs, which would be written channel by
    /// channel.
    fn are_single(self) -> bool {
        self.has_few_inputs && self.inputs <= self.pixels
    }

    /// Images of a group that is not a single one, at least.
    fn group_min(self) -> usize {
        GROUP_PIXELS.div_ceil(self.pixels)
    }

    /// Groups that are not single images, at most, before chunks cut them.
    fn groups_max(self) -> usize {
        let tiles = self.channels.div_ceil(TILE) * self.inputs.div_ceil(TILE);
        (TILES_ENOUGH / tiles).clamp(1, GROUPS_MAX)
    }

    /// Elements for the products of the groups of up to so many rows, and for sums over those.
    pub(super) fn scratch_for_groups(self, rows: usize) -> [usize; 2] {
        let count = match self.groups_max() {
            _ if self.are_single() => rows,
            1 => 0,
            _ if self.images(rows) <= self.group_min() => 0,
            // Fewer rows may be in groups where more are in none: where a chunk is more than a group, there are at most
            // as many chunks as groups, each of which has at most one group that is not whole.
            groups => rows.min(2 * groups),
        };
        let length = self.channels * self.inputs;
        [count * length, ReductionSplit::scratch_of_columns(count, length)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shapes() -> impl Iterator<Item = Products> {
        let inputs = [1, 9, 25, 27, 32, 36, 147, 576, 4608];
        let pixels = [1, 2, 16, 64, 576, 1024, 12_544, 50_176];
        let sides = inputs
            .into_iter()
            .flat_map(move |inputs| pixels.map(|pixels| (inputs, pixels)));
        let all = sides.flat_map(|(inputs, pixels)| [1, 3, 20, 64, 512].map(|channels| [inputs, channels, pixels]));
        all.flat_map(|sides| [141 << 30, 2 << 30].map(|memory_bytes| products(sides, memory_bytes)))
    }

    fn products([inputs, channels, pixels]: [usize; 3], memory_bytes: u64) -> Products {
        Products {
            inputs,
            channels,
            pixels,
            has_few_inputs: inputs <= 32,
            memory_bytes,
        }
    }

    fn rows() -> impl Iterator<Item = usize> {
        (0..140).chain([256, 511, 600, 1000, 1024, 4096, 7000, 70_000])
    }

    #[test]
    fn chunks_have_all_images_and_their_groups_fit_their_scratch() {
        let (mut in_groups, mut of_less, mut in_several) = (0, 0, 0);
        for products in shapes() {
            let mut before = [0; 2];
            for rows in rows() {
                let (mut next, mut count) = (0, 0);
                let groups = products.groups(rows);
                for chunk in products.chunks(rows) {
                    assert_eq!(chunk.start, next);
                    let length = (products.inputs + products.channels) * products.pixels;
                    assert!(chunk.len() * length <= products.scratch_for_chunk(rows));
                    assert!(chunk.len() * length <= products.elements_max() || chunk.len() == 1);
                    next = chunk.end;
                    let Some(groups) = groups else { continue };
                    let (whole, left) = groups.of(chunk.len());
                    assert_eq!(whole * groups.images + left, chunk.len());
                    assert!(!groups.are_single || left == 0);
                    count += whole + usize::from(left > 0);
                    of_less += usize::from(whole == 0);
                    in_several += usize::from(chunk.start > 0);
                }
                assert_eq!(next, rows);
                in_groups += usize::from(groups.is_some());
                let scratch = products.scratch_for_groups(rows);
                let length = products.channels * products.inputs;
                assert!(
                    count * length <= scratch[0],
                    "{products:?}, {rows} rows: {count} groups"
                );
                assert!(ReductionSplit::scratch_of_columns(count, length) <= scratch[1]);
                // What is enough for more rows is enough for fewer.
                assert!(
                    before[0] <= scratch[0] && before[1] <= scratch[1],
                    "{products:?}, {rows} rows"
                );
                before = scratch;
            }
        }
        assert!(in_groups > 1000 && of_less > 10 && in_several > 1000);
    }

    #[test]
    fn few_tiles_are_cut_and_many_are_not() {
        let products = |inputs, channels, pixels| products([inputs, channels, pixels], 8 << 30);
        assert_eq!(products(1, 1, 1).elements_max(), 1 << 26);
        assert_eq!(self::products([1, 1, 1], 2 << 30).elements_max(), 1 << 24);
        let groups = |images, are_single| Some(Groups { images, are_single });
        // LeNet's.
        assert_eq!(products(25, 20, 576).groups(128), groups(1, true));
        assert_eq!(products(500, 50, 64).groups(128), groups(4, false));
        assert_eq!(products(500, 50, 64).groups(1024), groups(16, false));
        assert_eq!(products(4608, 512, 64).groups(1024), None);
        // A chunk is one image.
        assert_eq!(products(4096, 256, 16_384).groups(256), None);
        assert_eq!(products(4096, 256, 16_384).scratch_for_groups(256), [0, 0]);
        // Few inputs, and fewer pixels.
        assert_eq!(products(27, 64, 16).groups(128), groups(16, false));
    }

    #[test]
    fn chunks_are_those_that_trainings_are_tested_with() {
        let lengths = |sides, memory_bytes, rows| {
            let chunks = products(sides, memory_bytes).chunks(rows);
            chunks.map(|chunk| chunk.len()).collect::<Vec<_>>()
        };
        // dl/tests/on_gpu/training.rs, on GPUs of 128 MiB.
        assert_eq!(lengths([64, 1, 625], 128 << 20, 76), [25, 25, 25, 1]);
        assert_eq!(lengths([576, 1, 1089], 128 << 20, 3), [1, 1, 1]);
        assert_eq!(products([576, 1, 1089], 128 << 20).groups(3), None);
        // As many as cuBLAS takes in one batch.
        assert_eq!(lengths([1, 1, 1], 141 << 30, 70_000), [65_535, 4465]);
    }
}
