//! A simulated cluster: one name node with its log, processes, and the connections between them.

mod fair;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use super::process::{Other, Process, Step, loop_result, result};
use crate::cluster::events::Happening;
use crate::cluster::identity::Address;
use crate::cluster::journal::{LogEntry, remember};
use crate::cluster::name_node::{ConnectionId, Effect, Event, NameNode, Options};
use crate::cluster::protocol::{Answer, Generation, Head, LoopState, Order, Report, Work};
use crate::cluster::resume::resume;

pub(super) struct World {
    pub(super) node: NameNode,
    options: Options,
    pub(super) program: Vec<Step>,
    pub(super) now: Duration,
    pub(super) log: Vec<LogEntry>,
    answers: Vec<(Head, Answer)>,
    pub(super) processes: Vec<Process>,
    /// The process that the spawner of this name node started last for a slot.
    children: BTreeMap<u32, usize>,
    reported_dead: BTreeSet<usize>,
    wires: BTreeMap<ConnectionId, Wire>,
    connection_next: u64,
    generations: BTreeMap<u64, Generation>,
    /// By generation, action and number. A number alone comes back where a journal has lost its end.
    rounds: BTreeMap<(u64, u64, u32), Vec<u8>>,
    /// Generations that placed the data of an action.
    placed: BTreeSet<(u64, u64)>,
    /// The round that this name node, not one before it, has begun last.
    begun: Option<u32>,
    pub(super) notes: Vec<Happening>,
    pub(super) finished: Option<Option<String>>,
    /// The name node crashes after so many effects.
    pub(super) crash_after: Option<usize>,
}

/// What a process has said that the name node has not heard.
struct Wire {
    process: usize,
    reports: VecDeque<Report>,
    closed_by_process: bool,
}

impl World {
    pub(super) fn new(options: Options, program: Vec<Step>) -> Self {
        let mut world = Self {
            node: NameNode::new(options.clone(), Duration::ZERO),
            options,
            program,
            now: Duration::ZERO,
            log: Vec::new(),
            answers: Vec::new(),
            processes: Vec::new(),
            children: BTreeMap::new(),
            reported_dead: BTreeSet::new(),
            wires: BTreeMap::new(),
            connection_next: 0,
            generations: BTreeMap::new(),
            rounds: BTreeMap::new(),
            placed: BTreeSet::new(),
            begun: None,
            notes: Vec::new(),
            finished: None,
            crash_after: None,
        };
        let effects = world.node.start(world.now);
        world.carry_out(effects);
        world
    }

    pub(super) fn handle(&mut self, event: Event) {
        let effects = self.node.handle(self.now, event);
        self.carry_out(effects);
        assert!(
            self.node
                .wake_at()
                .is_none_or(|at| at > self.now || self.finished.is_none())
        );
    }

