//! The order of a lane's samples.

use std::collections::BTreeMap;
use std::fmt::{self, Debug, Formatter};
use std::ops::Deref;
use std::sync::{Arc, Mutex};

use distdl_storage::Unpoisoned;

use crate::batch::shuffle;

/// The orders in which lanes of a training, whose seed stays, last walked through their samples here. Each call that
/// runs steps makes lanes anew, and to make the order of many samples takes as long as many steps.
#[derive(Clone, Default)]
pub(super) struct KnownOrders(Arc<Mutex<BTreeMap<usize, KnownOrder>>>);

/// That of a lane in an epoch. Its length is in the key, too: data may change on the way.
struct KnownOrder {
    epoch: u64,
    indices: Arc<Vec<u32>>,
}

impl KnownOrders {
    fn of(&self, seed: u64, epoch: u64, lane: usize, length: u32) -> Arc<Vec<u32>> {
        let is_it = |known: &&KnownOrder| known.epoch == epoch && known.indices.len() == length as usize;
        if let Some(known) = self.0.lock().unpoisoned().get(&lane).filter(is_it) {
            return Arc::clone(&known.indices);
        }
        // Not behind the lock: others make theirs.
        let indices = Arc::new(shuffle(seed, epoch, lane as u64, length));
        let known = KnownOrder {
            epoch,
            indices: Arc::clone(&indices),
        };
        self.0.lock().unpoisoned().insert(lane, known);
        indices
    }
}

impl Debug for KnownOrders {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("KnownOrders").finish_non_exhaustive()
    }
}

/// The order in which a lane walks through its samples in one epoch. Dereferences to their indices.
pub(super) struct SampleOrder {
    known: KnownOrders,
    indices: Arc<Vec<u32>>,
    epoch: Option<u64>,
}

impl SampleOrder {
    /// One that is still to be brought to an epoch.
    pub(super) fn new(known: &KnownOrders) -> Self {
        Self {
            known: known.clone(),
            indices: Arc::default(),
            epoch: None,
        }
    }

    /// Brings it to an epoch, of a lane of so many samples; the other arguments are always the same.
    pub(super) fn begin(&mut self, seed: u64, epoch: u64, lane: usize, length: u32) {
        if self.epoch != Some(epoch) {
            self.indices = self.known.of(seed, epoch, lane, length);
            self.epoch = Some(epoch);
        }
    }
}

impl Deref for SampleOrder {
    type Target = [u32];

    fn deref(&self) -> &[u32] {
        &self.indices
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_is_made_once_and_is_that_of_its_epoch_and_length() {
        let known = KnownOrders::default();
        let order = |epoch, lane, length| {
            let mut order = SampleOrder::new(&known);
            order.begin(7, epoch, lane, length);
            assert_eq!(order[..], shuffle(7, epoch, lane as u64, length));
            order.indices
        };
        let first = order(3, 0, 50);
        assert!(Arc::ptr_eq(&order(3, 0, 50), &first));
        // Neither another lane nor more samples, as of changed data, are given it; a later epoch takes its place.
        for (epoch, lane, length) in [(3, 1, 50), (3, 0, 51), (4, 0, 51), (3, 0, 50)] {
            assert!(!Arc::ptr_eq(&order(epoch, lane, length), &first));
        }
        assert_eq!(known.0.lock().unpoisoned().len(), 2, "one for each lane");
    }
}
