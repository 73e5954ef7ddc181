//! One step of an optimizer: the same rule for every parameter, whatever its neighbours are.

mod cpu;

#[cfg(feature = "gpu")]
pub(crate) mod cuda;

use distdl_engine::parameters::STATE_SLOTS_MAX;
use distdl_engine::{ShardBefore, ShardValues, SlotValues};

use super::Level;
use crate::error::{Result, check_length};

/// What an optimizer keeps for one parameter; only as many of them as it has slots are kept.
pub type StateValues = [f32; STATE_SLOTS_MAX];

/// How one parameter changes.
pub trait Rule: Copy {
    /// Gives the parameter and its state after the step, from the sum of its gradient over samples and from the
    /// parameter and its state before.
    fn element(self, gradient_sum: f32, before: f32, state: StateValues) -> (f32, StateValues);
}

/// Makes `shard.after`, and each of the `slots` slots of its state, by `rule`. Errors if lengths or slots differ.
pub fn update<R: Rule>(rule: R, slots: usize, gradient_sum: &[f32], shard: &mut ShardValues<'_>) -> Result<()> {
    let length = shard.after.len();
    check_length("the gradient", length, gradient_sum.len())?;
    check_length("the parameters before the step", length, shard.before.len())?;
    check_length("the slots of the optimizer's state", slots, shard.state.len())?;
    for slot in shard.state.iter() {
        check_length("the optimizer's state before the step", length, slot.before.len())?;
        check_length("the optimizer's state after the step", length, slot.after.len())?;
    }
    cpu::update(
        Level::best(),
        rule,
        gradient_sum,
        shard.before,
        shard.after,
        &mut shard.state,
    );
    Ok(())
}

/// Values that are made at once where they are only looked at.
const SEEN_AT_ONCE: usize = 4096;

/// Has `see` look at what `rule` makes of the parameters of a shard, piece by piece, and leaves the shard as it is.
/// Errors if lengths differ.
pub fn values_after<R: Rule>(
    rule: R,
    gradient_sum: &[f32],
    shard: &ShardBefore<'_>,
    mut see: impl FnMut(&[f32]),
) -> Result<()> {
    let length = shard.values.len();
    check_length("the gradient", length, gradient_sum.len())?;
    for slot in &shard.state {
        check_length("the optimizer's state before the step", length, slot.len())?;
    }
    let mut after = vec![0.0; SEEN_AT_ONCE.min(length)];
    let mut states = vec![after.clone(); shard.state.len()];
    for start in (0..length).step_by(SEEN_AT_ONCE) {
        let range = start..length.min(start + SEEN_AT_ONCE);
        let after = &mut after[..range.len()];
        let slots = states.iter_mut().zip(&shard.state).map(|(after, before)| SlotValues {
            before: &before[range.clone()],
            after: &mut after[..range.len()],
        });
        let mut slots: Vec<SlotValues<'_>> = slots.collect();
        let (sums, before) = (&gradient_sum[range.clone()], &shard.values[range]);
        cpu::update(Level::best(), rule, sums, before, after, &mut slots);
        see(after);
    }
    Ok(())
}
