//! A process as the name node sees it: obeys the protocol, and computes with numbers instead of data.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;

use crate::cluster::name_node::ConnectionId;
use crate::cluster::protocol::{
    ActionKind, Address, Answer, Asset, Generation, LoopState, MemberId, Order, Outcome, Report, Role, Work,
};
use crate::id::DatasetId;

/// Shards of the loops that keep state.
pub(super) const SHARDS: u32 = 2;
/// Lanes of loops.
pub(super) const LANES: u32 = 5;
/// Versions that a member keeps.
const KEPT: u64 = 2;

/// An action of the driver program.
#[derive(Debug, Clone, Copy)]
pub(super) enum Step {
    Compute { partitions: u64 },
    Iterate { steps: u64, stateful: bool },
}

#[derive(Debug)]
pub(super) struct Process {
    pub(super) slot: u32,
    pub(super) alive: bool,
    pub(super) hung: bool,
    pub(super) connection: Option<ConnectionId>,
    /// Set once its connection was closed, until it is welcomed again.
    pub(super) member: Option<MemberId>,
    generation_last: u64,
    pub(super) address: String,
    /// Its place in the driver program.
    pub(super) at: usize,
    pub(super) answers: Vec<Answer>,
    arrived: bool,
    pub(super) round: Option<Running>,
    ended: Option<(u64, u32, Report)>,
    /// Tasks that it says it has ended in a round, and how long it was busy with them.
    pub(super) tasks: (u64, u64),
    /// The newest generation that is over here.
    pub(super) cut: u64,
    blocks: BTreeSet<u64>,
    unconfirmed: BTreeMap<u64, Bytes>,
    pub(super) versions: BTreeSet<u64>,
    pub(super) shards: BTreeMap<u32, BTreeSet<u64>>,
    pub(super) inbox: VecDeque<Order>,
    /// How its driver program ends, if not well.
    pub(super) fails_with: Option<String>,
    program: u8,
}

#[derive(Debug, Clone)]
pub(super) struct Running {
    pub(super) generation: Generation,
    pub(super) number: u32,
    pub(super) rank: usize,
    pub(super) work: Work,
    updates: Vec<Bytes>,
    /// Of a loop: the version that it is at.
    pub(super) version: u64,
}

pub(super) fn result(action: u64, partition: u64) -> Bytes {
    Bytes::from(format!("result {action}.{partition}"))
}

pub(super) fn loop_result(action: u64) -> Bytes {
    Bytes::from(format!("loop {action}"))
}

impl Process {
    pub(super) fn new(slot: u32, address: String) -> Self {
        Self {
            slot,
            alive: true,
            hung: false,
            connection: None,
            member: None,
            generation_last: 0,
            address,
            at: 0,
            answers: Vec::new(),
            arrived: false,
            round: None,
            ended: None,
            tasks: (0, 0),
            cut: 0,
            blocks: BTreeSet::new(),
            unconfirmed: BTreeMap::new(),
            versions: BTreeSet::new(),
            shards: BTreeMap::new(),
            inbox: VecDeque::new(),
            fails_with: None,
            program: 0,
        }
    }

    pub(super) fn fingerprint_of_another_program(&mut self) {
        self.program = 100;
    }

    pub(super) fn join(&self) -> Report {
        Report::Join {
            slot: Some(self.slot),
            known: self.member.map(|member| (member, self.generation_last)),
            address: Address::Local(self.address.clone()),
            threads: 1,
            speculates: false,
            role: Role::Worker,
            process: 1,
        }
    }

    fn arrive(&self, program: &[Step]) -> Report {
        let dataset = DatasetId(self.at as u64);
        let kind = match program[self.at] {
            Step::Compute { partitions } => ActionKind::Compute {
                wanted: (0..partitions).collect(),
                dataset,
                rounds_max: 2,
            },
            Step::Iterate { .. } => ActionKind::Iterate {
                dataset,
                rounds_max: 2,
                first_step: 0,
                lanes: LANES,
            },
        };
        Report::Arrive {
            action: self.at as u64,
            fingerprint: [self.at as u8 + self.program; 32],
            site: format!("action {} of the test", self.at),
            kind,
            held: vec![(Asset::Dataset(dataset), self.blocks.iter().copied().collect())],
            state: self.loop_state(program),
        }
    }

