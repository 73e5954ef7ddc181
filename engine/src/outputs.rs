//! What this process has sent into shuffles, kept on disk until the action ends: when another process is lost, it is sent
//! again instead of computed again.
//!
//! An output is kept whole, for every bucket, or not at all. Keeping may fail at any time without harm: then the output is
//! computed again. So outputs are the first to go where the disk is short. What readers in this process have yet to read of
//! one stays until they have.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use distdl_storage::{BlockStore, Rows, Spill};

use crate::error::Result;
use crate::id::ShuffleId;

/// A frame on disk.
#[derive(Clone)]
pub(crate) struct Stored {
    spill: Arc<Spill>,
    rows: Rows,
}

impl Stored {
    /// A frame that lies in `spill`.
    pub(crate) fn new(spill: Arc<Spill>, rows: Rows) -> Self {
        Self { spill, rows }
    }

    /// The frame.
    ///
    /// # Errors
    /// The disk does not give back what was written.
    pub(crate) fn read(&self) -> Result<Vec<u8>> {
        Ok(self.spill.read_one(&self.rows)?)
    }
}

/// A batch of an output, and its bucket.
pub(crate) type Part = (usize, Stored);

/// The outputs that a process keeps.
pub(crate) struct Outputs {
    keep_after: Duration,
    bytes_max: u64,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    /// When the action began; absent where nothing is to be kept.
    since: Option<Instant>,
    shuffles: BTreeMap<ShuffleId, Shuffle>,
}

/// The outputs into one shuffle, all in one file.
struct Shuffle {
    spill: Arc<Spill>,
    /// By partition of the parent, in the order in which each was written.
    partitions: BTreeMap<usize, Arc<[Part]>>,
}

/// An output that is being written.
pub(crate) struct Keeping {
    shuffle: ShuffleId,
    partition: usize,
    spill: Arc<Spill>,
    parts: Vec<Part>,
}

impl Outputs {
    /// Keeps up to `bytes_max` bytes of an action that has run for `keep_after`.
    pub(crate) fn new(keep_after: Duration, bytes_max: u64) -> Self {
        Self {
            keep_after,
            bytes_max,
            kept: Mutex::default(),
        }
    }

    /// An action begins in which other processes take part.
    pub(crate) fn begin(&self) {
        *self.lock() = Kept {
            since: Some(Instant::now()),
            shuffles: BTreeMap::new(),
        };
    }

    /// Forgets all, and keeps nothing more until the next action begins: it has ended, or the disk is short. Whether there
    /// was something.
    pub(crate) fn end(&self) -> bool {
        !std::mem::take(&mut *self.lock()).shuffles.is_empty()
    }

    /// Begins to keep what `partition` sends into `shuffle`, if the action has run for long enough.
    pub(crate) fn keep(&self, store: &BlockStore, shuffle: ShuffleId, partition: usize) -> Option<Keeping> {
        let mut kept = self.lock();
        kept.since.filter(|since| since.elapsed() >= self.keep_after)?;
        let spill = match kept.shuffles.get(&shuffle) {
            Some(shuffle) => Arc::clone(&shuffle.spill),
            None => {
                let made = store.spill();
                let failed = |error| tracing::debug!(%shuffle, "what is sent into it is not kept: {error}");
                let spill = Arc::new(made.map_err(failed).ok()?);
                let made = Shuffle {
                    spill: Arc::clone(&spill),
                    partitions: BTreeMap::new(),
                };
                kept.shuffles.insert(shuffle, made);
                spill
            }
        };
        Some(Keeping {
            shuffle,
            partition,
            spill,
            parts: Vec::new(),
        })
    }

    /// Puts the next frame of an output on disk; if that cannot be, the output is not kept.
    pub(crate) fn put(&self, keeping: &mut Option<Keeping>, bucket: usize, frame: &[u8]) -> Option<Stored> {
        let output = keeping.as_mut()?;
        let kept: u64 = self.lock().shuffles.values().map(|shuffle| shuffle.spill.bytes()).sum();
        let rows = match kept + frame.len() as u64 <= self.bytes_max {
            true => output.spill.append(frame).ok(),
            false => None,
        };
        let Some(rows) = rows else {
            let (shuffle, partition) = (output.shuffle, output.partition);
            tracing::debug!(%shuffle, partition, "what it sends is not kept: there is no room for it");
            *keeping = None;
            return None;
        };
        let stored = Stored::new(Arc::clone(&output.spill), rows);
        output.parts.push((bucket, stored.clone()));
        Some(stored)
    }

    /// An output is whole.
    pub(crate) fn finish(&self, output: Keeping) {
        let mut kept = self.lock();
        let shuffle = kept.shuffles.get_mut(&output.shuffle);
        // What was begun before the disk was short belongs to a file that is given up.
        if let Some(shuffle) = shuffle.filter(|shuffle| Arc::ptr_eq(&shuffle.spill, &output.spill)) {
            shuffle.partitions.insert(output.partition, output.parts.into());
        }
    }

