//! The action that the cluster is at: what its rounds have brought so far.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::cluster::events::Happening;
use crate::cluster::journal::Collected;
use crate::cluster::protocol::{ActionKind, Answer, Head, Work};
use crate::error::EngineError;

/// The action that the cluster is at.
#[derive(Debug)]
pub(super) struct Action {
    pub(super) head: Head,
    /// Results by partition, of those wanted.
    pub(super) results: BTreeMap<u64, Bytes>,
    pub(super) updates: Vec<Bytes>,
    pub(super) bytes: u64,
    /// What came since the last round began, for the log.
    pub(super) unlogged: Vec<Collected>,
    /// What rank 0 of the loop's last round said when it was finished.
    pub(super) looped: Option<Bytes>,
    /// Number of the next round.
    pub(super) round_next: u32,
    /// Rounds that ended without all results although nobody was lost.
    pub(super) fruitless: u32,
    /// Whether every member of this generation has placed its data.
    pub(super) placed: bool,
    /// Whether a round of the loop has begun.
    pub(super) loop_begun: bool,
    /// Whether a member was lost since the last round began.
    pub(super) loss: bool,
    /// Whether it was said since then that optimizer state is lost.
    pub(super) told_of_lost_state: bool,
}

impl Action {
    pub(super) fn new(head: Head) -> Self {
        Self {
            head,
            results: BTreeMap::new(),
            updates: Vec::new(),
            bytes: 0,
            unlogged: Vec::new(),
            looped: None,
            round_next: 0,
            fruitless: 0,
            placed: false,
            loop_begun: false,
            loss: false,
            told_of_lost_state: false,
        }
    }

    pub(super) fn is_iterate(&self) -> bool {
        self.head.is_iterate()
    }

    /// What its answer takes at most, as far as that is known before it is there.
    pub(super) fn answer_bytes_max(&self) -> u64 {
        match self.head.kind {
            ActionKind::Compute { .. } => 0,
            ActionKind::Iterate { answer_bytes_max, .. } => answer_bytes_max,
        }
    }

    fn wanted(&self) -> &[u64] {
        match &self.head.kind {
            ActionKind::Compute { wanted, .. } => wanted,
            ActionKind::Iterate { .. } => &[],
        }
    }

    pub(super) fn missing(&self) -> Vec<u64> {
        let wanted: BTreeSet<u64> = self.wanted().iter().copied().collect();
        wanted
            .into_iter()
            .filter(|partition| !self.results.contains_key(partition))
            .collect()
    }

    /// Takes in what a member gave in a round. The first result of a partition counts.
    pub(super) fn collect(&mut self, part: Collected) {
        let wanted: BTreeSet<u64> = self.wanted().iter().copied().collect();
        let new = |(partition, _): &(u64, Bytes)| wanted.contains(partition) && !self.results.contains_key(partition);
        let results: Vec<(u64, Bytes)> = part.results.into_iter().filter(new).collect();
        let bytes = results
            .iter()
            .map(|(_, result)| result)
            .chain(&part.updates)
            .map(Bytes::len)
            .sum::<usize>();
        self.bytes = self.bytes.saturating_add(bytes as u64);
        self.results.extend(results.iter().cloned());
        self.updates.extend(part.updates.iter().cloned());
        let updates = part.updates;
        self.unlogged.push(Collected { results, updates });
    }

    /// Its next round begins.
    pub(super) fn begin(&mut self, work: &Work) {
        self.round_next = self.round_next.saturating_add(1);
        (self.loss, self.told_of_lost_state) = (false, false);
        if matches!(work, Work::Loop { .. }) {
            self.loop_begun = true;
            // Of a round that was cut. Those that were not finished may come to other values in a loop that depends on
            // time.
            self.looped = None;
        }
    }

    /// What a round that is about to begin is, if it makes up for a loss.
    pub(super) fn recovery(&self, work: &Work) -> Option<Happening> {
        let action = self.head.action;
        match work {
            Work::Compute { .. } if self.loss && !self.is_iterate() => {
                let (missing, all) = (self.missing().len() as u64, self.wanted().len() as u64);
                Some(Happening::Recomputed {
                    action,
                    partitions: missing,
                    partitions_all: all,
                    micros: None,
                })
            }
            Work::Loop { start, .. } if self.loop_begun => Some(Happening::Resumed {
                action,
                version: start.version,
                micros: None,
            }),
            _ => None,
        }
    }

    pub(super) fn computed(&self) -> Answer {
        let results = self
            .results
            .iter()
            .map(|(partition, result)| (*partition, result.clone()));
        Answer::Computed {
            results: results.collect(),
            updates: self.updates.clone(),
        }
    }

    /// The error of an action that gets nowhere although nobody is lost.
    pub(super) fn exhausted(&self) -> Option<EngineError> {
        let (ActionKind::Compute {
            dataset, rounds_max, ..
        }
        | ActionKind::Iterate {
            dataset, rounds_max, ..
        }) = &self.head.kind;
        let partitions = self.missing().into_iter().map(|partition| partition as usize).collect();
        (self.fruitless > *rounds_max).then_some(EngineError::RecoveryExhausted {
            dataset: *dataset,
            partitions,
            rounds: self.fruitless as usize,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::protocol::LoopStart;
    use crate::id::DatasetId;

    #[test]
    fn what_a_loop_came_to_in_a_round_that_was_cut_does_not_count() {
        let kind = ActionKind::Iterate {
            dataset: DatasetId(0),
            rounds_max: 1,
            first_step: 0,
            lanes: 1,
            answer_bytes_max: 0,
        };
        let mut action = Action::new(Head {
            action: 0,
            kind,
            site: String::new(),
            fingerprint: [0; 32],
        });
        let start = LoopStart {
            version: 0,
            source: None,
            states: Vec::new(),
        };
        let work = Work::Loop { start, lanes: vec![0] };
        action.begin(&work);
        action.looped = Some(Bytes::from_static(b"of a history that nobody goes on with"));
        action.begin(&work);
        assert_eq!(action.looped, None);
    }

    /// Members may come to the same results, and one that is confused to others.
    #[test]
    fn the_first_result_of_a_partition_counts_and_none_that_is_not_wanted() {
        let kind = ActionKind::Compute {
            wanted: vec![2, 5],
            dataset: DatasetId(0),
            rounds_max: 1,
        };
        let mut action = Action::new(Head {
            action: 0,
            kind,
            site: String::new(),
            fingerprint: [0; 32],
        });
        let part = |results: &[(u64, &'static [u8])]| Collected {
            results: results
                .iter()
                .map(|(partition, result)| (*partition, Bytes::from_static(result)))
                .collect(),
            updates: Vec::new(),
        };
        action.collect(part(&[(5, b"first"), (3, b"not wanted")]));
        action.collect(part(&[(5, b"second"), (2, b"two")]));
        assert_eq!(action.unlogged, [part(&[(5, b"first")]), part(&[(2, b"two")])]);
        assert_eq!(action.bytes, 8);
        let Answer::Computed { results, .. } = action.computed() else {
            panic!("another answer");
        };
        assert_eq!(results, part(&[(2, b"two"), (5, b"first")]).results);
    }
}
