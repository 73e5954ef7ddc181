//! Fault injection: kill, stop, cut a link or slow a thread at a given point.
//!
//! ```text
//!   fault  = action "=" target "@" point ":" number
//!   action = "kill" | "stop" | "cut"       cut takes a link as its target
//!          | "slow"                         takes a thread and `times:` instead of a point
//!   target = "worker:" slot | "name" | slot "-" slot | "thread:" number
//!   point  = "step" | "frame" | "report"
//!          | "block" | "recovery" | "checkpoint"    to which the name node does not come
//! ```
//!
//! `slow=thread:1@times:10` makes every step of a lane take ten times as long on the second worker thread, counted
//! through all processes, from the beginning on. Each other fault happens once in the life of a cluster: in the first
//! process that fills its slot, as soon as that comes to the point or beyond it.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::config::{ConfigError, Result};

/// Most faults of a run.
const FAULTS_MAX: usize = 64;

/// Most times that a thread can be slowed by.
const TIMES_MAX: u32 = 1000;

/// Most slots that can be named, as many as there may be processes and spares.
const SLOTS_MAX: u32 = 512;

const ORIGIN: &str = "the faults of `chaos`";
const GRAMMAR: &str = "`kill=worker:1@step:37`, `stop=worker:1@step:9`, `cut=1-2@step:12` or `kill=name@step:40`, where \
                       `step` may be `frame` or `report` as well, and of workers `block`, `recovery` or `checkpoint`, or \
                       `slow=thread:1@times:10`, and at most 64 of them";

/// Where a process has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Point {
    /// This step of a loop begins; steps are counted from 0.
    Step(u64),
    /// This block is stored; counted from 0 over the life of the process.
    Block(u64),
    /// It takes part in a change of the generation; counted from 1, the cluster's start left out.
    Recovery(u64),
    /// It writes a checkpoint; counted from 0.
    Checkpoint(u64),
    /// It is about to send this frame to another process, or the name node this order to a member; counted from 0 over
    /// its life.
    Frame(u64),
    /// It is about to send this report to the name node, or the name node to take it in; counted from 0 over its life,
    /// heartbeats left out.
    Report(u64),
}

/// What happens to a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// It is gone, without a word: SIGKILL.
    Kill,
    /// It hangs and keeps its connections open: SIGSTOP.
    Stop,
    /// It loses the link to a peer. Who owns the link carries it out.
    Cut {
        /// The slot of the peer.
        peer_slot: u32,
    },
}

/// Whom it happens to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Target {
    Slot(u32),
    NameNode,
}

impl Target {
    /// Whether there is such a point in its life.
    fn comes_to(self, point: Point) -> bool {
        match self {
            Target::Slot(_) => true,
            Target::NameNode => matches!(point, Point::Step(_) | Point::Frame(_) | Point::Report(_)),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Planned {
    target: Target,
    fault: Fault,
    point: Point,
}

/// A worker thread on which the steps of lanes take longer, all the time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Slowed {
    thread: u32,
    times: u32,
}

/// The faults of a run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Chaos {
    planned: Vec<Planned>,
    slowed: Vec<Slowed>,
}

impl Chaos {
    /// Faults separated by commas; no text is no faults.
    ///
    /// # Errors
    /// [`ConfigError::Value`] with the fault that cannot be read and how faults are written.
    pub fn parse(text: &str) -> Result<Self> {
        let mut chaos = Self::default();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            match Slowed::read(part) {
                Some(slowed) => chaos.slowed.push(slowed),
                None => chaos.planned.push(Planned::read(part).ok_or_else(|| wrong(part))?),
            }
        }
        if chaos.planned.len() + chaos.slowed.len() > FAULTS_MAX {
            return Err(wrong(text));
        }
        Ok(chaos)
    }

    /// Whether every fault has a process that it can happen to, of slots `0..slots`.
    ///
    /// # Errors
    /// [`ConfigError::Value`] with the fault that never would happen.
    pub(crate) fn check(&self, slots: u32) -> Result<()> {
        let missing = |planned: &&Planned| {
            let target = matches!(planned.target, Target::Slot(slot) if slot >= slots);
            target || matches!(planned.fault, Fault::Cut { peer_slot } if peer_slot >= slots)
        };
        match self.planned.iter().find(missing) {
            Some(planned) => Err(ConfigError::Value {
                origin: ORIGIN.to_owned(),
                value: planned.to_string(),
                allowed: "workers that there are, counted from 0, or raise `processes`".into(),
            }),
            None => Ok(()),
        }
    }