    fn carry_out(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match &mut self.crash_after {
                Some(0) => return self.crash(),
                Some(left) => *left -= 1,
                None => {}
            }
            assert!(self.finished.is_none(), "{effect:?} after the end");
            match effect {
                Effect::Send { connection, order } => self.deliver(connection, order),
                Effect::Recall { connection, head } => {
                    let (first, answer) = self.answers[head.action as usize].clone();
                    let (action, answer) = (head.action, first.answer_of(&head, answer));
                    self.deliver(connection, Order::Answer { action, answer });
                }
                Effect::Close { connection } => self.close(connection),
                Effect::Start { slot } => {
                    let address = format!("process {}", self.processes.len());
                    self.children.insert(slot, self.processes.len());
                    self.processes.push(Process::new(slot, address));
                }
                Effect::Kill { slot } => {
                    if let Some(process) = self.children.get(&slot) {
                        self.kill(*process);
                    }
                }
                Effect::Log(entry) => self.logged(entry),
                Effect::Note(event) => self.notes.push(event.what),
                Effect::Finish { error } => self.finished = Some(error),
            }
        }
    }

    fn logged(&mut self, entry: LogEntry) {
        if let LogEntry::Answered {
            head,
            answer: Some(answer),
            ..
        } = &entry
        {
            let refused = self.options.quota.refusal(&entry, 0, "");
            assert!(refused.is_none(), "the journal would not have it: {refused:?}");
            assert_eq!(head.action as usize, self.answers.len(), "each action is answered once");
            self.check_answer(head.action, answer);
            self.answers.push((head.clone(), answer.clone()));
        }
        self.options.quota.take(&entry);
        if let LogEntry::Began { round, .. } = &entry {
            self.begun = Some(*round);
        }
        remember(&mut self.log, entry);
    }

    fn check_answer(&self, action: u64, answer: &Answer) {
        match (answer, self.program[action as usize]) {
            (Answer::Computed { results, updates }, Step::Compute { partitions }) => {
                let expected: Vec<_> = (0..partitions).map(|p| (p, result(action, p))).collect();
                assert_eq!(*results, expected, "each partition once, with its result");
                let unique: BTreeSet<_> = updates.iter().collect();
                assert_eq!(unique.len(), updates.len(), "each update once");
                assert!(updates.len() >= partitions as usize);
            }
            (Answer::Iterated { result }, Step::Iterate { .. }) => assert_eq!(*result, Some(loop_result(action))),
            (Answer::Failed(_), _) => {}
            other => panic!("an answer of another kind: {other:?}"),
        }
    }

    fn deliver(&mut self, connection: ConnectionId, order: Order) {
        if let Order::Begin {
            generation,
            action,
            round,
            work,
        } = &order
        {
            self.check_begin(generation, *action, *round, work);
        }
        let wire = self.wires.get(&connection);
        let wire = wire.unwrap_or_else(|| panic!("{order:?} goes to a closed connection"));
        let process = &mut self.processes[wire.process];
        if process.connection == Some(connection) {
            process.inbox.push_back(order);
        }
    }

    fn check_begin(&mut self, generation: &Generation, action: u64, round: u32, work: &Work) {
        let newest = self.generations.last_key_value().map_or(0, |(number, _)| *number);
        assert!(generation.number >= newest, "a generation comes back");
        let known = self
            .generations
            .entry(generation.number)
            .or_insert_with(|| generation.clone());
        assert_eq!(known, generation, "two generations under one number");
        let slots: Vec<u32> = generation.members.iter().map(|peer| peer.slot).collect();
        assert!(slots.is_sorted_by(|one, other| one < other));
        assert!((1..=self.options.processes as usize).contains(&slots.len()));
        let bytes = postcard::to_stdvec(work).unwrap();
        if let Some(first) = self.rounds.get(&(generation.number, action, round)) {
            assert_eq!(*first, bytes, "two rounds under one number");
            return;
        }
        self.rounds.insert((generation.number, action, round), bytes);
        let placed = (generation.number, action);
        match work {
            Work::Compute { .. } => {
                self.placed.insert(placed);
            }
            Work::Loop { .. } => assert!(self.placed.contains(&placed), "a loop over data that nobody has placed"),
        }
        if self.begun != Some(round) {
            return;
        }
        let members: Vec<&Process> = generation.members.iter().map(|peer| self.at(&peer.address)).collect();
        for (process, peer) in members.iter().zip(&generation.members) {
            assert_eq!(process.member, Some(peer.member), "a round with somebody who is gone");
            let connected = self
                .wires
                .iter()
                .any(|(_, wire)| std::ptr::eq(&self.processes[wire.process], *process));
            assert!(connected, "a round with a closed connection");
        }
        if let Work::Loop { start, .. } = work {
            let real: Vec<LoopState> = members
                .iter()
                .map(|process| process.loop_state(&self.program))
                .collect();
            // A process that died since has what it had.
            let due = resume(&real, 0);
            assert_eq!(
                *start, due,
                "of the members' states, by rank, the newest version that will do"
            );
            self.check_contents(start.version, &start.states, &members);
            let Step::Iterate { stateful, timed, .. } = self.program[action as usize] else {
                panic!("a loop for an action that has none");
            };
            let newest = real.iter().flat_map(|state| &state.versions).max().copied();
            assert!(
                stateful || timed || Some(start.version) == newest,
                "a finished step is lost"
            );
        }
    }

    /// Whoever is taken to have a version, or the state of a shard, has the same.
    fn check_contents(&self, version: u64, states: &[LoopState], members: &[&Process]) {
        let mut contents = BTreeSet::new();
        for (state, process) in states.iter().zip(members) {
            if state.versions.contains(&version) {
                contents.insert(process.versions[&version]);
            }
            let kept = state.shards.iter().filter(|(_, kept)| kept.contains(&version));
            contents.extend(kept.map(|(shard, _)| process.shards[shard][&version]));
        }
        assert_eq!(contents.len(), 1, "one history is gone on with");
    }

    fn at(&self, address: &Address) -> &Process {
        let named = |process: &&Process| *address == Address::Local(process.address.clone());
        self.processes.iter().find(named).unwrap()
    }

    /// The name node closes a connection.
    fn close(&mut self, connection: ConnectionId) {
        let wire = self.wires.remove(&connection).expect("a connection is closed once");
        let process = &mut self.processes[wire.process];
        if process.connection == Some(connection) {
            // What was sent before is still read; then it sees the end.
            process.connection = None;
        }
    }

    /// The name node dies and is started again from its log. Nothing is left of its connections.
    pub(super) fn crash(&mut self) {
        (self.crash_after, self.begun) = (None, None);
        self.wires.clear();
        self.children.clear();
        for process in &mut self.processes {
            process.connection = None;
        }
        self.node = NameNode::recover(self.options.clone(), self.log.clone(), self.now);
        let effects = self.node.start(self.now);
        self.carry_out(effects);
    }

    pub(super) fn kill(&mut self, process: usize) {
        let process = &mut self.processes[process];
        (process.alive, process.hung) = (false, false);
        process.inbox.clear();
    }

    pub(super) fn running(&self) -> Vec<usize> {
        let running = |number: &usize| self.processes[*number].alive && !self.processes[*number].hung;
        (0..self.processes.len()).filter(running).collect()
    }

    /// Connects a process that has no connection; it joins.
    pub(super) fn connect(&mut self, number: usize) {
        let connection = ConnectionId(self.connection_next);
        self.connection_next += 1;
        let process = &mut self.processes[number];
        process.connection = Some(connection);
        let reports = VecDeque::from([process.join()]);
        self.wires.insert(
            connection,
            Wire {
                process: number,
                reports,
                closed_by_process: false,
            },
        );
    }

    /// Lets a process do one thing: connect, obey, or work. Whether it did something.
    pub(super) fn step(&mut self, number: usize) -> bool {
        if self.processes[number].inbox.is_empty() && self.processes[number].connection.is_none() {
            self.connect(number);
            return true;
        }
        let order = self.processes[number].inbox.pop_front();
        let (others, forsaken) = (self.others(number), self.is_forsaken(number));
        let process = &mut self.processes[number];
        let before = process.round.as_ref().map(|round| round.version);
        let computing = !forsaken
            && matches!(
                process.round.as_ref().map(|round| &round.work),
                Some(Work::Compute { .. })
            );
        let obeyed = order.is_some();
        let reports = match order {
            Some(order) => process.obey(order, &self.program),
            None if process.round.is_some() && !forsaken => process.work(&others, &self.program),
            None => Vec::new(),
        };
        let moved = process.round.as_ref().map(|round| round.version) != before;
        let did = obeyed || moved || computing || !reports.is_empty();
        self.say(number, reports);
        did
    }

    /// Whether a process waits in its round for another one that lives and for which the generation is over.
    fn is_forsaken(&self, number: usize) -> bool {
        let process = &self.processes[number];
        let Some(round) = &process.round else { return false };
        let generation = &round.generation;
        let gone = |other: &Process| other.alive && other.cut >= generation.number;
        process.cut < generation.number && generation.members.iter().any(|peer| gone(self.at(&peer.address)))
    }

    fn others(&self, number: usize) -> Vec<Option<Other>> {
        let Some(round) = &self.processes[number].round else {
            return Vec::new();
        };
        let seen = |address: &Address| {
            let process = self.at(address);
            let same = process
                .round
                .as_ref()
                .filter(|other| process.alive && other.number == round.number);
            // One that has finished by itself has sent all that others need.
            let done = process.alive.then(|| process.versions.keys().last().copied()).flatten();
            match same {
                Some(other) => Some(process.seen(other.ready.then_some(other.version))),
                None => done
                    .filter(|_| process.round.is_none())
                    .map(|version| process.seen(Some(version))),
            }
        };
        round
            .generation
            .members
            .iter()
            .map(|peer| seen(&peer.address))
            .collect()
    }

    pub(super) fn say(&mut self, number: usize, reports: Vec<Report>) {
        let connection = self.processes[number].connection;
        if let Some(wire) = connection.and_then(|connection| self.wires.get_mut(&connection)) {
            wire.reports.extend(reports);
        }
    }

    /// Goes on until all compute in a generation.
    pub(super) fn begin_generation(&mut self, number: u64) {
        let is_there = |process: &Process| {
            let round = process.round.as_ref();
            round.is_some_and(|round| round.generation.number == number)
        };
        while !self.processes.iter().all(is_there) {
            assert!(self.everybody_moves());
        }
    }

    /// Time passes in which all processes are heard.
    pub(super) fn wait(&mut self, time: Duration) {
        let part = self.node.options.lease / 2;
        for _ in 0..time.as_nanos().div_ceil(part.as_nanos()) {
            self.pass(part);
            for connection in self.audible() {
                self.hear(connection);
            }
        }
    }

    /// A process in a round sees that the link to a peer is broken, which was just made.
    pub(super) fn break_link(&mut self, number: usize, peer: usize) {
        self.break_link_that_stood(Duration::ZERO, number, peer);
    }

    pub(super) fn break_link_that_stood(&mut self, stood: Duration, number: usize, peer: usize) {
        let Some(round) = &self.processes[number].round else {
            return;
        };
        let peers: Vec<_> = round
            .generation
            .members
            .iter()
            .filter(|p| Some(p.member) != self.processes[number].member)
            .collect();
        let Some(peer) = peers.get(peer.checked_rem(peers.len()).unwrap_or(0)) else {
            return;
        };
        let generation = round.generation.number;
        let report = Report::PeerLost {
            generation,
            peer: peer.member,
            stood,
            cause: "connection reset".to_owned(),
        };
        let mut reports = vec![report];
        self.processes[number].cut = generation;
        reports.extend(self.processes[number].end(false, &self.program));
        self.say(number, reports);
    }

    /// Connections on which there is something for the name node.
    pub(super) fn audible(&self) -> Vec<ConnectionId> {
        let dead = |wire: &Wire| !self.processes[wire.process].alive || wire.closed_by_process;
        let some = self
            .wires
            .iter()
            .filter(|(_, wire)| !wire.reports.is_empty() || dead(wire));
        some.map(|(connection, _)| *connection).collect()
    }

    /// The name node hears the next thing on a connection.
    pub(super) fn hear(&mut self, connection: ConnectionId) {
        let Some(wire) = self.wires.get_mut(&connection) else {
            return;
        };
        match wire.reports.pop_front() {
            Some(report) => self.handle(Event::Reported { connection, report }),
            None => {
                self.wires.remove(&connection);
                self.handle(Event::Disconnected { connection });
            }
        }
    }

    /// The name node hears of the end of a process that it started.
    pub(super) fn reap(&mut self) -> bool {
        let dead = |number: &usize| !self.processes[*number].alive && !self.reported_dead.contains(number);
        let Some(number) = (0..self.processes.len()).find(dead) else {
            return false;
        };
        self.reported_dead.insert(number);
        let slot = self.processes[number].slot;
        if self.children.values().any(|child| *child == number) {
            let (process, cause) = (Some(1), "killed by signal 9".to_owned());
            self.handle(Event::Exited { slot, process, cause });
        }
        true
    }

    /// Time passes; those who live say so.
    pub(super) fn pass(&mut self, time: Duration) {
        self.now += time;
        for number in self.running() {
            if self.processes[number].member.is_some() {
                self.say(
                    number,
                    vec![Report::Heartbeat {
                        step: None,
                        lane_micros: None,
                        job: None,
                    }],
                );
            }
        }
    }

    pub(super) fn tick(&mut self) {
        if self.node.wake_at().is_some_and(|at| at <= self.now) {
            self.handle(Event::Tick);
        }
    }
}
