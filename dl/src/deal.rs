//! How samples are dealt to lanes and steps.
//!
//! A step takes the next `batch` samples of an epoch, over all lanes; only the last one of an epoch may have fewer.
//! Lanes take turns in proportion to what they have, so that they all end with the epoch: sample `i` of a lane of `n`
//! has its turn at `(i + 1/2) / n` of the epoch, and of two lanes with a turn at the same place the lower one comes
//! first. (This is how the method of Webster and Sainte-Laguë deals seats. It never takes back what it has dealt, so
//! the samples of a lane in the first steps are the first of its order; Balinski and Young, "Fair Representation",
//! 1982.)

use std::cmp::{Ordering, Reverse};
use std::collections::{BinaryHeap, VecDeque};
use std::ops::Range;
use std::sync::{Arc, Mutex};

use distdl_storage::Unpoisoned;

use crate::error::{Error, Result};

/// Where steps end that were asked for last, kept for the other lanes.
const KNOWN_MAX: usize = 8;

/// How many samples of an epoch come first, and how many of them are each lane's.
type Dealt = (u64, Arc<[u64]>);

/// How an epoch's samples are dealt to lanes and steps: a pure function of the data's shape, the batch and the lanes.
#[derive(Debug, Clone)]
pub(crate) struct Deal {
    /// Samples of each lane.
    pub(crate) lengths: Vec<u32>,
    /// Those of all lanes.
    samples: u64,
    /// Whether all lanes have as many.
    are_equal: bool,
    /// Those of a step, over all lanes.
    batch: u64,
    pub(crate) steps_per_epoch: u64,
    /// The step and the epoch that begin with this deal: not 0 where the data has changed on the way.
    begin: (u64, u64),
    /// What was dealt: all lanes ask for the same.
    known: Arc<Mutex<VecDeque<Dealt>>>,
}

impl Deal {
    pub(crate) fn new(lengths: Vec<u32>, batch: usize) -> Result<Self> {
        let (lanes, batch) = (lengths.len(), batch as u64);
        let samples = lengths.iter().map(|length| u64::from(*length)).sum();
        if samples == 0 {
            return Err(Error::Data(
                "the dataset has no samples; check its source and filters".to_owned(),
            ));
        }
        if samples < lanes as u64 {
            return Err(Error::Data(format!(
                "{samples} samples cannot be dealt to {lanes} lanes; lower `lanes`, or add data"
            )));
        }
        if batch > samples {
            return Err(Error::Data(format!(
                "a batch of {batch} is larger than the {samples} samples of the dataset; lower `batch`, or add data"
            )));
        }
        if batch < lanes as u64 {
            return Err(Error::Data(format!(
                "a batch of {batch} cannot be dealt to {lanes} lanes; raise `batch` or lower `lanes`"
            )));
        }
        Ok(Self {
            are_equal: lengths.iter().all(|length| *length == lengths[0]),
            lengths,
            samples,
            batch,
            steps_per_epoch: samples.div_ceil(batch),
            begin: (0, 0),
            known: Arc::default(),
        })
    }

    /// This deal from a step on, which begins an epoch.
    pub(crate) fn beginning_at(self, step: u64, epoch: u64) -> Self {
        Self {
            begin: (step, epoch),
            ..self
        }
    }

    /// The epoch of a step, and its 0-based index in the epoch.
    pub(crate) fn epoch_and_step(&self, step: u64) -> (u64, u64) {
        let ((first_step, first_epoch), steps) = (self.begin, step.saturating_sub(self.begin.0));
        debug_assert!(step >= first_step, "a step before the data was there");
        (first_epoch + steps / self.steps_per_epoch, steps % self.steps_per_epoch)
    }

    /// The most samples that a lane takes in a step.
    pub(crate) fn share_max(&self, lane: usize) -> usize {
        let (length, lanes) = (u64::from(self.lengths[lane]), self.lengths.len() as u64);
        let most = match self.are_equal {
            true => self.batch.div_ceil(lanes),
            // Between two of its turns at the ends of a step, every lane has at least all turns that fit there but one.
            false => (u128::from(self.batch + lanes) * u128::from(length) / u128::from(self.samples)) as u64 + 1,
        };
        most.min(length).min(self.batch) as usize
    }

    /// The first lane, and its samples, that has fewer than there are full steps in an epoch: there are some of which
    /// it takes none.
    pub(crate) fn lane_with_empty_shares(&self) -> Option<(usize, u32)> {
        let full_steps = self.samples / self.batch;
        let mut lanes = self.lengths.iter().copied().enumerate();
        lanes.find(|(_, length)| u64::from(*length) < full_steps)
    }

