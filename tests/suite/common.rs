//! Contexts, blocks and drawn values that all tests share.

use distdl::engine::DatasetId;
use distdl::storage::BlockId;
use distdl::{Config, Context, Level};
use proptest::prelude::*;
use proptest::sample::select;

pub(crate) fn context(threads: usize) -> Context {
    Context::new(Config::default().with_threads(threads)).unwrap()
}

pub(crate) fn small_batches(threads: usize, batch_records: usize) -> Context {
    let config = Config {
        batch_records,
        ..Config::default()
    };
    Context::new(config.with_threads(threads)).unwrap()
}

/// Failing cases are printed, and kept in `proptest-regressions` with their seed.
pub(crate) fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        ..ProptestConfig::default()
    }
}

pub(crate) fn block(dataset: DatasetId, partition: usize) -> BlockId {
    BlockId {
        dataset: dataset.0,
        partition: partition as u64,
    }
}

pub(crate) fn levels() -> impl Strategy<Value = Level> {
    let twice = [Level::Memory2, Level::Disk2, Level::MemoryAndDisk2];
    select([vec![Level::Memory, Level::Disk, Level::MemoryAndDisk], twice.to_vec()].concat())
}

/// Records in a batch: such that batches end everywhere, and the default.
pub(crate) fn batch_records() -> impl Strategy<Value = usize> {
    prop_oneof![4 => 1..=7usize, 1 => Just(1024)]
}
