//! What the update of a shard sees: its values before and after one step.

use std::ops::{Deref, DerefMut, Range};

/// The largest number of values that an optimizer may keep for every parameter.
pub const STATE_SLOTS_MAX: usize = 4;

/// A shard on its way from one version to the next. All slices are as long as the shard.
#[derive(Debug)]
pub struct ShardValues<'a> {
    /// The parameters as the step has read them.
    pub before: &'a [f32],
    /// The parameters as the next step is to read them. All of it is to be written: it holds whatever was there.
    pub after: &'a mut [f32],
    /// The optimizer's state, by slot.
    pub state: State<'a>,
    /// What the [measures](crate::ShardUpdate::measure) of all shards came to, round after round.
    pub totals: &'a [f64],
}

/// A shard as a step has read it, before the step changes it. All slices of values are as long as the shard.
#[derive(Debug, Clone)]
pub struct ShardBefore<'a> {
    /// The parameters.
    pub values: &'a [f32],
    /// The optimizer's state, by slot.
    pub state: Vec<&'a [f32]>,
    /// What the measures of all shards came to in the rounds before this one.
    pub totals: &'a [f64],
}

impl ShardBefore<'_> {
    /// A part of the shard, with its state.
    pub fn part(&self, range: Range<usize>) -> ShardBefore<'_> {
        ShardBefore {
            values: &self.values[range.clone()],
            state: self.state.iter().map(|state| &state[range.clone()]).collect(),
            totals: self.totals,
        }
    }
}

/// One value of optimizer state for every parameter of a shard.
#[derive(Debug, Default)]
pub struct SlotValues<'a> {
    /// As the step before has left it; 0 at first.
    pub before: &'a [f32],
    /// As the next step is to find it. All of it is to be written: it holds whatever was there.
    pub after: &'a mut [f32],
}

/// The slots of a shard's optimizer state. Dereferences to a slice of them.
#[derive(Debug, Default)]
pub struct State<'a> {
    slots: [SlotValues<'a>; STATE_SLOTS_MAX],
    count: usize,
}

impl<'a> State<'a> {
    pub(crate) fn of(count: usize, mut slot: impl FnMut(usize) -> SlotValues<'a>) -> Self {
        let mut state = Self {
            count,
            ..Self::default()
        };
        for (index, values) in state.iter_mut().enumerate() {
            *values = slot(index);
        }
        state
    }
}

impl<'a> Deref for State<'a> {
    type Target = [SlotValues<'a>];

    fn deref(&self) -> &[SlotValues<'a>] {
        &self.slots[..self.count]
    }
}

impl DerefMut for State<'_> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.slots[..self.count]
    }
}

impl ShardValues<'_> {
    /// A part of the shard, with its state.
    pub fn part(&mut self, range: Range<usize>) -> ShardValues<'_> {
        let mut state = State {
            count: self.state.count,
            ..State::default()
        };
        for (part, whole) in state.iter_mut().zip(self.state.iter_mut()) {
            part.before = &whole.before[range.clone()];
            part.after = &mut whole.after[range.clone()];
        }
        ShardValues {
            before: &self.before[range.clone()],
            after: &mut self.after[range],
            state,
            totals: self.totals,
        }
    }
}

impl<'a> ShardValues<'a> {
    /// Values without state, for those who apply updates to vectors of their own.
    pub fn new(before: &'a [f32], after: &'a mut [f32]) -> Self {
        Self {
            before,
            after,
            state: State::default(),
            totals: &[],
        }
    }
}
