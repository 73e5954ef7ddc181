//! The records of a live view by partition, with the blocks and digests of those that did not change.

use std::collections::BTreeMap;

use distdl_storage::{Digest, Records};

use super::LiveRecord;
use super::contents::add;
use super::meter::excerpt;
use crate::error::{EngineError, LiveError, Result};

/// A partition of a snapshot: its records in order, and a digest of them.
pub(crate) type Piece<T> = (Records<T>, Digest);

/// A change of one record: its partition, and by how much.
pub(crate) type Change<T> = (usize, T, i64);

struct Partition<T> {
    counts: BTreeMap<T, u64>,
    /// What the last snapshot had, if nothing has changed since.
    piece: Option<Piece<T>>,
}

/// What a view holds, by partition.
pub(crate) struct ViewContents<T> {
    name: String,
    partitions: Vec<Partition<T>>,
    /// How many records there are, each counted as often as it is there.
    records: u64,
    records_max: u64,
}

impl<T: LiveRecord> ViewContents<T> {
    pub(crate) fn new(name: &str, partitions: usize, records_max: u64) -> Self {
        let empty = || Partition {
            counts: BTreeMap::new(),
            piece: None,
        };
        Self {
            name: name.to_owned(),
            partitions: (0..partitions).map(|_| empty()).collect(),
            records: 0,
            records_max,
        }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn records(&self) -> impl Iterator<Item = (&T, u64)> {
        let counts = self.partitions.iter().flat_map(|partition| &partition.counts);
        counts.map(|(record, count)| (record, *count))
    }

    /// How many records there would be with changes.
    fn records_with(&self, changes: &[Change<T>]) -> i128 {
        let changed = changes.iter().map(|(.., change)| i128::from(*change));
        i128::from(self.records) + changed.sum::<i128>()
    }

    /// Fails if a change takes away what is not there, or if there would be too many records. There is one change a
    /// record.
    pub(crate) fn check(&self, changes: &[Change<T>]) -> Result<(), LiveError> {
        let records = self.records_with(changes);
        if records > i128::from(self.records_max) {
            return Err(LiveError::Full {
                what: format!("live view \"{}\"", self.name),
                records: u64::try_from(records).unwrap_or(u64::MAX),
                records_max: self.records_max,
                option: "view_records_max".to_owned(),
            });
        }
        for (partition, record, change) in changes {
            let held = self.partitions[*partition].counts.get(record).copied().unwrap_or(0);
            if held.checked_add_signed(*change).is_none() {
                return Err(self.unsteady(record));
            }
        }
        Ok(())
    }

    fn unsteady(&self, record: &T) -> LiveError {
        LiveError::Unsteady {
            what: format!("live view \"{}\"", self.name),
            record: excerpt(record),
        }
    }

    /// Fails with the first record that is not there as often as `made` has it, which was made anew of the same inputs.
    /// There is one change a record.
    pub(crate) fn confirm(&self, mut made: Vec<Change<T>>) -> Result<(), LiveError> {
        made.sort_unstable();
        let mut made = made
            .iter()
            .map(|(partition, record, count)| (*partition, record, i128::from(*count)));
        let partitions = self.partitions.iter().enumerate();
        let mut held = partitions.flat_map(|(place, partition)| {
            let counts = partition.counts.iter();
            counts.map(move |(record, count)| (place, record, i128::from(*count)))
        });
        loop {
            match (held.next(), made.next()) {
                (None, None) => return Ok(()),
                // As records are held: by their order, not by `==`.
                (Some(here), Some(there)) if here.cmp(&there).is_eq() => {}
                (here, there) => {
                    let first = here.into_iter().chain(there).min();
                    return first.map_or(Ok(()), |(_, record, _)| Err(self.unsteady(record)));
                }
            }
        }
    }

    /// Takes changes that were checked.
    pub(crate) fn apply(&mut self, changes: Vec<Change<T>>) {
        self.records = u64::try_from(self.records_with(&changes)).unwrap_or(0);
        for (partition, record, change) in changes {
            let partition = &mut self.partitions[partition];
            add(&mut partition.counts, record, change);
            partition.piece = None;
        }
    }

    /// All partitions; only those that have changed are written anew. Also the number of records written.
    pub(crate) fn pieces(&mut self) -> Result<(Vec<Piece<T>>, u64)> {
        let mut written = 0;
        let mut pieces = Vec::with_capacity(self.partitions.len());
        for partition in &mut self.partitions {
            let piece = match &partition.piece {
                Some(piece) => piece.clone(),
                None => {
                    let piece = write(&partition.counts)?;
                    written += piece.0.len() as u64;
                    partition.piece = Some(piece.clone());
                    piece
                }
            };
            pieces.push(piece);
        }
        Ok((pieces, written))
    }
}

fn write<T: LiveRecord>(counts: &BTreeMap<T, u64>) -> Result<Piece<T>> {
    let mut hasher = blake3::Hasher::new();
    let mut records = Vec::new();
    for (record, count) in counts {
        let bytes = postcard::to_stdvec(record).map_err(|error| {
            EngineError::invalid(
                format!("{record:?} cannot be serialised: {error}"),
                "`Serialize` must accept every record",
            )
        })?;
        hasher.update(&(bytes.len() as u64).to_le_bytes());
        hasher.update(&bytes).update(&count.to_le_bytes());
        records.extend(std::iter::repeat_n(record, *count as usize).cloned());
    }
    Ok((Records::from(records), *hasher.finalize().as_bytes()))
}
