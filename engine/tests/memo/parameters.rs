//! What the engine knows of an operator is part of the key: with another number nothing remembered is taken.
#![allow(unsafe_code)] // vouches for a kernel

use std::collections::HashMap;
use std::fmt::Debug;

use distdl_engine::config::GpuUse;
use distdl_engine::{Context, Dataset, DeviceMap};
use distdl_engine::{PartitionFunction, Partitioner};
use distdl_storage::Record;

use crate::pipeline::config;

/// Whether a dataset of the first parameter is remembered for the second; and what is computed for both.
fn check<T: Record + Clone + PartialEq + Debug, P: Copy>(
    what: &str,
    [one, other]: [P; 2],
    of: impl Fn(&Context, P) -> Dataset<T>,
) {
    let cache = tempfile::tempdir().unwrap();
    let run = |parameter: P, memoized: bool| {
        let context = Context::new(config(cache.path()).with_gpu(GpuUse::Off)).unwrap();
        let dataset = of(&context, parameter);
        let dataset = if memoized {
            dataset.memoize(what, 1).unwrap()
        } else {
            dataset
        };
        (dataset.glom().collect().unwrap(), dataset.partitions_computed())
    };
    let first = run(one, true);
    assert_eq!(run(one, true), (first.0.clone(), 0), "{what}: nothing was remembered");
    assert_eq!(first.0, run(one, false).0, "{what}");
    let second = run(other, true).0;
    assert_eq!(second, run(other, false).0, "{what}: another computation's records");
    assert_ne!(first.0, second, "{what}: nothing was tested");
}

fn pairs(context: &Context) -> Dataset<(u64, u64)> {
    context.range(0..60, 3).map(|x| (x % 5, x))
}

/// Keys by their remainder, or by the opposite; as two types of one parameter.
struct Ascending;
struct Descending;

impl Partitioner<u64> for Ascending {
    fn partitions(&self) -> usize {
        3
    }
    fn partition(&self, key: &u64) -> usize {
        (key % 3) as usize
    }
    fn function(&self) -> PartitionFunction {
        PartitionFunction::custom::<Self>("")
    }
}

impl Partitioner<u64> for Descending {
    fn partitions(&self) -> usize {
        3
    }
    fn partition(&self, key: &u64) -> usize {
        2 - (key % 3) as usize
    }
    fn function(&self) -> PartitionFunction {
        PartitionFunction::custom::<Self>("")
    }
}

#[test]
fn numbers_and_values_that_operators_are_given_count() {
    check("batch", [4, 6], |context, records| {
        context.range(0..60, 3).batch(records).unwrap()
    });
    check("sample", [0.3, 0.7], |context, fraction| {
        context.range(0..60, 3).sample(fraction, 1).unwrap()
    });
    check("sample_by_key", [[0.2, 0.9], [0.9, 0.2]], |context, [even, odd]| {
        let fractions = (0..5).map(|key| (key, if key % 2 == 0 { even } else { odd }));
        pairs(context)
            .sample_by_key(fractions.collect::<HashMap<_, _>>(), 1)
            .unwrap()
    });
    check("aggregate_by_key", [0, 7], |context, zero| {
        pairs(context).aggregate_by_key(zero, |sum, x| sum + x, |left: u64, right| left + right)
    });
    check("aggregate_by_key_into", [0, 7], |context, zero| {
        pairs(context).aggregate_by_key_into(zero, |sum, x| sum + x, |left: u64, right| left + right, 2)
    });
    check("fold_by_key", [0, 7], |context, zero| {
        pairs(context).fold_by_key(zero, |sum, x| sum + x)
    });
    check("fold_by_key_into", [0, 7], |context, zero| {
        pairs(context).fold_by_key_into(zero, |sum, x| sum + x, 2)
    });
    check("partition_by", [true, false], |context, ascending| match ascending {
        true => pairs(context).partition_by(Ascending),
        false => pairs(context).partition_by(Descending),
    });
    check("pipe", ["-n", "-nr"], |context, command| {
        context.range(0..60, 3).map(|x| x.to_string()).pipe("sort", &[command])
    });
}

#[test]
fn the_text_of_a_kernel_counts() {
    check("map_partitions_on", [1.0, 2.0], |context, factor: f32| {
        let numbers = context.range(0..60, 3).map(|x| x as f32);
        // SAFETY: no GPU computes here.
        let kernel = unsafe {
            DeviceMap::from_source("times", &format!("times {factor}"), move |numbers: &[f32]| {
                numbers.iter().map(|x| x * factor).collect::<Vec<f32>>()
            })
        };
        numbers.map_partitions_on(kernel)
    });
}

#[test]
fn how_files_are_read_counts() {
    let files = tempfile::tempdir().unwrap();
    let path = |name: &str| files.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(path("records"), [7; 24]).unwrap();
    check("binary_records", [4, 8], |context, bytes| {
        context.binary_records(&path("records"), bytes, 0, 1).unwrap()
    });
}
