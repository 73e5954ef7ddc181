//! Sorting and reducing more records than memory holds: time, peak of memory against the limit, and the right answer.
//!
//! `cargo bench --bench out_of_core -- --megabytes 10000 --memory 1GB`

mod common;

use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use common::{emit, forget_peak_memory, machine, mix, peak_memory_bytes};
use distdl::prelude::*;
use serde::Serialize;

/// Measures work on more than memory holds.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    flags: Flags,
    /// Megabytes of records, as they lie in memory.
    #[arg(long, default_value_t = 1000)]
    megabytes: u64,
    /// Partitions.
    #[arg(long, default_value_t = 64)]
    partitions: usize,
    /// Jobs to run, by name.
    #[arg(long, value_delimiter = ',', default_value = "sort_pairs,sort_texts,reduce")]
    only: Vec<String>,
    /// Passed by `cargo bench`; means nothing here.
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Serialize)]
struct Figure {
    bench: &'static str,
    job: &'static str,
    processes: usize,
    threads: usize,
    partitions: usize,
    records: u64,
    data_bytes: u64,
    memory_bytes_max: u64,
    spilled_bytes: u64,
    peak_memory_bytes: u64,
    peak_by_limit: f64,
    seconds: f64,
    right: bool,
    machine: String,
}

/// A job over so many records in so many partitions; whether the answer is right.
type Work = fn(&Context, u64, usize) -> Result<bool, Failure>;

/// Name, bytes of a record as it lies in memory, the job.
const JOBS: [(&str, u64, Work); 3] = [
    ("sort_pairs", 16, sort_pairs),
    ("sort_texts", TEXT_BYTES + 32, sort_texts),
    ("reduce", 16, reduce),
];

const TEXT_BYTES: u64 = 68;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    distdl::run(arguments.flags.config(), |context| {
        for (job, record_bytes, work) in JOBS {
            if !arguments.only.iter().any(|only| only == job) {
                continue;
            }
            let data_bytes = arguments.megabytes * 1_000_000;
            let records = data_bytes / record_bytes;
            let spilled = context.metrics().spilled_bytes();
            forget_peak_memory();
            let begun = Instant::now();
            let right = work(context, records, arguments.partitions)?;
            let (config, peak_memory_bytes) = (context.config(), peak_memory_bytes());
            emit(&Figure {
                bench: "out_of_core",
                job,
                processes: config.processes,
                threads: config.threads,
                partitions: arguments.partitions,
                records,
                data_bytes,
                memory_bytes_max: config.memory_bytes_max,
                spilled_bytes: context.metrics().spilled_bytes() - spilled,
                peak_memory_bytes,
                peak_by_limit: peak_memory_bytes as f64 / config.memory_bytes_max as f64,
                seconds: begun.elapsed().as_secs_f64(),
                right,
                machine: machine(),
            });
        }
        Ok(())
    })
}

/// What is left of many records: how many, a sum of their hashes, and whether keys ascend from the first to the last.
#[derive(Clone, Copy, Serialize, serde::Deserialize)]
struct Digest {
    records: u64,
    sum: u64,
    ascends: bool,
    first: u64,
    last: u64,
}

fn digest(records: impl Iterator<Item = (u64, u64)>) -> Digest {
    let mut digest = Digest {
        records: 0,
        sum: 0,
        ascends: true,
        first: u64::MAX,
        last: 0,
    };
    for (key, value) in records {
        digest.ascends &= digest.records == 0 || digest.last <= key;
        digest.first = digest.first.min(key);
        digest.last = key;
        digest.records += 1;
        digest.sum = digest.sum.wrapping_add(mix(key ^ value.rotate_left(17)));
    }
    digest
}

/// Whether sorted partitions hold exactly these records, in order.
fn is_sorted(partitions: &[Digest], expected: Digest) -> bool {
    let some: Vec<&Digest> = partitions.iter().filter(|digest| digest.records > 0).collect();
    some.iter().all(|digest| digest.ascends)
        && some.windows(2).all(|pair| pair[0].last <= pair[1].first)
        && some.iter().map(|digest| digest.records).sum::<u64>() == expected.records
        && some.iter().fold(0, |sum: u64, digest| sum.wrapping_add(digest.sum)) == expected.sum
}

fn sort_pairs(context: &Context, records: u64, partitions: usize) -> Result<bool, Failure> {
    let pairs = context.range(0..records, partitions).map(|i| (mix(i), i));
    let sorted = pairs.sort_by_key().run_partitions(|_, records| Ok(digest(records)))?;
    Ok(is_sorted(&sorted, digest((0..records).map(|i| (mix(i), i)))))
}

/// Keys with texts, which own memory.
fn sort_texts(context: &Context, records: u64, partitions: usize) -> Result<bool, Failure> {
    let texts = context.range(0..records, partitions).map(|i| {
        let text = format!("{i:0width$}", width = TEXT_BYTES as usize);
        (mix(i), text)
    });
    let sorted = texts.sort_by_key().run_partitions(|_, records| {
        let numbers = records.map(|(key, text)| (key, text.parse().unwrap_or(u64::MAX)));
        Ok(digest(numbers))
    })?;
    Ok(is_sorted(&sorted, digest((0..records).map(|i| (mix(i), i)))))
}

/// Counts the records of each key: on average four have one key, so that the keys do not fit either.
fn reduce(context: &Context, records: u64, partitions: usize) -> Result<bool, Failure> {
    let keys = (records / 4).max(1);
    let ones = context
        .range(0..records, partitions)
        .map(move |i| (mix(i) % keys, 1u64));
    let counts = ones.reduce_by_key(u64::wrapping_add).run_partitions(|_, records| {
        let (mut all, mut weighted) = (0u64, 0u64);
        for (key, count) in records {
            all += count;
            weighted = weighted.wrapping_add(mix(key).wrapping_mul(count));
        }
        Ok((all, weighted))
    })?;
    let sum = |part: fn(&(u64, u64)) -> u64| counts.iter().map(part).fold(0, u64::wrapping_add);
    let expected = (0..records).map(|i| mix(mix(i) % keys)).fold(0, u64::wrapping_add);
    Ok(sum(|(all, _)| *all) == records && sum(|(_, weighted)| *weighted) == expected)
}
