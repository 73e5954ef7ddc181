//! Whose samples stay on a GPU: those of the dataset that is trained on as long as it is, and those of datasets that
//! are evaluated again and again while there is room beside them.

use std::collections::{BTreeMap, BTreeSet};
use std::ptr;
use std::sync::{Arc, Weak};

use distdl_engine::DatasetId;
use distdl_engine::device::GpuBuffer;
use distdl_storage::{DeviceKey, DevicePin, DeviceTier};

use super::super::device::SampleBlock;

/// Datasets without samples there whose evaluations are remembered, at most.
const REMEMBERED_MAX: usize = 64;

/// Samples that stay there, by dataset.
#[derive(Debug, Default)]
pub(super) struct ResidentDatasets {
    /// What is trained on.
    training: Option<DatasetId>,
    /// Its samples, which nothing may push out.
    held: BTreeMap<DeviceKey, DevicePin<GpuBuffer>>,
    /// What is evaluated, or was trained on before, by the time of its last use.
    others: Vec<Other>,
    /// How often a dataset was put to use so far.
    uses: u64,
}

/// A dataset that is evaluated, or was trained on before.
#[derive(Debug)]
struct Other {
    dataset: DatasetId,
    /// Its last evaluation, if there was one.
    evaluation: Option<Evaluation>,
    /// Which use of a dataset its last one was, and the one before; 0 if there was none.
    used: u64,
    used_before: u64,
    /// What of it may be there.
    keys: BTreeSet<DeviceKey>,
}

/// What an evaluation is known by: a block that it has come to, and its parameters.
#[derive(Debug, Clone, Copy)]
pub(super) struct EvaluationKey<'a> {
    pub(super) block: SampleBlock,
    pub(super) parameters: &'a Arc<Vec<f32>>,
}

/// An evaluation of a dataset.
#[derive(Debug)]
struct Evaluation {
    /// By which it is known.
    parameters: Weak<Vec<f32>>,
    /// Of each partition the block that it has come to.
    reached: BTreeMap<usize, usize>,
}

impl Evaluation {
    fn begin(EvaluationKey { block, parameters }: EvaluationKey<'_>) -> Self {
        Self {
            parameters: Arc::downgrade(parameters),
            reached: BTreeMap::from([(block.partition, block.index)]),
        }
    }

    /// Whether it goes on with a block. If not, another begins; also with the same parameters, which predictions have
    /// whenever they are computed.
    fn goes_on(&mut self, EvaluationKey { block, parameters }: EvaluationKey<'_>) -> bool {
        // Nothing else is made in the place of its parameters while there is a `Weak` of them.
        let is_it = ptr::eq(self.parameters.as_ptr(), Arc::as_ptr(parameters));
        let before = self.reached.insert(block.partition, block.index);
        is_it && before.is_none_or(|before| before < block.index)
    }
}

impl ResidentDatasets {
    /// Says what is trained on from now on; whether that was another dataset before.
    pub(super) fn train_on(&mut self, dataset: DatasetId) -> bool {
        let before = self.training.replace(dataset);
        if let Some(before) = before.filter(|before| *before != dataset) {
            let keys: Vec<DeviceKey> = std::mem::take(&mut self.held).into_keys().collect();
            let index = self.use_of(before, None);
            self.others[index].keys.extend(keys);
        }
        before != Some(dataset)
    }

    /// Keeps some of its samples as long as it is trained on.
    pub(super) fn hold<'a>(&mut self, samples: impl Iterator<Item = (DeviceKey, &'a DevicePin<GpuBuffer>)>) {
        self.held.extend(samples.map(|(key, pin)| (key, pin.clone())));
    }

    /// Lets go of what nothing but this holds: lanes that are there have pins of their own.
    pub(super) fn let_go(&mut self) {
        self.held.clear();
    }

    /// Finds room for `bytes` bytes more, a block of samples, in an evaluation that is known by its parameters. It
    /// gives up samples of other datasets for them, the one first whose last use is the longest ago, but none that was
    /// used since this one's evaluation before: of datasets that are evaluated in turn and do not fit together those
    /// that came first stay, where each would find all of its own pushed out. `false` if there is no room: what is
    /// evaluated pushes out nothing of its own either, as all of it is asked for in turn.
    pub(super) fn evict_for(
        &mut self,
        tier: &DeviceTier<GpuBuffer>,
        evaluation: EvaluationKey<'_>,
        keys: &[DeviceKey],
        bytes: u64,
    ) -> bool {
        let index = self.use_of(evaluation.block.dataset, Some(evaluation));
        let used_before = self.others[index].used_before;
        let is_there = keys.iter().all(|key| tier.contains(key));
        let may_go = |other: &&mut Other| other.used < used_before && !other.keys.is_empty();
        while !is_there && !tier.has_room(bytes) {
            let Some(other) = self.others.iter_mut().find(may_go) else {
                return false;
            };
            let gone = std::mem::take(&mut other.keys);
            tier.retain(|key| !gone.contains(key));
        }
        self.others[index].keys.extend(keys);
        true
    }

    /// The index of a dataset that is used now: again, unless its last evaluation goes on with this block.
    fn use_of(&mut self, dataset: DatasetId, evaluated: Option<EvaluationKey<'_>>) -> usize {
        let known = self.others.iter().position(|other| other.dataset == dataset);
        if let (Some(index), Some(evaluated)) = (known, evaluated)
            && let Some(last) = &mut self.others[index].evaluation
            && last.goes_on(evaluated)
        {
            return index;
        }
        let before = known.map(|index| self.others.remove(index));
        self.uses += 1;
        self.others.push(Other {
            dataset,
            evaluation: evaluated.map(Evaluation::begin),
            used: self.uses,
            used_before: before.as_ref().map_or(0, |before| before.used),
            keys: before.map_or_else(BTreeSet::new, |before| before.keys),
        });
        let is_empty = |other: &Other| other.keys.is_empty();
        if self.others.iter().filter(|other| is_empty(other)).count() > REMEMBERED_MAX {
            let oldest = self.others.iter().position(is_empty);
            oldest.map(|oldest| self.others.remove(oldest));
        }
        self.others.len() - 1
    }
}
