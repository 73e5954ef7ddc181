//! Whose samples stay on a GPU: those of the dataset that is trained on as long as it is, and those of datasets that are
//! evaluated again and again while there is room beside them.

use std::collections::{BTreeMap, BTreeSet};

use distdl_engine::DatasetId;
use distdl_engine::device::GpuBuffer;
use distdl_storage::{DeviceKey, DeviceTier, Lease};

/// Samples that stay there, by dataset.
#[derive(Debug, Default)]
pub(super) struct Kept {
    /// What is trained on.
    training: Option<DatasetId>,
    /// Its samples, which nothing may push out.
    held: BTreeMap<DeviceKey, Lease<GpuBuffer>>,
    /// What is evaluated, or was trained on before, by the time of its last use, and what of it may be there.
    evaluated: Vec<(DatasetId, BTreeSet<DeviceKey>)>,
}

impl Kept {
    /// Says what is trained on from now on; whether that was another dataset before.
    pub(super) fn train_on(&mut self, dataset: DatasetId) -> bool {
        let before = self.training.replace(dataset);
        if let Some(before) = before.filter(|before| *before != dataset) {
            let keys = std::mem::take(&mut self.held).into_keys().collect();
            self.evaluated.push((before, keys));
        }
        before != Some(dataset)
    }

    /// Keeps some of its samples as long as it is trained on.
    pub(super) fn hold<'a>(&mut self, samples: impl Iterator<Item = (DeviceKey, &'a Lease<GpuBuffer>)>) {
        self.held.extend(samples.map(|(key, lease)| (key, lease.clone())));
    }

    /// Lets go of what nothing but this holds: lanes that are there have leases of their own.
    pub(super) fn let_go(&mut self) {
        self.held.clear();
    }

    /// Finds room for `bytes` bytes more of samples of a dataset that is evaluated, by giving up others of that kind, the one
    /// first whose last evaluation is the longest ago. `false` if there is none: what is evaluated pushes out nothing of its own,
    /// as all of it is asked for in turn.
    pub(super) fn make_room(
        &mut self,
        tier: &DeviceTier<GpuBuffer>,
        of: DatasetId,
        keys: &[DeviceKey],
        bytes: u64,
    ) -> bool {
        let (mut others, mut own) = (std::mem::take(&mut self.evaluated), BTreeSet::new());
        if let Some(place) = others.iter().position(|(dataset, _)| *dataset == of) {
            own = others.remove(place).1;
        }
        let has_room =
            |tier: &DeviceTier<GpuBuffer>| tier.figures().bytes_used.saturating_add(bytes) <= tier.bytes_max();
        let is_there = keys.iter().all(|key| tier.contains(key));
        while !is_there && !has_room(tier) && !others.is_empty() {
            let (_, gone) = others.remove(0);
            tier.retain(|key| !gone.contains(key));
        }
        let has_room = is_there || has_room(tier);
        if has_room {
            own.extend(keys);
        }
        others.push((of, own));
        self.evaluated = others;
        has_room
    }
}
