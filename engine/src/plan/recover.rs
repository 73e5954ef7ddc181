//! Recovery is planning asked again with fewer blocks.

use std::collections::BTreeSet;

use distdl_storage::BlockId;

use super::{Available, Operation, Plan, Reuse, Sent, plan, program};
use crate::error::Result;
use crate::id::DatasetId;
use crate::lineage::Lineage;

/// The plan for what an action still misses: `wanted` less `finished`, with the blocks and outputs that are left.
/// `None` once nothing is missing.
pub(crate) fn recover(
    lineage: &Lineage,
    wanted: &[usize],
    finished: &BTreeSet<usize>,
    available: Available<'_>,
    sent: Sent<'_>,
) -> Option<Plan> {
    let missing: Vec<usize> = wanted
        .iter()
        .copied()
        .filter(|partition| !finished.contains(partition))
        .collect();
    (!missing.is_empty()).then(|| plan(lineage, &missing, available, sent))
}

/// The program for a partition of a running stage whose block turned out to be lost, if it can be computed from what
/// that stage already reads. `None` means that a shuffle must run again, or work before planning must be done, which
/// takes a new plan.
///
/// # Errors
/// As [`program`].
pub(crate) fn recover_in_stage(
    lineage: &Lineage,
    (root, partition): (DatasetId, usize),
    available: Available<'_>,
    reuse: Reuse<'_>,
    reads: impl Fn(&Operation) -> bool,
) -> Result<Option<Vec<Operation>>> {
    let program = program(lineage, (root, partition), available, reuse)?;
    Ok(unplanned(lineage, &program, reads).is_none().then_some(program))
}

/// What a program of a running stage takes that was not planned, as the block that would have spared it: a shuffle that
/// nobody sends there, or work before planning.
pub(crate) fn unplanned(
    lineage: &Lineage,
    program: &[Operation],
    reads: impl Fn(&Operation) -> bool,
) -> Option<BlockId> {
    program.iter().find_map(|operation| match *operation {
        Operation::Shuffle(shuffle, bucket) => (!reads(operation)).then(|| shuffle.child.block(bucket)),
        Operation::Compute { dataset, partition, .. } => {
            (!lineage.node(dataset).is_prepared()).then(|| dataset.block(partition))
        }
        _ => None,
    })
}

#[cfg(test)]
mod tests;
