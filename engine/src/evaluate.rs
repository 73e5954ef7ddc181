//! Computing one partition: a program of [`Operation`]s run on a stack of streams.

use std::sync::Arc;

use distdl_storage::{BlockId, StorageError};

use crate::batch::{AnyBatch, AnyStream, TaskError, TaskResult};
use crate::id::{DatasetId, ShuffleId};
use crate::lineage::{BatchStep, Compute, Lineage, Node};
use crate::plan::Operation;
use crate::task::TaskContext;

/// Gives what a shuffle brought for a bucket.
pub type ReadShuffle<'a> = &'a mut dyn FnMut(ShuffleId, usize) -> AnyStream;

/// Streams may nest this deep before the engine collects one, so that deep lineages do not overflow the stack.
const DEPTH_MAX: usize = 48;

/// Runs `program`; the stream that is left on the stack is the partition.
pub fn evaluate(
    context: &TaskContext,
    lineage: &Lineage,
    program: &[Operation],
    shuffle: ReadShuffle<'_>,
) -> TaskResult<AnyStream> {
    let mut stack: Vec<Pipe> = Vec::new();
    for operation in program {
        let pipe = match *operation {
            Operation::Read(dataset, partition) => Pipe::source(read_block(context, lineage.node(dataset), partition)?),
            Operation::Shuffle(id, bucket) => Pipe::source(shuffle(id, bucket)),
            Operation::Compute {
                dataset,
                partition,
                inputs,
            } => {
                let inputs = stack.split_off(stack.len() - inputs);
                compute(context, lineage.node(dataset), partition, inputs)?
            }
            Operation::Keep(dataset, partition) => match stack.pop() {
                Some(pipe) => Pipe::source(keep(
                    context,
                    lineage.node(dataset),
                    partition,
                    pipe.into_stream(context),
                )?),
                None => continue,
            },
        };
        stack.push(pipe);
    }
    Ok(match stack.pop() {
        Some(pipe) => pipe.into_stream(context),
        None => Box::new(std::iter::empty()),
    })
}

fn read_block(context: &TaskContext, node: &Node, partition: usize) -> TaskResult<AnyStream> {
    let id = node.id.block(partition);
    match context.resources.store.get(id, node.record_type.codec) {
        Ok(Some(block)) => Ok(node.record_type.stream(block, context.resources.batch_records)?),
        Ok(None) => Err(lost(context, node, id, "it was evicted or deleted")),
        Err(error @ StorageError::WrongType { .. }) => Err(error.into()),
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

fn keep(context: &TaskContext, node: &Node, partition: usize, stream: AnyStream) -> TaskResult<AnyStream> {
    let block = node.record_type.collect(stream)?;
    let id = node.id.block(partition);
    if let Some(level) = node.level() {
        context.resources.store.put(id, &block, level)?;
    }
    context.resources.metrics.computed(node.id);
    Ok(node.record_type.stream(block, context.resources.batch_records)?)
}

fn compute(context: &TaskContext, node: &Arc<Node>, partition: usize, mut inputs: Vec<Pipe>) -> TaskResult<Pipe> {
    match &node.compute {
        Compute::Pass if inputs.len() == 1 => Ok(inputs.swap_remove(0)),
        Compute::Pass => Ok(concatenate(context, inputs)),
        Compute::Batchwise(step) => {
            let mut pipe = if inputs.len() == 1 {
                inputs.swap_remove(0)
            } else {
                concatenate(context, inputs)
            };
            pipe.steps.push(((node.id, partition), step(context, partition)));
            Ok(pipe)
        }
        Compute::Streams(function) => {
            let depth = inputs.iter().map(Pipe::depth).max().unwrap_or(0);
            let inputs = inputs.into_iter().map(|pipe| pipe.into_bounded_stream(context));
            let inputs = inputs.collect::<TaskResult<Vec<_>>>()?;
            let outside = context.at((node.id, partition));
            let stream = function(context, partition, inputs)?;
            context.at(outside);
            let stream = Attributed {
                context: context.clone(),
                position: (node.id, partition),
                stream,
            };
            Ok(Pipe {
                stream: Box::new(stream),
                steps: Vec::new(),
                depth: if depth >= DEPTH_MAX { 1 } else { depth + 1 },
            })
        }
    }
}

fn concatenate(context: &TaskContext, inputs: Vec<Pipe>) -> Pipe {
    let depth = 1 + inputs.iter().map(Pipe::depth).max().unwrap_or(0);
    let streams: Vec<AnyStream> = inputs.into_iter().map(|pipe| pipe.into_stream(context)).collect();
    Pipe {
        stream: Box::new(streams.into_iter().flatten()),
        steps: Vec::new(),
        depth,
    }
}

/// A stream and the batchwise steps that are fused behind it.
struct Pipe {
    stream: AnyStream,
    steps: Vec<((DatasetId, usize), BatchStep)>,
    depth: usize,
}

impl Pipe {
    fn source(stream: AnyStream) -> Self {
        Self {
            stream,
            steps: Vec::new(),
            depth: 1,
        }
    }

    fn depth(&self) -> usize {
        self.depth + usize::from(!self.steps.is_empty())
    }

    fn into_stream(self, context: &TaskContext) -> AnyStream {
        if self.steps.is_empty() {
            return self.stream;
        }
        Box::new(Fused {
            context: context.clone(),
            stream: self.stream,
            steps: self.steps,
        })
    }

    fn into_bounded_stream(self, context: &TaskContext) -> TaskResult<AnyStream> {
        if self.depth() < DEPTH_MAX {
            return Ok(self.into_stream(context));
        }
        let batches = self.into_stream(context).collect::<TaskResult<Vec<AnyBatch>>>()?;
        Ok(Box::new(batches.into_iter().map(Ok)))
    }
}

/// Applies a chain of steps to each batch in a flat loop, however long the chain.
struct Fused {
    context: TaskContext,
    stream: AnyStream,
    steps: Vec<((DatasetId, usize), BatchStep)>,
}

impl Iterator for Fused {
    type Item = TaskResult<AnyBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        let batch = self.stream.next()?;
        Some(self.context.check().and(batch).and_then(|mut batch| {
            let outside = self.context.position();
            for (position, step) in &mut self.steps {
                self.context.at(*position);
                batch = step(batch)?;
            }
            self.context.at(outside);
            Ok(batch)
        }))
    }
}

/// Notes whose code runs while a stream is asked for its next batch.
struct Attributed {
    context: TaskContext,
    position: (DatasetId, usize),
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
        batch
    }
}
