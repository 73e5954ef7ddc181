//! Lineage that is dropped once all blocks are kept.

use distdl_storage::Level;

use crate::context::Context;
use crate::error::Result;
use crate::id::DatasetId;
use crate::lineage::Determinacy;

impl Context {
    /// Keeps all blocks of a dataset on disk and drops what it is derived from.
    pub(crate) fn checkpoint_locally(&self, dataset: DatasetId) -> Result<()> {
        let lineage = self.lineage(dataset);
        let node = lineage.node(dataset);
        if node.is_cut() {
            return Ok(());
        }
        let before = node.level();
        let level = match before {
            None if node.determinacy() != Determinacy::Determinate => Level::Disk2,
            None => Level::Disk,
            Some(Level::Memory) => Level::MemoryAndDisk,
            Some(Level::Memory2) => Level::MemoryAndDisk2,
            Some(level) => level,
        };
        node.set_level(Some(level));
        let (kind, moved) = (node.record_type, before.is_some_and(|before| before != level));
        let partitions: Vec<usize> = (0..node.partitions).collect();
        let kept = self.run_job(dataset, &partitions, move |context, partition, stream| {
            let block = kind.collect(stream)?;
            if moved {
                // It may have been kept before, and is in memory only.
                context.resources.store.put(dataset.block(partition), &block, level)?;
            }
            Ok(())
        });
        kept.inspect_err(|_| node.set_level(before))?;
        self.cut(&lineage);
        Ok(())
    }

    /// Keeps what would not be the same a second time, and cuts the lineage of a dataset until it has no more steps than the
    /// configuration allows. It depends on lineage and configuration alone, so that all processes of a cluster do the
    /// same.
    pub(crate) fn cut_lineage(&self, target: DatasetId) -> Result<()> {
        while let Some(dataset) = self
            .lineage(target)
            .not_determinate()
            .filter(|dataset| *dataset != target)
        {
            self.checkpoint_locally(dataset)?;
        }
        let Some(steps) = self.config().cut_lineage_every else {
            return Ok(());
        };
        while let Some(dataset) = self.lineage(target).too_deep(steps) {
            self.checkpoint_locally(dataset)?;
        }
        Ok(())
    }
}
