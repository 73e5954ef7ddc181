//! One process's part in a round of a job that many processes run.

use std::collections::{BTreeSet, HashSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use distdl_storage::{BlockId, BlockStore, Level, StorageError, Unpoisoned};

use crate::cluster::link::Body;
use crate::cluster::load_balance::MemberSpeed;
use crate::cluster::member::{Receive, Round};
use crate::cluster::protocol::{Asset, Generation, Inventory};
use crate::cluster::wire::{Header, WireError};
use crate::dataflow::job::{Job, Reduce};
use crate::dataflow::speculation::Speculation;
use crate::dataflow::team::Team;
use crate::id::{DatasetId, ShuffleId};
use crate::iteration::Placement;
use crate::lineage::{Determinacy, Lineage};
use crate::plan::assign::{Assignment, Holders};
use crate::plan::recover::recover;
use crate::task::{Elsewhere, Resources};

impl Receive for Job {
    fn receive(&self, rank: usize, header: &Header, body: &mut Body<'_>) -> Result<(), WireError> {
        let payload = body.take_bytes()?;
        Job::receive(self, rank, header, payload);
        Ok(())
    }

    fn cancel(&self) {
        Job::cancel(self);
    }
}

/// The processes of a round, for a job or a loop.
pub(crate) fn team(round: &Round, generation: &Generation) -> Team {
    let threads = generation.members.iter().map(|peer| peer.threads as usize).collect();
    Team::new(round.rank, threads, round.clone())
}

/// The workers of lanes whose ranks are given, and of shards, which are spread over those that own any: neighbours
/// together, as many on each process as on the others give or take one. `None` for ranks that do not exist.
pub(crate) fn placement(generation: &Generation, lanes: &[u32], shards: usize) -> Option<Placement> {
    let mut owning = generation.owning();
    if owning.len() == generation.members.len() {
        // Those that compute own shards as well. All of the updates for one without a lane would come over links.
        owning.retain(|rank| lanes.contains(&(*rank as u32)));
    }
    let used = owning.len().min(shards);
    let owner = |shard: usize| owning.get(shard * used / shards).map(|rank| *rank as u32);
    let owners: Vec<u32> = (0..shards).map(owner).collect::<Option<_>>()?;
    Some(Placement {
        lanes: workers(generation, lanes)?,
        shards: workers(generation, &owners)?,
    })
}

/// Workers for what is on these ranks: neighbours together again.
fn workers(generation: &Generation, ranks: &[u32]) -> Option<Vec<usize>> {
    let threads: Vec<usize> = generation.members.iter().map(|peer| peer.threads as usize).collect();
    let mut seen = vec![0; threads.len()];
    let worker = |rank: &u32| {
        let rank = *rank as usize;
        let all = ranks.iter().filter(|other| **other as usize == rank).count();
        let index = seen.get_mut(rank)?;
        *index += 1;
        let first: usize = threads[..rank].iter().sum();
        Some(first + (*index - 1) * threads[rank].min(all).max(1) / all)
    };
    ranks.iter().map(worker).collect()
}

/// For each shard the rank that keeps its optimizer state as well, by applying the same updates: the next one among
/// those that own shards, or else the next one of all. None where there is no other.
pub(crate) fn copies(generation: &Generation, team: &Team, placement: &Placement) -> Vec<Option<usize>> {
    let owning = generation.owning();
    let all: Vec<usize> = (0..team.ranks()).collect();
    let keepers = if owning.len() > 1 { owning } else { all };
    let copy = |worker: &usize| {
        let owner = team.rank_of(*worker);
        let next = keepers.iter().position(|rank| *rank > owner).unwrap_or(0);
        Some(keepers[next]).filter(|rank| *rank != owner)
    };
    placement.shards.iter().map(copy).collect()
}

/// What all processes know alike at the beginning of a round, and so plan alike.
pub(crate) struct RoundInputs<'a> {
    /// What to compute.
    pub lineage: &'a Lineage,
    /// Which partitions.
    pub wanted: &'a [usize],
    /// Those that need not be computed.
    pub finished: &'a [u64],
    /// What each rank has.
    pub held: &'a [Inventory],
    /// The members.
    pub generation: &'a Generation,
    /// How long a task takes on each rank; empty if that is not known.
    pub costs: &'a [u64],
    /// Where results are wanted.
    pub required_rank: &'a dyn Fn(usize) -> Option<usize>,
}

impl RoundInputs<'_> {
    fn finished(&self) -> BTreeSet<usize> {
        self.finished.iter().map(|partition| *partition as usize).collect()
    }

    fn holders(&self, computing: &[usize]) -> Holders {
        let mut holders = Holders::default();
        for (rank, held) in self.held.iter().enumerate() {
            for (asset, partitions) in held {
                // Who computes nothing sends nothing again.
                let counts = match asset {
                    Asset::Dataset(_) => true,
                    Asset::Output(_) => computing.contains(&rank),
                    Asset::Lanes => false,
                };
                if counts {
                    holders.add(rank, *asset, partitions);
                }
            }
        }
        holders
    }
}