    /// Whether no lane ever takes more than one sample in a step. Of lanes that differ by at most one sample, any has
    /// its turn `k` before any has its turn `k + 1`.
    pub(crate) fn deals_singly(&self) -> bool {
        let (least, most) = (self.lengths.iter().min(), self.lengths.iter().max());
        let is_even = least.zip(most).is_some_and(|(least, most)| most - least <= 1);
        is_even && self.batch == self.lengths.len() as u64
    }

    /// Samples of a step of an epoch, over all lanes.
    pub(crate) fn samples_of(&self, step_of_epoch: u64) -> u64 {
        let before = step_of_epoch.saturating_mul(self.batch).min(self.samples);
        self.batch.min(self.samples - before)
    }

    /// Places in the lane's order that a step of an epoch takes; empty where others have all turns.
    pub(crate) fn range(&self, lane: usize, step_of_epoch: u64) -> Range<usize> {
        let start = step_of_epoch.saturating_mul(self.batch);
        self.dealt(lane, start)..self.dealt(lane, start.saturating_add(self.batch))
    }

    /// How many of the first `count` samples of an epoch are a lane's.
    fn dealt(&self, lane: usize, count: u64) -> usize {
        let (count, lanes) = (count.min(self.samples), self.lengths.len() as u64);
        if self.are_equal {
            return (count / lanes + u64::from((lane as u64) < count % lanes)) as usize;
        }
        self.dealt_to_all(count)[lane] as usize
    }

    /// The same of each lane.
    fn dealt_to_all(&self, count: u64) -> Arc<[u64]> {
        let known = |(known, dealt): &Dealt| (*known == count).then(|| Arc::clone(dealt));
        if let Some(dealt) = self.known.lock().unpoisoned().iter().find_map(known) {
            return dealt;
        }
        // Two may do this at the same time, to the same end.
        let dealt: Arc<[u64]> = self.deal_first(count).into();
        let mut known = self.known.lock().unpoisoned();
        known.truncate(KNOWN_MAX - 1);
        known.push_front((count, Arc::clone(&dealt)));
        dealt
    }

    /// Deals the first `count` samples of an epoch.
    fn deal_first(&self, count: u64) -> Vec<u64> {
        let lanes = self.lengths.len() as u64;
        // What each lane has had at `count - lanes / 2`, rounded: together at most `count`, and not many fewer.
        let (before, whole) = (
            u128::from((2 * count).saturating_sub(lanes)),
            2 * u128::from(self.samples),
        );
        let next = |(lane, length): (usize, &u32)| NextSample {
            dealt: ((before * u128::from(*length) + u128::from(self.samples)) / whole) as u64,
            length: u64::from(*length),
            lane,
        };
        let next_of_lanes: Vec<NextSample> = self.lengths.iter().enumerate().map(next).collect();
        let mut dealt: Vec<u64> = next_of_lanes.iter().map(|next| next.dealt).collect();
        let missing = count - dealt.iter().sum::<u64>();
        let waiting = next_of_lanes.into_iter().filter(|next| next.dealt < next.length);
        let mut waiting: BinaryHeap<Reverse<NextSample>> = waiting.map(Reverse).collect();
        for _ in 0..missing {
            let Some(Reverse(mut next)) = waiting.pop() else {
                break;
            };
            next.dealt += 1;
            dealt[next.lane] = next.dealt;
            if next.dealt < next.length {
                waiting.push(Reverse(next));
            }
        }
        dealt
    }
}

/// A lane's next sample, in the heap of those that have no step yet.
#[derive(PartialEq, Eq)]
struct NextSample {
    /// Its samples before that.
    dealt: u64,
    /// All its samples.
    length: u64,
    lane: usize,
}

impl Ord for NextSample {
    fn cmp(&self, other: &Self) -> Ordering {
        let scaled = |next: &NextSample, length| u128::from(2 * next.dealt + 1) * u128::from(length);
        scaled(self, other.length)
            .cmp(&scaled(other, self.length))
            .then(self.lane.cmp(&other.lane))
    }
}

impl PartialOrd for NextSample {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// All turns of an epoch, in order.
    fn turns(lengths: &[u32]) -> Vec<usize> {
        let turns = lengths.iter().enumerate();
        let mut turns: Vec<(f64, usize)> = turns
            .flat_map(|(lane, length)| (0..*length).map(move |i| ((f64::from(i) + 0.5) / f64::from(*length), lane)))
            .collect();
        turns.sort_by(|left, right| left.0.total_cmp(&right.0).then(left.1.cmp(&right.1)));
        turns.into_iter().map(|(_, lane)| lane).collect()
    }

