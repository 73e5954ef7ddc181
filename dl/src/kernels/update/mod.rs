//! One step of an optimizer: the same rule for every parameter, whatever its neighbours are.

mod cpu;

use distdl_engine::ShardValues;
use distdl_engine::parameters::STATE_SLOTS_MAX;

use super::Level;
use crate::error::{Result, check_length};

/// What an optimizer keeps for one parameter; only as many of them as it has slots are kept.
pub type Slots = [f32; STATE_SLOTS_MAX];

/// How one parameter changes.
pub trait Rule: Copy {
    /// Gives the parameter and its state after the step, from the sum of its gradient over samples and from the
    /// parameter and its state before.
    fn element(self, gradient_sum: f32, before: f32, state: Slots) -> (f32, Slots);
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
