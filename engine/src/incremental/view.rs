//! Views: what is derived from inputs, and snapshots of it.

use std::panic::Location;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use distdl_storage::{Block, Record, Unpoisoned};

use super::Live;
use crate::batch::RecordType;
use crate::dataflow::live::LiveRecord;
use crate::dataflow::live::view_dataflow::TypedViewDataflow;
use crate::dataset::{Dataset, streams};
use crate::error::Result;
use crate::lineage::NodeSpec;

/// Records that are derived from inputs, up to date with the last commit. Cheap to clone.
#[must_use = "a view is kept up to date until it is dropped, and all of its clones"]
pub struct LiveView<T: LiveRecord> {
    live: Live,
    dataflow: Arc<TypedViewDataflow<T>>,
}

impl<T: LiveRecord> Clone for LiveView<T> {
    fn clone(&self) -> Self {
        Self {
            live: self.live.clone(),
            dataflow: Arc::clone(&self.dataflow),
        }
    }
}

impl<T: LiveRecord> std::fmt::Debug for LiveView<T> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            formatter,
            "LiveView({:?})",
            self.dataflow.contents.lock().unpoisoned().name()
        )
    }
}

impl<T: LiveRecord> LiveView<T> {
    pub(super) fn new(live: Live, dataflow: Arc<TypedViewDataflow<T>>) -> Self {
        Self { live, dataflow }
    }

    /// The records as a dataset, which later commits do not change. A partition holds its records in order, so the
    /// dataset is a function of what the view holds and of nothing before that. A partition in which nothing has
    /// changed shares its records with the snapshot before, and [`Dataset::changed_partitions`] names the others; so
    /// what is memoized of it is not computed again.
    ///
    /// # Errors
    /// If a record cannot be serialised.
    #[track_caller]
    pub fn snapshot(&self) -> Result<Dataset<T>> {
        let site = Location::caller();
        // Not between two views of one commit.
        let _state = self.live.begin()?;
        let mut contents = self.dataflow.contents.lock().unpoisoned();
        let (pieces, written) = contents.pieces()?;
        self.live.inner.written.fetch_add(written, Ordering::Relaxed);
        let (records, digests): (Vec<_>, Vec<_>) = pieces.into_iter().unzip();
        let (partitions, length) = (
            records.len(),
            records.iter().map(|records| records.len()).sum::<usize>(),
        );
        let compute = streams(move |context, partition, _| {
            let block = Block::from_records(records[partition].clone());
            Ok(RecordType::of::<T>().stream(block, context.resources.batch_records)?)
        });
        let mut spec = NodeSpec::new("snapshot", partitions, Vec::new(), compute);
        spec.site = site;
        spec.remark = format!("live view \"{}\", {length} records", contents.name());
        spec.agreed = Some(*blake3::hash(digests.as_flattened()).as_bytes());
        spec.contents = Some(Arc::new(move |partition| digests[partition]));
        Ok(spec.build(self.live.context()))
    }

    /// The records in order, each with how often it is there. It waits for a commit that runs. Processes of a cluster
    /// do not compare what this gives; an action on a [`snapshot`](Self::snapshot) is compared.
    ///
    /// # Errors
    /// Inside a task or a closure of a view.
    pub fn contents(&self) -> Result<Vec<(T, u64)>> {
        let _state = self.live.begin()?;
        let contents = self.dataflow.contents.lock().unpoisoned();
        let mut records: Vec<(T, u64)> = contents
            .records()
            .map(|(record, count)| (record.clone(), count))
            .collect();
        records.sort_unstable();
        Ok(records)
    }
}

impl<T: Record> Dataset<T> {
    /// The partitions that hold something else than those of `earlier`, a snapshot of the same view, by digests of
    /// their records. `None` if that cannot be told without reading them, or if there are not equally many.
    pub fn changed_partitions(&self, earlier: &Self) -> Option<Vec<usize>> {
        let (new, old) = (self.node().contents.as_ref()?, earlier.node().contents.as_ref()?);
        let changed = (0..self.partitions()).filter(|partition| new(*partition) != old(*partition));
        (self.partitions() == earlier.partitions()).then(|| changed.collect())
    }
}