    proptest! {
        #[test]
        fn a_step_takes_the_next_turns(lengths in vec(prop_oneof![0..4_u32, 0..300_u32, Just(37), 37..39_u32], 1..9), batch in 1..40_usize) {
            let samples = lengths.iter().sum::<u32>() as usize;
            let batch = batch.max(lengths.len());
            prop_assume!(batch <= samples);
            let (deal, turns) = (Deal::new(lengths.clone(), batch).unwrap(), turns(&lengths));
            let mut taken = vec![0; lengths.len()];
            for (step, turns) in turns.chunks(batch).enumerate() {
                prop_assert_eq!(deal.samples_of(step as u64), turns.len() as u64);
                for (lane, taken) in taken.iter_mut().enumerate() {
                    let range = deal.range(lane, step as u64);
                    prop_assert_eq!(range.start, *taken);
                    prop_assert_eq!(range.len(), turns.iter().filter(|turn| **turn == lane).count(), "lane {} at {}", lane, step);
                    prop_assert!(range.len() <= deal.share_max(lane));
                    *taken = range.end;
                }
            }
            let most = (0..deal.steps_per_epoch).flat_map(|step| (0..lengths.len()).map(move |lane| (lane, step)));
            let most = most.map(|(lane, step)| deal.range(lane, step).len()).max();
            prop_assert_eq!(deal.deals_singly(), most == Some(1));
            prop_assert_eq!(taken, lengths.iter().map(|length| *length as usize).collect::<Vec<_>>());
            prop_assert_eq!(deal.steps_per_epoch as usize, samples.div_ceil(batch));
        }
    }

    #[test]
    fn equal_lanes_have_equal_shares_and_others_nearly_what_they_are_of_the_whole() {
        let equal = Deal::new(vec![100; 4], 32).unwrap();
        assert!((0..4).all(|lane| equal.share_max(lane) == 8));
        assert_eq!((equal.range(3, 1), equal.range(3, 12)), (8..16, 96..100));
        let uneven = Deal::new(vec![u32::MAX, u32::MAX / 3], 128).unwrap();
        let middle = uneven.steps_per_epoch / 2;
        assert_eq!((uneven.range(0, middle).len(), uneven.range(1, middle).len()), (96, 32));
    }

    #[test]
    fn a_step_is_dealt_once_to_all_lanes() {
        let deal = Deal::new((0..100).map(|lane| 50 + lane % 3).collect(), 1000).unwrap();
        let of_all = |step| (0..100).map(|lane| deal.range(lane, step).len()).sum::<usize>();
        assert_eq!(of_all(1), 1000);
        let known = || {
            deal.known
                .lock()
                .unwrap()
                .iter()
                .map(|(count, _)| *count)
                .collect::<Vec<_>>()
        };
        assert_eq!(known(), [2000, 1000]);
        let (clone, before) = (deal.clone(), deal.dealt_to_all(2000));
        assert!(Arc::ptr_eq(&clone.dealt_to_all(2000), &before));
        assert!((2..5).all(|step| of_all(step) == 1000));
        assert_eq!(known(), [5000, 4000, 3000, 2000, 1000]);
    }

    #[test]
    fn of_an_epoch_of_many_steps_only_the_last_are_kept() {
        let deal = Deal::new(vec![50, 51, 52], 3).unwrap();
        assert!((0..51).all(|step| (0..3).map(|lane| deal.range(lane, step).len()).sum::<usize>() == 3));
        let known = deal.known.lock().unwrap();
        let counts: Vec<u64> = known.iter().map(|(count, _)| *count).collect();
        assert_eq!(counts, [153, 150, 147, 144, 141, 138, 135, 132]);
    }

    #[test]
    fn lanes_that_differ_by_one_take_one_at_a_time() {
        let singly = |lengths: &[u32], batch| Deal::new(lengths.to_vec(), batch).unwrap().deals_singly();
        assert!(singly(&[9, 8, 9], 3) && singly(&[8; 3], 3));
        assert!(!singly(&[9, 8, 9], 4) && !singly(&[10, 8, 9], 3));
    }

    #[test]
    fn what_cannot_be_dealt_is_refused() {
        for (lengths, batch, says) in [
            (vec![0, 0], 2, "no samples"),
            (
                vec![1, 1, 1, 0],
                4,
                "3 samples cannot be dealt to 4 lanes; lower `lanes`",
            ),
            (
                vec![1, 1, 1, 0],
                3,
                "3 samples cannot be dealt to 4 lanes; lower `lanes`",
            ),
            (vec![3, 4], 8, "larger than the 7 samples"),
            (vec![3, 4, 5], 2, "dealt to 3 lanes"),
        ] {
            let error = Deal::new(lengths, batch).map_err(|error| error.to_string());
            assert!(error.as_ref().is_err_and(|error| error.contains(says)), "{error:?}");
        }
    }
}
