//! Blocks of parameters in arrays of fixed length, so that every rule is vectorised.
#![allow(unsafe_code)] // the dispatch macro calls functions that need CPU features

use distdl_engine::SlotValues;
use distdl_engine::parameters::STATE_SLOTS_MAX;

use super::Rule;

const BLOCK: usize = 64;

dispatched! {
    pub(super) fn update<R: Rule>(
        rule: R,
        gradient_sum: &[f32],
        before: &[f32],
        after: &mut [f32],
        state: &mut [SlotValues<'_>],
    ) {
        for start in (0..after.len()).step_by(BLOCK) {
            let range = start..after.len().min(start + BLOCK);
            let sums = block(&gradient_sum[range.clone()]);
            let mut values = block(&before[range.clone()]);
            let mut slots = [[0.0; BLOCK]; STATE_SLOTS_MAX];
            for (slot, values) in slots.iter_mut().zip(state.iter()) {
                *slot = block(&values.before[range.clone()]);
            }
            for (index, (value, sum)) in values.iter_mut().zip(sums).enumerate() {
                let (after, kept) = rule.element(sum, *value, std::array::from_fn(|slot| slots[slot][index]));
                *value = after;
                slots.iter_mut().zip(kept).for_each(|(slot, kept)| slot[index] = kept);
            }
            write(&mut after[range.clone()], &values);
            for (slot, values) in slots.iter().zip(state.iter_mut()) {
                write(&mut values.after[range.clone()], slot);
            }
        }
    }
}

/// The values, and zeros behind them. A whole block is copied as such: a copy of any length is a call, and what it has
/// just written is read again too early.
#[inline(always)]
fn block(values: &[f32]) -> [f32; BLOCK] {
    if let Some(whole) = values.first_chunk() {
        return *whole;
    }
    let mut block = [0.0; BLOCK];
    block[..values.len()].copy_from_slice(values);
    block
}

/// The first values of a block, as many as there is room for.
#[inline(always)]
fn write(into: &mut [f32], block: &[f32; BLOCK]) {
    match into.first_chunk_mut() {
        Some(whole) => *whole = *block,
        None => into.copy_from_slice(&block[..into.len()]),
    }
}

#[cfg(test)]
mod tests {
    use super::super::StateValues;
    use super::*;
    use crate::kernels::Level;

    /// Something with all operations that optimizers use.
    #[derive(Clone, Copy)]
    struct Odd;

    impl Rule for Odd {
        #[inline(always)]
        fn element(self, sum: f32, before: f32, [a, b, ..]: StateValues) -> (f32, StateValues) {
            let (a, b) = (a * 0.9 + sum, b + sum * sum * 0.3);
            (before - 0.013 * a / (b.sqrt() + 1e-8), [a, b, 0.0, 0.0])
        }
    }

    #[test]
    fn all_levels_give_the_same_bits() {
        let numbers = |factor: f32| (0..131).map(|index| index as f32 * factor - 7.0).collect::<Vec<f32>>();
        let run = |level| {
            let (gradient, before) = (numbers(0.317), numbers(0.731));
            let states = [numbers(0.1), numbers(0.9).iter().map(|value| value.abs()).collect()];
            let mut after = vec![vec![f32::NAN; 131]; 3];
            let [parameters, first, second] = &mut after[..] else {
                unreachable!()
            };
            let slots = states.iter().zip([first, second]);
            let mut slots: Vec<_> = slots.map(|(before, after)| SlotValues { before, after }).collect();
            update(level, Odd, &gradient, &before, parameters, &mut slots);
            let bits = after.iter().flatten().map(|value| value.to_bits());
            bits.collect::<Vec<_>>()
        };
        for level in Level::available() {
            assert_eq!(run(level), run(Level::PORTABLE), "{level:?}");
        }
    }
}
