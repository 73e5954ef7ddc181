//! Samples in a file, read row by row: those of a lane that memory has no room for.

use std::fmt;
use std::sync::Arc;

use distdl_engine::EngineError;
use distdl_storage::{Spill, SpilledRows, StorageError};

use crate::error::{Error, Result};
use crate::samples::{Row, RowFeatures, RowTarget, SampleShape, Samples};

/// Rows are written about so many bytes at a time.
const CHUNK_BYTES: usize = 1 << 20;

/// A block of samples in a [`Spill`]. A row is a sample's targets and then its features, in little-endian bytes.
pub(crate) struct SpilledSamples {
    spill: Arc<Spill>,
    shape: SampleShape,
    /// All of `chunk_rows` rows, but for the last.
    chunks: Vec<SpilledRows>,
    chunk_rows: usize,
    rows: usize,
}

impl SpilledSamples {
    /// Writes samples to the spill, rows of so many bytes at a time by `append_rows`.
    ///
    /// # Errors
    /// There is no room for them.
    pub(crate) fn write(
        spill: &Arc<Spill>,
        samples: &Samples,
        append_rows: impl Fn(&Spill, &[u8], usize) -> std::result::Result<SpilledRows, StorageError>,
    ) -> Result<Self> {
        let shape = samples.shape();
        let row_bytes = shape.row_bytes();
        let chunk_rows = (CHUNK_BYTES / row_bytes).max(1);
        let mut buffer = Vec::with_capacity(chunk_rows.min(samples.len()) * row_bytes);
        let mut chunks = Vec::new();
        for start in (0..samples.len()).step_by(chunk_rows) {
            buffer.clear();
            let end = samples.len().min(start + chunk_rows);
            (start..end).for_each(|index| append(&samples.row(index), &mut buffer));
            chunks.push(append_rows(spill, &buffer, row_bytes).map_err(unspilled)?);
        }
        Ok(Self {
            spill: Arc::clone(spill),
            shape,
            chunks,
            chunk_rows,
            rows: samples.len(),
        })
    }

    pub(crate) fn len(&self) -> usize {
        self.rows
    }

    pub(crate) fn shape(&self) -> SampleShape {
        self.shape
    }

    /// Reads a row into `buffer`, which grows to what that takes.
    ///
    /// # Errors
    /// It cannot be read back.
    pub(crate) fn row<'a>(&self, index: usize, buffer: &'a mut Vec<u32>) -> Result<Row<'a>> {
        let (rows, within) = self.place(index);
        let bytes = rows.buffer_bytes();
        // Of words, so that the numbers in it are aligned.
        buffer.resize(bytes.div_ceil(size_of::<u32>()), 0);
        let row = self
            .spill
            .read(rows, within, &mut bytemuck::cast_slice_mut(buffer)[..bytes]);
        Ok(self.parse(row.map_err(unspilled)?))
    }

    /// Lets the system fetch a row that is read soon.
    pub(crate) fn will_read(&self, index: usize) {
        let (rows, within) = self.place(index);
        self.spill.will_read(rows, within);
    }

    fn place(&self, index: usize) -> (&SpilledRows, u64) {
        (&self.chunks[index / self.chunk_rows], (index % self.chunk_rows) as u64)
    }

    fn parse<'a>(&self, row: &'a [u8]) -> Row<'a> {
        let (target, features) = row.split_at(self.shape.target_bytes());
        Row {
            target: match self.shape.target_length {
                None => RowTarget::Label(bytemuck::cast_slice::<u8, u32>(target)[0]),
                Some(_) => RowTarget::Values(bytemuck::cast_slice(target)),
            },
            features: match self.shape.scale {
                Some(scale) => RowFeatures::U8(features, scale),
                None => RowFeatures::F32(bytemuck::cast_slice(features)),
            },
        }
    }
}

impl fmt::Debug for SpilledSamples {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} spilled samples of {:?}", self.rows, self.shape)
    }
}

fn append(row: &Row<'_>, bytes: &mut Vec<u8>) {
    match row.target {
        RowTarget::Label(label) => bytes.extend_from_slice(&label.to_le_bytes()),
        RowTarget::Values(values) => bytes.extend_from_slice(bytemuck::cast_slice(values)),
    }
    match row.features {
        RowFeatures::U8(features, _) => bytes.extend_from_slice(features),
        RowFeatures::F32(values) => bytes.extend_from_slice(bytemuck::cast_slice(values)),
    }
}

fn unspilled(error: StorageError) -> Error {
    Error::Engine(EngineError::Storage(error))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::samples::{Features, SampleTargets};
    use distdl_storage::{DiskTier, Tier};
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn rows_come_back_as_they_were(
            count in 0usize..20,
            feature_length in prop_oneof![15 => 1usize..9, 1 => Just(CHUNK_BYTES / 3)],
            target_length in prop::option::of(1usize..4),
            is_bytes: bool,
        ) {
            let features = 0..count * feature_length;
            let features = match is_bytes {
                true => Features::U8 { bytes: features.map(|at| at as u8).collect(), scale: 0.25 },
                false => Features::F32(features.map(|at| at as f32).collect()),
            };
            let targets = match target_length {
                None => SampleTargets::Labels((0..count as u32).collect()),
                Some(length) => SampleTargets::Values {
                    length,
                    values: (0..count * length).map(|at| -(at as f32)).collect(),
                },
            };
            let samples = Samples::new(feature_length, features, targets).unwrap();
            let spill = Arc::new(DiskTier::temporary(1 << 30).spill().unwrap());
            let spilled = SpilledSamples::write(&spill, &samples, Spill::append_rows).unwrap();
            prop_assert_eq!((spilled.len(), spilled.shape()), (count, samples.shape()));
            let mut buffer = Vec::new();
            for index in (0..count).rev() {
                spilled.will_read(index);
                let row = spilled.row(index, &mut buffer).unwrap();
                prop_assert_eq!(format!("{row:?}"), format!("{:?}", samples.row(index)));
            }
        }
    }
}