    /// The faults of the process that fills `slot` in its `life`-th life, counted from 0.
    pub(crate) fn plan_for_slot(&self, slot: u32, life: u32) -> ChaosPlan {
        self.plan(|target| life == 0 && target == Target::Slot(slot))
    }

    /// The worker threads that are slowed, counted through, and how many times as long the steps of lanes take there.
    pub(crate) fn slowed(&self) -> impl Iterator<Item = (usize, u32)> + '_ {
        let slowed = self.slowed.iter();
        slowed.map(|slowed| (slowed.thread as usize, slowed.times))
    }

    /// The faults of the name node.
    pub(crate) fn plan_for_name_node(&self) -> ChaosPlan {
        self.plan(|target| target == Target::NameNode)
    }

    fn plan(&self, takes: impl Fn(Target) -> bool) -> ChaosPlan {
        let own = self.planned.iter().filter(|planned| takes(planned.target));
        let armed = own.map(|planned| Armed {
            planned: *planned,
            fired: AtomicBool::new(false),
        });
        ChaosPlan(armed.collect())
    }
}

fn wrong(text: &str) -> ConfigError {
    ConfigError::Value {
        origin: ORIGIN.to_owned(),
        value: text.chars().take(80).collect(),
        allowed: GRAMMAR.into(),
    }
}

impl Planned {
    fn read(text: &str) -> Option<Self> {
        let (action, rest) = text.split_once('=')?;
        let (target, point) = rest.split_once('@')?;
        let (target, fault) = match action.trim() {
            "kill" => (process(target)?, Fault::Kill),
            "stop" => (process(target)?, Fault::Stop),
            "cut" => link(target)?,
            _ => return None,
        };
        let point = Point::read(point)?;
        target.comes_to(point).then_some(Self { target, fault, point })
    }
}

impl Slowed {
    fn read(text: &str) -> Option<Self> {
        let (action, rest) = text.split_once('=')?;
        let (thread, times) = rest.split_once('@')?;
        let thread = slot(thread.trim().strip_prefix("thread:")?)?;
        let times: u32 = times.trim().strip_prefix("times:")?.trim().parse().ok()?;
        let slows = action.trim() == "slow" && (1..=TIMES_MAX).contains(&times);
        slows.then_some(Self { thread, times })
    }
}

impl Point {
    fn read(text: &str) -> Option<Self> {
        let (kind, at) = text.split_once(':')?;
        let at = at.trim().parse().ok()?;
        match kind.trim() {
            "step" => Some(Self::Step(at)),
            "block" => Some(Self::Block(at)),
            "recovery" => Some(Self::Recovery(at)),
            "checkpoint" => Some(Self::Checkpoint(at)),
            "frame" => Some(Self::Frame(at)),
            "report" => Some(Self::Report(at)),
            _ => None,
        }
    }
}

fn process(text: &str) -> Option<Target> {
    match text.trim() {
        "name" => Some(Target::NameNode),
        text => slot(text.strip_prefix("worker:")?).map(Target::Slot),
    }
}

/// A cut happens to the end with the lower slot.
fn link(text: &str) -> Option<(Target, Fault)> {
    let (one, other) = text.split_once('-')?;
    let (one, other) = (slot(one)?, slot(other)?);
    if one == other {
        return None;
    }
    let peer_slot = one.max(other);
    Some((Target::Slot(one.min(other)), Fault::Cut { peer_slot }))
}

fn slot(text: &str) -> Option<u32> {
    text.trim().parse().ok().filter(|slot| *slot < SLOTS_MAX)
}

impl fmt::Display for Planned {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let target = match self.target {
            Target::Slot(slot) => format!("worker:{slot}"),
            Target::NameNode => "name".to_owned(),
        };
        match (self.fault, self.target) {
            (Fault::Cut { peer_slot }, Target::Slot(slot)) => write!(formatter, "cut={slot}-{peer_slot}@")?,
            (Fault::Stop, _) => write!(formatter, "stop={target}@")?,
            _ => write!(formatter, "kill={target}@")?,
        }
        match self.point {
            Point::Step(at) => write!(formatter, "step:{at}"),
            Point::Block(at) => write!(formatter, "block:{at}"),
            Point::Recovery(at) => write!(formatter, "recovery:{at}"),
            Point::Checkpoint(at) => write!(formatter, "checkpoint:{at}"),
            Point::Frame(at) => write!(formatter, "frame:{at}"),
            Point::Report(at) => write!(formatter, "report:{at}"),
        }
    }
}

