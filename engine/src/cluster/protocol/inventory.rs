//! What a member has: partitions, in few words however many they are.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::id::{DatasetId, ShuffleId};

/// What a member may have partitions of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Asset {
    /// A dataset. Of one that is kept it has the blocks; of a source that is not, it may have the bytes in its cache.
    Dataset(DatasetId),
    /// What they sent into a shuffle.
    Output(ShuffleId),
    /// The data of its lanes, at hand.
    Lanes,
}

/// What a member has.
pub(crate) type Inventory = BTreeMap<Asset, Partitions>;

/// Partitions, as runs in ascending order: those that one process has are mostly neighbours, or every so many. Nobody
/// needs to list them, so that a short message cannot make many of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<Run>")]
pub(crate) struct Partitions(Vec<Run>);

/// A partition, and `more` behind it, each `stride` after the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Run {
    first: u64,
    more: u64,
    stride: u64,
}

/// Why runs are no partitions.
#[derive(Debug, thiserror::Error)]
#[error("runs of partitions are not in ascending order")]
struct Disordered;

impl Run {
    /// Its last partition, if there are numbers so large.
    fn last(self) -> Option<u64> {
        self.first.checked_add(self.more.checked_mul(self.stride)?)
    }

    /// Takes in a partition behind its last, if it comes at the distance of the others.
    fn take(&mut self, last: u64, partition: u64) -> bool {
        let stride = partition - last;
        let fits = self.more == 0 || self.stride == stride;
        if fits {
            (self.more, self.stride) = (self.more + 1, stride);
        }
        fits
    }

    fn contains(self, partition: u64) -> bool {
        let behind = partition.checked_sub(self.first);
        // A single one has no stride.
        let steps = |behind: u64| behind.is_multiple_of(self.stride.max(1)) && behind / self.stride.max(1) <= self.more;
        behind.is_some_and(steps)
    }
}

impl Partitions {
    /// Words that they take.
    pub(crate) fn runs(&self) -> usize {
        self.0.len()
    }

    /// Whether a partition is among them.
    pub(crate) fn contains(&self, partition: usize) -> bool {
        let partition = partition as u64;
        let behind = self.0.partition_point(|run| run.first <= partition);
        let run = behind.checked_sub(1).and_then(|index| self.0.get(index));
        run.is_some_and(|run| run.contains(partition))
    }
}

impl From<Vec<u64>> for Partitions {
    /// In any order.
    fn from(mut partitions: Vec<u64>) -> Self {
        partitions.sort_unstable();
        partitions.dedup();
        let (mut runs, mut last) = (Vec::<Run>::new(), 0);
        for partition in partitions {
            if !runs.last_mut().is_some_and(|run| run.take(last, partition)) {
                let (more, stride) = (0, 0);
                runs.push(Run {
                    first: partition,
                    more,
                    stride,
                });
            }
            last = partition;
        }
        Self(runs)
    }
}

impl TryFrom<Vec<Run>> for Partitions {
    type Error = Disordered;

    fn try_from(runs: Vec<Run>) -> Result<Self, Disordered> {
        let mut least = Some(0);
        for run in &runs {
            let strides = (run.more > 0) == (run.stride > 0);
            if !strides || least.is_none_or(|least| run.first < least) {
                return Err(Disordered);
            }
            least = run.last().ok_or(Disordered)?.checked_add(1);
        }
        Ok(Self(runs))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn run(first: u64, more: u64, stride: u64) -> Run {
        Run { first, more, stride }
    }

    #[test]
    fn neighbours_and_every_so_many_are_one_run() {
        let runs = |partitions: Vec<u64>| Partitions::from(partitions).0;
        assert_eq!(runs((0..1000).collect()), [run(0, 999, 1)]);
        assert_eq!(runs((1..1000).step_by(3).collect()), [run(1, 332, 3)]);
        assert_eq!(runs(vec![7, 7, 2]), [run(2, 1, 5)]);
        assert_eq!(runs(vec![4]), [run(4, 0, 0)]);
        assert_eq!(runs(vec![0, 1, 2, 4, 6, 9]), [run(0, 2, 1), run(4, 1, 2), run(9, 0, 0)]);
        assert_eq!(runs(vec![u64::MAX, 0]), [run(0, 1, u64::MAX)]);
        // A member with a million blocks says so in few bytes.
        let all = Partitions::from((0..1_000_000).collect::<Vec<_>>());
        assert!(postcard::to_stdvec(&all).unwrap().len() < 10);
    }

    #[test]
    fn runs_out_of_order_are_refused_and_many_partitions_take_no_room() {
        let read = |runs: &[Run]| postcard::from_bytes::<Partitions>(&postcard::to_stdvec(runs).unwrap()).ok();
        for wrong in [
            &[run(1, 0, 0), run(1, 0, 0)][..],
            &[run(0, 2, 2), run(4, 0, 0)],
            &[run(0, 2, 2), run(3, 0, 0)],
            &[run(5, 0, 0), run(4, 0, 0)],
            &[run(0, 3, 0)],
            &[run(0, 0, 3)],
            &[run(1, 1, u64::MAX)],
            &[run(2, u64::MAX, u64::MAX)],
            &[run(u64::MAX, 0, 0), run(0, 0, 0)],
        ] {
            assert_eq!(read(wrong), None, "{wrong:?}");
        }
        let all = read(&[run(0, u64::MAX, 1)]).unwrap();
        assert!(all.contains(0) && all.contains(usize::MAX) && all.runs() == 1);
        assert_eq!(read(&[]), Some(Partitions::default()));
    }

    proptest! {
        #[test]
        fn they_are_what_they_were_made_of(partitions in prop::collection::vec(0..60_u64, 0..60)) {
            let made = Partitions::from(partitions.clone());
            let read: Partitions = postcard::from_bytes(&postcard::to_stdvec(&made).unwrap()).unwrap();
            prop_assert_eq!(&read, &made);
            let expected: BTreeSet<u64> = partitions.into_iter().collect();
            prop_assert!((0..70).all(|partition| read.contains(partition as usize) == expected.contains(&partition)));
            prop_assert!(made.runs() <= expected.len() / 2 + 1);
        }
    }
}
