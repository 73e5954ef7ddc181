//! What a lane keeps of its partitions.
//!
//! Samples whose block is in memory are read there. Others are kept in working memory while there is room, up to three
//! eighths of the store's limit, and beyond that in a file of rows. Where they lie does not show in what the lane
//! computes.

use std::sync::{Arc, OnceLock};

use distdl_engine::{EngineError, LanePartition, LaneRecords};
use distdl_storage::{BlockStore, Pin, Records, Reservation, Spill};

use crate::batch::RowSource;
use crate::error::{Error, Result};
use crate::samples::{Row, SampleShape, Samples};
use crate::spilled::SpilledSamples;

/// Loads partitions for the lanes that this process hosts. Those that memory has no room for share one file.
#[derive(Default)]
pub(super) struct Loader {
    spill: OnceLock<Arc<Spill>>,
}

/// A partition of a lane's samples.
pub(super) struct LanePart {
    blocks: Vec<Block>,
    /// Of what lies in working memory.
    _reservation: Option<Reservation>,
    _pin: Option<Pin>,
}

/// Some samples, where they lie.
enum Block {
    Shared { records: Records<Samples>, index: usize },
    Kept(Samples),
    Spilled(SpilledSamples),
}

impl Loader {
    pub(super) fn load(&self, partition: LanePartition<Samples>) -> Result<Arc<LanePart>> {
        let part = match partition.records {
            LaneRecords::Pinned(records, pin) => {
                let shared = |index| Block::Shared {
                    records: records.clone(),
                    index,
                };
                LanePart {
                    blocks: (0..records.len()).map(shared).collect(),
                    _reservation: None,
                    _pin: Some(pin),
                }
            }
            LaneRecords::Passing(passing) => {
                let (store, writer) = (&partition.store, &partition.writer);
                let mut reservation = store.reservation();
                let append_rows =
                    |spill: &Spill, rows: &[u8], row_bytes| writer.write(|| spill.append_rows(rows, row_bytes));
                let keep = |samples: Samples| match takes_room(store, &mut reservation, &samples) {
                    true => Ok(Block::Kept(samples)),
                    false => SpilledSamples::write(self.spill(store)?, &samples, append_rows).map(Block::Spilled),
                };
                LanePart {
                    blocks: passing.map(keep).collect::<Result<_>>()?,
                    _reservation: Some(reservation),
                    _pin: None,
                }
            }
        };
        Ok(Arc::new(part))
    }

    fn spill(&self, store: &BlockStore) -> Result<&Arc<Spill>> {
        if let Some(spill) = self.spill.get() {
            return Ok(spill);
        }
        let made = store
            .spill()
            .map_err(|error| Error::Engine(EngineError::Storage(error)))?;
        Ok(self.spill.get_or_init(|| Arc::new(made)))
    }
}

/// Takes room in memory for samples, if there is. The rest of the limit is for blocks, batches and the program itself.
fn takes_room(store: &BlockStore, reservation: &mut Reservation, samples: &Samples) -> bool {
    let bytes = samples.memory_bytes();
    let reserved_bytes = store.reserved_bytes().saturating_add(bytes);
    reserved_bytes <= store.memory_bytes_max() / 8 * 3 && reservation.grow(bytes)
}

impl Block {
    fn len(&self) -> usize {
        match self {
            Block::Shared { records, index } => records[*index].len(),
            Block::Kept(samples) => samples.len(),
            Block::Spilled(samples) => samples.len(),
        }
    }

    fn shape(&self) -> SampleShape {
        match self {
            Block::Shared { records, index } => records[*index].shape(),
            Block::Kept(samples) => samples.shape(),
            Block::Spilled(samples) => samples.shape(),
        }
    }
}

/// All samples of a lane, in the order of its partitions.
pub(super) struct LaneSamples {
    parts: Vec<Arc<LanePart>>,
    /// Of each block that is not empty: the index of its first sample, its part and its index there.
    block_starts: Vec<(u32, usize, usize)>,
    length: u32,
    /// For a row that is read from a file.
    buffer: Vec<u32>,
}

impl LaneSamples {
    /// Errors if there are not as many samples as `length` says.
    pub(super) fn new(parts: Vec<Arc<LanePart>>, length: u32) -> Result<Self> {
        let (mut block_starts, mut found) = (Vec::new(), 0_usize);
        for (part, blocks) in parts.iter().enumerate() {
            for (block, samples) in blocks.blocks.iter().enumerate().filter(|(_, block)| block.len() > 0) {
                block_starts.push((u32::try_from(found).unwrap_or(u32::MAX), part, block));
                found += samples.len();
            }
        }
        crate::error::check_length(
            "the lane's data (was it changed since training began?)",
            length as usize,
            found,
        )?;
        Ok(Self {
            parts,
            block_starts,
            length,
            buffer: Vec::new(),
        })
    }

    /// How many they are.
    #[cfg(feature = "gpu")]
    pub(super) fn len(&self) -> usize {
        self.length as usize
    }

    /// What the first has in common with the others; `None` if there is none.
    pub(super) fn shape(&self) -> Option<SampleShape> {
        let (_, part, block) = self.block_starts.first()?;
        Some(self.parts[*part].blocks[*block].shape())
    }

    /// Whether all have in common what the first has.
    #[cfg(feature = "gpu")]
    pub(super) fn are_alike(&self) -> bool {
        let mut shapes = self
            .block_starts
            .iter()
            .map(|(_, part, block)| self.parts[*part].blocks[*block].shape());
        let first = shapes.next();
        shapes.all(|shape| Some(shape) == first)
    }

    /// The block of a sample, and its index there.
    fn locate(&self, index: u32) -> Result<(usize, usize, usize)> {
        let behind = self.block_starts.partition_point(|(start, ..)| *start <= index);
        match behind.checked_sub(1).filter(|_| index < self.length) {
            Some(at) => {
                let (start, part, block) = self.block_starts[at];
                Ok((part, block, (index - start) as usize))
            }
            None => Err(Error::SampleIndex {
                index,
                length: self.length as usize,
            }),
        }
    }

    /// Lets the system fetch samples that are read soon, where they lie in a file.
    pub(super) fn will_read(&self, indices: &[u32]) {
        for index in indices {
            if let Ok((part, block, within)) = self.locate(*index)
                && let Block::Spilled(samples) = &self.parts[part].blocks[block]
            {
                samples.will_read(within);
            }
        }
    }
}

impl RowSource for LaneSamples {
    fn row(&mut self, index: u32) -> Result<Row<'_>> {
        let (part, block, within) = self.locate(index)?;
        match &self.parts[part].blocks[block] {
            Block::Shared { records, index } => Ok(records[*index].row(within)),
            Block::Kept(samples) => Ok(samples.row(within)),
            Block::Spilled(samples) => samples.row(within, &mut self.buffer),
        }
    }
}