    /// What `partition` has sent into `shuffle`, if it is kept.
    pub(crate) fn of(&self, shuffle: ShuffleId, partition: usize) -> Option<Arc<[Part]>> {
        let kept = self.lock();
        kept.shuffles.get(&shuffle)?.partitions.get(&partition).map(Arc::clone)
    }

    /// Forgets the outputs into a shuffle, of which one cannot be read any more: their file is not to be relied on.
    pub(crate) fn forget(&self, shuffle: ShuffleId) {
        self.lock().shuffles.remove(&shuffle);
    }

    /// The partitions that are kept of each shuffle, ascending.
    pub(crate) fn held(&self) -> Vec<(ShuffleId, Vec<u64>)> {
        let kept = self.lock();
        let shuffles = kept.shuffles.iter().map(|(id, shuffle)| {
            let partitions = shuffle.partitions.keys();
            (*id, partitions.map(|partition| *partition as u64).collect::<Vec<_>>())
        });
        shuffles.filter(|(_, partitions)| !partitions.is_empty()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::config::Config;
    use crate::context::Context;
    use crate::id::DatasetId;
    use distdl_storage::StoreOptions;

    const SHUFFLE: ShuffleId = ShuffleId {
        child: DatasetId(7),
        dependency: 0,
    };

    fn store(disk_bytes_max: u64) -> BlockStore {
        let options = StoreOptions {
            disk_bytes_max,
            ..StoreOptions::default()
        };
        BlockStore::new(options).unwrap()
    }

    fn outputs(bytes_max: u64) -> Outputs {
        let outputs = Outputs::new(Duration::ZERO, bytes_max);
        outputs.begin();
        outputs
    }

    /// Keeps an output of buckets with so many bytes each; whether it was kept.
    fn keep(outputs: &Outputs, store: &BlockStore, partition: usize, buckets: &[usize]) -> bool {
        let mut keeping = outputs.keep(store, SHUFFLE, partition);
        for (bucket, bytes) in buckets.iter().enumerate() {
            outputs.put(&mut keeping, bucket, &vec![bucket as u8; *bytes]);
        }
        keeping.map(|kept| outputs.finish(kept)).is_some()
    }

    #[test]
    fn an_output_comes_back_whole_and_in_order() {
        let (outputs, store) = (outputs(1000), store(1000));
        assert!(keep(&outputs, &store, 3, &[5, 0, 7]));
        assert!(keep(&outputs, &store, 1, &[2]));
        assert_eq!(outputs.held(), [(SHUFFLE, vec![1, 3])]);
        let parts = outputs.of(SHUFFLE, 3).unwrap();
        let read = parts.iter().map(|(bucket, stored)| (*bucket, stored.read().unwrap()));
        assert!(read.eq([(0, vec![0; 5]), (1, vec![]), (2, vec![2; 7])]));
        outputs.forget(SHUFFLE);
        assert!(outputs.of(SHUFFLE, 3).is_none() && outputs.held().is_empty());
        assert!(keep(&outputs, &store, 1, &[2]), "in another file");
    }

    #[test]
    fn what_finds_no_room_is_not_kept_at_all() {
        let (outputs, store) = (outputs(100), store(1000));
        assert!(keep(&outputs, &store, 0, &[60]));
        assert!(!keep(&outputs, &store, 1, &[20, 60]));
        assert_eq!(outputs.held(), [(SHUFFLE, vec![0])]);
    }

    #[test]
    fn nothing_is_kept_before_its_time_nor_beyond_the_action() {
        let (late, store) = (Outputs::new(Duration::MAX, 1000), store(1000));
        late.begin();
        assert!(!keep(&late, &store, 0, &[1]));
        let outputs = outputs(1000);
        let begun = outputs.keep(&store, SHUFFLE, 1).unwrap();
        assert!(keep(&outputs, &store, 0, &[1]));
        assert!(outputs.end(), "there was something");
        assert!(!keep(&outputs, &store, 2, &[1]), "no action runs");
        outputs.finish(begun);
        assert!(outputs.held().is_empty(), "it belongs to a file that is given up");
        assert!(!outputs.end());
    }

    #[test]
    fn what_is_kept_makes_way_for_what_must_be_on_disk() {
        let config = Config::default().with_threads(1).with_disk_bytes_max(200);
        let context = Context::new(config.with_keep_shuffles_after(Duration::ZERO)).unwrap();
        let resources = context.resources();
        let spill = resources.store.spill().unwrap();
        resources.outputs.begin();
        assert!(keep(&resources.outputs, &resources.store, 0, &[80]));
        assert!(spill.append(&[1; 150]).is_err());
        resources.put_away(&spill, &[1; 150]).unwrap();
        assert!(resources.outputs.held().is_empty());
        assert!(
            resources.put_away(&spill, &[1; 150]).is_err(),
            "nothing is left that could go"
        );
    }
}
