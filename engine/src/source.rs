//! Datasets from the driver's own records, and from files and remote objects: plain paths and `file://`, `http(s)://` and `memory://` URLs, with globs.
//!
//! A source is listed once, when the dataset is declared, so that every recomputation reads the same objects.

mod formats;

use std::collections::VecDeque;
use std::sync::Arc;

use distdl_storage::Record;
use distdl_storage::remote::Stores;
use distdl_storage::text::{RecordSplit, TextSplit, read_lines, read_records, split_records, split_text};

use crate::batch::{AnyBatch, AnyStream, Batch, TaskResult, stream_of};
use crate::context::Context;
use crate::dataset::{Dataset, Derivation, streams};
use crate::error::Result;

impl Context {
    /// A dataset of the records in `partitions` groups of neighbours.
    #[track_caller]
    pub fn parallelize<T: Record>(&self, records: impl IntoIterator<Item = T>, partitions: usize) -> Dataset<T> {
        let mut records: std::collections::VecDeque<T> = records.into_iter().collect();
        let (length, partitions) = (records.len(), partitions.max(1));
        let mut slices: Vec<distdl_storage::Records<T>> = Vec::with_capacity(partitions);
        for partition in 0..partitions {
            let count = (partition + 1) * length / partitions - partition * length / partitions;
            slices.push(records.drain(..count).collect::<Vec<T>>().into());
        }
        let compute = streams(move |context, partition, _| {
            let (records, step) = (slices[partition].clone(), context.resources.batch_records);
            let length = records.len();
            Ok(Box::new((0..length).step_by(step).map(move |start| {
                let range = start..length.min(start + step);
                Ok(AnyBatch::new(Batch::Shared {
                    records: records.clone(),
                    range,
                }))
            })))
        });
        let mut derivation = Derivation::new("parallelize", partitions, Vec::new(), compute);
        derivation.remark = format!("{length} records");
        derivation.build(self)
    }

    /// The integers of `range` in `partitions` groups of neighbours, made where they are used.
    #[track_caller]
    pub fn range(&self, range: std::ops::Range<u64>, partitions: usize) -> Dataset<u64> {
        let partitions = partitions.max(1);
        let length = range.end.saturating_sub(range.start);
        let at =
            move |partition: usize| range.start + (u128::from(length) * partition as u128 / partitions as u128) as u64;
        let compute = streams(move |context, partition, _| {
            Ok(stream_of(
                at(partition)..at(partition + 1),
                context.resources.batch_records,
            ))
        });
        let mut derivation = Derivation::new("range", partitions, Vec::new(), compute);
        derivation.remark = format!("{length} integers");
        derivation.build(self)
    }

    /// The lines of text files, without their ends. Files are cut at line ends into `partitions` of about equal size;
    /// a file in gzip or zstd format (`.gz`, `.zst`) is read whole by one partition.
    ///
    /// # Errors
    /// If nothing matches `pattern` or it cannot be listed. That a file is not UTF-8 shows when it is read.
    #[track_caller]
    pub fn text_file(&self, pattern: &str, partitions: usize) -> Result<Dataset<String>> {
        let groups = split_text(&self.stores().list(pattern)?, partitions);
        let compute = read_groups(groups, |stores, split: &TextSplit| Ok(read_lines(stores, split)?));
        Ok(self.source("text_file", pattern, partitions, compute))
    }

    /// The records of files of fixed-length records after a header, `record_bytes` and `header_bytes` long. A compressed
    /// file is read whole by one partition.
    ///
    /// # Errors
    /// If nothing matches `pattern`, or a file does not hold a whole number of records.
    #[track_caller]
    pub fn binary_records(
        &self,
        pattern: &str,
        record_bytes: u64,
        header_bytes: u64,
        partitions: usize,
    ) -> Result<Dataset<Vec<u8>>> {
        let groups = split_records(&self.stores().list(pattern)?, record_bytes, header_bytes, partitions)?;
        let compute = read_groups(groups, |stores, split: &RecordSplit| {
            Ok(read_records(stores, split)?.map(|record| record.map(|bytes| bytes.to_vec())))
        });
        Ok(self.source("binary_records", pattern, partitions, compute))
    }

    /// Whole objects: (path or URL, bytes), in order of name.
    ///
    /// # Errors
    /// If nothing matches `pattern` or it cannot be listed.
    #[track_caller]
    pub fn objects(&self, pattern: &str, partitions: usize) -> Result<Dataset<(String, Vec<u8>)>> {
        let objects = self.stores().list(pattern)?;
        let (count, partitions) = (objects.len(), partitions.max(1));
        let group = |partition: usize| partition * count / partitions..(partition + 1) * count / partitions;
        let groups = (0..partitions)
            .map(|partition| objects[group(partition)].to_vec())
            .collect();
        let compute = read_groups(groups, |stores: &Stores, object: &distdl_storage::remote::Object| {
            let read = stores.read(object).map(|bytes| (object.url.clone(), bytes.to_vec()));
            Ok(std::iter::once(read))
        });
        Ok(self.source("objects", pattern, partitions, compute))
    }

    #[track_caller]
    fn source<T: Record>(
        &self,
        operator: &'static str,
        pattern: &str,
        partitions: usize,
        compute: crate::lineage::Compute,
    ) -> Dataset<T> {
        let mut derivation = Derivation::new(operator, partitions.max(1), Vec::new(), compute);
        derivation.remark = pattern.to_owned();
        derivation.build(self)
    }
}

/// Reads the pieces of a partition one after the other, each opened when it is its turn.
fn read_groups<S, T, I>(
    groups: Vec<Vec<S>>,
    open: impl Fn(&Stores, &S) -> TaskResult<I> + Clone + Send + Sync + 'static,
) -> crate::lineage::Compute
where
    S: Clone + Send + Sync + 'static,
    T: Record,
    I: Iterator<Item = distdl_storage::Result<T>> + 'static,
{
    streams(move |context, partition, _| {
        let stream: AnyStream = Box::new(Reading {
            stores: Arc::clone(&context.resources.stores),
            pieces: groups[partition].iter().cloned().collect(),
            open: open.clone(),
            current: None,
            batch_records: context.resources.batch_records,
        });
        Ok(stream)
    })
}

struct Reading<S, I, O> {
    stores: Arc<Stores>,
    pieces: VecDeque<S>,
    open: O,
    current: Option<I>,
    batch_records: usize,
}

impl<S, T, I, O> Iterator for Reading<S, I, O>
where
    T: Record,
    I: Iterator<Item = distdl_storage::Result<T>>,
    O: Fn(&Stores, &S) -> TaskResult<I>,
{
    type Item = TaskResult<AnyBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if self.current.is_none() {
                let piece = self.pieces.pop_front()?;
                match (self.open)(&self.stores, &piece) {
                    Ok(records) => self.current = Some(records),
                    Err(error) => return Some(Err(error)),
                }
            }
            let records = self
                .current
                .as_mut()?
                .take(self.batch_records)
                .collect::<distdl_storage::Result<Vec<T>>>();
            match records {
                Ok(records) if records.is_empty() => self.current = None,
                Ok(records) => return Some(Ok(AnyBatch::owned(records))),
                Err(error) => {
                    self.pieces.clear();
                    self.current = None;
                    return Some(Err(error.into()));
                }
            }
        }
    }
}
