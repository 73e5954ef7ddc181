//! What is done for datasets before they are computed, and with what is kept of them.

use std::sync::Arc;

use distdl_storage::Unpoisoned;

use super::Context;
use crate::error::Result;
use crate::id::DatasetId;
use crate::lineage::{Lineage, Node};
use crate::memo;

impl Context {
    pub(crate) fn lineage(&self, target: DatasetId) -> Lineage {
        self.inner.graph.lock().unpoisoned().lineage(target)
    }

    /// Does all work that must be done before a lineage can be planned.
    pub(crate) fn prepare_all(&self, lineage: &Lineage) -> Result<()> {
        lineage.nodes().try_for_each(|node| node.prepare())?;
        self.recall(lineage);
        Ok(())
    }

    /// As much of it as will do if what is remembered is there: nothing is done for what lies behind. Which datasets
    /// those are does not depend on what is there, so that all processes of a cluster do the same.
    pub(crate) fn prepare_front(&self, lineage: &Lineage) -> Result<()> {
        lineage
            .nodes_in_front()
            .into_iter()
            .try_for_each(|node| node.prepare())?;
        self.recall(lineage);
        Ok(())
    }

    /// Looks for the blocks of memoized datasets that are remembered and not here yet.
    pub(crate) fn recall(&self, lineage: &Lineage) {
        let Some(memo) = self.store().memo() else { return };
        memo.catch_up();
        for node in lineage.nodes().filter(|node| node.is_remembered()) {
            let Some(level) = node.level() else { continue };
            // That all sources tell what they hold was seen when it was declared.
            let keys = node
                .keys
                .get_or_init(|| memo::keys(lineage, node.id).unwrap_or_default());
            for (partition, key) in keys.iter().enumerate() {
                let codec = node.record_type.codec;
                self.store().recall(node.id.block(partition), key, codec, level);
            }
        }
    }

    /// Drops what a dataset is derived from, all of whose blocks are kept. Returns whether that was so: if somebody has
    /// dropped some of them meanwhile, nothing happens.
    ///
    /// # Errors
    /// [`EngineError::Cancelled`](crate::EngineError::Cancelled) if a limit of this thread passes before it is its
    /// turn.
    pub(crate) fn cut(&self, lineage: &Lineage) -> Result<bool> {
        let node = lineage.node(lineage.target());
        if let Some(digests) = memo::digests(lineage, node.id) {
            // Keys that the program asked for are the same.
            let _ = node.keys.set(digests);
        }
        let removed = {
            let _turn = self.inner.action.enter_unless(|| self.passed_alone(node))?;
            let mut graph = self.inner.graph.lock().unpoisoned();
            // Other processes have other blocks.
            let is_here = |partition| self.member().is_some() || self.has_block(node.id, partition);
            if node.level().is_none() || !(0..node.partitions).all(is_here) {
                return Ok(false);
            }
            graph.cut(node.id)
        };
        self.drop_nodes(&removed);
        Ok(true)
    }

    /// Keeps no blocks of a dataset from now on and drops those that it has, unless they are all there is of it.
    pub(crate) fn unpersist(&self, node: &Node) {
        {
            let _graph = self.inner.graph.lock().unpoisoned();
            if node.is_cut() {
                return;
            }
            node.set_level(None);
        }
        self.drop_blocks(node.id);
    }

    /// Drops the blocks of datasets that nobody refers to any more.
    pub(super) fn drop_nodes(&self, removed: &[Arc<Node>]) {
        self.accumulators().forget(removed.iter().map(|node| node.id));
        for node in removed {
            // Also of those that are not to be kept any more: a task may have been late.
            self.drop_blocks(node.id);
            self.metrics().forget(node.id);
            self.resources().copied_in.lock().unpoisoned().remove(&node.id);
        }
    }

    pub(crate) fn has_block(&self, dataset: DatasetId, partition: usize) -> bool {
        self.store().contains(dataset.block(partition))
    }

    /// Drops all blocks of a dataset. What cannot be removed from disk only costs room: it is never read again.
    pub(crate) fn drop_blocks(&self, dataset: DatasetId) {
        if let Err(error) = self.store().remove_dataset(dataset.0) {
            tracing::warn!(%dataset, "could not remove blocks: {error}");
        }
    }
}