/// The job of this process in a round. `None` if nothing is missing.
pub(crate) fn job(
    inputs: &RoundInputs<'_>,
    round: &Round,
    resources: &Arc<Resources>,
    reduce: &Reduce,
    workers: usize,
) -> Option<Job> {
    let computing = inputs.generation.computing();
    let (holders, finished) = (inputs.holders(&computing), inputs.finished());
    let available = |dataset: DatasetId, partition: usize| holders.of(dataset, partition).next().is_some();
    let sent = |shuffle: ShuffleId, partition: usize| holders.of_output(shuffle, partition).is_some();
    let plan = recover(inputs.lineage, inputs.wanted, &finished, &available, &sent)?;
    let speeds = computing.iter().map(|rank| MemberSpeed {
        cost: inputs.costs.get(*rank).copied(),
        threads: inputs.generation.members[*rank].threads as usize,
    });
    let speeds: Vec<MemberSpeed> = speeds.collect();
    let assignment = Assignment::spread(
        inputs.lineage,
        &plan,
        &holders,
        (&computing, &speeds),
        inputs.required_rank,
    );
    // Of what is not the same twice there must be one attempt alone. Who does not say when tasks have ended would be
    // taken for slow.
    let silence_min = resources.speculate_after.filter(|_| {
        let all = inputs.generation.members.iter().all(|peer| peer.speculates);
        all && inputs.lineage.not_determinate().is_none()
    });
    let speculation = silence_min.map(|silence_min| {
        let is_bound = |partition| reduce.has_effects || (inputs.required_rank)(partition).is_some();
        Speculation::new(silence_min, (&plan, &assignment), (round.rank, &computing), &is_bound)
    });
    let next = computing.iter().find(|rank| **rank > round.rank).or(computing.first());
    let elsewhere = Others {
        round: round.clone(),
        second: next.copied().filter(|rank| *rank != round.rank),
        holders,
        gone: Mutex::default(),
    };
    let job = Job::new(
        plan,
        assignment,
        team(round, inputs.generation),
        inputs.lineage.clone(),
        Arc::clone(resources),
        reduce.clone(),
        workers,
    );
    let speculation = speculation.filter(|_| computing.contains(&round.rank));
    Some(job.with_others(inputs.generation.number, Arc::new(elsewhere), speculation))
}

/// Drops blocks of what is not the same twice that no process is known to have, as the copy of one that died before it
/// could tell: the plan has them computed anew, and whoever reads must find one and the same. For the first round of a
/// generation, before copies of its own come.
pub(crate) fn drop_unheard(inputs: &RoundInputs<'_>, store: &BlockStore) {
    let (holders, finished) = (inputs.holders(&[]), inputs.finished());
    // What is cut is not among them: it is never computed again.
    let nodes = inputs.lineage.nodes();
    for node in nodes.filter(|node| node.determinacy() != Determinacy::Determinate) {
        let has_result = |partition| node.id == inputs.lineage.target() && finished.contains(&partition);
        let unheard = |partition: &usize| holders.of(node.id, *partition).next().is_none() && !has_result(*partition);
        for partition in (0..node.partitions).filter(unheard) {
            if let Err(error) = store.remove(node.id.block(partition)) {
                tracing::warn!(%error, "could not remove a block that only this process knows of");
            }
        }
    }
}

/// Has the second copies made again that were lost with their process: once in a generation, where this process's part
/// of a round is done and nothing is missing.
pub(crate) fn copy_again(job: &Job) {
    let Some(elsewhere) = &job.elsewhere else { return };
    if job.cancelled.load(Ordering::SeqCst) || job.incomplete.load(Ordering::SeqCst) {
        return;
    }
    let mut copied = job.resources.copied_in.lock().unpoisoned();
    copied.retain(|_, generation| *generation == job.generation);
    let twice = job
        .lineage
        .nodes()
        .filter(|node| node.level().is_some_and(Level::is_twice));
    let due: Vec<_> = twice
        .filter(|node| copied.insert(node.id, job.generation).is_none())
        .collect();
    // Others that drop datasets are not to wait for what follows.
    drop(copied);
    for node in due {
        let (ids, codec) = (
            (0..node.partitions).map(|partition| node.id.block(partition)),
            node.record_type.codec,
        );
        for id in ids.filter(|id| elsewhere.lacks_copy(*id)) {
            let frame = match job.resources.store.get(id, codec) {
                Ok(Some(block)) => codec.encode(&block),
                // Whoever reads it next will see.
                Ok(None) | Err(_) => continue,
            };
            // One that does not take it has no room, or none beside what it has of this dataset.
            if !frame.is_ok_and(|frame| elsewhere.copy(id, frame)) {
                break;
            }
        }
    }
}

/// The blocks of the other processes.
struct Others {
    round: Round,
    /// Who keeps copies of what is computed here.
    second: Option<usize>,
    holders: Holders,
    /// Blocks that were asked for and not there.
    gone: Mutex<HashSet<BlockId>>,
}

impl Others {
    fn holders(&self, id: BlockId) -> impl Iterator<Item = usize> + '_ {
        let ranks = self.holders.of(DatasetId(id.dataset), id.partition as usize);
        ranks.filter(|rank| *rank != self.round.rank)
    }
}

