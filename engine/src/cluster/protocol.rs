//! What members and the name node say to each other on the control connection.
//!
//! An action is collective: every member *arrives* at it, the name node *begins* rounds of it in a generation, every
//! member *ends* each round, and the *answer* is the same for all. Actions are counted from 0 in the order in which the
//! driver program comes to them, so the same number means the same action in every process, also in one that was
//! started again and runs the driver program from its start: what was answered before is answered from the journal.
//!
//! ```text
//!   member                      name node
//!     | -- Arrive(action 4) ------> |   all members of the generation are there
//!     | <----- Begin(4, round 0) -- |
//!     | -- Ended(4, round 0) -----> |   something is missing: another round; a member was lost: another generation
//!     | <----- Begin(4, round 1) -- |
//!     | -- Ended(4, round 1) -----> |   nothing is missing: to the journal
//!     | <------ Answer(4, ...) ---- |
//! ```

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use distdl_storage::{Digest, StoreFigures};
use serde::{Deserialize, Serialize};

pub(crate) use self::action::{ActionKind, Answer, Head};
pub(crate) use self::inventory::{Asset, Inventory, Partitions};
use super::arithmetic::Arithmetic;
use super::dismissal::Dismissal;
use super::identity::{Address, MemberId, Role};
use super::origins::Origins;
use crate::error::EngineError;
use crate::notices::Said;
use crate::progress::JobProgress;

mod action;
mod inventory;

/// A member as the others need to know it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Peer {
    pub member: MemberId,
    /// Which of the cluster's places it fills, counted from 0; a replacement has the place of the one it replaces.
    pub slot: u32,
    /// Where its links arrive.
    pub address: Address,
    /// Its worker threads.
    pub threads: u32,
    /// Whether it says when it has ended a task, and copies those of others.
    pub speculates: bool,
    /// What it is for.
    pub role: Role,
}

/// One life of the cluster between two changes of its members: the fence on every frame and every order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Generation {
    /// Counted from 1.
    pub number: u64,
    /// In the order of their ranks, 0-based: by slot.
    pub members: Vec<Peer>,
}

impl Generation {
    /// The ranks that take partitions and lanes: those that are not there for parameters only, or all if no other is
    /// left.
    pub(crate) fn computing(&self) -> Vec<usize> {
        let workers = self.ranks(Role::Worker);
        if workers.is_empty() {
            (0..self.members.len()).collect()
        } else {
            workers
        }
    }

    /// The ranks that own shards: those that are there for it, or all if there is none.
    pub(crate) fn owning(&self) -> Vec<usize> {
        let owners = self.ranks(Role::Parameter);
        if owners.is_empty() {
            (0..self.members.len()).collect()
        } else {
            owners
        }
    }

    fn ranks(&self, role: Role) -> Vec<usize> {
        let members = self.members.iter().enumerate();
        members
            .filter(|(_, peer)| peer.role == role)
            .map(|(rank, _)| rank)
            .collect()
    }
}

/// A member that may have something, and where its answers come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Source {
    pub member: MemberId,
    /// Where it listens.
    pub address: Address,
}

/// Versions of the state of a loop that a member could go on from. Version `v` is the state that step `v` reads: what
/// steps `0..v` have made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LoopState {
    /// Versions of which it has all parameters.
    pub versions: Vec<u64>,
    /// The rounds that made these versions and those of the state of shards.
    pub origins: Origins,
    /// For each shard whose optimizer state it keeps: the shard, and the versions. Empty if optimizers have no state.
    pub shards: Vec<(u32, Vec<u64>)>,
}

/// What a round of a loop goes on from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LoopStart {
    /// The version of its parameters.
    pub version: u64,
    /// The rank that gives it to those that lack it. None if nobody has what it takes: then `version` is the first
    /// step, and only who begins the program anew has that.
    pub source: Option<u32>,
    /// What each member has of the history that is gone on with, by rank. All shards stay named.
    pub states: Vec<LoopState>,
}

impl LoopStart {
    /// Whether a member lacks the version.
    pub(crate) fn is_lacked_by(&self, state: &LoopState) -> bool {
        !state.versions.contains(&self.version)
    }
}

