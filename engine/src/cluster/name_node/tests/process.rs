//! A process as the name node sees it: obeys the protocol, and computes with numbers instead of data.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;

use crate::cluster::identity::{Address, MemberId};
use crate::cluster::name_node::ConnectionId;
use crate::cluster::origins::{Origin, Origins};
use crate::cluster::protocol::{
    ActionKind, Answer, Asset, FormerMember, Generation, Head, Inventory, LoopState, Order, Outcome, Report, Work,
};
use crate::cluster::resume::of_history;
use crate::error::EngineError;
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
    Iterate { steps: u64, stateful: bool, timed: bool },
}

/// What stands for the values of a version: equal where the values would be.
pub(super) type Content = u64;

/// What a step makes of a version. `round` counts where results depend on time.
fn made(before: Content, round: Option<Origin>) -> Content {
    let (generation, number) = round.unwrap_or_default();
    [generation, u64::from(number), 1].iter().fold(before, |content, part| {
        (content ^ part).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23)
    })
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
    pub(super) round: Option<Running>,
    ended: Option<(u64, u32, Report)>,
    /// Tasks that it says it has ended in a round, and how long it was busy with them.
    pub(super) tasks: (u64, u64),
    /// The newest generation that is over here.
    pub(super) cut: u64,
    blocks: BTreeSet<u64>,
    unconfirmed: BTreeMap<u64, Bytes>,
    pub(super) versions: BTreeMap<u64, Content>,
    pub(super) shards: BTreeMap<u32, BTreeMap<u64, Content>>,
    origins: Origins,
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
    /// What made the versions that it has once it is given the one that it lacks.
    origins: Origins,
    /// Whether it has that version.
    has: bool,
    /// Whether it has all that it takes to go on from there.
    pub(super) ready: bool,
}

