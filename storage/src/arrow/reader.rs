//! The rows of record batches.

use std::iter::FusedIterator;

use arrow_ipc::reader::FileDecoder;
use serde::de::DeserializeOwned;

use super::blocks::CheckedBlock;
use super::footer::Footer;
use super::{ArrowOptions, ArrowSplit};
use crate::error::Result;
use crate::object::{Object, ObjectError};
use crate::remote::Stores;
use crate::split::until_error;
use crate::table::{BatchRows, FETCH, guarded, has_columns};

/// Reads the rows of a split.
struct ArrowReader<T> {
    stores: Stores,
    object: Object,
    bytes_max: u64,
    decoder: FileDecoder,
    /// Batches still to be read, and the index of the next.
    blocks: std::vec::IntoIter<CheckedBlock>,
    next_batch: usize,
    rows: BatchRows<T>,
}

/// The rows of `split` as values of `T`, a struct whose fields are named as columns are; columns that it does not have
/// are left out.
///
/// # Errors
/// The footer or a dictionary cannot be read, or there is no column of an optional field where
/// [`ArrowOptions::columns_may_be_missing`] is off; the batches are read as their rows are asked for.
pub fn read_arrow<T: DeserializeOwned>(
    stores: &Stores,
    split: &ArrowSplit,
    options: &ArrowOptions,
) -> Result<impl FusedIterator<Item = Result<T>> + use<T>> {
    let object = &split.object;
    let footer = Footer::read(stores, object, options)?;
    if !options.columns_may_be_missing {
        has_columns::<T>(&object.url, &footer.schema, "ArrowOptions::columns_may_be_missing")?;
    }
    let Some(blocks) = footer.batches.get(split.batches.clone()).map(<[_]>::to_vec) else {
        let there = footer.batches.len();
        let problem = format!("batches {:?} are asked for, but there are {there}", split.batches);
        return Err(ObjectError::malformed(&object.url, "its footer", problem, FETCH).into());
    };
    let mut decoder = FileDecoder::new(footer.schema, footer.version).with_projection(footer.columns);
    for (index, block) in footer.dictionaries.iter().enumerate() {
        let buffer = block.read(stores, object, options.batch_bytes_max)?;
        guarded(&object.url, format_args!("dictionary {index}"), || {
            decoder.read_dictionary(&block.block, &buffer)
        })?;
    }
    let mut reader = ArrowReader {
        stores: stores.clone(),
        object: object.clone(),
        bytes_max: options.batch_bytes_max,
        decoder,
        blocks: blocks.into_iter(),
        next_batch: split.batches.start,
        rows: BatchRows::default(),
    };
    Ok(until_error(move || reader.read()))
}

impl<T: DeserializeOwned> ArrowReader<T> {
    fn read(&mut self) -> Result<Option<T>> {
        let url = &self.object.url;
        loop {
            let current = format_args!("record batch {}", self.next_batch.saturating_sub(1));
            if let Some(value) = self.rows.next(url, current)? {
                return Ok(Some(value));
            }
            let Some(block) = self.blocks.next() else {
                return Ok(None);
            };
            let buffer = block.read(&self.stores, &self.object, self.bytes_max)?;
            let place = format_args!("record batch {}", self.next_batch);
            let batch = guarded(url, place, || self.decoder.read_record_batch(&block.block, &buffer))?;
            self.next_batch += 1;
            let Some(batch) = batch else {
                return Err(ObjectError::malformed(url, "its footer", "a block holds no record batch", FETCH).into());
            };
            self.rows.refill(batch);
        }
    }
}
