//! Shuffles: the jobs of the Spark peer, of the same sizes and over the same numbers; with `--times`, of several sizes.

mod common;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use common::{Spread, emit, machine, measure, mix, peak_memory_bytes};
use distdl::prelude::*;
use serde::Serialize;

/// Measures shuffles.
#[derive(Parser, Clone)]
struct Arguments {
    #[command(flatten)]
    flags: Flags,
    /// Pairs to reduce.
    #[arg(long, default_value_t = 20_000_000)]
    pairs: u64,
    /// Keys to reduce them to.
    #[arg(long, default_value_t = 1_000_000)]
    keys: u64,
    /// Pairs to sort.
    #[arg(long, default_value_t = 10_000_000)]
    sort: u64,
    /// Pairs on each side of the join.
    #[arg(long, default_value_t = 5_000_000)]
    join: u64,
    /// Edges of the graph whose nodes are ranked; there are a tenth as many nodes.
    #[arg(long, default_value_t = 2_000_000)]
    edges: u64,
    /// Text of space-separated words; made in a temporary folder if not given.
    #[arg(long, conflicts_with = "times")]
    words: Option<PathBuf>,
    /// Size of the text that is made, in megabytes.
    #[arg(long, default_value_t = 200)]
    text_megabytes: u64,
    /// Each job with so many times the data, one after another.
    #[arg(long, value_delimiter = ',', default_value = "1")]
    times: Vec<u64>,
    /// As many times the partitions, too: they stay as large as they are.
    #[arg(long)]
    grow_partitions: bool,
    /// Partitions.
    #[arg(long, default_value_t = 2)]
    partitions: usize,
    /// Repetitions after a warm-up.
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Jobs to run, by name; `words_alone` is what `word_count` does before its shuffle.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "reduce_by_key,word_count,page_rank,sort_by_key,join"
    )]
    only: Vec<String>,
    /// Passed by `cargo bench`; means nothing here.
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Serialize)]
struct Figure {
    bench: &'static str,
    job: &'static str,
    threads: usize,
    partitions: usize,
    times: u64,
    records: u64,
    check: String,
    #[serde(flatten)]
    spread: Spread,
    peak_memory_bytes: u64,
    machine: String,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    distdl::run(arguments.flags.config(), |context| {
        for (job, records, work) in JOBS {
            for times in arguments.times_of(job) {
                let arguments = arguments.times(times);
                // Texts and links are made once, before the clock runs.
                let prepared = prepare(context, job, &arguments)?;
                let (spread, check) = measure(arguments.runs, || work(context, &arguments, &prepared));
                emit(&Figure {
                    bench: "shuffle",
                    job,
                    threads: context.config().threads,
                    partitions: arguments.partitions,
                    times,
                    records: records(&arguments),
                    check: check?,
                    spread,
                    peak_memory_bytes: peak_memory_bytes(),
                    machine: machine(),
                });
            }
        }
        Ok(())
    })
}

impl Arguments {
    /// How much of the data a job is to have, if it is to be run.
    fn times_of(&self, job: &str) -> Vec<u64> {
        match self.only.iter().any(|only| only == job) {
            true => self.times.clone(),
            false => Vec::new(),
        }
    }

    fn times(&self, times: u64) -> Self {
        Self {
            pairs: self.pairs * times,
            sort: self.sort * times,
            join: self.join * times,
            edges: self.edges * times,
            partitions: self.partitions * if self.grow_partitions { times as usize } else { 1 },
            text_megabytes: self.text_megabytes * times,
            ..self.clone()
        }
    }
}