/// What a process sees of another one in its round.
#[derive(Debug, Clone)]
pub(super) struct Other {
    /// The version that it is at, if it has all that it takes to go on from there.
    version: Option<u64>,
    versions: BTreeMap<u64, Content>,
    shards: BTreeMap<u32, BTreeMap<u64, Content>>,
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
            round: None,
            ended: None,
            tasks: (0, 0),
            cut: 0,
            blocks: BTreeSet::new(),
            unconfirmed: BTreeMap::new(),
            versions: BTreeMap::new(),
            shards: BTreeMap::new(),
            origins: Origins::default(),
            inbox: VecDeque::new(),
            fails_with: None,
            program: 0,
        }
    }

    pub(super) fn fingerprint_of_another_program(&mut self) {
        self.program = 100;
    }

    pub(super) fn join(&self) -> Report {
        let known = self.member.map(|member| FormerMember {
            member,
            generation: self.generation_last,
            run: 0,
        });
        Report::join(Some(self.slot), known, &self.address)
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
                answer_bytes_max: loop_result(self.at as u64).len() as u64,
            },
        };
        let head = Head {
            action: self.at as u64,
            fingerprint: [self.at as u8 + self.program; 32],
            site: format!("action {} of the test", self.at),
            kind,
        };
        Report::Arrive {
            head,
            held: self.held(dataset),
            state: self.loop_state(program),
        }
    }

    fn held(&self, dataset: DatasetId) -> Inventory {
        let blocks: Vec<u64> = self.blocks.iter().copied().collect();
        Inventory::from([(Asset::Dataset(dataset), blocks.into())])
    }

    pub(super) fn loop_state(&self, program: &[Step]) -> LoopState {
        let stateful = matches!(program.get(self.at), Some(Step::Iterate { stateful: true, .. }));
        let kept = |shard| {
            self.shards
                .get(&shard)
                .into_iter()
                .flat_map(BTreeMap::keys)
                .copied()
                .collect()
        };
        LoopState {
            versions: self.versions.keys().copied().collect(),
            origins: self
                .origins
                .since(self.versions.keys().next().copied().unwrap_or_default()),
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
                self.versions.insert(0, 0);
                self.shards
                    .extend((0..SHARDS).map(|shard| (shard, BTreeMap::from([(0, 0)]))));
            }
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
            Order::CacheFilter { .. } | Order::Found { .. } | Order::Read { .. } | Order::Notices { .. } => Vec::new(),
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
        let ended = self
            .ended
            .as_ref()
            .map(|(generation, number, _)| (*generation, *number));
        let runs = self.round.as_ref().map(|round| (round.generation.number, round.number));
        if ended.max(runs) >= Some((generation.number, number)) {
            return;
        }
        assert!(self.round.is_none(), "a round begins while another runs");
        self.generation_last = generation.number;
        let (mut version, mut origins, mut has) = (0, Origins::default(), true);
        if let Work::Loop { start, .. } = &work {
            let source = &start.states[start.source.unwrap() as usize];
            (version, origins) = (start.version, source.origins.clone());
            let here = of_history(&self.loop_state(program), &origins);
            assert_eq!(here, start.states[rank], "the name node knows what is here");
            has = here.versions.contains(&version);
            if has {
                origins = self.origins.clone();
                self.forget_after(version);
            }
            if matches!(program[self.at], Step::Iterate { timed: true, .. }) {
                origins.go_on(version, (generation.number, number));
            }
            if has {
                self.origins = origins.clone();
            }
        }
        self.round = Some(Running {
            generation,
            number,
            rank,
            work,
            updates: Vec::new(),
            version,
            origins,
            has,
            ready: false,
        });
    }

    fn forget_after(&mut self, version: u64) {
        self.versions.retain(|kept, _| *kept <= version);
        for kept in self.shards.values_mut() {
            kept.retain(|kept, _| *kept <= version);
        }
    }

    /// It now has all parameters of a version, and the state of the shards that it owns or keeps a copy of.
    fn reach(&mut self, version: u64, content: Content, rank: usize, members: usize, stateful: bool) {
        self.versions.insert(version, content);
        self.versions.retain(|kept, _| kept + KEPT > version);
        for shard in kept_by(rank, members).filter(|_| stateful) {
            self.shards.entry(shard).or_default().insert(version, content);
        }
        // Also of shards that it no longer keeps: state older than the parameters has no place.
        let keep = |kept: &mut BTreeMap<u64, Content>| kept.retain(|kept, _| kept + KEPT > version);
        self.shards.values_mut().for_each(keep);
    }

    /// Gets one thing that it lacks of the version that the loop goes on from, if somebody gives it.
    fn receive(&mut self, others: &[Option<Other>], stateful: bool) {
        let Some(round) = &mut self.round else { return };
        let Work::Loop { start, .. } = &round.work else { return };
        let version = &start.version;
        if !round.has {
            // It may have another version of that number.
            let source = start.source.and_then(|rank| others[rank as usize].as_ref());
            if let Some(content) = source.and_then(|source| source.versions.get(version)) {
                self.versions = BTreeMap::from([(*version, *content)]);
                self.shards.values_mut().for_each(BTreeMap::clear);
                self.origins = round.origins.clone();
                round.has = true;
            }
            return;
        }
        let content = self.versions[version];
        let lacks = |shard: &u32| !self.shards.get(shard).is_some_and(|kept| kept.contains_key(version));
        let lacking = kept_by(round.rank, round.generation.members.len())
            .filter(|_| stateful)
            .find(lacks);
        let Some(shard) = lacking else {
            let kept = self.shards.values().filter_map(|kept| kept.get(version));
            assert!(
                !stateful || kept.copied().all(|state| state == content),
                "state of another history than the parameters"
            );
            round.ready = true;
            return;
        };
        let gives = |state: &LoopState| state.shards[shard as usize].1.contains(version);
        let giver = start.states.iter().position(gives).expect("somebody has the state");
        let giver = others[giver]
            .as_ref()
            .and_then(|giver| giver.shards.get(&shard)?.get(version));
        if let Some(state) = giver {
            self.shards.entry(shard).or_default().insert(*version, *state);
        }
    }

    /// What another process in its round sees of it.
    pub(super) fn seen(&self, version: Option<u64>) -> Other {
        Other {
            version,
            versions: self.versions.clone(),
            shards: self.shards.clone(),
        }
    }

    /// Works for a moment. `others` are the members of its round, `None` for those who have not begun it or are dead.
    pub(super) fn work(&mut self, others: &[Option<Other>], program: &[Step]) -> Vec<Report> {
        let (at, step) = (self.at as u64, program[self.at]);
        let Some(round) = &mut self.round else {
            return Vec::new();
        };
        if self.cut >= round.generation.number {
            return self.end(false, program);
        }
        let members = round.generation.members.len();
        match (step, &round.work) {
            (Step::Iterate { stateful, .. }, Work::Loop { .. }) if !round.ready => self.receive(others, stateful),
            (Step::Iterate { steps, stateful, timed }, Work::Loop { .. }) => {
                if round.version == steps {
                    return self.end(true, program);
                }
                let version = round.version;
                let is_there =
                    |other: &Option<Other>| other.as_ref().is_some_and(|other| other.version >= Some(version));
                if others.iter().all(is_there) {
                    round.version += 1;
                    let in_round = timed.then_some((round.generation.number, round.number));
                    let (content, rank) = (made(self.versions[&version], in_round), round.rank);
                    self.reach(version + 1, content, rank, members, stateful);
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
            // What it has computed of its part it reports, however the round ended.
            Work::Compute { .. } => Outcome::Computed {
                complete: true,
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
            held: self.held(DatasetId(self.at as u64)),
            cut: self.cut >= round.generation.number,
        };
        self.ended = Some((round.generation.number, round.number, report.clone()));
        vec![report]
    }

    fn answered(&mut self, action: u64, answer: Answer, program: &[Step]) -> Vec<Report> {
        assert_eq!(action, self.at as u64, "an answer to another action");
        if let Answer::Failed(error) = &answer
            && !matches!(error, EngineError::JournalFull { .. })
        {
            self.fails_with = Some(error.to_string());
        }
        self.answers.push(answer);
        self.at += 1;
        (self.round, self.ended, self.origins) = (None, None, Origins::default());
        self.blocks.clear();
        self.unconfirmed.clear();
        self.versions.clear();
        self.shards.clear();
        self.next(program)
    }
}

/// The shards whose state a rank owns or keeps a copy of.
fn kept_by(rank: usize, members: usize) -> impl Iterator<Item = u32> {
    (0..SHARDS).filter(move |shard| {
        let owner = *shard as usize % members;
        rank == owner || rank == (owner + 1) % members
    })
}