/// What a member was when it lost the name node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FormerMember {
    pub member: MemberId,
    /// Its last generation; 0 if it took part in none.
    pub generation: u64,
    /// In this run of a program, as it was told when it joined.
    pub run: u64,
}

/// Signs of life that a process gives in a lease.
pub(crate) const HEARTBEATS_PER_LEASE: u32 = 4;

/// What a member says to the name node.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Report {
    /// The first message.
    Join {
        /// The slot it was started for; `None` asks for any.
        slot: Option<u32>,
        /// Who it was, if it lost the name node and found it again.
        known: Option<FormerMember>,
        /// Where its links arrive.
        address: Address,
        /// Its worker threads.
        threads: u32,
        /// Whether it says when it has ended a task.
        speculates: bool,
        /// What it is for.
        role: Role,
        /// Its operating-system process.
        process: u32,
        /// Of its machine, or of any where they may differ.
        arithmetic: Arithmetic,
    },
    /// It lives. Sent [`HEARTBEATS_PER_LEASE`] times a lease.
    Heartbeat {
        /// The last finished step of the loop that it runs, if any.
        step: Option<u64>,
        /// How long a lane's step takes here, in microseconds, if it hosts any.
        lane_micros: Option<u64>,
        /// How far its tasks of the action are that it is at, for people.
        job: Option<JobProgress>,
    },
    /// Its driver program has come to an action. Sent again after the name node was found again.
    Arrive {
        /// Which action.
        head: Head,
        /// Its blocks of the datasets of the lineage.
        held: Inventory,
        /// What it could go on from, for `Iterate`.
        state: LoopState,
    },
    /// A round is over here: it ended, failed, or was cut.
    Ended {
        /// Generation of the round.
        generation: u64,
        /// Number of the action.
        action: u64,
        /// Round of the action.
        round: u32,
        outcome: Outcome,
        /// Its blocks of the datasets of the lineage now.
        held: Inventory,
        /// Whether the generation is over here: by an order, or by a lost link of which the name node may not have
        /// heard.
        cut: bool,
    },
    /// An action is to end with this error everywhere, if it is the one that the cluster is at.
    Cancel {
        /// Number of the action.
        action: u64,
        /// By whom and why.
        error: EngineError,
    },
    /// The link to a peer is broken, or cannot be made. The sender goes on as in a [`Order::Cut`] of that generation.
    PeerLost {
        /// Generation in which it was seen.
        generation: u64,
        /// The peer.
        peer: MemberId,
        /// How long the link was there, in this generation and in those before; zero if it could not be made.
        stood: Duration,
        /// What was seen.
        cause: String,
    },
    /// What the others may ask it for of remote objects. Sent again when that has changed by more than
    /// [`Report::Brought`] says.
    CacheFilter {
        /// A snapshot of a [`Bloom`](distdl_storage::bloom::Bloom).
        filter: Bytes,
    },
    /// It looks for a piece of a remote object.
    Seek {
        /// Number of the question.
        request: u64,
        key: Digest,
        /// Those that it has asked in vain.
        tried: Vec<MemberId>,
    },
    /// Its fetch of something has ended.
    Brought {
        key: Digest,
        /// Whether others can be given it.
        is_here: bool,
    },
    /// What reading has cost it since it was started.
    Read {
        /// In all.
        figures: StoreFigures,
    },
    /// What it has to say in notices.
    Notices {
        /// In the place of what it has said before.
        said: Said,
    },
    /// The driver program has ended here, with an error's text if it failed.
    Leave {
        /// `None` for success.
        error: Option<String>,
    },
}

impl Report {
    /// A worker of one thread joins.
    #[cfg(test)]
    pub(crate) fn join(slot: Option<u32>, known: Option<FormerMember>, address: &str) -> Self {
        Self::Join {
            slot,
            known,
            address: Address::Local(address.to_owned()),
            threads: 1,
            speculates: false,
            role: Role::Worker,
            process: 1,
            arithmetic: Arithmetic::ANY,
        }
    }