impl Elsewhere for Others {
    fn has(&self, id: BlockId) -> bool {
        let gone = self.gone.lock().unpoisoned();
        !gone.contains(&id) && self.holders(id).next().is_some()
    }

    fn fetch(&self, id: BlockId) -> Result<Option<Vec<u8>>, StorageError> {
        let mut outcome = Ok(None);
        for rank in self.holders(id) {
            match self.round.fetch(rank, id) {
                Ok(Some(frame)) => return Ok(Some(frame)),
                Ok(None) => {}
                Err(text) => {
                    let message = format!("{} cannot read it: {text}", self.round.members[rank]);
                    outcome = Err(StorageError::Elsewhere { message });
                }
            }
        }
        let mut gone = self.gone.lock().unpoisoned();
        gone.insert(id);
        outcome
    }

    fn copy(&self, id: BlockId, frame: Vec<u8>) -> bool {
        let Some(second) = self.second else { return false };
        let taken = self.round.copy(second, id, &frame);
        if !taken {
            tracing::debug!(block = %id, "another process did not take a copy");
        }
        taken
    }

    fn lacks_copy(&self, id: BlockId) -> bool {
        let ranks = self.holders.of(DatasetId(id.dataset), id.partition as usize);
        self.second.is_some() && ranks.eq([self.round.rank])
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::cluster::identity::{Address, MemberId, Role};
    use crate::cluster::protocol::Peer;
    use crate::config::Config;
    use crate::context::Context;

    fn generation(roles: &[Role]) -> Generation {
        let peer = |(slot, role): (usize, &Role)| Peer {
            member: MemberId(slot as u64),
            slot: slot as u32,
            address: Address::Local("x".into()),
            threads: 1,
            speculates: false,
            role: *role,
        };
        Generation {
            number: 1,
            members: roles.iter().enumerate().map(peer).collect(),
        }
    }

    #[test]
    fn shards_lie_where_lanes_are_unless_there_are_processes_for_them() {
        use Role::{Parameter, Worker};
        let alike: &[Role] = &[Worker; 3];
        // One worker each, so workers are ranks.
        for (roles, lanes, shards, owners) in [
            (alike, &[1, 2][..], 2, &[1, 2][..]),
            (alike, &[1, 2], 5, &[1, 1, 1, 2, 2]),
            (alike, &[2], 3, &[2, 2, 2]),
            (alike, &[2, 0, 2, 0], 1, &[0]),
            (alike, &[0, 1, 2], 3, &[0, 1, 2]),
            (alike, &[2, 1, 0, 0], 2, &[0, 1]),
            (&[Worker, Parameter, Parameter], &[0, 0], 4, &[1, 1, 2, 2]),
        ] {
            let placement = placement(&generation(roles), lanes, shards).unwrap();
            assert_eq!(placement.shards, owners, "{lanes:?}");
            let ranks: Vec<usize> = lanes.iter().map(|rank| *rank as usize).collect();
            assert_eq!(placement.lanes, ranks);
        }
        for lanes in [&[][..], &[3], &[0, 7]] {
            assert_eq!(placement(&generation(alike), lanes, 2), None, "{lanes:?}");
        }
    }

    #[test]
    fn blocks_that_are_not_the_same_twice_and_of_which_nobody_has_heard_are_dropped() {
        let context = Context::new(Config::default().with_threads(1)).unwrap();
        let same = context.range(0..40, 4).persist(Level::Memory);
        let drawn = same
            .map(|x| x)
            .with_determinacy(Determinacy::Indeterminate)
            .persist(Level::Memory);
        assert_eq!(drawn.count().unwrap(), 40);
        let lineage = context.lineage(drawn.id());
        let held = [
            Inventory::new(),
            Inventory::from([(Asset::Dataset(drawn.id()), vec![2].into())]),
        ];
        let generation = Generation {
            number: 2,
            members: Vec::new(),
        };
        let inputs = RoundInputs {
            lineage: &lineage,
            wanted: &[0, 1, 2, 3],
            finished: &[3],
            held: &held,
            generation: &generation,
            costs: &[],
            required_rank: &|_| None,
        };
        drop_unheard(&inputs, context.store());
        let kept = |dataset: DatasetId| {
            (0..4)
                .filter(|partition| context.store().contains(dataset.block(*partition)))
                .collect::<Vec<_>>()
        };
        assert_eq!(
            kept(drawn.id()),
            [2, 3],
            "another has one, and the other has its result"
        );
        assert_eq!(kept(same.id()), [0, 1, 2, 3]);
        let derived = drawn.map(|x| x);
        assert_eq!(derived.count().unwrap(), 40);
        let lineage = context.lineage(derived.id());
        let inputs = RoundInputs {
            lineage: &lineage,
            finished: &[],
            held: &[],
            ..inputs
        };
        drop_unheard(&inputs, context.store());
        assert_eq!(kept(drawn.id()), [0, 1, 2, 3], "what is cut is not computed again");
    }
}
