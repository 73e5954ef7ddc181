//! Which steps a GPU is asked for as graphs, and how steps were asked for.

use std::ops::Range;

use distdl_engine::device::GpuGraph;
use distdl_storage::DeviceError;

use crate::error::Error;

/// Kinds of steps that have a graph, the first that come.
const GRAPHS_MAX: usize = 8;

/// How often steps of a kind may turn out to be others than were captured. Capturing costs more than asking thing by
/// thing.
const OTHERS_MAX: u32 = 3;

/// How steps are asked for, by how many rows each lane has, and whether they weigh anything.
#[derive(Debug)]
pub(super) struct Graphs {
    are_wanted: bool,
    kinds: Vec<Kind>,
    /// Whether it was said that some steps are not asked for as graphs.
    is_said: bool,
}

/// Steps in which lanes have the same numbers of rows, and which all change parameters, or none does.
#[derive(Debug)]
pub(super) struct Kind {
    rows: Vec<usize>,
    /// Whether the rows weigh anything: otherwise there is no update.
    weighs: bool,
    pub(super) graph: StepGraph,
    /// How often one was another than was captured.
    others: u32,
}

/// How a step is asked for.
#[derive(Debug, Default)]
pub(super) enum StepGraph {
    /// One by one: its kernels may not be loaded yet.
    #[default]
    New,
    /// One by one, and then as a graph.
    Warm,
    /// As a graph, with other arguments.
    Graph(GpuGraph),
    /// One by one: no graph can be made of it.
    Eager,
}

/// How steps were asked for.
#[derive(Debug, Default)]
pub(super) struct StepCounts {
    pub(super) passes: u64,
    /// Graphs that were captured.
    pub(super) graphs: u64,
    /// Steps that were asked for as one.
    pub(super) graph_steps: u64,
    /// Steps that were asked for thing by thing.
    pub(super) eager_steps: u64,
    /// Why one of those last was no graph, though it was to be.
    pub(super) fallback: Option<String>,
}

impl StepCounts {
    /// Remembers why a step was no graph, without what helps where the GPU has failed, and gives it.
    pub(super) fn fall_back(&mut self, error: &Error) -> &str {
        self.fallback.insert(match error {
            Error::Device(DeviceError::Failed { what, reason, .. }) => format!("could not {what}: {reason}"),
            other => other.to_string(),
        })
    }
}

impl Graphs {
    pub(super) fn new(are_wanted: bool) -> Self {
        Self {
            are_wanted,
            kinds: Vec::new(),
            is_said: false,
        }
    }

    /// The kind of steps where lanes have these rows, which weigh something or not; `None` if they have no graph.
    pub(super) fn of(&mut self, rows: &[Range<usize>], weighs: bool) -> Option<&mut Kind> {
        let counts = || rows.iter().map(ExactSizeIterator::len);
        let mut known = self
            .kinds
            .iter()
            .position(|kind| kind.weighs == weighs && kind.rows.iter().copied().eq(counts()));
        if known.is_none() && self.are_wanted && self.kinds.len() < GRAPHS_MAX {
            known = Some(self.kinds.len());
            self.kinds.push(Kind {
                rows: counts().collect(),
                weighs,
                graph: StepGraph::New,
                others: 0,
            });
        }
        known.map(|index| &mut self.kinds[index])
    }

    /// How steps like one that was another than was captured are asked for from now on: it is captured anew, unless
    /// that has happened too often.
    pub(super) fn is_another(&mut self, rows: &[Range<usize>], weighs: bool, reason: &str) -> StepGraph {
        let others = self.of(rows, weighs).map_or(OTHERS_MAX, |kind| {
            kind.others += 1;
            kind.others
        });
        tracing::debug!(others, "a step is not asked for as a graph: {reason}");
        match others < OTHERS_MAX {
            true => StepGraph::Warm,
            false => self.give_up(reason),
        }
    }

    /// How steps are asked for of which no graph can be made; says so once.
    pub(super) fn give_up(&mut self, reason: &str) -> StepGraph {
        if !self.is_said {
            self.is_said = true;
            tracing::warn!("steps are asked for thing by thing and not as graphs, which takes longer: {reason}");
        }
        StepGraph::Eager
    }
}
