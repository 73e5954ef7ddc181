//! The records of a live view by partition, with the blocks and digests of those that did not change.

use std::collections::BTreeMap;

use distdl_storage::Records;

use super::LiveRecord;
use super::contents::add;
use crate::error::{EngineError, LiveError, Result};

/// A partition of a snapshot: its records in order, and a digest of them.
pub(crate) type Piece<T> = (Records<T>, [u8; 32]);

/// A change of one record: its partition, and by how much.
pub(crate) type Change<T> = (usize, T, i64);

struct Part<T> {
    counts: BTreeMap<T, u64>,
    /// What the last snapshot had, if nothing has changed since.
    piece: Option<Piece<T>>,
}

/// What a view holds, by partition.
pub(crate) struct Kept<T> {
    name: String,
    parts: Vec<Part<T>>,
}

impl<T: LiveRecord> Kept<T> {
    pub(crate) fn new(name: &str, partitions: usize) -> Self {
        let empty = || Part {
            counts: BTreeMap::new(),
            piece: None,
        };
        Self {
            name: name.to_owned(),
            parts: (0..partitions).map(|_| empty()).collect(),
        }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn records(&self) -> impl Iterator<Item = (&T, u64)> {
        let counts = self.parts.iter().flat_map(|part| &part.counts);
        counts.map(|(record, count)| (record, *count))
    }

    /// Fails if a change takes away what is not there. There is one change a record.
    pub(crate) fn check(&self, changes: &[Change<T>]) -> Result<(), LiveError> {
        for (partition, record, change) in changes {
            let held = self.parts[*partition].counts.get(record).copied().unwrap_or(0);
            if held.checked_add_signed(*change).is_none() {
                return Err(LiveError::Unsteady {
                    view: self.name.clone(),
                    record: format!("{record:?}"),
                });
            }
        }
        Ok(())
    }

    /// Takes changes that were checked.
    pub(crate) fn apply(&mut self, changes: Vec<Change<T>>) {
        for (partition, record, change) in changes {
            let part = &mut self.parts[partition];
            add(&mut part.counts, record, change);
            part.piece = None;
        }
    }

    /// All partitions; only those that have changed are written anew. Also the number of records written.
    pub(crate) fn pieces(&mut self) -> Result<(Vec<Piece<T>>, u64)> {
        let mut written = 0;
        let mut pieces = Vec::with_capacity(self.parts.len());
        for part in &mut self.parts {
            let piece = match &part.piece {
                Some(piece) => piece.clone(),
                None => {
                    let piece = write(&part.counts)?;
                    written += piece.0.len() as u64;
                    part.piece = Some(piece.clone());
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
