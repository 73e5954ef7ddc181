//! Steps that make a batch of each batch, one behind the other.

use crate::batch::{AnyBatch, AnyStream, BATCH_BYTES, Pieces, TaskResult};
use crate::lineage::BatchStep;
use crate::task::{TaskContext, UpdatePosition};

/// Records of a first piece, of which one is measured, and how many times as many a piece may have as the one before.
const FIRST: usize = 1;
const GROWTH: usize = 32;

/// Applies a chain of steps to each batch in a flat loop, however long the chain.
///
/// A step may make something large of a small record, as a picture of its name. So batches go through in pieces, as
/// large as what was made of the last piece allows: soon whole, where records stay small.
pub(super) struct Fused {
    context: TaskContext,
    stream: AnyStream,
    steps: Vec<(UpdatePosition, BatchStep)>,
    /// What is left of the last batch, if it was cut.
    rest: Option<Box<dyn Pieces>>,
    /// Records of the next piece.
    piece: usize,
}

impl Fused {
    pub(super) fn new(context: &TaskContext, stream: AnyStream, steps: Vec<(UpdatePosition, BatchStep)>) -> Self {
        Self {
            context: context.clone(),
            stream,
            steps,
            rest: None,
            piece: FIRST,
        }
    }

    fn apply(&mut self, mut batch: AnyBatch) -> TaskResult<AnyBatch> {
        self.context.check()?;
        let outside = self.context.position();
        let (mut largest, mut all_were_asked) = (1, true);
        for (position, step) in &mut self.steps {
            self.context.at(*position);
            all_were_asked &= batch.records() > 0;
            batch = step(batch)?;
            largest = largest.max(batch.record_bytes());
        }
        self.context.at(outside);
        let fitting = usize::try_from(BATCH_BYTES / largest).unwrap_or(usize::MAX);
        let most = match all_were_asked {
            true => self.piece.saturating_mul(GROWTH),
            // What is behind a filter has not shown yet what it makes; but it may be long until it does.
            false => self.piece.max(GROWTH),
        };
        self.piece = fitting.clamp(1, most);
        Ok(batch)
    }
}

impl Iterator for Fused {
    type Item = TaskResult<AnyBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(piece) = self.rest.as_mut().and_then(|rest| rest.next_piece(self.piece)) {
                return Some(self.apply(piece));
            }
            self.rest = None;
            match self.stream.next() {
                Some(Ok(batch)) if batch.records() > self.piece => self.rest = Some(batch.into_pieces()),
                Some(batch) => return Some(batch.and_then(|batch| self.apply(batch))),
                None => {
                    self.steps.iter().for_each(|(position, _)| self.context.end(*position));
                    return None;
                }
            }
        }
    }
}
