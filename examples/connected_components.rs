//! Finds the connected components of a graph: `cargo run --release --example connected_components`.

mod links;

use std::cmp::Reverse;
use std::process::ExitCode;

use clap::Parser;
use distdl::prelude::*;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use serde_json::json;

const PARTITIONS: usize = 8;

/// Finds the connected components of a graph and prints the ten largest: size, and smallest node.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    flags: Flags,
    /// Text file of links, `from to` in whole numbers a line, `#` before a remark [default: a generated graph].
    links: Option<String>,
    /// Nodes of the generated graph.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    nodes: u32,
    /// Links of the generated graph.
    #[arg(long, default_value_t = 6_000)]
    edges: u64,
    /// Rounds at most: the longest of the shortest ways within a component.
    #[arg(long, default_value_t = 1000)]
    rounds: u32,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    distdl::run(arguments.flags.config(), |context| components(context, &arguments))
}

fn components(context: &Context, arguments: &Arguments) -> Result<(), Failure> {
    let edges = match &arguments.links {
        Some(file) => links::read(context, file, PARTITIONS)?,
        None => generate(context, arguments),
    };
    // A node is its own neighbour, so that it keeps its label where that is the smallest.
    let neighbours = edges
        .flat_map(|(from, to)| [(from, to), (to, from), (from, from), (to, to)])
        .group_by_key_into(PARTITIONS)
        .cache();
    let mut labels = neighbours.flat_map_values(|neighbours| neighbours.into_iter().min());
    let mut rounds = 0;
    loop {
        // Each node takes the smallest label around it. Joining moves nothing: both lie by the hash of the node.
        let offers = neighbours
            .join(&labels)
            .flat_map(|(_, (neighbours, label))| neighbours.into_iter().map(move |node| (node, label)));
        let next = offers.reduce_by_key(u32::min).cache();
        if labels.join(&next).filter(|(_, (old, new))| old != new).is_empty()? {
            break;
        } else if rounds == arguments.rounds {
            return Err("labels still change; allow more rounds with --rounds".into());
        }
        (labels, rounds) = (next, rounds + 1);
    }
    let ones = labels.map(|(_, label)| (label, 1u64));
    let sizes = ones.reduce_by_key(|one, more| one + more);
    let (count, nodes) = (sizes.count()?, labels.count()?);
    let largest = sizes.map(|(label, size)| (size, Reverse(label))).top(10)?;
    if context.config().json {
        let found = json!({ "components": count, "nodes": nodes, "rounds": rounds, "largest": largest });
        println!("{found}");
        return Ok(());
    }
    println!("{count} components of {nodes} nodes after {rounds} rounds; the largest:");
    for (size, Reverse(node)) in largest {
        println!("{size:>8} nodes from {node}");
    }
    Ok(())
}

/// Links between any two nodes; link `n` depends on (seed, `n`) alone.
fn generate(context: &Context, arguments: &Arguments) -> Dataset<(u32, u32)> {
    let (seed, nodes) = (context.config().seed, arguments.nodes);
    context.range(0..arguments.edges, PARTITIONS).map(move |link| {
        let mut generator = ChaCha8Rng::seed_from_u64(seed);
        generator.set_stream(link);
        (generator.next_u32() % nodes, generator.next_u32() % nodes)
    })
}