    pub(super) fn loop_state(&self, program: &[Step]) -> LoopState {
        let stateful = matches!(program.get(self.at), Some(Step::Iterate { stateful: true, .. }));
        let kept = |shard| self.shards.get(&shard).into_iter().flatten().copied().collect();
        LoopState {
            versions: self.versions.iter().copied().collect(),
            made_in: (0, 0),
            shards: if stateful {
                (0..SHARDS).map(|shard| (shard, kept(shard))).collect()
            } else {
                Vec::new()
            },
        }
    }

    /// Goes on in the driver program: to its next action, or to its end.
    fn next(&mut self, program: &[Step]) -> Vec<Report> {
        if self.at < program.len() && self.fails_with.is_none() {
            if self.versions.is_empty() && matches!(program[self.at], Step::Iterate { .. }) {
                // What a loop begins with everybody has.
                self.versions.insert(0);
                self.shards
                    .extend((0..SHARDS).map(|shard| (shard, BTreeSet::from([0]))));
            }
            self.arrived = true;
            return vec![self.arrive(program)];
        }
        self.alive = false;
        vec![Report::Leave {
            error: self.fails_with.clone(),
        }]
    }

    pub(super) fn obey(&mut self, order: Order, program: &[Step]) -> Vec<Report> {
        match order {
            Order::Welcome { member, .. } => self.welcomed(member, program),
            Order::Begin {
                generation,
                action,
                round,
                work,
            } => {
                self.begin(generation, action, round, work, program);
                Vec::new()
            }
            Order::Cut { generation, .. } => {
                self.cut = self.cut.max(generation);
                let cut = self
                    .round
                    .as_ref()
                    .is_some_and(|round| round.generation.number == generation);
                if cut { self.end(false, program) } else { Vec::new() }
            }
            Order::Answer { action, answer } => self.answered(action, answer, program),
            Order::Holdings { .. } | Order::Found { .. } | Order::Read { .. } | Order::Notices { .. } => Vec::new(),
            Order::Dismiss { .. } => {
                self.alive = false;
                Vec::new()
            }
        }
    }

    fn welcomed(&mut self, member: MemberId, program: &[Step]) -> Vec<Report> {
        let again = self.member == Some(member);
        self.member = Some(member);
        if !again {
            // Results without the updates that came with them must not count: those went to a name node that is gone.
            (self.round, self.ended) = (None, None);
            self.unconfirmed.clear();
        }
        let mut reports = self.next(program);
        if let Some((_, _, ended)) = self.ended.as_ref().filter(|_| self.alive && self.round.is_none()) {
            reports.push(ended.clone());
        }
        reports
    }

    fn begin(&mut self, generation: Generation, action: u64, number: u32, work: Work, program: &[Step]) {
        assert_eq!(
            action, self.at as u64,
            "a round of an action that this process is not at"
        );
        assert!(generation.number >= self.generation_last, "generations grow");
        let rank = generation
            .members
            .iter()
            .position(|peer| Some(peer.member) == self.member)
            .unwrap();
        assert_eq!(generation.members[rank].address, Address::Local(self.address.clone()));
        let known = self.ended.as_ref().is_some_and(|(_, ended, _)| *ended >= number);
        if known || self.round.as_ref().is_some_and(|round| round.number == number) {
            return;
        }
        assert!(self.round.is_none(), "a round begins while another runs");
        self.generation_last = generation.number;
        let mut version = 0;
        if let Work::Loop { version: from, .. } = &work {
            version = *from;
            let stateful = matches!(program[self.at], Step::Iterate { stateful: true, .. });
            self.reach(version, rank, generation.members.len(), stateful);
            self.versions.retain(|kept| *kept <= version);
            self.shards
                .values_mut()
                .for_each(|kept| kept.retain(|kept| *kept <= version));
        }
        self.round = Some(Running {
            generation,
            number,
            rank,
            work,
            updates: Vec::new(),
            version,
        });
    }

