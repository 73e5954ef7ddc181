//! Random samples of a fixed size.

use std::collections::BTreeMap;

use distdl_storage::Record;
use rand_core::RngCore;

use crate::action::order::{Ranked, Smallest};
use crate::batch::typed_batches;
use crate::dataset::{Dataset, Purpose, generator};
use crate::error::{EngineError, Result};

impl<T: Record> Dataset<T> {
    /// `count` records drawn at random, each at most once, in the order in which they were drawn; all records if there
    /// are not more. A pass without a shuffle; each partition keeps `count` records.
    ///
    /// A number is drawn for every record, by a generator keyed by (seed, partition, position), and the smallest win.
    ///
    /// ```
    /// # use distdl_engine::{Config, Context};
    /// # let context = Context::new(Config::default())?;
    /// let numbers = context.range(0..1000, 4);
    /// let drawn = numbers.take_sample(5, 7)?;
    /// assert_eq!(drawn.len(), 5, "exactly so many, other than `sample`");
    /// assert_eq!(numbers.take_sample(5, 7)?, drawn);
    /// # Ok::<(), distdl_engine::EngineError>(())
    /// ```
    ///
    /// # Errors
    /// As any action.
    pub fn take_sample(&self, count: usize, seed: u64) -> Result<Vec<T>> {
        let parts = self.run_all(move |_, partition, stream| {
            let mut generator = generator(Purpose::TakeSample, seed, partition);
            let mut smallest: Smallest<Ranked<u64, T>> = Smallest::new(count);
            let mut position = 0;
            for batch in typed_batches::<T>(stream) {
                for record in batch?.as_slice() {
                    smallest.offer_ranked((generator.next_u64(), position), record);
                    position += 1;
                }
            }
            let drawn = smallest.into_vec().into_iter();
            Ok(drawn.map(|drawn| (drawn.rank, drawn.record)).collect::<Vec<_>>())
        })?;
        let mut drawn: Vec<_> = parts.into_iter().flatten().collect();
        // Stable: of equal draws in two partitions the first partition's comes first.
        drawn.sort_by_key(|(rank, _)| *rank);
        drawn.truncate(count);
        Ok(drawn.into_iter().map(|(_, record)| record).collect())
    }

    /// `count` records drawn at random, of which each may come more than once, in the order in which they were drawn.
    /// Two passes without a shuffle: one counts, one fetches.
    ///
    /// # Errors
    /// [`EngineError::Empty`] if `count` is more than 0 and there is no record; otherwise as any action.
    pub fn take_sample_with_replacement(&self, count: usize, seed: u64) -> Result<Vec<T>> {
        if count == 0 {
            return Ok(Vec::new());
        }
        self.context().keep_for_several_reads(self.id())?;
        let lengths = self.run_all(|_, _, stream| {
            typed_batches::<T>(stream).try_fold(0u64, |sum, batch| Ok(sum + batch?.len() as u64))
        })?;
        let total: u64 = lengths.iter().sum();
        if total == 0 {
            return Err(EngineError::Empty {
                action: "take_sample_with_replacement".into(),
                instead: "take_sample".into(),
            });
        }
        // One stream for all partitions.
        let mut generator = generator(Purpose::TakeSampleWithReplacement, seed, 0);
        let below = |draw: u64| ((u128::from(draw) * u128::from(total)) >> 64) as u64;
        let mut drawn: Vec<u64> = Vec::new();
        drawn.try_reserve_exact(count).map_err(|_| {
            EngineError::invalid(format!("a sample of {count} records"), "draw as many as memory holds")
        })?;
        drawn.extend((0..count).map(|_| below(generator.next_u64())));
        let found = self.fetch(&lengths, &drawn)?;
        Ok(drawn.iter().filter_map(|index| found.get(index).cloned()).collect())
    }

    /// The records at some positions in the whole dataset, given the lengths of its partitions.
    fn fetch(&self, lengths: &[u64], positions: &[u64]) -> Result<BTreeMap<u64, T>> {
        let mut sorted = positions.to_vec();
        sorted.sort_unstable();
        sorted.dedup();
        let starts: Vec<u64> = lengths
            .iter()
            .scan(0, |start, length| Some(std::mem::replace(start, *start + length)))
            .collect();
        let within = {
            let (starts, lengths) = (starts, lengths.to_vec());
            move |partition: usize| {
                let (from, to) = (starts[partition], starts[partition] + lengths[partition]);
                let range = sorted.partition_point(|at| *at < from)..sorted.partition_point(|at| *at < to);
                (from, sorted[range].to_vec())
            }
        };
        let wanted: Vec<usize> = (0..lengths.len())
            .filter(|partition| !within(*partition).1.is_empty())
            .collect();
        let parts = self.run(&wanted, move |_, partition, stream| {
            let (mut start, wanted) = within(partition);
            let mut wanted = wanted.into_iter().peekable();
            let mut found = Vec::new();
            for batch in typed_batches::<T>(stream) {
                let batch = batch?;
                let records = batch.as_slice();
                while let Some(at) = wanted.next_if(|at| *at < start + records.len() as u64) {
                    found.push((at, records[(at - start) as usize].clone()));
                }
                start += records.len() as u64;
            }
            Ok(found)
        })?;
        Ok(parts.into_iter().flatten().collect())
    }
}
