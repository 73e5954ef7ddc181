//! Computing one partition: a program of [`Operation`]s run on a stack of streams.

mod fused;
mod later;

use std::cell::RefCell;
use std::collections::HashSet;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use distdl_storage::{BlockId, Level, StorageError};
use indicatif::HumanBytes;

use self::fused::Fused;
use self::later::Concatenations;
use crate::batch::{AnyBatch, AnyStream, TaskError, TaskResult};
use crate::cluster::chaos::Point;
use crate::error::EngineError;
use crate::id::ShuffleId;
use crate::lineage::{BatchStep, Compute, Lineage, Node};
use crate::metrics::Size;
use crate::plan::Operation;
use crate::task::{Role, TaskContext, UpdateOrigin, UpdatePosition};

/// Gives what a shuffle brought for a bucket.
pub(crate) type ReadShuffle<'a> = &'a mut dyn FnMut(ShuffleId, usize) -> AnyStream;

/// Streams may nest this deep before the engine collects one, so that deep lineages do not overflow the stack.
const DEPTH_MAX: usize = 48;

/// Runs `program`; the stream that is left on the stack is the partition.
pub(crate) fn evaluate(
    context: &TaskContext,
    lineage: &Lineage,
    program: &[Operation],
    shuffle: ReadShuffle<'_>,
) -> TaskResult<AnyStream> {
    let machine = Machine {
        context: context.clone(),
        lineage: lineage.clone(),
        program: program.to_vec(),
        concatenations: Concatenations::of(lineage, program),
        refused: RefCell::default(),
    };
    run(&Rc::new(machine), 0..program.len(), shuffle)
}

/// A program, of which parts may be run later.
struct Machine {
    context: TaskContext,
    lineage: Lineage,
    program: Vec<Operation>,
    concatenations: Concatenations,
    /// Blocks that were to be kept and found no room.
    refused: RefCell<HashSet<BlockId>>,
}

/// Runs some operations; the stream that is left on the stack is what they make.
fn run(machine: &Rc<Machine>, operations: Range<usize>, shuffle: ReadShuffle<'_>) -> TaskResult<AnyStream> {
    let (context, lineage) = (&machine.context, &machine.lineage);
    let mut stack: Vec<Pipe> = Vec::new();
    let mut next = operations.start;
    while next < operations.end {
        if let Some((pipe, after)) = machine.later(next, operations.end, shuffle)? {
            stack.push(pipe);
            next = after;
            continue;
        }
        let index = next;
        next += 1;
        let pipe = match machine.program[index] {
            Operation::Read(dataset, partition) => {
                let id = dataset.block(partition);
                if machine.refused.borrow().contains(&id) {
                    // It never was there, and so is no loss to count.
                    return Err(TaskError::Lost(id));
                }
                let stream = read_block(context, lineage.node(dataset), partition)?;
                Pipe::source(index, stoppable(context, stream))
            }
            Operation::Shuffle(id, bucket) => Pipe::source(index, stoppable(context, shuffle(id, bucket))),
            Operation::Compute {
                dataset,
                partition,
                inputs,
            } => {
                let inputs = stack.split_off(stack.len() - inputs);
                let origin = UpdateOrigin {
                    dataset,
                    partition,
                    role: Role::Operator,
                };
                let position = UpdatePosition {
                    origin,
                    operation: index,
                };
                compute(context, lineage.node(dataset), position, inputs)?
            }
            Operation::Keep(dataset, partition) => {
                let Some(pipe) = stack.pop() else { continue };
                let begin = pipe.begin;
                let (stream, kept) = keep(context, lineage.node(dataset), partition, pipe.into_stream(context))?;
                if !kept {
                    machine.refused.borrow_mut().insert(dataset.block(partition));
                }
                // What led here and was read to its end counts, however much of this an action will read.
                context.settle(|position| (begin..index).contains(&position.operation));
                Pipe::source(begin, stream)
            }
        };
        stack.push(pipe);
    }
    Ok(match stack.pop() {
        Some(pipe) => pipe.into_stream(context),
        None => Box::new(std::iter::empty()),
    })
}

/// The stream, until the task is to stop: what reads it to its end, such as a fold, may be at it for long.
fn stoppable(context: &TaskContext, mut stream: AnyStream) -> AnyStream {
    let context = context.clone();
    Box::new(std::iter::from_fn(move || {
        let batch = stream.next()?;
        Some(context.check().and(batch))
    }))
}

