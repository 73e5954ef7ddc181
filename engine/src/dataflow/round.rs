//! One process's part in a round of a job that many processes run.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use distdl_storage::BlockId;

use crate::assign::{Assignment, Holders};
use crate::cluster::link::Body;
use crate::cluster::member::{Receive, Round};
use crate::cluster::protocol::{Generation, Held, Role};
use crate::cluster::wire::{Header, WireError};
use crate::dataflow::job::{Job, Reduce};
use crate::dataflow::team::{Post, Team};
use crate::id::DatasetId;
use crate::iteration::Placement;
use crate::lineage::Lineage;
use crate::recover::recover;
use crate::task::{Elsewhere, Resources};

impl Post for Round {
    fn send(&self, rank: usize, header: Header, payload: &[&[u8]]) {
        Round::send(self, rank, header, payload);
    }

    fn comes_to_frame(&self) -> bool {
        Round::comes_to_frame(self)
    }

    fn ring(&self, rank: usize, header: Header) {
        Round::ring(self, rank, header);
    }
}

impl Receive for Job {
    fn receive(&self, _: usize, header: &Header, body: &mut Body<'_>) -> Result<(), WireError> {
        let payload = body.into_bytes()?;
        Job::receive(self, header, &payload);
        Ok(())
    }

    fn cancel(&self) {
        Job::cancel(self);
    }
}

/// The processes of a round, for a job or a loop.
pub fn team(round: &Round, generation: &Generation) -> Team {
    let threads = generation.members.iter().map(|peer| peer.threads as usize).collect();
    Team::new(round.rank, threads, Arc::new(round.clone()))
}

/// Where lanes and shards go: neighbours together, as many on each process as on the others give or take one, and so
/// again for the workers of a process.
pub fn placement(generation: &Generation, lanes: usize, shards: usize) -> Placement {
    let threads: Vec<usize> = generation.members.iter().map(|peer| peer.threads as usize).collect();
    let spread = |count: usize, ranks: Vec<usize>| {
        let first = |rank: usize| -> usize { threads[..rank].iter().sum() };
        let used = ranks.len().min(count).max(1);
        let mut workers = Vec::with_capacity(count);
        for (position, rank) in ranks.iter().enumerate().take(used) {
            // The positions `index * used / count` of these are this one.
            let share = (position * count).div_ceil(used)..((position + 1) * count).div_ceil(used);
            let busy = threads[*rank].min(share.len()).max(1);
            workers.extend((0..share.len()).map(|index| first(*rank) + index * busy / share.len()));
        }
        workers
    };
    Placement {
        lanes: spread(lanes, computing(generation)),
        shards: spread(shards, owning(generation)),
    }
}

/// The ranks that take partitions and lanes: those that are not there for parameters only, or all if no other is left.
pub fn computing(generation: &Generation) -> Vec<usize> {
    let ranks = |wanted: Option<Role>| {
        let members = generation.members.iter().enumerate();
        let ranks = members.filter(move |(_, peer)| wanted.is_none_or(|wanted| peer.role == wanted));
        ranks.map(|(rank, _)| rank).collect::<Vec<_>>()
    };
    let workers = ranks(Some(Role::Worker));
    if workers.is_empty() { ranks(None) } else { workers }
}

/// The ranks that own shards: those that are there for it, or all if there is none.
pub fn owning(generation: &Generation) -> Vec<usize> {
    let members = generation.members.iter().enumerate();
    let owners: Vec<usize> = members
        .filter(|(_, peer)| peer.role == Role::Parameter)
        .map(|(rank, _)| rank)
        .collect();
    if owners.is_empty() {
        (0..generation.members.len()).collect()
    } else {
        owners
    }
}

/// For each shard the rank that keeps its optimizer state as well, by applying the same updates: the next one among
/// those that own shards, or else the next one of all. None where there is no other.
pub fn copies(generation: &Generation, team: &Team, placement: &Placement) -> Vec<Option<usize>> {
    let owning = owning(generation);
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
pub struct Facts<'a> {
    /// What to compute.
    pub lineage: &'a Lineage,
    /// Which partitions.
    pub wanted: &'a [usize],
    /// Those that need not be computed.
    pub finished: &'a [u64],
    /// The blocks of each rank.
    pub held: &'a [Held],
    /// The members.
    pub generation: &'a Generation,
    /// Where results are wanted.
    pub pins: &'a dyn Fn(usize) -> Option<usize>,
}

/// The job of this process in a round. `None` if nothing is missing.
pub fn job(
    facts: &Facts<'_>,
    round: &Round,
    resources: &Arc<Resources>,
    reduce: &Reduce,
    workers: usize,
) -> Option<Job> {
    let mut holders = Holders::default();
    for (rank, held) in facts.held.iter().enumerate() {
        for (dataset, partitions) in held {
            for partition in partitions {
                holders.add(rank, *dataset, *partition as usize);
            }
        }
    }
    let finished = facts.finished.iter().map(|partition| *partition as usize).collect();
    let available = |dataset: DatasetId, partition: usize| !holders.of(dataset, partition).is_empty();
    let plan = recover(facts.lineage, facts.wanted, &finished, &available)?;
    let assignment = Assignment::spread(facts.lineage, &plan, &holders, &computing(facts.generation), facts.pins);
    let elsewhere = Others {
        round: round.clone(),
        holders,
        gone: Mutex::default(),
    };
    let job = Job::new(
        plan,
        assignment,
        team(round, facts.generation),
        facts.lineage.clone(),
        Arc::clone(resources),
        Arc::clone(reduce),
        workers,
    );
    Some(job.with_elsewhere(Some(Arc::new(elsewhere))))
}

/// The blocks of the other processes.
struct Others {
    round: Round,
    holders: Holders,
    /// Blocks that were asked for and not there.
    gone: Mutex<HashSet<BlockId>>,
}

impl Others {
    fn holders(&self, id: BlockId) -> impl Iterator<Item = usize> + '_ {
        let ranks = self.holders.of(DatasetId(id.dataset), id.partition as usize);
        ranks.iter().copied().filter(|rank| *rank != self.round.rank)
    }
}

impl Elsewhere for Others {
    fn has(&self, id: BlockId) -> bool {
        let gone = self.gone.lock().unwrap_or_else(PoisonError::into_inner);
        !gone.contains(&id) && self.holders(id).next().is_some()
    }

    fn fetch(&self, id: BlockId) -> Option<Vec<u8>> {
        let found = self.holders(id).find_map(|rank| self.round.fetch(rank, id));
        if found.is_none() {
            let mut gone = self.gone.lock().unwrap_or_else(PoisonError::into_inner);
            gone.insert(id);
        }
        found
    }
}
