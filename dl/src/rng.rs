//! Random numbers as a function of logical ids: the n-th number of a stream can be had without the ones before it.

use std::f64::consts::TAU;

use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};

/// What a stream of random numbers is for; streams of different purposes never meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Purpose {
    /// Initial values of parameters, keyed by layer and tensor.
    InitialValues = 1,
    /// The order of samples, keyed by epoch and lane.
    SampleOrder = 2,
    /// Which units a dropout layer leaves out, keyed by step and by lane and layer.
    Dropout = 3,
    /// How pictures are changed, keyed by step and lane.
    Augmentation = 4,
    /// Which part of a split a sample goes to, keyed by partition.
    Split = 5,
    /// Which partition a sample is dealt to, keyed by the one that it comes from.
    Dealing = 6,
    /// What a layer of one's own draws, keyed by step and by lane and layer ([`Draw::stream`](crate::Draw::stream)).
    OwnLayer = 7,
}

/// A stream of random numbers: ChaCha with 8 rounds, keyed by (seed, purpose, two ids).
#[derive(Clone, Debug)]
pub struct Stream(ChaCha8Rng);

impl Stream {
    /// The stream of `seed`, `purpose` and `ids`, from its beginning.
    pub fn new(seed: u64, purpose: Purpose, ids: [u64; 2]) -> Self {
        let mut key = [0; 32];
        for (part, word) in key.chunks_exact_mut(8).zip([seed, purpose as u64, ids[0], ids[1]]) {
            part.copy_from_slice(&word.to_le_bytes());
        }
        Stream(ChaCha8Rng::from_seed(key))
    }

    /// Moves to the `index`-th 32-bit word of the stream.
    pub fn seek(&mut self, index: u64) {
        self.0.set_word_pos(u128::from(index));
    }

    /// The next number in [-1, 1), a multiple of 2^-23; takes one word.
    pub fn next_symmetric(&mut self) -> f32 {
        (self.0.next_u32() >> 8) as f32 * (1.0 / 8_388_608.0) - 1.0
    }

    /// The next number in [0, 1), a multiple of 2^-53; takes two words.
    pub fn next_unit(&mut self) -> f64 {
        (self.0.next_u64() >> 11) as f64 * (1.0 / 9_007_199_254_740_992.0)
    }

    /// The next number of the normal distribution N(0, 1); takes four words. sqrt(-2 ln u) cos(2 pi v) for u in (0, 1]
    /// and v in [0, 1): Box and Muller, "A note on the generation of random normal deviates", 1958.
    pub fn next_normal(&mut self) -> f64 {
        let (u, v) = (1.0 - self.next_unit(), self.next_unit());
        // libm's, since those of the C library have other bits on other machines.
        (-2.0 * libm::log(u)).sqrt() * libm::cos(TAU * v)
    }

    /// Whether something of this probability happens, in steps of 2^-32; takes one word.
    pub fn next_chance(&mut self, probability: f64) -> bool {
        f64::from(self.0.next_u32()) < probability * 4_294_967_296.0
    }

    /// The next number below `bound`; takes two words. The bias of scaling instead of rejecting is below `bound` /
    /// 2^64.
    pub fn next_below(&mut self, bound: u32) -> u32 {
        ((u128::from(self.0.next_u64()) * u128::from(bound)) >> 64) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_depends_only_on_its_position() {
        let mut walked = Stream::new(7, Purpose::InitialValues, [3, 1]);
        let all: Vec<f32> = (0..100).map(|_| walked.next_symmetric()).collect();
        for index in [99, 0, 57, 16] {
            walked.seek(index);
            assert_eq!(walked.next_symmetric(), all[index as usize]);
        }
    }

    #[test]
    fn every_part_of_the_key_matters() {
        let first = |seed, purpose, ids| Stream::new(seed, purpose, ids).next_below(u32::MAX);
        let base = first(1, Purpose::InitialValues, [2, 3]);
        assert_eq!(base, first(1, Purpose::InitialValues, [2, 3]));
        assert_ne!(base, first(2, Purpose::InitialValues, [2, 3]));
        assert_ne!(base, first(1, Purpose::SampleOrder, [2, 3]));
        assert_ne!(base, first(1, Purpose::InitialValues, [3, 3]));
        assert_ne!(base, first(1, Purpose::InitialValues, [2, 4]));
    }
}
