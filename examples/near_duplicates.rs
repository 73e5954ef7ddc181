//! Finds texts that have much in common, and looks at each of them once in all runs:
//! `cargo run --release --example near_duplicates -- --cache target/cache`, twice.

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use distdl::prelude::*;

/// Prints the pairs of text files that have most in common.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    flags: Flags,
    /// A path or pattern such as 'docs/**/*.md' [default: this project's own sources].
    files: Option<String>,
    /// How many pairs to print.
    #[arg(long, default_value_t = 5)]
    top: usize,
}

/// Numbers in a signature: the share in which two are equal is about what their texts have in common.
const HASHES: u64 = 256;
/// Neighbouring words that are hashed together; texts with fewer are hashed whole.
const WORDS: usize = 4;
/// To be raised whenever `signature` gives something else than before.
const VERSION: u64 = 2;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    distdl::run(arguments.flags.config(), |context| search(context, &arguments))
}

fn search(context: &Context, arguments: &Arguments) -> Result<(), Failure> {
    let own = format!("{}/*/src/**/*.rs", env!("CARGO_MANIFEST_DIR"));
    let files = arguments.files.as_ref().unwrap_or(&own);
    let count = context.stores().list(files)?.len();
    // Of the whole cluster: each partition counts once, whoever computes it.
    let (computed, looked_at) = (context.counter(), context.counter());
    let counting = computed.clone();
    let signatures = context
        .objects(files, count)?
        .map(move |(name, bytes)| {
            counting.add(1);
            (name, signature(&String::from_utf8_lossy(&bytes)))
        })
        .memoize("near_duplicates: signatures", VERSION)?;
    let counting = looked_at.clone();
    let all = context.broadcast(signatures.collect()?);
    let pairs = signatures.flat_map(move |(name, signature)| {
        counting.add(1);
        let others = all.iter().filter(|(other, _)| *other > name);
        let pair = |(other, its): &(String, Vec<u64>)| (in_common(&signature, its), name.clone(), other.clone());
        others.map(pair).collect::<Vec<_>>()
    });
    let mut output = std::io::stdout();
    for (percent, one, other) in pairs.top(arguments.top)? {
        match context.config().json {
            true => writeln!(
                output,
                "{}",
                serde_json::json!({ "percent": percent, "files": [one, other] })
            )?,
            false => writeln!(output, "{percent:>3}%  {one}  {other}")?,
        }
    }
    let (files, computed) = (looked_at.value(), computed.value());
    let figures = context.store().memo().map(|memo| memo.figures());
    match context.config().json {
        true => {
            let line = serde_json::json!({ "files": files, "computed": computed, "this_process": figures });
            writeln!(output, "{line}")?;
        }
        false => writeln!(output, "{files} files, of which {computed} had to be looked at")?,
    }
    Ok(())
}

/// The smallest hash of all groups of neighbouring words, by each of many hash functions.
fn signature(text: &str) -> Vec<u64> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let together = words.len().clamp(1, WORDS);
    let smallest = |seed: u64| {
        let bytes = |group: &[&str]| group.join(" ").into_bytes();
        let hash = |group: &[&str]| {
            bytes(group)
                .iter()
                .fold(!seed, |hash, byte| mixed(hash ^ u64::from(*byte)))
        };
        words.windows(together).map(hash).min().unwrap_or(0)
    };
    (0..HASHES).map(smallest).collect()
}

/// The finisher of SplitMix64.
fn mixed(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

fn in_common(one: &[u64], other: &[u64]) -> usize {
    let equal = one.iter().zip(other).filter(|(one, other)| one == other);
    100 * equal.count() / one.len().max(1)
}
