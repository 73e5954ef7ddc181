//! One dataset with all that it is derived from.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Dependency, Determinacy, Node, PartitionMap, ShuffleSpec};
use crate::id::{DatasetId, ShuffleId};

/// A dataset and its ancestors: what a plan is made from. Ids are in order of derivation.
#[derive(Debug, Clone)]
pub(crate) struct Lineage {
    target: DatasetId,
    nodes: Arc<BTreeMap<DatasetId, Arc<Node>>>,
}

impl Lineage {
    pub(super) fn new(target: DatasetId, nodes: BTreeMap<DatasetId, Arc<Node>>) -> Self {
        Self {
            target,
            nodes: Arc::new(nodes),
        }
    }

    /// The dataset that an action asks for.
    pub(crate) fn target(&self) -> DatasetId {
        self.target
    }

    /// A dataset of this lineage.
    ///
    /// # Panics
    /// If `id` is not an ancestor of the target, which would be a bug of the caller.
    pub(crate) fn node(&self, id: DatasetId) -> &Arc<Node> {
        &self.nodes[&id]
    }

    /// How a shuffle of this lineage cuts its records; `None` if it has no such shuffle.
    pub(crate) fn shuffle_spec(&self, shuffle: ShuffleId) -> Option<&Arc<dyn ShuffleSpec>> {
        match self.nodes.get(&shuffle.child)?.dependencies.get(shuffle.dependency)? {
            Dependency::Shuffle { spec, .. } => Some(spec),
            Dependency::Narrow { .. } => None,
        }
    }

    /// The datasets that may be computed although everything that is remembered is there, parents before children. If one
    /// of them reads a part of its parent that is known only after work before planning, those are all.
    pub(crate) fn nodes_in_front(&self) -> Vec<&Arc<Node>> {
        let mut found: BTreeMap<DatasetId, &Arc<Node>> = BTreeMap::new();
        let mut worklist = vec![self.target];
        while let Some(id) = worklist.pop() {
            let node = self.node(id);
            if node.is_remembered() || found.insert(id, node).is_some() {
                continue;
            }
            for dependency in node.dependencies() {
                if let Dependency::Narrow {
                    partitions: PartitionMap::Where(_),
                    ..
                } = dependency
                {
                    return self.nodes().collect();
                }
                worklist.push(dependency.parent());
            }
        }
        found.into_values().collect()
    }

    /// The first dataset that is derived in `steps` steps, along its longest way, and from which something else of this
    /// lineage is derived.
    pub(crate) fn too_deep(&self, steps: usize) -> Option<DatasetId> {
        let mut depths: BTreeMap<DatasetId, usize> = BTreeMap::new();
        for node in self.nodes() {
            let parents = node.dependencies().iter().map(Dependency::parent);
            let deepest = parents.max_by_key(|parent| depths[parent]);
            let depth = deepest.map_or(0, |parent| depths[&parent] + 1);
            if depth > steps {
                return deepest;
            }
            depths.insert(node.id, depth);
        }
        None
    }

    /// The first dataset that would not be the same if it were computed again.
    pub(crate) fn not_determinate(&self) -> Option<DatasetId> {
        let mut nodes = self.nodes();
        nodes
            .find(|node| node.determinacy() != Determinacy::Determinate)
            .map(|node| node.id)
    }

    /// All datasets, parents before children.
    pub(crate) fn nodes(&self) -> impl DoubleEndedIterator<Item = &Arc<Node>> {
        self.nodes.values()
    }
}
