//! What this process has sent into shuffles, kept on disk until the action ends: when another process is lost, it is
//! sent again instead of computed again.
//!
//! An output is kept whole, for every bucket, or not at all. Keeping may fail at any time without harm: then the output
//! is computed again. So outputs are the first to go where the disk is short, those that are being written as well.
//! What readers in this process wait for on disk lies in a file of its own, which stays until they have read it.

use std::collections::BTreeMap;
use std::sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak};
use std::time::{Duration, Instant};

use distdl_storage::{BlockStore, Spill, SpilledRows, Unpoisoned};

use crate::error::Result;
use crate::id::ShuffleId;

/// A frame on disk.
#[derive(Clone)]
pub(crate) struct Stored {
    spill: Arc<Spill>,
    rows: SpilledRows,
}

impl Stored {
    /// A frame that lies in `spill`.
    pub(crate) fn new(spill: Arc<Spill>, rows: SpilledRows) -> Self {
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
pub(crate) type BucketFrame = (usize, Stored);

/// The outputs that a process keeps.
pub(crate) struct Outputs {
    keep_after: Duration,
    bytes_max: u64,
    /// Read while a frame is written, so that who ends keeping waits for it and has all of its room.
    kept: RwLock<KeptOutputs>,
}

#[derive(Default)]
struct KeptOutputs {
    /// When the action began; absent where nothing is to be kept.
    since: Option<Instant>,
    shuffles: BTreeMap<ShuffleId, Shuffle>,
}

/// The outputs into one shuffle.
struct Shuffle {
    /// For what only the loss of another process would make anybody read.
    spare: Arc<Spill>,
    /// For what readers in this process wait for.
    awaited: Arc<Spill>,
    /// By partition of the parent, in the order in which each was written.
    partitions: BTreeMap<usize, Arc<[BucketFrame]>>,
}

/// An output that is being written.
pub(crate) struct Keeping {
    shuffle: ShuffleId,
    partition: usize,
    /// One of the shuffle's files, to know it by. It is not held, so that it goes when the outputs do.
    spare: Weak<Spill>,
    /// The bucket of each frame, whether readers in this process wait for it, and where it lies.
    parts: Vec<(usize, bool, SpilledRows)>,
}

impl Shuffle {
    fn new(store: &BlockStore) -> Result<Self> {
        Ok(Self {
            spare: Arc::new(store.spill()?),
            awaited: Arc::new(store.spill()?),
            partitions: BTreeMap::new(),
        })
    }

    fn spill(&self, is_awaited: bool) -> &Arc<Spill> {
        match is_awaited {
            true => &self.awaited,
            false => &self.spare,
        }
    }

    /// Whether an output was begun for these files, and not for others that were given up since.
    fn takes(&self, output: &Keeping) -> bool {
        Weak::as_ptr(&output.spare) == Arc::as_ptr(&self.spare)
    }

    fn bytes(&self) -> u64 {
        self.spare.bytes() + self.awaited.bytes()
    }
}

impl Outputs {
    /// Keeps up to `bytes_max` bytes of an action that has run for `keep_after`.
    pub(crate) fn new(keep_after: Duration, bytes_max: u64) -> Self {
        Self {
            keep_after,
            bytes_max,
            kept: RwLock::default(),
        }
    }

    /// An action begins in which other processes take part.
    pub(crate) fn begin(&self) {
        *self.write() = KeptOutputs {
            since: Some(Instant::now()),
            shuffles: BTreeMap::new(),
        };
    }

    /// Forgets all, and keeps nothing more until the next action begins: it has ended, or the disk is short.
    pub(crate) fn end(&self) {
        *self.write() = KeptOutputs::default();
    }

    /// Begins to keep what `partition` sends into `shuffle`, if the action has run for long enough.
    pub(crate) fn keep(&self, store: &BlockStore, shuffle: ShuffleId, partition: usize) -> Option<Keeping> {
        let mut kept = self.write();
        kept.since.filter(|since| since.elapsed() >= self.keep_after)?;
        let spare = match kept.shuffles.get(&shuffle) {
            Some(shuffle) => Arc::downgrade(&shuffle.spare),
            None => {
                let failed = |error| tracing::debug!(%shuffle, "what is sent into it is not kept: {error}");
                let made = Shuffle::new(store).map_err(failed).ok()?;
                Arc::downgrade(&kept.shuffles.entry(shuffle).or_insert(made).spare)
            }
        };
        Some(Keeping {
            shuffle,
            partition,
            spare,
            parts: Vec::new(),
        })
    }

    /// Puts the next frame of an output on disk; if that cannot be, the output is not kept. Where readers in this
    /// process wait for the frame, it is returned.
    pub(crate) fn put(
        &self,
        keeping: &mut Option<Keeping>,
        bucket: usize,
        frame: &[u8],
        is_awaited: bool,
    ) -> Option<Stored> {
        let output = keeping.as_mut()?;
        let kept = self.read();
        let bytes: u64 = kept.shuffles.values().map(Shuffle::bytes).sum();
        let has_room = bytes + frame.len() as u64 <= self.bytes_max;
        let shuffle = kept.shuffles.get(&output.shuffle);
        let spill = shuffle.filter(|shuffle| has_room && shuffle.takes(output));
        let spill = spill.map(|shuffle| shuffle.spill(is_awaited));
        let Some((spill, rows)) = spill.and_then(|spill| Some((spill, spill.append(frame).ok()?))) else {
            let (shuffle, partition) = (output.shuffle, output.partition);
            tracing::debug!(%shuffle, partition, "what it sends is not kept: there is no room for it");
            *keeping = None;
            return None;
        };
        output.parts.push((bucket, is_awaited, rows));
        is_awaited.then(|| Stored::new(Arc::clone(spill), rows))
    }

    /// An output is whole.
    pub(crate) fn finish(&self, output: Keeping) {
        let mut kept = self.write();
        let shuffle = kept.shuffles.get_mut(&output.shuffle);
        // What was begun before the disk was short belongs to a file that is given up.
        if let Some(shuffle) = shuffle.filter(|shuffle| shuffle.takes(&output)) {
            let parts = output.parts.into_iter().map(|(bucket, is_awaited, rows)| {
                let spill = Arc::clone(shuffle.spill(is_awaited));
                (bucket, Stored::new(spill, rows))
            });
            let parts: Arc<[BucketFrame]> = parts.collect();
            shuffle.partitions.insert(output.partition, parts);
        }
    }

    /// What `partition` has sent into `shuffle`, if it is kept.
    pub(crate) fn of(&self, shuffle: ShuffleId, partition: usize) -> Option<Arc<[BucketFrame]>> {
        let kept = self.read();
        kept.shuffles.get(&shuffle)?.partitions.get(&partition).map(Arc::clone)
    }

    /// Forgets the outputs into a shuffle, of which one cannot be read any more: their files are not to be relied on.
    pub(crate) fn forget(&self, shuffle: ShuffleId) {
        self.write().shuffles.remove(&shuffle);
    }

    /// The partitions that are kept of each shuffle, ascending.
    pub(crate) fn held(&self) -> Vec<(ShuffleId, Vec<u64>)> {
        let kept = self.read();
        let shuffles = kept.shuffles.iter().map(|(id, shuffle)| {
            let partitions = shuffle.partitions.keys();
            (*id, partitions.map(|partition| *partition as u64).collect::<Vec<_>>())
        });
        shuffles.filter(|(_, partitions)| !partitions.is_empty()).collect()
    }

    fn read(&self) -> RwLockReadGuard<'_, KeptOutputs> {
        self.kept.read().unpoisoned()
    }

    fn write(&self) -> RwLockWriteGuard<'_, KeptOutputs> {
        self.kept.write().unpoisoned()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::config::Config;
    use crate::context::Context;
    use crate::id::DatasetId;
    use distdl_storage::{Level, StoreOptions};

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
            outputs.put(&mut keeping, bucket, &vec![bucket as u8; *bytes], bucket % 2 == 1);
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
        outputs.end();
        assert!(!keep(&outputs, &store, 2, &[1]), "no action runs");
        outputs.finish(begun);
        assert!(outputs.held().is_empty(), "it belongs to a file that is given up");
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

    #[test]
    fn what_is_being_written_makes_way_but_for_what_is_read_here() {
        let config = Config::default().with_threads(1).with_disk_bytes_max(400);
        let context = Context::new(config.with_keep_shuffles_after(Duration::ZERO)).unwrap();
        let resources = context.resources();
        let (spill, outputs) = (resources.store.spill().unwrap(), &resources.outputs);
        outputs.begin();
        let mut keeping = outputs.keep(&resources.store, SHUFFLE, 0);
        assert!(outputs.put(&mut keeping, 0, &[1; 100], false).is_none());
        let awaited = outputs.put(&mut keeping, 1, &[2; 50], true).unwrap();
        assert!(keeping.is_some());
        resources.put_away(&spill, &[3; 300]).unwrap();
        assert_eq!(awaited.read().unwrap(), [2; 50]);
        assert!(outputs.put(&mut keeping, 0, &[1; 10], false).is_none());
        assert!(keeping.is_none(), "nobody wants it any more");
        spill.append(&[4; 36]).unwrap();
        assert!(spill.append(&[5; 40]).is_err(), "what is read here is still there");
        drop(awaited);
        spill.append(&[5; 40]).unwrap();
    }

    #[test]
    fn what_is_kept_makes_way_for_blocks_on_disk() {
        let config = Config::default().with_threads(1).with_disk_bytes_max(4000);
        let context = Context::new(config.with_keep_shuffles_after(Duration::ZERO)).unwrap();
        let resources = context.resources();
        let dataset = || context.parallelize((0..300_u64).collect::<Vec<_>>(), 1);
        let failure = |make: &dyn Fn() -> Result<()>| {
            resources.outputs.begin();
            assert!(keep(&resources.outputs, &resources.store, 0, &[1900]));
            let made = make();
            for id in resources.store.ids() {
                resources.store.remove(id).unwrap();
            }
            made.err()
        };
        let persisted = failure(&|| dataset().persist(Level::Disk).count().map(drop));
        let cut = failure(&|| dataset().local_checkpoint().map(drop));
        assert!(persisted.is_none() && cut.is_none(), "{persisted:?}, {cut:?}");
    }
}
