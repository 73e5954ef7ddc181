//! What is kept: written down, cut from its lineage, copied to another process; and actions that are ended from
//! outside.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

mod checkpoints;
mod copies;
mod cuts;
mod determinacy;
mod outputs;
mod room;

mod cancelled;

use std::fs;
use std::path::{Path, PathBuf};

use distdl_engine::{Config, Context, DatasetId};
use distdl_storage::BlockId;

type Row = (u64, u64);

const PARTITIONS: usize = 4;

fn context(threads: usize) -> Context {
    Context::new(Config::default().with_threads(threads)).unwrap()
}

fn block(dataset: DatasetId, partition: usize) -> BlockId {
    BlockId {
        dataset: dataset.0,
        partition: partition as u64,
    }
}

fn files(folder: &Path, beginning: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> = entries
        .filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with(beginning))
        .collect();
    files.sort();
    files
}

fn flip(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(path, bytes).unwrap();
}
