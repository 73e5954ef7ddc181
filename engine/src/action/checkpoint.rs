//! Datasets that are written down, so that what they are derived from can be dropped.

use std::panic::Location;
use std::sync::Arc;

use distdl_storage::remote::SharedFolder;
use distdl_storage::{Blob, Checkpoint, Digest, FoundCheckpoint, Record};

use super::once::once;
use crate::dataset::{Dataset, streams};
use crate::error::Result;
use crate::lineage::NodeSpec;
use crate::memo;
use crate::partitioner::PartitionFunction;

impl<T: Record> Dataset<T> {
    /// Writes this dataset to the folder or object prefix `url`, unless it is there from an earlier run, and returns a
    /// dataset of the same records that reads them from there. That one has no lineage: once the handles on this
    /// dataset and what it is derived from are dropped, they and their blocks are gone.
    ///
    /// Each partition is written once, by the process that computes it, and named by its hash; a manifest that names
    /// all of them comes last, so a checkpoint is whole or does not exist. `url` must be the same place for all
    /// processes. A partition is held in memory while it is written or read. Places of keys are kept but for those of
    /// sorts.
    ///
    /// **A later run** of the same program that comes to the same computation finds it and computes nothing: the same
    /// program file, operators, places in the driver program, and contents of sources, and as many checkpoints of them
    /// at this `url` before. Local files count by path, length and the time of their last change, remote objects by the
    /// version that their server names. Of an outside program counts what [`pipe`](Self::pipe) says. What closures have
    /// captured cannot be seen: **use another `url` when the program is given other arguments.** What a source holds
    /// that does not tell is computed again in every run; and so is what comes at this `url` of the same computation
    /// after a checkpoint that has failed, since that may be the same one or the next. Old checkpoints stay until their
    /// folder is removed.
    ///
    /// Another context counts anew, also in the same process: **of two contexts that write the same computation to one
    /// `url` at the same place of the program, the second takes what the first has written**, whatever the closures of
    /// each have captured. Give each a `url` of its own.
    ///
    /// Partitions whose files are gone or cut short when this is called are computed again, and so is all if the
    /// manifest is damaged. Any other damage is found when a partition is read, and is an error.
    ///
    /// Spark's `checkpoint` waits for the next action and changes the dataset; this one is an action and returns
    /// another.
    ///
    /// ```
    /// use distdl_engine::{Config, Context};
    ///
    /// # fn main() -> distdl_engine::Result<()> {
    /// # let folder = tempfile::tempdir().expect("a folder");
    /// # let url = folder.path().join("ranks");
    /// # let url = url.to_str().expect("UTF-8");
    /// let context = Context::new(Config::default())?;
    /// let mut ranks = context.range(0..100, 4).map(|number| number % 7);
    /// for round in 0..3 {
    ///     ranks = ranks.map(|rank| rank * 2 + 1).checkpoint(&format!("{url}/{round}"))?;
    /// }
    /// assert_eq!(context.live_datasets(), 1, "only the last checkpoint is left");
    /// assert_eq!(ranks.first()?, 7);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// If there are more than 2^18 partitions, before any is computed; if `url` cannot be read or written, or holds
    /// another result of the same computation. Otherwise as any action.
    #[track_caller]
    pub fn checkpoint(&self, url: &str) -> Result<Dataset<T>> {
        let (context, site) = (self.context(), Location::caller());
        context.check_outside()?;
        let computation = memo::computation(&context.lineage(self.id()), self.id());
        let ordinal = computation.and_then(|computation| context.next_checkpoint(url, computation));
        let key = match computation.zip(ordinal) {
            Some((computation, ordinal)) => *blake3::keyed_hash(&computation, &ordinal.to_le_bytes()).as_bytes(),
            // Nobody knows whether it is the same the next time.
            None => once(context, || {
                Ok(*blake3::hash(SharedFolder::draw_name().as_bytes()).as_bytes())
            })?,
        };
        let written = self.checkpoint_as(&key, url, site);
        if let (Err(_), Some(computation)) = (&written, computation) {
            context.checkpoint_failed(url, computation);
        }
        written
    }

    fn checkpoint_as(&self, key: &Digest, url: &str, site: &'static Location<'static>) -> Result<Dataset<T>> {
        let (context, partitions) = (self.context(), self.partitions());
        let checkpoint = Arc::new(Checkpoint::open(context.stores(), url, key)?);
        let place = Arc::clone(&checkpoint);
        let found = once(context, move || {
            let found = place.find(partitions)?;
            // A manifest says as well that blobs here are no commit's.
            if found.is_none() && partitions > 0 {
                place.begin()?;
            }
            Ok(found)
        })?;
        let FoundCheckpoint { mut blobs, missing } = found.unwrap_or_else(|| FoundCheckpoint {
            blobs: Vec::new(),
            missing: (0..partitions).collect(),
        });
        if !missing.is_empty() {
            let (kind, place) = (self.node().record_type, Arc::clone(&checkpoint));
            let written = self.run(&missing, move |_, _, stream| {
                let block = kind.collect(stream)?;
                Ok(place.write(kind.codec.portable().encode(&block)?)?)
            })?;
            if blobs.is_empty() {
                blobs = written;
            } else {
                missing
                    .iter()
                    .zip(written)
                    .for_each(|(partition, blob)| blobs[*partition] = blob);
            }
            let (place, all) = (Arc::clone(&checkpoint), blobs.clone());
            once(context, move || Ok(place.publish(&all)?))?;
        }
        Ok(self.read_from(checkpoint, blobs, url, site))
    }

    fn read_from(
        &self,
        checkpoint: Arc<Checkpoint>,
        blobs: Vec<Blob>,
        url: &str,
        site: &'static Location<'static>,
    ) -> Dataset<T> {
        let (kind, blobs) = (self.node().record_type, Arc::<[Blob]>::from(blobs));
        let named = Arc::clone(&blobs);
        let compute = streams(move |context, partition, _| {
            let frame = checkpoint.read(partition, &blobs[partition])?;
            let block = kind.codec.portable().decode(Vec::from(frame).into())?;
            Ok(kind.stream(block, context.resources.batch_records)?)
        });
        let mut spec = NodeSpec::new("checkpoint", self.partitions(), Vec::new(), compute);
        spec.site = site;
        spec.remark = url.to_owned();
        spec.contents = Some(Arc::new(move |partition| named[partition].digest()));
        // Bounds of ranges are sampled from what this is derived from, and are not known if it was found.
        let placed = self.node().partitioning.clone();
        spec.partitioning = placed.filter(|placed| !matches!(placed.function, PartitionFunction::Range { .. }));
        spec.build(self.context())
    }

    /// Computes all partitions, keeps their blocks on disk (of the process that computes each), and then drops what
    /// this dataset is derived from; returns the dataset itself. Blocks that are kept only in memory are written too.
    ///
    /// This is quicker than [`checkpoint`](Self::checkpoint) and less safe: the blocks go with the process, and one
    /// that is lost, with its process or by damage, is [`EngineError::LineageCut`](crate::EngineError::LineageCut) when
    /// it is asked for. [`persist`](Self::persist) at `Level::Disk2` first keeps each on two processes.
    ///
    /// # Errors
    /// As any action; the lineage is kept then.
    pub fn local_checkpoint(&self) -> Result<Dataset<T>> {
        self.context().checkpoint_locally(self.id())?;
        Ok(self.clone())
    }
}
