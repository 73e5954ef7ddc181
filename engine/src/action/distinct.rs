//! How many different records there are, to within a known error: HyperLogLog.
//!
//! The registers are those of Flajolet and others (2007) over 64 bits of hash; the estimate is the improved one of Ertl
//! (2017, algorithm 6), which needs no table of corrections at any number of records.

use crate::batch::typed_batches;
use crate::dataset::Dataset;
use crate::error::{EngineError, Result};
use crate::partitioner::{Key, hasher};
use std::hash::BuildHasher;

/// Numbers of bits that choose a register. The relative standard deviation is about `1.04 / 2^(bits / 2)`.
const BITS: std::ops::RangeInclusive<u32> = 4..=18;

impl<T: Key> Dataset<T> {
    /// About how many different records there are: the answer's relative standard deviation is at most
    /// `relative_deviation`. A pass without a shuffle; a partition sends `1.08 / relative_deviation^2` bytes or twice
    /// that. Equal datasets have equal answers.
    ///
    /// # Errors
    /// If `relative_deviation` is not between 0.0021 and 0.26; otherwise as any action.
    pub fn count_approx_distinct(&self, relative_deviation: f64) -> Result<u64> {
        let bits = BITS.into_iter().find(|bits| deviation(*bits) <= relative_deviation);
        let Some(bits) = bits.filter(|_| relative_deviation <= 0.26) else {
            return Err(EngineError::invalid(
                format!("`count_approx_distinct` to within {relative_deviation}"),
                "ask for a relative deviation between 0.0021 and 0.26, or use `distinct` and `count`",
            ));
        };
        let sketches = self.run_all(move |_, _, stream| {
            let mut registers = vec![0u8; 1 << bits];
            for batch in typed_batches::<T>(stream) {
                for record in batch?.as_slice() {
                    observe(&mut registers, bits, spread(hasher().hash_one(record)));
                }
            }
            Ok(registers)
        })?;
        let mut all = vec![0u8; 1 << bits];
        for sketch in sketches {
            all.iter_mut()
                .zip(sketch)
                .for_each(|(most, one)| *most = one.max(*most));
        }
        Ok(estimate(&all, bits).round() as u64)
    }
}

fn deviation(bits: u32) -> f64 {
    1.04 / f64::from(1u32 << bits).sqrt()
}

/// Makes every bit of a hash depend on all others (the finisher of SplitMix64).
fn spread(hash: u64) -> u64 {
    let hash = (hash ^ (hash >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let hash = (hash ^ (hash >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    hash ^ (hash >> 31)
}

/// The first bits choose a register, which keeps the longest run of zeros that the others begin with, plus one.
fn observe(registers: &mut [u8], bits: u32, hash: u64) {
    let register = (hash >> (64 - bits)) as usize;
    let rest = (hash << bits) | (1 << (bits - 1));
    registers[register] = registers[register].max(rest.leading_zeros() as u8 + 1);
}

fn estimate(registers: &[u8], bits: u32) -> f64 {
    let mut counts = vec![0u32; 64 - bits as usize + 2];
    registers.iter().for_each(|longest| counts[usize::from(*longest)] += 1);
    let size = registers.len() as f64;
    let share = |count: u32| f64::from(count) / size;
    let last = counts.len() - 1;
    let mut sum = size * tau(1.0 - share(counts[last]));
    for count in counts[1..last].iter().rev() {
        sum = 0.5 * (sum + f64::from(*count));
    }
    sum += size * sigma(share(counts[0]));
    size * size / (2.0 * std::f64::consts::LN_2 * sum)
}

/// x + the sum of x^(2^k) 2^(k - 1) over k from 1.
fn sigma(x: f64) -> f64 {
    if x >= 1.0 {
        return f64::INFINITY;
    }
    let (mut power, mut weight, mut sum) = (x, 1.0, x);
    loop {
        power *= power;
        let next = sum + power * weight;
        weight += weight;
        if next == sum {
            return sum;
        }
        sum = next;
    }
}

/// A third of 1 - x - the sum of (1 - x^(2^-k))^2 2^-k over k from 1.
fn tau(x: f64) -> f64 {
    if x <= 0.0 || x >= 1.0 {
        return 0.0;
    }
    let (mut root, mut weight, mut sum) = (x, 1.0, 1.0 - x);
    loop {
        root = root.sqrt();
        weight *= 0.5;
        let next = sum - (1.0 - root) * (1.0 - root) * weight;
        if next == sum {
            return sum / 3.0;
        }
        sum = next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Hashes that are as good as random, without repetition: SplitMix64 is a bijection.
    fn sketch(records: u64, bits: u32) -> f64 {
        let mut registers = vec![0; 1 << bits];
        for record in 0..records {
            let hash = spread(record.wrapping_mul(0x9E37_79B9_7F4A_7C15));
            observe(&mut registers, bits, hash);
        }
        estimate(&registers, bits)
    }

    #[test]
    fn estimates_are_within_five_deviations_at_any_size() {
        for bits in [4, 7, 10, 12] {
            for records in [1, 2, 5, 10, 100, 1000, 3000, 10_000, 30_000, 100_000] {
                let error = (sketch(records, bits) / records as f64 - 1.0).abs();
                assert!(error < 5.0 * deviation(bits), "{bits} bits, {records} records: {error}");
            }
        }
    }

    #[test]
    fn nothing_is_nothing_and_full_registers_are_no_error() {
        assert_eq!(sketch(0, 8), 0.0);
        assert!(estimate(&[61; 16], 4).is_infinite());
    }

    #[test]
    fn a_register_keeps_the_place_of_the_first_one() {
        let mut registers = vec![0; 16];
        observe(&mut registers, 4, 3 << 60);
        observe(&mut registers, 4, 5 << 60 | 1 << 57);
        observe(&mut registers, 4, 5 << 60 | 1 << 50);
        assert_eq!((registers[3], registers[5]), (61, 10));
    }
}