    /// It now has all parameters of a version, and the state of the shards that it owns or keeps a copy of.
    fn reach(&mut self, version: u64, rank: usize, members: usize, stateful: bool) {
        self.versions.insert(version);
        self.versions.retain(|kept| kept + KEPT > version);
        for shard in 0..SHARDS {
            let owner = shard as usize % members;
            if stateful && (rank == owner || rank == (owner + 1) % members) {
                let kept = self.shards.entry(shard).or_default();
                kept.insert(version);
                kept.retain(|kept| kept + KEPT > version);
            }
        }
    }

    /// Works for a moment. `others` are the versions that the other members of its round are at, `None` for those who
    /// have not begun it or are dead.
    pub(super) fn work(&mut self, others: &[Option<u64>], program: &[Step]) -> Vec<Report> {
        let (at, step) = (self.at as u64, program[self.at]);
        let Some(round) = &mut self.round else {
            return Vec::new();
        };
        if self.cut >= round.generation.number {
            return self.end(false, program);
        }
        let members = round.generation.members.len();
        match (step, &round.work) {
            (Step::Iterate { steps, stateful }, Work::Loop { .. }) => {
                if round.version == steps {
                    return self.end(true, program);
                }
                if others
                    .iter()
                    .all(|other| other.is_some_and(|other| other >= round.version))
                {
                    round.version += 1;
                    let (version, rank) = (round.version, round.rank);
                    self.reach(version, rank, members, stateful);
                }
            }
            (Step::Compute { partitions }, Work::Compute { finished, .. }) => {
                let mine = |p: &u64| (*p as usize) % members == round.rank && !finished.contains(p);
                let missing = (0..partitions).filter(mine).find(|p| !self.unconfirmed.contains_key(p));
                let Some(partition) = missing else {
                    return self.end(true, program);
                };
                let update = format!("{} round {} partition {partition}", self.member.unwrap(), round.number);
                round.updates.push(Bytes::from(update));
                self.blocks.insert(partition);
                self.unconfirmed.insert(partition, result(at, partition));
            }
            (Step::Iterate { .. }, Work::Compute { .. }) => return self.end(true, program),
            (Step::Compute { .. }, Work::Loop { .. }) => panic!("a loop for an action that has none"),
        }
        Vec::new()
    }

    /// Ends its round, by itself or because it was cut.
    pub(super) fn end(&mut self, complete: bool, program: &[Step]) -> Vec<Report> {
        let Some(round) = self.round.take() else {
            return Vec::new();
        };
        let outcome = match round.work {
            Work::Compute { .. } => Outcome::Computed {
                complete,
                results: self
                    .unconfirmed
                    .iter()
                    .map(|(partition, result)| (*partition, result.clone()))
                    .collect(),
                updates: round.updates,
                tasks: self.tasks,
            },
            Work::Loop { .. } => Outcome::Looped {
                finished: complete,
                state: self.loop_state(program),
                result: (complete && round.rank == 0).then(|| loop_result(self.at as u64)),
            },
        };
        let report = Report::Ended {
            generation: round.generation.number,
            action: self.at as u64,
            round: round.number,
            outcome,
            held: vec![(
                Asset::Dataset(DatasetId(self.at as u64)),
                self.blocks.iter().copied().collect(),
            )],
            cut: self.cut >= round.generation.number,
        };
        self.ended = Some((round.generation.number, round.number, report.clone()));
        vec![report]
    }

    fn answered(&mut self, action: u64, answer: Answer, program: &[Step]) -> Vec<Report> {
        assert_eq!(
            action, self.at as u64,
            "an answer to an action that this process is not at"
        );
        if let Answer::Failed(error) = &answer {
            self.fails_with = Some(error.to_string());
        }
        self.answers.push(answer);
        self.at += 1;
        (self.round, self.ended) = (None, None);
        self.blocks.clear();
        self.unconfirmed.clear();
        self.versions.clear();
        self.shards.clear();
        self.next(program)
    }
}
