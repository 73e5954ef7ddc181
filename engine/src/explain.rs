//! Lineage and plan as text for people.

use std::collections::BTreeMap;
use std::fmt::Write;

use distdl_storage::Record;

use crate::context::Context;
use crate::dataset::Dataset;
use crate::id::DatasetId;
use crate::lineage::{Dependency, Determinacy, Lineage, Node};
use crate::metrics::Size;
use crate::plan::{Output, Plan, Stage, plan};

/// What is said of the plan of one process of several.
const ALONE: &str = "  This is what this process would do alone: all processes of its cluster share these tasks, and\n  \
                     read the blocks that others have instead of computing them.\n";

impl<T: Record> Dataset<T> {
    /// How this dataset is derived and how an action on it would run now, as text.
    ///
    /// The lineage lists the dataset first and what it is derived from below, each dataset once; the plan lists stages
    /// in the order in which they run. Chains of operators that one stage fuses are written as one line. What is
    /// persisted shows how many of its blocks are in this process, and their records and bytes in memory; what is not
    /// determinate; what was checkpointed, where it is read from, or that its lineage is cut.
    ///
    /// In a process of several the plan is that of this process as if it were alone: what the others have is known once
    /// all have come to an action.
    pub fn explain(&self) -> String {
        let lineage = self.context().lineage(self.id());
        let partitions: Vec<usize> = (0..self.partitions()).collect();
        self.context().recall(&lineage);
        let available = |dataset: DatasetId, partition: usize| self.context().has_block(dataset, partition);
        let plan = plan(&lineage, &partitions, &available, &|_, _| false);
        let mut text = String::from("Lineage\n");
        write_lineage(&mut text, &lineage, &|node| stored_blocks(self.context(), node));
        write_plan(&mut text, &lineage, &plan);
        if self.context().is_in_cluster() {
            text.push_str(ALONE);
        }
        text
    }
}

/// The blocks of a dataset that are here.
struct StoredBlocks {
    blocks: usize,
    size: Size,
}

fn stored_blocks(context: &Context, node: &Node) -> StoredBlocks {
    let here = (0..node.partitions).filter(|partition| context.has_block(node.id, *partition));
    let none = StoredBlocks {
        blocks: 0,
        size: Size::default(),
    };
    here.fold(none, |kept, partition| {
        let size = context.metrics().size(node.id, partition).unwrap_or_default();
        StoredBlocks {
            blocks: kept.blocks + 1,
            size: Size {
                records: kept.size.records + size.records,
                memory_bytes: kept.size.memory_bytes + size.memory_bytes,
            },
        }
    })
}

/// A number of bytes for people.
fn bytes_text(bytes: u64) -> String {
    let units = ["bytes", "KiB", "MiB", "GiB", "TiB"];
    let unit = (0..units.len() - 1).find(|unit| bytes >> (10 * (unit + 1)) == 0);
    match unit.unwrap_or(units.len() - 1) {
        0 => format!("{bytes} bytes"),
        unit => format!("{:.1} {}", bytes as f64 / (1u64 << (10 * unit)) as f64, units[unit]),
    }
}

fn write_lineage(text: &mut String, lineage: &Lineage, kept: &dyn Fn(&Node) -> StoredBlocks) {
    // Runs of the same operator over one parent each are one line: a loop of ten thousand maps stays readable.
    let mut run: Option<(&Node, usize)> = None;
    for node in lineage.nodes().rev() {
        match &mut run {
            Some((last, length)) if repeats(last, node) => {
                *length += 1;
                *last = node;
            }
            _ => {
                write_repeats(text, run);
                write_node(text, node, kept);
                run = Some((node, 0));
            }
        }
    }
    write_repeats(text, run);
}

fn repeats(last: &Node, node: &Node) -> bool {
    let parent = |node: &Node| match node.dependencies() {
        [Dependency::Narrow { parent, .. }] | [Dependency::Narrow { parent, .. }, Dependency::Narrow { .. }] => {
            Some(*parent)
        }
        _ => None,
    };
    last.operator == node.operator
        && last.site == node.site
        && last.title() == node.title()
        && node.level().is_none()
        && last
            .dependencies()
            .iter()
            .any(|dependency| dependency.parent() == node.id)
        && parent(node).is_some()
}

fn write_repeats(text: &mut String, run: Option<(&Node, usize)>) {
    if let Some((last, length)) = run
        && length > 0
    {
        let _ = writeln!(text, "        and {length} more like it, down to {}", last.id);
    }
}

fn write_node(text: &mut String, node: &Node, kept: &dyn Fn(&Node) -> StoredBlocks) {
    let _ = write!(
        text,
        "  {:>5} {} [{} partitions]",
        node.id.to_string(),
        node.title(),
        node.partitions
    );
    if !node.remark.is_empty() {
        let _ = write!(text, " of {}", node.remark);
    }
    let parents: Vec<String> = node
        .dependencies()
        .iter()
        .map(|dependency| match dependency {
            Dependency::Narrow { parent, .. } => parent.to_string(),
            Dependency::Shuffle { parent, spec } if spec.combines() => {
                format!("{parent} by shuffle, combined first")
            }
            Dependency::Shuffle { parent, .. } => format!("{parent} by shuffle"),
        })
        .collect();
    if !parents.is_empty() {
        let _ = write!(text, " <- {}", parents.join(", "));
    }
    if let Some(memo) = &node.memo {
        let _ = write!(text, ", memoized as \"{}\" version {}", memo.name, memo.version);
    }
    if let Some(level) = node.level() {
        let StoredBlocks { blocks, size } = kept(node);
        let _ = write!(text, ", persisted ({level:?}, {blocks} of {} blocks", node.partitions);
        if blocks > 0 {
            let _ = write!(text, ": {} records, {}", size.records, bytes_text(size.memory_bytes));
        }
        let _ = write!(text, ")");
    }
    match node.determinacy() {
        Determinacy::Determinate => {}
        Determinacy::Unordered => text.push_str(", in any order"),
        Determinacy::Indeterminate => text.push_str(", not the same twice"),
    }
    if node.is_cut() {
        let _ = write!(text, ", lineage cut");
    }
    let _ = writeln!(text, "  at {}:{}", node.site.file(), node.site.line());
}

fn write_plan(text: &mut String, lineage: &Lineage, plan: &Plan) {
    let _ = writeln!(text, "Plan: {} stages, {} tasks", plan.stages.len(), plan.tasks());
    for (index, stage) in plan.stages.iter().enumerate() {
        write_stage(text, lineage, index, stage);
    }
}

fn write_stage(text: &mut String, lineage: &Lineage, index: usize, stage: &Stage) {
    let root = lineage.node(stage.root);
    let output = match stage.output {
        Output::Result => "result".to_owned(),
        Output::Shuffle(shuffle) => format!("shuffle {shuffle}"),
    };
    let tasks = stage.partitions.len();
    let _ = write!(
        text,
        "  stage {index}: {tasks} tasks of {} {} -> {output}",
        root.title(),
        stage.root
    );
    if !stage.reads.is_empty() {
        let reads: Vec<String> = stage.reads.keys().map(ToString::to_string).collect();
        let _ = write!(text, ", reads shuffles {}", reads.join(" "));
    }
    let blocks: BTreeMap<_, _> = stage
        .blocks
        .iter()
        .map(|(dataset, blocks)| (dataset, blocks.len()))
        .collect();
    for (dataset, count) in blocks {
        let _ = write!(text, ", reads {count} blocks of {dataset}");
    }
    let _ = writeln!(text);
}