fn read_block(context: &TaskContext, node: &Node, partition: usize) -> TaskResult<AnyStream> {
    let id = node.id.block(partition);
    match context.resources.store.get(id, node.record_type.codec) {
        Ok(Some(block)) => Ok(node.record_type.stream(block, context.resources.batch_records)?),
        Ok(None) => match context
            .elsewhere
            .as_ref()
            .map_or(Ok(None), |elsewhere| elsewhere.fetch(id))
        {
            Ok(Some(frame)) => {
                let block = node.record_type.codec.decode(frame.into())?;
                Ok(node.record_type.stream(block, context.resources.batch_records)?)
            }
            Ok(None) => Err(lost(context, node, id, "it was evicted or deleted")),
            // It is not lost, and nothing else would bring it back.
            Err(error) if node.is_cut() => Err(error.into()),
            Err(error) => Err(lost(context, node, id, &error.to_string())),
        },
        Err(error @ StorageError::WrongType { .. }) => Err(error.into()),
        // Its bytes are whole: such records never come back, however often they are computed. Those that an earlier run
        // has remembered may be of another make.
        Err(error @ StorageError::Decode { .. }) if node.memo.is_none() || node.is_cut() => Err(error.into()),
        // Computing it again would want no less.
        Err(error) if error.is_want_of_resources() => Err(error.into()),
        Err(error) => {
            let _ = context.resources.store.remove(id);
            Err(lost(context, node, id, &error.to_string()))
        }
    }
}

fn lost(context: &TaskContext, node: &Node, id: BlockId, reason: &str) -> TaskError {
    tracing::warn!(block = %id, operator = node.operator, "block lost, computing it again: {reason}");
    context.resources.metrics.lost();
    TaskError::Lost(id)
}

/// Keeps a partition as a block; says whether there was room for it.
fn keep(context: &TaskContext, node: &Node, partition: usize, stream: AnyStream) -> TaskResult<(AnyStream, bool)> {
    let block = node.record_type.collect(stream)?;
    let id = node.id.block(partition);
    let (resources, level) = (&context.resources, node.level());
    let store = &resources.store;
    let no_room = |error: StorageError| titled(node, partition, error.into());
    let kept = match level {
        Some(level) if node.memo.is_some() => {
            let kept = resources.retry_after_eviction(|| store.remember(id, &block, level));
            kept.map_err(no_room)?
        }
        Some(level) => match resources.retry_after_eviction(|| store.put(id, &block, level)) {
            // It need not be kept, and the disk is full for those that would have to make room for it.
            Err(error) if matches!(level, Level::Memory | Level::Memory2) => {
                tracing::warn!(block = %id, operator = node.operator, "a block is not kept: {error}");
                false
            }
            Ok(false) => {
                if node.is_first_without_room() {
                    tracing::warn!(
                        "{}",
                        without_room(node, partition, block.memory_bytes(), store.memory_bytes_max())
                    );
                }
                false
            }
            kept => kept.map_err(no_room)?,
        },
        None => false,
    };
    if node.level().is_none() {
        // It was not to be kept any more when it was put there, perhaps after all others were dropped.
        if let Err(error) = store.remove(id) {
            tracing::warn!(block = %id, "could not remove a block: {error}");
        }
    }
    if let (Some(elsewhere), true) = (&context.elsewhere, level.is_some_and(Level::is_twice)) {
        elsewhere.copy(id, node.record_type.codec.encode(&block)?);
    }
    let size = Size {
        records: block.len() as u64,
        memory_bytes: block.memory_bytes(),
    };
    let blocks = context.resources.metrics.computed(node.id, partition, size);
    if let Some(faults) = context.resources.faults.get() {
        faults.reach(Point::Block(blocks));
    }
    Ok((node.record_type.stream(block, context.resources.batch_records)?, kept))
}

/// What is said of the first block of a dataset that finds no room in memory.
fn without_room(node: &Node, partition: usize, bytes: u64, bytes_max: u64) -> String {
    format!(
        "`{}` (declared at {}): partition {partition} takes {} in memory and finds no room there, so it is not kept and is \
         computed again whenever it is read, as all of this dataset that find none; raise `memory`, which is {}, or keep \
         it on disk, too: `persist(Level::MemoryAndDisk)`",
        node.title(),
        node.site,
        HumanBytes(bytes),
        HumanBytes(bytes_max),
    )
}

fn compute(
    context: &TaskContext,
    node: &Arc<Node>,
    position: UpdatePosition,
    mut inputs: Vec<Pipe>,
) -> TaskResult<Pipe> {
    let partition = position.origin.partition;
    if node.is_cut() {
        let lost = EngineError::LineageCut {
            operator: node.title(),
            site: node.site.to_string(),
            partition,
        };
        return Err(lost.into());
    }
    match &node.compute {
        Compute::Pass if inputs.len() == 1 => Ok(inputs.swap_remove(0)),
        Compute::Pass => concatenate(context, position, inputs),
        Compute::Batchwise(step) => {
            let mut pipe = if inputs.len() == 1 {
                inputs.swap_remove(0)
            } else {
                concatenate(context, position, inputs)?
            };
            pipe.steps.push((position, step(context, partition)));
            Ok(pipe)
        }
        Compute::Streams(function) => {
            let (begin, depth) = (first_operation(position, &inputs), depth_over(&inputs));
            let inputs = bounded(context, inputs)?;
            let outside = context.at(position);
            let stream = function(context, partition, inputs);
            // Also after a loss: the task goes on with another program.
            context.at(outside);
            let stream = stream.map_err(|error| titled(node, partition, error))?;
            let stream = Attributed {
                context: context.clone(),
                node: Arc::clone(node),
                position,
                stream,
            };
            Ok(Pipe {
                stream: Box::new(stream),
                steps: Vec::new(),
                depth,
                begin,
            })
        }
    }
}