impl fmt::Display for Slowed {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "slow=thread:{}@times:{}", self.thread, self.times)
    }
}

impl fmt::Display for Chaos {
    /// As [`Chaos::parse`] reads it.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let planned = self.planned.iter().map(Planned::to_string);
        let slowed = self.slowed.iter().map(Slowed::to_string);
        for (index, fault) in planned.chain(slowed).enumerate() {
            write!(formatter, "{}{fault}", if index == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

/// The faults of one process.
#[derive(Debug, Default)]
pub(crate) struct ChaosPlan(Vec<Armed>);

#[derive(Debug)]
struct Armed {
    planned: Planned,
    fired: AtomicBool,
}

impl ChaosPlan {
    /// The fault that happens now, if any; each is given once. Without faults this is one comparison.
    #[inline]
    pub(crate) fn fires(&self, now: Point) -> Option<Fault> {
        if self.0.is_empty() { None } else { self.due(now) }
    }

    #[cold]
    fn due(&self, now: Point) -> Option<Fault> {
        let due = |armed: &&Armed| armed.planned.point.reached_by(now) && !armed.fired.swap(true, Ordering::Relaxed);
        self.0.iter().find(due).map(|armed| armed.planned.fault)
    }

    /// The process ends well: who counts on a fault hears of it if it has not happened.
    pub(crate) fn end(&self) {
        for fault in self.outstanding() {
            tracing::warn!(
                "`{fault}` of `chaos` has not happened: the program came to its end before (blocks are kept of what is persisted; every job of several processes has frames and reports)"
            );
        }
    }

    fn outstanding(&self) -> impl Iterator<Item = Planned> + '_ {
        let waiting = self.0.iter().filter(|armed| !armed.fired.load(Ordering::Relaxed));
        waiting.map(|armed| armed.planned)
    }
}

impl Point {
    fn reached_by(self, now: Self) -> bool {
        match (self, now) {
            (Self::Step(at), Self::Step(now))
            | (Self::Block(at), Self::Block(now))
            | (Self::Recovery(at), Self::Recovery(now))
            | (Self::Checkpoint(at), Self::Checkpoint(now))
            | (Self::Frame(at), Self::Frame(now))
            | (Self::Report(at), Self::Report(now)) => now >= at,
            _ => false,
        }
    }
}

impl Fault {
    /// Kills or stops this process. A cut link is left to its owner.
    pub(crate) fn carry_out(self) {
        use rustix::process::{Signal, getpid, kill_process};
        let signal = match self {
            Self::Kill => Signal::KILL,
            Self::Stop => Signal::STOP,
            Self::Cut { .. } => return,
        };
        if let Err(error) = kill_process(getpid(), signal) {
            tracing::error!(%error, "the system does not let this process signal itself");
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use proptest::prelude::*;

    use super::*;

    fn points() -> impl Strategy<Value = Point> {
        (0..6, any::<u64>()).prop_map(|(kind, at)| match kind {
            0 => Point::Step(at),
            1 => Point::Block(at),
            2 => Point::Recovery(at),
            3 => Point::Checkpoint(at),
            4 => Point::Frame(at),
            _ => Point::Report(at),
        })
    }

    fn targets() -> impl Strategy<Value = (Target, Fault)> {
        let any_target = prop_oneof![Just(Target::NameNode), (0..SLOTS_MAX).prop_map(Target::Slot)];
        let signals = (any_target, prop_oneof![Just(Fault::Kill), Just(Fault::Stop)]);
        let cuts = (0..SLOTS_MAX - 1).prop_flat_map(|slot| (Just(slot), slot + 1..SLOTS_MAX));
        prop_oneof![
            signals,
            cuts.prop_map(|(slot, peer_slot)| (Target::Slot(slot), Fault::Cut { peer_slot })),
        ]
    }

    fn comes_there(((target, _), point): &((Target, Fault), Point)) -> bool {
        target.comes_to(*point)
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(
            faults in prop::collection::vec((targets(), points()).prop_filter("nobody comes there", comes_there), 0..8),
            slowed in prop::collection::vec((0..SLOTS_MAX, 1..=TIMES_MAX), 0..3),
        ) {
            let planned = faults.into_iter().map(|((target, fault), point)| Planned { target, fault, point });
            let slowed = slowed.into_iter().map(|(thread, times)| Slowed { thread, times });
            let chaos = Chaos { planned: planned.collect(), slowed: slowed.collect() };
            prop_assert_eq!(Chaos::parse(&chaos.to_string()).unwrap(), chaos);
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in "[a-z0-9=@:, -]{0,40}") {
            if let Ok(chaos) = Chaos::parse(&text) {
                prop_assert_eq!(Chaos::parse(&chaos.to_string()).unwrap(), chaos);
            }
        }
    }

    #[test]
    fn faults_that_make_no_sense_are_shown_with_the_grammar() {
        for text in [
            "kill",
            "kill=worker:1",
            "kill=worker@step:1",
            "kill=worker:1@step",
            "kill=worker:1@epoch:1",
            "kill=worker:-1@step:1",
            "kill=worker:512@step:1",
            "kill=1-2@step:1",
            "cut=worker:1@step:1",
            "cut=1-1@step:1",
            "cut=name-1@step:1",
            "burn=worker:1@step:1",
            "slow=thread:1@step:1",
            "slow=thread:1@times:0",
            "slow=thread:1@times:1001",
            "slow=worker:1@times:2",
            "kill=thread:1@step:2",
            "kill=worker:1@times:2",
            "kill=name@block:0",
            "stop=name@recovery:1",
            "kill=name@checkpoint:0",
            "kill=worker:1@step:18446744073709551616",
        ] {
            let error = Chaos::parse(&format!("stop=name@step:1,{text}"))
                .unwrap_err()
                .to_string();
            assert!(
                error.contains(&format!("`{text}`")) && error.contains("`cut=1-2@step:12`"),
                "{error}"
            );
        }
        let many = "kill=name@step:1,".repeat(FAULTS_MAX + 1);
        assert!(Chaos::parse(&many).unwrap_err().to_string().contains("at most 64"));
        assert_eq!(Chaos::parse(" , ").unwrap(), Chaos::default());
    }

    #[test]
    fn a_fault_happens_once_to_the_first_life_in_its_slot() {
        let chaos =
            Chaos::parse("kill=worker:1@step:37, stop=worker:1@block:5,cut=2-1@step:12,stop=name@step:4").unwrap();
        let plan = chaos.plan_for_slot(1, 0);
        assert_eq!(plan.fires(Point::Step(11)), None);
        assert_eq!(plan.fires(Point::Recovery(90)), None);
        assert_eq!(plan.fires(Point::Step(12)), Some(Fault::Cut { peer_slot: 2 }));
        assert_eq!(plan.fires(Point::Step(12)), None);
        assert_eq!(
            plan.fires(Point::Block(6)),
            Some(Fault::Stop),
            "a point may be jumped over"
        );
        assert_eq!(plan.fires(Point::Step(37)), Some(Fault::Kill));
        assert_eq!(plan.fires(Point::Step(38)), None);
        let slow = Chaos::parse("slow=thread:1@times:10,kill=worker:0@step:1").unwrap();
        assert_eq!(slow.slowed().collect::<Vec<_>>(), [(1, 10)]);
        assert_eq!(chaos.slowed().count(), 0);
        assert_eq!(plan.outstanding().count(), 0);
        let early = chaos.plan_for_slot(1, 0);
        early.fires(Point::Step(20));
        let outstanding: Vec<_> = early.outstanding().map(|planned| planned.to_string()).collect();
        assert_eq!(outstanding, ["kill=worker:1@step:37", "stop=worker:1@block:5"]);
        assert!(chaos.plan_for_slot(1, 1).0.is_empty() && chaos.plan_for_slot(2, 0).0.is_empty());
        assert_eq!(chaos.plan_for_name_node().fires(Point::Step(4)), Some(Fault::Stop));
    }

    #[test]
    fn a_fault_without_a_process_is_an_error() {
        let chaos = Chaos::parse("cut=0-2@step:1,kill=name@step:1").unwrap();
        chaos.check(3).unwrap();
        let error = chaos.check(2).unwrap_err().to_string();
        assert!(
            error.contains("`cut=0-2@step:1`") && error.contains("raise `processes`"),
            "{error}"
        );
    }
}
