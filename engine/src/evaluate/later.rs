//! Inputs that are computed when they are read.
//!
//! A partition that is several others one after another (`coalesce`) would hold what all of them need at once, if all
//! were computed first: tables, blocks and buffers. So each is computed when the one before has been read to its end.

use std::collections::{HashMap, HashSet, VecDeque};
use std::ops::Range;
use std::rc::Rc;

use distdl_storage::{Level, Pin};

use super::{DEPTH_MAX, Machine, Pipe, ReadShuffle, lost, read_block, run};
use crate::batch::{AnyBatch, AnyStream, TaskError, TaskResult};
use crate::id::DatasetId;
use crate::lineage::{Compute, Lineage};
use crate::plan::Operation;

/// An operation whose inputs can wait.
struct Concatenation {
    /// Which one.
    operation: usize,
    /// The operations that make each input.
    inputs: Vec<Range<usize>>,
    /// How deep its stream is nested.
    depth: usize,
}

/// Those of a program, by the first operation of their first input; the inner ones come first.
#[derive(Default)]
pub(super) struct Concatenations(HashMap<usize, Vec<Concatenation>>);

impl Concatenations {
    pub(super) fn of(lineage: &Lineage, program: &[Operation]) -> Self {
        let is_one = |operation: &Operation| match operation {
            Operation::Compute {
                dataset, inputs: 2.., ..
            } => matches!(lineage.node(*dataset).compute, Compute::Pass),
            _ => false,
        };
        let mut found = Self::default();
        if !program.iter().any(is_one) {
            return found;
        }
        let fixed = fixed_before(program);
        let mut stack: Vec<Made> = Vec::new();
        for (index, operation) in program.iter().enumerate() {
            let made = match operation {
                Operation::Read(..) | Operation::Shuffle(..) => Made::over(&[], index, &Compute::Pass),
                Operation::Keep(..) => Made::kept(stack.pop(), index),
                Operation::Compute { dataset, inputs, .. } => {
                    let inputs = stack.split_off(stack.len() - inputs);
                    let made = Made::over(&inputs, index, &lineage.node(*dataset).compute);
                    let is_free = fixed[made.operations.start] == fixed[index];
                    if is_one(operation) && is_free && made.depth <= DEPTH_MAX {
                        let beginning = found.0.entry(made.operations.start).or_default();
                        beginning.push(Concatenation {
                            operation: index,
                            inputs: inputs.into_iter().map(|input| input.operations).collect(),
                            depth: made.depth,
                        });
                    }
                    made
                }
            };
            stack.push(made);
        }
        found
    }

    /// The outermost one that begins with an operation and ends before another.
    fn outermost(&self, begin: usize, end: usize) -> Option<&Concatenation> {
        let mut outer_first = self.0.get(&begin)?.iter().rev();
        outer_first.find(|concatenation| concatenation.operation < end)
    }
}

/// For each operation how many before it must be done in their order: those that keep a block which the program reads
/// again, and those that read it.
fn fixed_before(program: &[Operation]) -> Vec<usize> {
    let mut kept: HashSet<(DatasetId, usize)> = HashSet::new();
    let mut again = HashSet::new();
    for operation in program {
        match *operation {
            Operation::Keep(dataset, partition) => _ = kept.insert((dataset, partition)),
            Operation::Read(dataset, partition) if kept.contains(&(dataset, partition)) => {
                again.insert((dataset, partition));
            }
            _ => {}
        }
    }
    let mut count = 0;
    let counts = program.iter().map(|operation| {
        let before = count;
        if let Operation::Keep(dataset, partition) | Operation::Read(dataset, partition) = *operation {
            count += usize::from(again.contains(&(dataset, partition)));
        }
        before
    });
    counts.collect()
}

/// What some operations make, if all that can wait does.
struct Made {
    operations: Range<usize>,
    /// How deep its stream is nested, but for steps.
    depth: usize,
    /// Whether steps are fused behind it.
    has_steps: bool,
}

impl Made {
    fn over(inputs: &[Self], operation: usize, compute: &Compute) -> Self {
        let begin = inputs.first().map_or(operation, |input| input.operations.start);
        let (depth, has_steps) = match (compute, inputs) {
            (Compute::Pass, [input]) => (input.depth, input.has_steps),
            (Compute::Batchwise(_), [input]) => (input.depth, true),
            _ => {
                let deepest = inputs.iter().map(Self::full_depth).max();
                (1 + deepest.unwrap_or(0), matches!(compute, Compute::Batchwise(_)))
            }
        };
        Self {
            operations: begin..operation + 1,
            depth,
            has_steps,
        }
    }

