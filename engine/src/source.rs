//! Datasets from the driver's own records, and from files and objects: plain paths, and URLs of `file`, `http(s)`,
//! `s3`, `gs`, `az`, `hdfs` and `memory`, with globs where they can be listed.
//!
//! A source is listed once, when the dataset is declared, so that every recomputation reads the same objects.

mod formats;
mod names;
mod splits;

use std::sync::Arc;

use distdl_storage::csv::CsvOptions;
use distdl_storage::object::Object;
use distdl_storage::text::{TextOptions, read_lines_with, read_records, split_records, split_text};
use distdl_storage::{Block, Codec, Digest, PARTITIONS_MAX, Record, Records};

use crate::batch::{AnyBatch, Batch, stream_of};
use crate::context::Context;
use crate::dataset::{Dataset, streams};
use crate::error::Result;
use crate::lineage::NodeSpec;
use crate::memo::{digest, unequalled};

impl Context {
    /// A dataset of the records in `partitions` groups of neighbours. `&str` is no record: `.map(str::to_owned)`.
    ///
    /// In a cluster every process must have the same records in the same order, which those of a `HashMap` are not, nor
    /// are records that contain one: their bytes are compared, and if they differ, an action on them is an error.
    ///
    /// ```
    /// # use distdl_engine::{Config, Context};
    /// # let context = Context::new(Config::default())?;
    /// let letters = context.parallelize("abcde".chars(), 2);
    /// assert_eq!(letters.glom().collect()?, [vec!['a', 'b'], vec!['c', 'd', 'e']]);
    /// # Ok::<(), distdl_engine::EngineError>(())
    /// ```
    #[track_caller]
    pub fn parallelize<T: Record>(&self, records: impl IntoIterator<Item = T>, partitions: usize) -> Dataset<T> {
        let mut records: std::collections::VecDeque<T> = records.into_iter().collect();
        let (length, partitions) = (records.len(), partitions.min(PARTITIONS_MAX + 1));
        let mut slices: Vec<Records<T>> = Vec::with_capacity(partitions);
        for partition in 0..partitions {
            let count = (partition + 1) * length / partitions - partition * length / partitions;
            slices.push(records.drain(..count).collect::<Vec<T>>().into());
        }
        let slices: Arc<[Records<T>]> = slices.into();
        let hashed = Arc::clone(&slices);
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
        let mut spec = NodeSpec::new("parallelize", partitions, Vec::new(), compute);
        spec.remark = format!("{length} records");
        if self.member().is_some() {
            // What refuses to become bytes cannot be compared, and cannot travel either.
            let digests: Option<Vec<_>> = hashed.iter().map(digest_of_records).collect();
            spec.agreed = digests.map(|digests| *blake3::hash(digests.as_flattened()).as_bytes());
        }
        spec.contents = Some(Arc::new(move |partition| {
            digest_of_records(&hashed[partition]).unwrap_or_else(unequalled)
        }));
        spec.build(self)
    }

    /// The integers of `range` in `partitions` groups of neighbours, made where they are used.
    #[track_caller]
    pub fn range(&self, range: std::ops::Range<u64>, partitions: usize) -> Dataset<u64> {
        let length = range.end.saturating_sub(range.start);
        let at = move |partition: usize| {
            range.start + (u128::from(length) * partition as u128 / partitions.max(1) as u128) as u64
        };
        let compute = streams(move |context, partition, _| {
            Ok(stream_of(
                at(partition)..at(partition + 1),
                context.resources.batch_records,
            ))
        });
        let mut spec = NodeSpec::new("range", partitions, Vec::new(), compute);
        spec.remark = format!("{length} integers");
        spec.agreed = Some(digest(&(range.start, range.end)));
        spec.contents = Some(Arc::new(move |partition| {
            digest(&("range", at(partition), at(partition + 1)))
        }));
        spec.build(self)
    }

    /// The lines of text files, without their ends. Files are cut at line ends into `partitions` of about equal size;
    /// a file in gzip or zstd format (`.gz`, `.zst`) is read whole by one partition.
    ///
    /// ```
    /// # use distdl_engine::{Config, Context};
    /// # let context = Context::new(Config::default())?;
    /// # let folder = tempfile::tempdir().expect("a folder");
    /// # let path = folder.path().join("lines.txt");
    /// # let path = path.to_str().expect("UTF-8");
    /// # std::fs::write(path, "first\n\nthird").expect("a file");
    /// let lines = context.text_file(path, 4)?;
    /// assert_eq!(lines.collect()?, ["first", "", "third"], "for any number of partitions");
    /// assert!(context.text_file("no/such/*.txt", 4).is_err(), "files are listed here, and read by actions");
    /// # Ok::<(), distdl_engine::EngineError>(())
    /// ```
    ///
    /// # Errors
    /// If nothing matches `pattern` or it cannot be listed. That a file is not UTF-8 shows when it is read.
    #[track_caller]
    pub fn text_file(&self, pattern: &str, partitions: usize) -> Result<Dataset<String>> {
        let groups = split_text(&self.stores().list(pattern)?, partitions);
        let options = self.text_options();
        Ok(
            self.source("text_file", pattern, String::new(), groups, move |stores, split| {
                Ok(read_lines_with(stores, split, options)?)
            }),
        )
    }

    /// The options with the limits of the configuration, unless they have some of their own.
    pub(crate) fn csv_options(&self, options: CsvOptions) -> CsvOptions {
        let text = options.text.or_else(|| Some(self.text_options()));
        CsvOptions { text, ..options }
    }

    /// Limits of reading text, as the configuration has them.
    fn text_options(&self) -> TextOptions {
        TextOptions {
            line_bytes_max: usize::try_from(self.config().line_bytes_max).unwrap_or(usize::MAX),
            ..TextOptions::default()
        }
    }

    /// The records of files of fixed-length records after a header, `record_bytes` and `header_bytes` long. A
    /// compressed file is read whole by one partition.
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
        let parameters = format!("{record_bytes} {header_bytes}");
        Ok(
            self.source("binary_records", pattern, parameters, groups, |stores, split| {
                Ok(read_records(stores, split)?.map(|record| record.map(|bytes| bytes.to_vec())))
            }),
        )
    }

    /// Whole objects: (path or URL, bytes), in order of name.
    ///
    /// # Errors
    /// If nothing matches `pattern` or it cannot be listed.
    #[track_caller]
    pub fn objects(&self, pattern: &str, partitions: usize) -> Result<Dataset<(String, Vec<u8>)>> {
        let objects = self.stores().list(pattern)?;
        let (count, partitions) = (objects.len(), partitions.min(PARTITIONS_MAX + 1));
        let group = |partition: usize| partition * count / partitions..(partition + 1) * count / partitions;
        let groups: Vec<Vec<Object>> = (0..partitions)
            .map(|partition| objects[group(partition)].to_vec())
            .collect();
        Ok(
            self.source("objects", pattern, String::new(), groups, |stores, object: &Object| {
                let read = stores.read(object).map(|bytes| (object.url.clone(), bytes.to_vec()));
                Ok(std::iter::once(read))
            }),
        )
    }
}

/// None if the records refuse to become bytes.
fn digest_of_records<T: Record>(records: &Records<T>) -> Option<Digest> {
    let block = Block::from_records(records.clone());
    let frame = Codec::of::<T>().portable().encode(&block).ok()?;
    Some(*blake3::hash(&frame).as_bytes())
}
