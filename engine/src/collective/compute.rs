//! Partitions that all processes compute together.

use std::any::Any;
use std::collections::BTreeMap;

use bytes::Bytes;
use distdl_storage::Record;

use super::{Arrival, Next, Results, diverged, rounds_max, unexpected, unreadable};
use crate::cancel::RunningAction;
use crate::cluster::member::Member;
use crate::cluster::protocol::{ActionKind, Answer, LoopState, Work};
use crate::context::Context;
use crate::dataflow::job::Reduce;
use crate::dataflow::round::RoundInputs;
use crate::error::Result;
use crate::lineage::Lineage;

/// Computes `partitions` together with the other processes; all get all results.
pub(crate) fn compute<R: Record>(
    context: &Context,
    member: &Member,
    running: &RunningAction<'_>,
    lineage: &Lineage,
    partitions: &[usize],
    reduce: &Reduce,
) -> Result<Results> {
    let kind = ActionKind::Compute {
        wanted: partitions.iter().map(|partition| *partition as u64).collect(),
        dataset: lineage.target(),
        rounds_max: rounds_max(lineage),
    };
    let (asked_for, state) = (&reduce.parameters, LoopState::default());
    let arrival = Arrival::new(context, member, running, lineage, kind, asked_for, state);
    // Results that the name node may not have: it forgets none that it has confirmed by calling it finished.
    let mut own: BTreeMap<u64, Bytes> = BTreeMap::new();
    loop {
        match arrival.next()? {
            Next::Round(
                generation,
                number,
                Work::Compute {
                    finished, held, costs, ..
                },
            ) => {
                own.retain(|partition, _| finished.binary_search(partition).is_err());
                let inputs = RoundInputs {
                    lineage,
                    wanted: partitions,
                    finished: &finished,
                    held: &held,
                    generation: &generation,
                    costs: &costs,
                    required_rank: &|_| None,
                };
                let outcome = arrival.round(&generation, number, &inputs, reduce, &mut |results| {
                    for (partition, value) in results {
                        own.insert(partition as u64, encoded::<R>(value.as_ref())?);
                    }
                    let results = own.iter().map(|(partition, bytes)| (*partition, bytes.clone()));
                    Ok((true, results.collect()))
                });
                arrival.ended(&generation, number, outcome);
            }
            Next::Round(generation, number, Work::Loop { .. }) => arrival.ended(&generation, number, unexpected()),
            Next::Answer(Answer::Computed { results, updates }) => {
                let updates: Result<Vec<_>> = updates
                    .iter()
                    .map(|bytes| context.accumulators().decode(bytes))
                    .collect();
                context.accumulators().merge(updates?)?;
                return results.iter().map(decoded::<R>).collect();
            }
            Next::Answer(Answer::Failed(error)) => return Err(error),
            Next::Answer(Answer::Iterated { .. }) => return Err(diverged()),
        }
    }
}

fn encoded<R: Record>(value: &(dyn Any + Send)) -> Result<Bytes> {
    let bytes = value.downcast_ref::<R>().map(postcard::to_stdvec);
    match bytes {
        Some(Ok(bytes)) => Ok(bytes.into()),
        Some(Err(error)) => Err(unreadable::<R>(&error)),
        None => Err(diverged()),
    }
}

fn decoded<R: Record>((partition, bytes): &(u64, Bytes)) -> Result<(usize, Box<dyn Any + Send>)> {
    let value: R = postcard::from_bytes(bytes).map_err(|error| unreadable::<R>(&error))?;
    Ok((*partition as usize, Box::new(value)))
}