type Work = fn(&Context, &Arguments, &Prepared) -> Result<String, Failure>;
type Job = (&'static str, fn(&Arguments) -> u64, Work);

const JOBS: [Job; 6] = [
    ("reduce_by_key", |arguments| arguments.pairs, reduce_by_key),
    ("words_alone", |_| 0, words_alone),
    ("word_count", |_| 0, word_count),
    ("page_rank", |arguments| arguments.edges, page_rank),
    ("sort_by_key", |arguments| arguments.sort, sort_by_key),
    ("join", |arguments| 2 * arguments.join, join),
];

/// Sums pairs by key and counts the keys.
fn reduce_by_key(context: &Context, arguments: &Arguments, _: &Prepared) -> Result<String, Failure> {
    let keys = arguments.keys.max(1);
    let pairs = context
        .range(0..arguments.pairs, arguments.partitions)
        .map(move |i| (mix(i) % keys, i));
    Ok(pairs.reduce_by_key(u64::wrapping_add).count()?.to_string())
}

/// The words of a text, each with a one.
fn words(context: &Context, arguments: &Arguments, prepared: &Prepared) -> Result<Dataset<(String, u64)>, Failure> {
    let path = prepared.words.to_string_lossy();
    Ok(context.text_file(&path, arguments.partitions)?.flat_map(|line| {
        let words: Vec<(String, u64)> = line.split(' ').map(|word| (word.to_owned(), 1)).collect();
        words
    }))
}

/// Makes the words of a text and counts them.
fn words_alone(context: &Context, arguments: &Arguments, prepared: &Prepared) -> Result<String, Failure> {
    Ok(words(context, arguments, prepared)?.count()?.to_string())
}

/// Counts the different words of a text.
fn word_count(context: &Context, arguments: &Arguments, prepared: &Prepared) -> Result<String, Failure> {
    let words = words(context, arguments, prepared)?;
    Ok(words.reduce_by_key(|left, right| left + right).count()?.to_string())
}

/// Ten rounds of PageRank over links that are kept; gives the sum of the ranks.
fn page_rank(_: &Context, _: &Arguments, prepared: &Prepared) -> Result<String, Failure> {
    let links = prepared.links.as_ref().ok_or("the links were not prepared")?;
    let mut ranks = links.map_values(|_| 1.0);
    for _ in 0..10 {
        let shares = links.join(&ranks).values().flat_map(|(targets, rank)| {
            let share = rank / targets.len() as f64;
            targets.into_iter().map(move |target| (target, share))
        });
        let sums = shares.reduce_by_key(|left, right| left + right);
        ranks = sums.map_values(|sum| 0.15 + 0.85 * sum);
    }
    let sum = ranks.values().fold(0.0, |left, right| left + right)?;
    Ok(format!("{sum:.3}"))
}

/// Sorts pairs by random keys and checks the order.
fn sort_by_key(context: &Context, arguments: &Arguments, _: &Prepared) -> Result<String, Failure> {
    let pairs = context
        .range(0..arguments.sort, arguments.partitions)
        .map(|i| (mix(i), i));
    let sorted = pairs.sort_by_key().run_partitions(|_, records| {
        let (mut last, mut count, mut ordered) = (0, 0u64, true);
        for (key, _) in records {
            ordered &= key >= last;
            (last, count) = (key, count + 1);
        }
        Ok((count, ordered))
    })?;
    let count: u64 = sorted.iter().map(|(count, _)| count).sum();
    Ok(format!("{count} {}", sorted.iter().all(|(_, ordered)| *ordered)))
}

/// Joins two datasets with the same keys in another order and counts the pairs.
fn join(context: &Context, arguments: &Arguments, _: &Prepared) -> Result<String, Failure> {
    let count = arguments.join;
    let left = context.range(0..count, arguments.partitions).map(|i| (mix(i), i));
    let right = context
        .range(0..count, arguments.partitions)
        .map(move |i| (mix(count - 1 - i), i));
    Ok(left.join(&right).count()?.to_string())
}

/// What lies ready before a job is timed.
#[derive(Default)]
struct Prepared {
    words: PathBuf,
    links: Option<Dataset<(u64, Vec<u64>)>>,
    _folder: Option<tempfile::TempDir>,
}

fn prepare(context: &Context, job: &str, arguments: &Arguments) -> Result<Prepared, Failure> {
    match (job, &arguments.words) {
        ("word_count" | "words_alone", Some(words)) => Ok(Prepared {
            words: words.clone(),
            ..Prepared::default()
        }),
        ("word_count" | "words_alone", None) => {
            let folder = tempfile::tempdir()?;
            let words = folder.path().join("words.txt");
            std::fs::write(&words, text(arguments.text_megabytes * 1_000_000))?;
            Ok(Prepared {
                words,
                _folder: Some(folder),
                ..Prepared::default()
            })
        }
        ("page_rank", _) => {
            let nodes = (arguments.edges / 10).max(1);
            let edges = context.range(0..arguments.edges, arguments.partitions);
            let edges = edges.map(move |edge| (mix(2 * edge) % nodes, mix(2 * edge + 1) % nodes));
            let links = edges.group_by_key().cache();
            links.count()?;
            Ok(Prepared {
                links: Some(links),
                ..Prepared::default()
            })
        }
        _ => Ok(Prepared::default()),
    }
}

/// Words, the n-th of which comes with a probability proportional to 1/n.
fn text(bytes: u64) -> String {
    let bytes = bytes as usize;
    let word = |rank: u64| {
        let length = 2 + mix(rank) % 9;
        (0..length)
            .map(|at| char::from(b'a' + (mix(rank * 16 + at) % 26) as u8))
            .collect::<String>()
    };
    let words: Vec<String> = (0..100_000).map(word).collect();
    let mut text = String::with_capacity(bytes + 100);
    let mut counter = 0;
    while text.len() < bytes {
        // The inverse of the distribution function ln(n) / ln(N) of a Zipf law over N words.
        let uniform = (mix(counter) >> 11) as f64 / (1u64 << 53) as f64;
        let rank = (words.len() as f64).powf(uniform) as usize - 1;
        text.push_str(&words[rank.min(words.len() - 1)]);
        counter += 1;
        text.push(if counter.is_multiple_of(12) { '\n' } else { ' ' });
    }
    text
}
