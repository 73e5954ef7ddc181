//! The rows of row groups.

use std::iter::FusedIterator;
use std::ops::Range;

use bytes::buf::Reader;
use bytes::{Buf, Bytes};
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};
use parquet::errors::ParquetError;
use parquet::file::reader::{ChunkReader, Length};
use serde::de::DeserializeOwned;

use super::footer::Footer;
use super::{ParquetOptions, ParquetSplit};
use crate::error::Result;
use crate::object::ObjectError;
use crate::remote::Stores;
use crate::split::until_error;
use crate::table::{BatchRows, FETCH, guarded, has_columns};

/// Rows that are decoded at a time.
const BATCH_ROWS: usize = 1024;

/// Reads the rows of a split.
struct ParquetReader<T> {
    stores: Stores,
    split: ParquetSplit,
    bytes_max: u64,
    footer: Footer,
    /// The row group being read, how many of its rows are still due, and its reader.
    row_group: usize,
    due: u64,
    batches: Option<ParquetRecordBatchReader>,
    rows: BatchRows<T>,
}

/// The rows of `split` as values of `T`, a struct whose fields are named as columns are; columns that it does not have
/// are left out.
///
/// # Errors
/// The footer cannot be read, or there is no column of an optional field where
/// [`ParquetOptions::columns_may_be_missing`] is off; the row groups are read as their rows are asked for.
pub fn read_parquet<T: DeserializeOwned>(
    stores: &Stores,
    split: &ParquetSplit,
    options: &ParquetOptions,
) -> Result<impl FusedIterator<Item = Result<T>> + use<T>> {
    let footer = Footer::read(stores, &split.object, options)?;
    if !options.columns_may_be_missing {
        let option = "ParquetOptions::columns_may_be_missing";
        has_columns::<T>(&split.object.url, footer.metadata.schema(), option)?;
    }
    let there = footer.metadata.metadata().num_row_groups();
    if split.row_groups.end > there {
        let problem = format!("row groups {:?} are asked for, but there are {there}", split.row_groups);
        return Err(ObjectError::malformed(&split.object.url, "its footer", problem, FETCH).into());
    }
    let mut reader = ParquetReader {
        stores: stores.clone(),
        split: split.clone(),
        bytes_max: options.row_group_bytes_max,
        footer,
        row_group: split.row_groups.start,
        due: 0,
        batches: None,
        rows: BatchRows::default(),
    };
    Ok(until_error(move || reader.read()))
}

impl<T: DeserializeOwned> ParquetReader<T> {
    fn read(&mut self) -> Result<Option<T>> {
        loop {
            let url = &self.split.object.url;
            let place = format_args!("row group {}", self.row_group);
            if let Some(value) = self.rows.next(url, place)? {
                return Ok(Some(value));
            }
            let Some(batches) = &mut self.batches else {
                if self.row_group >= self.split.row_groups.end {
                    return Ok(None);
                }
                self.open()?;
                continue;
            };
            match guarded(url, place, || batches.next().transpose())? {
                Some(batch) if batch.num_rows() as u64 <= self.due => {
                    self.due -= batch.num_rows() as u64;
                    self.rows.refill(batch);
                }
                None if self.due == 0 => {
                    self.batches = None;
                    self.row_group += 1;
                }
                _ => {
                    let problem = "it holds another number of rows than the footer says";
                    return Err(ObjectError::malformed(url, place, problem, FETCH).into());
                }
            }
        }
    }

    /// Fetches the wanted columns of the row group.
    fn open(&mut self) -> Result<()> {
        let object = &self.split.object;
        let ranges = self.footer.ranges(object, self.row_group, self.bytes_max)?;
        let read = |range: Range<u64>| Ok((range.start, self.stores.read_range(object, range)?));
        let parts = ranges.into_iter().map(read).collect::<Result<_>>()?;
        let chunks = Chunks {
            object_bytes: object.bytes,
            parts,
        };
        let footer = self.footer.clone();
        let row_group = self.row_group;
        let batches = guarded(&object.url, format_args!("row group {row_group}"), || {
            ParquetRecordBatchReaderBuilder::new_with_metadata(chunks, footer.metadata)
                .with_projection(footer.mask)
                .with_row_groups(vec![row_group])
                .with_batch_size(BATCH_ROWS)
                .build()
        })?;
        let rows = self.footer.metadata.metadata().row_group(row_group).num_rows();
        self.due = u64::try_from(rows).unwrap_or(0);
        self.batches = Some(batches);
        Ok(())
    }
}

/// The parts of a file that have been fetched, each with its first byte.
struct Chunks {
    object_bytes: u64,
    parts: Vec<(u64, Bytes)>,
}

impl Chunks {
    /// What has been fetched from `start` on.
    fn from(&self, start: u64) -> parquet::errors::Result<Bytes> {
        let part = self.parts.iter().rev().find(|(first, _)| *first <= start);
        let rest = part.and_then(|(first, bytes)| {
            let skipped = usize::try_from(start - first).ok()?;
            (skipped <= bytes.len()).then(|| bytes.slice(skipped..))
        });
        rest.ok_or_else(|| ParquetError::General(format!("byte {start} is in none of the columns")))
    }
}

impl Length for Chunks {
    fn len(&self) -> u64 {
        self.object_bytes
    }
}

impl ChunkReader for Chunks {
    type T = Reader<Bytes>;

    fn get_read(&self, start: u64) -> parquet::errors::Result<Self::T> {
        Ok(self.from(start)?.reader())
    }

    fn get_bytes(&self, start: u64, length: usize) -> parquet::errors::Result<Bytes> {
        let bytes = self.from(start)?;
        match length <= bytes.len() {
            true => Ok(bytes.slice(..length)),
            false => Err(ParquetError::General(format!(
                "{length} bytes at {start} go beyond the columns"
            ))),
        }
    }
}