    /// It is read to its end by the operation that keeps it, as deep in others as that is.
    fn kept(made: Option<Self>, operation: usize) -> Self {
        let begin = made.as_ref().map_or(operation, |made| made.operations.start);
        Self {
            operations: begin..operation + 1,
            depth: made.map_or(1, |made| made.full_depth()),
            has_steps: false,
        }
    }

    fn full_depth(&self) -> usize {
        self.depth + usize::from(self.has_steps)
    }
}

/// An input that waits, with what shuffles have brought for it.
struct Input {
    operations: Range<usize>,
    shuffles: VecDeque<AnyStream>,
    /// On blocks in memory that would be lost if others pushed them out meanwhile.
    pins: Vec<Pin>,
}

/// Inputs that are computed one after another.
struct Concatenated {
    machine: Rc<Machine>,
    inputs: VecDeque<Input>,
    current: Option<(AnyStream, Vec<Pin>)>,
}

impl Machine {
    /// What a concatenation gives that begins with an operation and ends before another, and the operation after it.
    /// The blocks that it will read are looked for now, when a lost one takes less to mend.
    pub(super) fn later(
        self: &Rc<Self>,
        begin: usize,
        end: usize,
        shuffle: ReadShuffle<'_>,
    ) -> TaskResult<Option<(Pipe, usize)>> {
        let Some(concatenation) = self.concatenations.outermost(begin, end) else {
            return Ok(None);
        };
        let mut inputs = VecDeque::with_capacity(concatenation.inputs.len());
        for operations in &concatenation.inputs {
            let (mut shuffles, mut pins) = (VecDeque::new(), Vec::new());
            for operation in &self.program[operations.clone()] {
                match *operation {
                    Operation::Shuffle(id, bucket) => shuffles.push_back(shuffle(id, bucket)),
                    Operation::Read(dataset, partition) => pins.extend(self.look_for(dataset, partition)?),
                    _ => {}
                }
            }
            inputs.push_back(Input {
                operations: operations.clone(),
                shuffles,
                pins,
            });
        }
        let pipe = Pipe {
            stream: Box::new(Concatenated {
                machine: Rc::clone(self),
                inputs,
                current: None,
            }),
            steps: Vec::new(),
            depth: concatenation.depth,
            begin,
        };
        Ok(Some((pipe, concatenation.operation + 1)))
    }

    fn look_for(&self, dataset: DatasetId, partition: usize) -> TaskResult<Option<Pin>> {
        let (context, node, id) = (&self.context, self.lineage.node(dataset), dataset.block(partition));
        if let Some(Level::Memory | Level::Memory2) = node.level()
            && let Ok(Some((_, pin))) = context.resources.store.pin(id, node.record_type.codec)
        {
            return Ok(Some(pin));
        }
        let is_elsewhere = || context.elsewhere.as_ref().is_some_and(|elsewhere| elsewhere.has(id));
        if context.resources.store.contains(id) || is_elsewhere() {
            return Ok(None);
        }
        Err(lost(context, node, id, "it was evicted or deleted"))
    }
}

impl Concatenated {
    /// The next input's stream, and what must be held until it has ended.
    fn open(&mut self) -> Option<TaskResult<(AnyStream, Vec<Pin>)>> {
        let Input {
            operations,
            mut shuffles,
            pins,
        } = self.inputs.pop_front()?;
        // They are asked for in the order of the operations, as they were taken.
        let mut shuffle = |_, _| shuffles.pop_front().unwrap_or_else(|| Box::new(std::iter::empty()));
        Some(run(&self.machine, operations, &mut shuffle).map(|stream| (stream, pins)))
    }
}

impl Concatenated {
    /// Reads what waits after a loss, so that all that is damaged is computed again in one round, and not one block in
    /// each.
    fn check_remaining_blocks(&mut self) {
        let Machine {
            context,
            lineage,
            program,
            ..
        } = &*self.machine;
        for input in self.inputs.drain(..) {
            for operation in &program[input.operations] {
                if let Operation::Read(dataset, partition) = *operation
                    && context.resources.store.contains(dataset.block(partition))
                {
                    // What is lost is counted, and no plan counts on it any more.
                    let _ = read_block(context, lineage.node(dataset), partition);
                }
            }
        }
    }
}

impl Iterator for Concatenated {
    type Item = TaskResult<AnyBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(batch) = self.current.as_mut().and_then(|(stream, _)| stream.next()) {
                if let Err(TaskError::Lost(_)) = &batch {
                    self.check_remaining_blocks();
                }
                return Some(batch);
            }
            // What it held is free before the next one is computed.
            self.current = None;
            match self.open()? {
                Ok(current) => self.current = Some(current),
                Err(error) => {
                    if let TaskError::Lost(_) = &error {
                        self.check_remaining_blocks();
                    }
                    self.inputs.clear();
                    return Some(Err(error));
                }
            }
        }
    }
}