fn concatenate(context: &TaskContext, position: UpdatePosition, inputs: Vec<Pipe>) -> TaskResult<Pipe> {
    let (begin, depth) = (first_operation(position, &inputs), depth_over(&inputs));
    let streams = bounded(context, inputs)?;
    Ok(Pipe {
        stream: Box::new(streams.into_iter().flatten()),
        steps: Vec::new(),
        depth,
        begin,
    })
}

fn bounded(context: &TaskContext, inputs: Vec<Pipe>) -> TaskResult<Vec<AnyStream>> {
    let inputs = inputs.into_iter().map(|pipe| pipe.into_bounded_stream(context));
    inputs.collect()
}

/// How deep a stream over `inputs` is nested; those that are too deep will have been collected.
fn depth_over(inputs: &[Pipe]) -> usize {
    let depths = inputs.iter().map(Pipe::depth);
    1 + depths
        .map(|depth| if depth < DEPTH_MAX { depth } else { 1 })
        .max()
        .unwrap_or(0)
}

/// The first of the operations that make what is computed at `position`.
fn first_operation(position: UpdatePosition, inputs: &[Pipe]) -> usize {
    inputs.first().map_or(position.operation, |input| input.begin)
}

/// A stream and the batchwise steps that are fused behind it.
struct Pipe {
    stream: AnyStream,
    steps: Vec<(UpdatePosition, BatchStep)>,
    depth: usize,
    /// The first of the operations that make it; they are neighbours.
    begin: usize,
}

impl Pipe {
    fn source(begin: usize, stream: AnyStream) -> Self {
        Self {
            stream,
            steps: Vec::new(),
            depth: 1,
            begin,
        }
    }

    fn depth(&self) -> usize {
        self.depth + usize::from(!self.steps.is_empty())
    }

    fn into_stream(self, context: &TaskContext) -> AnyStream {
        if self.steps.is_empty() {
            return self.stream;
        }
        Box::new(Fused::new(context, self.stream, self.steps))
    }

    fn into_bounded_stream(self, context: &TaskContext) -> TaskResult<AnyStream> {
        if self.depth() < DEPTH_MAX {
            return Ok(self.into_stream(context));
        }
        let batches = self.into_stream(context).collect::<TaskResult<Vec<AnyBatch>>>()?;
        Ok(Box::new(batches.into_iter().map(Ok)))
    }
}

/// An error for want of room says whose records they are, `node`'s, for which `title` stands.
pub(crate) fn short_of_room(node: &Node, title: String, partition: usize, error: TaskError) -> TaskError {
    match error {
        TaskError::Failed(EngineError::Storage(
            error @ (StorageError::OverBudget { .. } | StorageError::DiskFull { .. }),
        )) => EngineError::NoRoom {
            operator: title,
            site: node.site.to_string(),
            partition,
            error: Box::new(error),
        }
        .into(),
        error => error,
    }
}

/// The same, and an error that an operator made itself shows the name of its dataset.
pub(crate) fn titled(node: &Node, partition: usize, error: TaskError) -> TaskError {
    match short_of_room(node, node.title(), partition, error) {
        TaskError::Failed(EngineError::Operator {
            operator,
            site,
            partition,
            message,
        }) if operator == node.operator && site == node.site.to_string() => EngineError::Operator {
            operator: node.title(),
            site,
            partition,
            message,
        }
        .into(),
        TaskError::Failed(EngineError::KeyTooLarge {
            operator,
            partition,
            key_bytes,
            memory_bytes_max,
            ..
        }) if operator.is_empty() => EngineError::KeyTooLarge {
            operator: node.title(),
            site: node.site.to_string(),
            partition,
            key_bytes,
            memory_bytes_max,
        }
        .into(),
        error => error,
    }
}

/// Notes whose code runs while a stream is asked for its next batch.
struct Attributed {
    context: TaskContext,
    node: Arc<Node>,
    position: UpdatePosition,
    stream: AnyStream,
}

impl Iterator for Attributed {
    type Item = TaskResult<AnyBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Err(error) = self.context.check() {
            return Some(Err(error));
        }
        let outside = self.context.at(self.position);
        let batch = self.stream.next();
        self.context.at(outside);
        if batch.is_none() {
            self.context.end(self.position);
        }
        batch.map(|batch| batch.map_err(|error| titled(&self.node, self.position.origin.partition, error)))
    }
}
