//! The order of a lane's samples.

use std::collections::BTreeMap;
use std::fmt::{self, Debug, Formatter};
use std::ops::Deref;
use std::sync::{Arc, Mutex};

use distdl_storage::Unpoisoned;

use crate::batch::shuffle;

/// The orders in which lanes of a training, whose seed stays, last walked through their samples here. Each call that
/// runs steps makes lanes anew, and to make the order of many samples takes as long as many steps. Of a lane that has
/// moved to another process none is kept for long.
#[derive(Clone, Default)]
pub(super) struct KnownOrders(Arc<Mutex<BTreeMap<usize, KnownOrder>>>);

/// That of a lane in an epoch. Its length is in the key, too: data may change on the way.
struct KnownOrder {
    epoch: u64,
    indices: Arc<Vec<u32>>,
    /// Since [`forget_unused`](KnownOrders::forget_unused) was last called.
    is_used: bool,
}

impl KnownOrders {
    /// Forgets those that no lane has asked for since it was last called.
    pub(super) fn forget_unused(&self) {
        let mut known = self.0.lock().unpoisoned();
        known.retain(|_, order| std::mem::take(&mut order.is_used));
    }

    fn of(&self, seed: u64, epoch: u64, lane: usize, length: u32) -> Arc<Vec<u32>> {
        let is_it = |known: &&mut KnownOrder| known.epoch == epoch && known.indices.len() == length as usize;
        if let Some(known) = self.0.lock().unpoisoned().get_mut(&lane).filter(is_it) {
            known.is_used = true;
            return Arc::clone(&known.indices);
        }
        // Not behind the lock: others make theirs.
        let indices = Arc::new(shuffle(seed, epoch, lane as u64, length));
        let known = KnownOrder {
            epoch,
            indices: Arc::clone(&indices),
            is_used: true,
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
    #![allow(clippy::unwrap_used)]
    use distdl_engine::{Config, Context};

    use super::*;
    use crate::{NeuralNetwork, Samples, TrainingOptions};

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

    #[test]
    fn an_order_that_nobody_asks_for_is_forgotten() {
        let known = KnownOrders::default();
        let lanes = || known.0.lock().unpoisoned().keys().copied().collect::<Vec<_>>();
        (0..2).for_each(|lane| _ = known.of(7, 0, lane, 50));
        known.forget_unused();
        assert_eq!(lanes(), [0, 1], "both were asked for");
        _ = known.of(7, 0, 1, 50);
        known.forget_unused();
        assert_eq!(lanes(), [1]);
        known.forget_unused();
        assert!(lanes().is_empty());
    }

    #[test]
    fn two_calls_within_an_epoch_use_one_order() {
        let context = Context::new(Config::default().with_threads(1)).unwrap();
        let samples = Samples::from_labelled_rows((0..40u8).map(|n| ([f32::from(n)], u32::from(n % 2)))).unwrap();
        let data = context.parallelize(samples.split(2).unwrap(), 2);
        let network = NeuralNetwork::dense(1, &[], 2).unwrap();
        let options = TrainingOptions {
            batch: 4,
            lanes: 2,
            ..TrainingOptions::default()
        };
        let mut training = network.train(&data, options).unwrap();
        let mut orders = |steps| {
            training.iterate(steps, |_| ()).unwrap();
            let known = training.plan.orders.0.lock().unpoisoned();
            known
                .values()
                .map(|order| Arc::clone(&order.indices))
                .collect::<Vec<_>>()
        };
        let (first, second, next_epoch) = (orders(3), orders(3), orders(8));
        assert_eq!([first.len(), second.len(), next_epoch.len()], [2; 3]);
        for lane in 0..2 {
            assert!(Arc::ptr_eq(&first[lane], &second[lane]), "lane {lane}");
            assert!(!Arc::ptr_eq(&first[lane], &next_epoch[lane]), "lane {lane}");
        }
        assert_eq!(training.change_data(&data).unwrap().epoch, 2);
        assert!(training.plan.orders.0.lock().unpoisoned().is_empty());
    }
}
