//! What the partitions of a source read: splits of objects, one after the other.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use distdl_storage::array::ArraySplit;
#[cfg(feature = "arrow")]
use distdl_storage::arrow::ArrowSplit;
use distdl_storage::object::{Object, shown};
#[cfg(feature = "parquet")]
use distdl_storage::parquet::ParquetSplit;
use distdl_storage::remote::Stores;
use distdl_storage::text::{RecordSplit, TextSplit};
use distdl_storage::{Digest, Record};
use itertools::process_results;
use serde::Serialize;

use crate::batch::{AnyBatch, AnyStream, TaskResult, next_batch};
use crate::context::Context;
use crate::dataset::{Dataset, streams};
use crate::lineage::{Compute, Contents, NodeSpec, Reads};
use crate::memo::digest;

/// A part of an object that is read at once.
pub(super) trait InputSplit: Clone + Serialize + Send + Sync + 'static {
    fn object(&self) -> &Object;

    /// The bytes that it lies in.
    fn range(&self) -> Range<u64> {
        0..self.object().bytes
    }
}

impl InputSplit for Object {
    fn object(&self) -> &Object {
        self
    }
}

impl InputSplit for TextSplit {
    fn object(&self) -> &Object {
        &self.object
    }

    fn range(&self) -> Range<u64> {
        self.range.clone()
    }
}

impl InputSplit for RecordSplit {
    fn object(&self) -> &Object {
        &self.object
    }

    fn range(&self) -> Range<u64> {
        self.range.clone()
    }
}

impl InputSplit for ArraySplit {
    fn object(&self) -> &Object {
        &self.object
    }

    fn range(&self) -> Range<u64> {
        ArraySplit::range(self)
    }
}

#[cfg(feature = "arrow")]
impl InputSplit for ArrowSplit {
    fn object(&self) -> &Object {
        &self.object
    }
}

#[cfg(feature = "parquet")]
impl InputSplit for ParquetSplit {
    fn object(&self) -> &Object {
        &self.object
    }
}

impl Context {
    /// A dataset of what `open` reads of groups of splits, a group for each partition. `parameters` are those of
    /// `open`.
    #[track_caller]
    pub(super) fn source<S, T, I>(
        &self,
        operator: &'static str,
        pattern: &str,
        parameters: String,
        groups: Vec<Vec<S>>,
        open: impl Fn(&Stores, &S) -> TaskResult<I> + Clone + Send + Sync + 'static,
    ) -> Dataset<T>
    where
        S: InputSplit,
        T: Record,
        I: Iterator<Item = distdl_storage::Result<T>> + 'static,
    {
        let (reads, contents) = (reads_of(&groups), contents_of(&groups));
        let agreed = agreed_of(&groups, &parameters, self.is_on_one_host());
        let mut spec = NodeSpec::new(operator, groups.len(), Vec::new(), read_groups(groups, open));
        spec.remark = shown(pattern);
        spec.parameters = parameters;
        spec.reads = Some(reads);
        spec.contents = contents;
        spec.agreed = Some(agreed);
        spec.build(self)
    }
}

fn reads_of<S: InputSplit>(groups: &[Vec<S>]) -> Reads {
    let part = |split: &S| (split.object().clone(), split.range());
    let parts: Vec<Vec<_>> = groups.iter().map(|group| group.iter().map(part).collect()).collect();
    Arc::new(move |partition| parts[partition].clone())
}

/// What all processes must have listed alike: where something was written meanwhile, some of them would read it and
/// others not. A local file may be a copy of its own on each host, with its own time; if all processes are on one, it
/// is the same file.
fn agreed_of<S: InputSplit>(groups: &[Vec<S>], parameters: &str, on_one_host: bool) -> Digest {
    let part = |split: &S| {
        let Object { url, bytes, version } = split.object();
        let is_shared = (on_one_host || url.contains("://")) && !is_in_memory(url);
        let version = version.as_ref().filter(|_| is_shared);
        digest(&(url, bytes, version, split.range()))
    };
    let parts: Vec<Vec<Digest>> = groups.iter().map(|group| group.iter().map(part).collect()).collect();
    digest(&(parts, parameters))
}

/// Of another process, or another run, it is another object of the same name and version.
fn is_in_memory(url: &str) -> bool {
    url.starts_with("memory://")
}

/// What groups of splits hold, by the versions that were listed. Unknown where a store names no version.
fn contents_of<S: InputSplit>(groups: &[Vec<S>]) -> Option<Contents> {
    let is_named = |object: &Object| object.version.is_some() && !is_in_memory(&object.url);
    let all_named = groups.iter().flatten().all(|split| is_named(split.object()));
    let group = |group: &Vec<S>| {
        // A relative path names another file in another folder.
        let places = group.iter().map(|split| match &split.object().url {
            url if url.contains("://") => None,
            path => std::path::absolute(path).ok(),
        });
        digest(&(group, places.collect::<Vec<_>>()))
    };
    let digests: Option<Vec<Digest>> = all_named.then(|| groups.iter().map(group).collect());
    digests.map(|digests| Arc::new(move |partition: usize| digests[partition]) as Contents)
}

/// Reads the splits of a partition one after the other, each opened when it is its turn.
fn read_groups<S, T, I>(
    groups: Vec<Vec<S>>,
    open: impl Fn(&Stores, &S) -> TaskResult<I> + Clone + Send + Sync + 'static,
) -> Compute
where
    S: Clone + Send + Sync + 'static,
    T: Record,
    I: Iterator<Item = distdl_storage::Result<T>> + 'static,
{
    streams(move |context, partition, _| {
        let stream: AnyStream = Box::new(Reading {
            stores: Arc::clone(&context.resources.stores),
            splits: groups[partition].iter().cloned().collect(),
            open: open.clone(),
            current: None,
            batch_records: context.resources.batch_records,
        });
        Ok(stream)
    })
}

struct Reading<S, I, O> {
    stores: Arc<Stores>,
    splits: VecDeque<S>,
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
                let split = self.splits.pop_front()?;
                match (self.open)(&self.stores, &split) {
                    Ok(records) => self.current = Some(records),
                    Err(error) => return Some(Err(error)),
                }
            }
            let batch = process_results(self.current.as_mut()?, |mut records| {
                next_batch(&mut records, self.batch_records)
            });
            match batch {
                Ok(records) if records.is_empty() => self.current = None,
                Ok(records) => return Some(Ok(AnyBatch::owned(records))),
                Err(error) => {
                    self.splits.clear();
                    self.current = None;
                    return Some(Err(error.into()));
                }
            }
        }
    }
}
