//! Lineage that is dropped once all blocks are kept.

use distdl_storage::Level;

use crate::context::Context;
use crate::error::{EngineError, Result};
use crate::id::DatasetId;
use crate::lineage::{Determinacy, Lineage};

impl Context {
    /// Keeps all blocks of a dataset on disk, not only where runs share them, and drops what it is derived from.
    pub(crate) fn checkpoint_locally(&self, dataset: DatasetId) -> Result<()> {
        // Before it waits for a thread that may be waiting for this one's turn to end.
        self.check_outside()?;
        let _entered = self.enter_local_checkpoint(self.lineage(dataset).node(dataset))?;
        let lineage = self.lineage(dataset);
        let node = lineage.node(dataset);
        if node.is_cut() {
            return Ok(());
        }
        let before = node.level();
        let on_disk = match before {
            None => Level::Disk,
            Some(Level::Memory) => Level::MemoryAndDisk,
            Some(Level::Memory2) => Level::MemoryAndDisk2,
            Some(level) => level,
        };
        let level = match on_disk {
            // Once lost, such records do not come again.
            Level::Disk if node.determinacy() != Determinacy::Determinate => Level::Disk2,
            Level::MemoryAndDisk if node.determinacy() != Determinacy::Determinate => Level::MemoryAndDisk2,
            level => level,
        };
        node.set_level(Some(level));
        let cut = self.keep_on_disk(&lineage, level, before);
        // Whoever has said something else of it meanwhile meant it.
        if cut.is_err() && node.level() == Some(level) {
            match before {
                Some(_) => node.set_level(before),
                None => self.unpersist(node),
            }
        }
        cut
    }

    fn keep_on_disk(&self, lineage: &Lineage, level: Level, before: Option<Level>) -> Result<()> {
        let dataset = lineage.target();
        let node = lineage.node(dataset);
        let kind = node.record_type;
        let memoized = node.memo.is_some();
        if memoized {
            self.store().protect(dataset.0);
        }
        let moved = memoized || before.is_some_and(|before| before != level);
        let partitions: Vec<usize> = (0..node.partitions).collect();
        let kept = self.run_job(dataset, &partitions, move |context, partition, stream| {
            let (block, id) = (kind.collect(stream)?, dataset.block(partition));
            if moved {
                // It may have been kept before, and is in memory only, or where other runs may take its room.
                let resources = &context.resources;
                resources.retry_after_eviction(|| resources.store.put(id, &block, level))?;
            }
            let is_elsewhere = || context.elsewhere.as_ref().is_some_and(|elsewhere| elsewhere.has(id));
            Ok(context.resources.store.contains(id) || is_elsewhere())
        })?;
        if kept.into_iter().all(|kept| kept) && self.cut(lineage)? {
            return Ok(());
        }
        Err(EngineError::invalid(
            format!(
                "a local checkpoint of `{}` (declared at {}) lacks blocks: they were dropped while it was made",
                node.title(),
                node.site
            ),
            "call `unpersist` before or after it, and run the action again",
        ))
    }

    /// Keeps a dataset, too, if it would not be the same a second time: for what reads it more than once.
    pub(crate) fn keep_for_several_reads(&self, target: DatasetId) -> Result<()> {
        self.check_outside()?;
        while let Some(dataset) = self.lineage(target).not_determinate() {
            self.checkpoint_locally(dataset)?;
        }
        Ok(())
    }

    /// Keeps what would not be the same a second time, and cuts the lineage of a dataset until it has no more steps
    /// than the configuration allows. Returns what is left of it: finding that takes as long as it is deep, and is done
    /// once. It depends on lineage and configuration alone, so that all processes of a cluster do the same.
    pub(crate) fn cut_lineage(&self, target: DatasetId) -> Result<Lineage> {
        self.check_outside()?;
        let mut lineage = self.lineage(target);
        while let Some(dataset) = lineage.not_determinate().filter(|dataset| *dataset != target) {
            self.checkpoint_locally(dataset)?;
            lineage = self.lineage(target);
        }
        let Some(steps) = self.config().cut_lineage_every else {
            return Ok(lineage);
        };
        while let Some(dataset) = lineage.too_deep(steps.max(1)) {
            self.checkpoint_locally(dataset)?;
            lineage = self.lineage(target);
        }
        Ok(lineage)
    }
}
