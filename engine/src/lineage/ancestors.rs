//! One dataset with all that it is derived from.

use std::collections::{BTreeMap, BinaryHeap};
use std::sync::Arc;

use super::{Dependency, Determinacy, Node, PartitionMap, ShuffleSpec, take_largest};
use crate::id::{DatasetId, ShuffleId};

/// A dataset and its ancestors: what a plan is made from. Ids are in order of derivation.
#[derive(Debug, Clone)]
pub(crate) struct Lineage {
    target: DatasetId,
    /// By ascending id, and so parents before children.
    nodes: Arc<Vec<Arc<Node>>>,
}

impl Lineage {
    /// Of nodes by ascending id.
    pub(super) fn new(target: DatasetId, nodes: Vec<Arc<Node>>) -> Self {
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
        match self.position(id) {
            Some(position) => &self.nodes[position],
            None => panic!("{id} is no part of the lineage of {}", self.target),
        }
    }

    fn position(&self, id: DatasetId) -> Option<usize> {
        self.nodes.binary_search_by_key(&id, |node| node.id).ok()
    }

    /// How a shuffle of this lineage cuts its records; `None` if it has no such shuffle.
    pub(crate) fn shuffle_spec(&self, shuffle: ShuffleId) -> Option<&Arc<dyn ShuffleSpec>> {
        let position = self.position(shuffle.child)?;
        match self.nodes[position].dependencies.get(shuffle.dependency)? {
            Dependency::Shuffle { spec, .. } => Some(spec),
            Dependency::Narrow { .. } => None,
        }
    }

    /// The datasets that may be computed although everything that is remembered is there, parents before children. If
    /// one of them reads a part of its parent that is known only after work before planning, those are all.
    pub(crate) fn nodes_in_front(&self) -> Vec<&Arc<Node>> {
        let (mut found, mut waiting) = (Vec::new(), BinaryHeap::from([self.target]));
        while let Some(id) = take_largest(&mut waiting) {
            let node = self.node(id);
            if node.is_remembered() {
                continue;
            }
            found.push(node);
            for dependency in node.dependencies() {
                if let Dependency::Narrow {
                    partitions: PartitionMap::Where(_),
                    ..
                } = dependency
                {
                    return self.nodes().collect();
                }
                waiting.push(dependency.parent());
            }
        }
        found.reverse();
        found
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
        self.nodes.iter()
    }
}

#[cfg(test)]
mod tests {
    use crate::batch::RecordType;
    use crate::lineage::{Compute, Dependency, Graph, NodeSpec, PartitionMap};

    #[test]
    fn what_is_derived_in_very_many_ways_is_visited_once() {
        let mut graph = Graph::default();
        let mut insert = |dependencies| {
            let spec = NodeSpec::new("zip", 1, dependencies, Compute::Pass);
            graph.insert(spec, RecordType::of::<u64>()).id
        };
        let mut made = vec![insert(Vec::new()), insert(Vec::new())];
        for _ in 0..64 {
            // Each over the two before it, and one of them twice: there are more ways than could ever be walked.
            let parents = [made.len() - 1, made.len() - 2, made.len() - 1];
            let arms = parents.map(|parent| Dependency::Narrow {
                parent: made[parent],
                partitions: PartitionMap::Same,
            });
            made.push(insert(arms.into()));
        }
        let unrelated = insert(Vec::new());
        let lineage = graph.lineage(made[made.len() - 1]);
        assert!(lineage.nodes().map(|node| &node.id).eq(&made));
        assert!(lineage.nodes_in_front().into_iter().map(|node| &node.id).eq(&made));
        assert!(made.iter().all(|id| lineage.node(*id).id == *id));
        assert_eq!(lineage.position(unrelated), None);
    }
}
