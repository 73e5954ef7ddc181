//! Ranks the pages of a graph by its links: `cargo run --release --example page_rank`.
//!
//! The formula is Brin and Page's (1998), scaled to a sum of 1; a page without links counts as linking to itself.

mod links;

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use distdl::prelude::*;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

const PARTITIONS: usize = 8;

/// Ranks the pages of a graph by its links and prints the ten highest ranks.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    flags: Flags,
    /// Text file of links, `from to` in whole numbers a line, `#` before a remark [default: a generated graph].
    links: Option<String>,
    /// Pages of the generated graph.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    nodes: u32,
    /// Links of the generated graph.
    #[arg(long, default_value_t = 100_000)]
    edges: u64,
    /// Rounds of passing rank along links.
    #[arg(long, default_value_t = 20)]
    rounds: u32,
    /// Share of its rank that a page passes on, in percent.
    #[arg(long, default_value_t = 85, value_parser = clap::value_parser!(u8).range(0..=100))]
    damping: u8,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    distdl::run(arguments.flags.config(), |context| rank(context, &arguments))
}

fn rank(context: &Context, arguments: &Arguments) -> Result<(), Failure> {
    let edges = match &arguments.links {
        Some(file) => links::read(context, file, PARTITIONS)?,
        None => generate(context, arguments),
    };
    let links = edges
        .flat_map(|(from, to)| [(from, Some(to)), (to, None)])
        .group_by_key_into(PARTITIONS)
        .map_values(|targets| targets.into_iter().flatten().collect::<Vec<u32>>())
        .cache();
    let pages = links.count()? as f64;
    if pages == 0.0 {
        return Err("the graph has no links; give a file with some, or --edges above 0".into());
    }
    let damping = f64::from(arguments.damping) / 100.0;
    let mut ranks = links.map_values(move |_| 1.0 / pages);
    for _ in 0..arguments.rounds {
        ranks = links
            .join(&ranks)
            .flat_map(|(page, (targets, rank))| pass_on(page, targets, rank))
            .reduce_by_key(|left, right| left + right)
            .map_values(move |passed| (1.0 - damping) / pages + damping * passed);
    }
    let ranks = ranks.cache();
    let sum = ranks.values().fold(0.0, |left, right| left + right)?;
    if (sum - 1.0).abs() > 1e-9 * pages {
        return Err(format!("the ranks sum to {sum} instead of 1: rank was lost on the way").into());
    }
    // Ranks are not negative, and the bits of such floats are ordered as they are.
    let highest = ranks.map(|(page, rank): (u32, f64)| (rank.to_bits(), page)).top(10)?;
    for (bits, page) in highest {
        let (rank, mut output) = (f64::from_bits(bits), std::io::stdout());
        if context.config().json {
            writeln!(output, "{}", serde_json::json!({ "page": page, "rank": rank }))?;
        } else {
            writeln!(output, "{page:>10}  {rank:.9}")?;
        }
    }
    Ok(())
}

/// What a page gives in a round; the zero for itself keeps pages that nobody links to.
fn pass_on(page: u32, targets: Vec<u32>, rank: f64) -> Vec<(u32, f64)> {
    if targets.is_empty() {
        return vec![(page, rank)];
    }
    let share = rank / targets.len() as f64;
    let given = targets.into_iter().map(|target| (target, share));
    std::iter::once((page, 0.0)).chain(given).collect()
}

/// Links that prefer pages with low numbers; link `n` depends on (seed, `n`) alone.
fn generate(context: &Context, arguments: &Arguments) -> Dataset<(u32, u32)> {
    let (seed, nodes) = (context.config().seed, arguments.nodes);
    context.range(0..arguments.edges, PARTITIONS).map(move |link| {
        let mut generator = ChaCha8Rng::seed_from_u64(seed);
        generator.set_stream(link);
        let mut below_one = || f64::from(generator.next_u32()) / 2f64.powi(32);
        let mut page = |exponent| (below_one().powi(exponent) * f64::from(nodes)) as u32;
        (page(1), page(3))
    })
}
