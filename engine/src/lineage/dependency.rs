//! What a dataset is derived from, and which partitions of it each partition reads.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use super::ShuffleSpec;
use crate::id::DatasetId;

/// Which parent partitions one partition of a child reads.
#[derive(Debug, Clone)]
pub(crate) enum PartitionMap {
    /// Partition `p` reads the parent's `p`.
    Same,
    /// Partition `p` reads the parent's `p - offset`, if the parent has it (a union's arm). A dataset with one such
    /// dependency has no others, and they ascend.
    Offset(usize),
    /// Partition `p` reads the parent's partitions in `groups[p]` (coalesce).
    Groups(Arc<[Vec<usize>]>),
    /// Partition `p` reads the parent's `p / columns` (the left side of a cartesian product).
    Row(usize),
    /// Partition `p` reads the parent's `p % columns` (the right side of one).
    Column(usize),
    /// Partition `p` reads the parent's `p` if that may hold what it wants, else nothing.
    Where(Wanted),
}

/// Tells which partitions are read; asked after what must be done before planning is done.
#[derive(Clone)]
pub(crate) struct Wanted(pub Arc<dyn Fn(usize) -> bool + Send + Sync>);

impl fmt::Debug for Wanted {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Wanted")
    }
}

impl PartitionMap {
    /// The partitions of the child that may read any of the parent's: others need not be asked.
    pub(crate) fn readers(&self, parent_partitions: usize) -> Range<usize> {
        match self {
            Self::Offset(offset) => *offset..offset + parent_partitions,
            _ => 0..usize::MAX,
        }
    }

    /// The parent partitions that `partition` reads, in the order in which it reads them.
    pub(crate) fn parents(&self, partition: usize, parent_partitions: usize) -> Vec<usize> {
        match self {
            Self::Same => vec![partition],
            Self::Offset(offset) => partition
                .checked_sub(*offset)
                .filter(|parent| *parent < parent_partitions)
                .into_iter()
                .collect(),
            Self::Groups(groups) => groups[partition].clone(),
            Self::Row(columns) => vec![partition / columns],
            Self::Column(columns) => vec![partition % columns],
            Self::Where(wanted) => Some(partition)
                .filter(|partition| (wanted.0)(*partition))
                .into_iter()
                .collect(),
        }
    }
}

/// What a dataset is derived from.
#[derive(Clone)]
pub(crate) enum Dependency {
    /// Each partition reads a few known partitions of the parent.
    Narrow {
        /// The parent.
        parent: DatasetId,
        /// Which of its partitions.
        partitions: PartitionMap,
    },
    /// Each partition reads, by key, from every partition of the parent.
    Shuffle {
        /// The parent.
        parent: DatasetId,
        /// How the parent's records are cut into the child's partitions.
        spec: Arc<dyn ShuffleSpec>,
    },
}

impl Dependency {
    /// The dataset depended on.
    pub(crate) fn parent(&self) -> DatasetId {
        match self {
            Self::Narrow { parent, .. } | Self::Shuffle { parent, .. } => *parent,
        }
    }
}

/// Which of a dataset's dependencies, by number, a partition of it may read from: of a union's arms the one that has
/// it.
pub(super) fn read_by(dependencies: &[Dependency], partition: usize) -> Range<usize> {
    let offset = |dependency: &Dependency| match dependency {
        Dependency::Narrow {
            partitions: PartitionMap::Offset(offset),
            ..
        } => Some(*offset),
        _ => None,
    };
    if dependencies.first().and_then(offset).is_none() {
        return 0..dependencies.len();
    }
    // Of arms with the same offset all but the last have no partitions.
    let after = dependencies.partition_point(|arm| offset(arm) <= Some(partition));
    after.saturating_sub(1)..after
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arm(offset: usize) -> Dependency {
        Dependency::Narrow {
            parent: DatasetId(0),
            partitions: PartitionMap::Offset(offset),
        }
    }

    #[test]
    fn a_partition_of_a_union_asks_one_arm_however_many_there_are() {
        // Arms without partitions at both ends and between.
        let counts = [0, 0, 2, 1, 0, 0, 3, 0];
        let (mut arms, mut expected) = (Vec::new(), Vec::new());
        for (number, count) in counts.into_iter().enumerate() {
            arms.push(arm(expected.len()));
            expected.extend((0..count).map(|of_parent| (number, of_parent)));
        }
        for (partition, (number, of_parent)) in expected.into_iter().enumerate() {
            assert_eq!(read_by(&arms, partition), number..number + 1);
            let Dependency::Narrow { partitions, .. } = &arms[number] else {
                unreachable!("all are arms")
            };
            assert_eq!(partitions.parents(partition, counts[number]), [of_parent]);
            let readers = |(number, count): (usize, &usize)| {
                let offset = counts[..number].iter().sum();
                PartitionMap::Offset(offset).readers(*count).contains(&partition)
            };
            assert_eq!(counts.iter().enumerate().filter(|arm| readers(*arm)).count(), 1);
        }
    }

    #[test]
    fn of_other_datasets_a_partition_may_ask_all() {
        let same = || Dependency::Narrow {
            parent: DatasetId(0),
            partitions: PartitionMap::Same,
        };
        assert_eq!(read_by(&[same(), same()], 7), 0..2);
        assert_eq!(read_by(&[], 7), 0..0);
    }
}