    /// What is said in the place of a report that is too long to be sent, if something can be: that its action has
    /// failed.
    pub(crate) fn in_its_place(&self, reason: &str) -> Option<Self> {
        let mut report = self.clone();
        let Self::Ended { outcome, .. } = &mut report else {
            return None;
        };
        *outcome = Outcome::Failed(EngineError::invalid(
            format!("what an action came to on one process cannot be sent: {reason}"),
            "take less, or write the dataset to a store from where it is; parameters and an optimizer's state of a training that \
             many processes take part in have to fit, too",
        ));
        Some(report)
    }
}

/// How a round went on one member.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Outcome {
    /// Of [`Work::Compute`].
    Computed {
        /// Whether all that this member was to compute or to place is there.
        complete: bool,
        /// Results by partition, those of rounds before that no answer has confirmed included.
        results: Vec<(u64, Bytes)>,
        /// What closures added to accumulators, opaque to the name node.
        updates: Vec<Bytes>,
        /// Tasks that were ended here, and how long workers were busy with tasks, in microseconds.
        tasks: (u64, u64),
    },
    /// Of [`Work::Loop`].
    Looped {
        /// Whether every step is finished.
        finished: bool,
        /// What it could go on from.
        state: LoopState,
        /// From rank 0 when finished: what a process that comes late needs to know of the loop.
        result: Option<Bytes>,
    },
    /// The program is at fault; the action ends with this error everywhere.
    Failed(EngineError),
}

/// What the name node says to a member.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Order {
    /// The first message.
    Welcome {
        /// Who it is now.
        member: MemberId,
        /// Its place.
        slot: u32,
        /// It counts as lost when nothing is heard of it for so long.
        lease: Duration,
        /// Tells this run of a program from others at the same address.
        run: u64,
    },
    /// Run a round. A new generation is announced with its first round.
    Begin {
        /// Who takes part.
        generation: Generation,
        /// Number of the action.
        action: u64,
        /// Round of the action, counted over all generations.
        round: u32,
        /// What to do.
        work: Work,
    },
    /// The generation is over: stop what runs, and report how far it came as [`Report::Ended`].
    Cut {
        generation: u64,
        /// Members that are gone: links to them need not be tried.
        lost: Vec<MemberId>,
    },
    /// An action is over; a round of it that still runs is to stop.
    Answer {
        /// Number of the action.
        action: u64,
        /// Its answer, the same everywhere.
        answer: Answer,
    },
    /// What a member may be asked for of remote objects.
    CacheFilter {
        /// The member.
        of: Source,
        /// A snapshot of a [`Bloom`](distdl_storage::bloom::Bloom); `None` if it is gone.
        filter: Option<Bytes>,
    },
    /// The answer to [`Report::Seek`].
    Found {
        /// Number of the question.
        request: u64,
        /// What was looked for.
        key: Digest,
        /// Those who may have it. None if the receiver is to fetch it, which it ends by [`Report::Brought`].
        sources: Vec<Source>,
    },
    /// What reading has cost all members, those that are gone included, up to the action that is about to be answered.
    Read {
        /// In all.
        figures: StoreFigures,
    },
    /// What members that live have said in notices, as of the action that is about to be answered.
    Notices {
        /// By slot, and whose it is.
        of_all: BTreeMap<(u32, MemberId), Said>,
    },
    /// This process is not wanted; to one that has said that its program has ended, that it was heard.
    Dismiss { reason: Dismissal },
}

/// What a round is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Work {
    /// Compute what is missing of a dataset.
    Compute {
        /// Partitions that have a result already.
        finished: Vec<u64>,
        /// The blocks of each member, by rank.
        held: Vec<Inventory>,
        /// How long a task takes on each member, by rank; empty if that is not known.
        costs: Vec<u64>,
        /// The rank that hosts each lane, of [`ActionKind::Iterate`].
        lanes: Vec<u32>,
    },
    /// Run the loop.
    Loop {
        /// From where.
        start: LoopStart,
        /// The rank that hosts each lane.
        lanes: Vec<u32>,
    },
}
