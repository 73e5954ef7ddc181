//! What happened to a cluster, for people (a sentence in the terminal) and for programs (one JSON object a line).

use std::time::{Duration, SystemTime};

use serde::{Serialize, Serializer};

use super::dismissal::Dismissal;
use super::identity::MemberId;

/// How the words begin of a process that there never was.
pub(super) const NOT_STARTED: &str = "could not be started: ";

/// How a process ended that the name node has killed.
pub(super) const ENDED_HERE: &str = "ended by the name node";

/// Something that happened, and when.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct ClusterEvent {
    /// Since the name node started, in seconds.
    pub seconds: f64,
    /// What happened.
    #[serde(flatten)]
    pub what: Happening,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Happening {
    /// The name node was started again, and goes on from its journal.
    WentOn {
        /// At this action.
        action: u64,
        /// Members that it expects back.
        members: usize,
        /// The error that the action before it has ended with, as the journal says.
        error: Option<String>,
    },
    /// A process is started.
    Started {
        /// For this slot.
        slot: u32,
        /// Whether one was there before.
        again: bool,
        /// Processes more that may be started again.
        restarts_left: u32,
        /// Of so many, in all.
        restarts: u32,
    },
    /// A process of the cluster ended.
    Exited {
        /// Its slot.
        slot: u32,
        /// Its operating-system process, if it could be started: perhaps the shell that has started the member
        /// elsewhere.
        process: Option<u32>,
        /// Its exit status, in words.
        cause: String,
        /// Whether no decision of the name node came before its end, and it has not said why it ends.
        #[serde(skip)]
        is_unexplained: bool,
    },
    /// A process is gone, and none is started for its slot any more.
    StartsNoMore {
        /// The slot.
        slot: u32,
        /// Processes that could be started again, in all.
        restarts: u32,
    },
    /// A process was admitted.
    Joined {
        /// Who it is from now on.
        member: MemberId,
        /// Its slot.
        slot: u32,
        /// Its operating-system process.
        process: u32,
        /// Whether it was known before the name node was started again.
        known: bool,
    },
    /// A process has come to where the others are and waits to take a slot: a spare or a replacement.
    StandsBy {
        /// The member.
        member: MemberId,
        /// Its slot.
        slot: u32,
        /// Number of the action.
        action: u64,
    },
    /// Not all have come to the first action, or to one that nobody is left of.
    Waits {
        /// Places nobody has come for.
        slots: Vec<u32>,
        /// Of those, the ones whose process has come and ended with an error.
        gave_up: Vec<u32>,
        /// Processes that the cluster wants.
        processes: u32,
        /// How long the others wait for them, from now on.
        micros: u64,
    },
    /// A process was turned away.
    Dismissed {
        /// Why it was not let in.
        #[serde(serialize_with = "as_text")]
        reason: Dismissal,
    },
    /// A member is gone and has not said that its program ended.
    Lost {
        /// The member.
        member: MemberId,
        /// Its slot.
        slot: u32,
        /// Its operating-system process.
        process: u32,
        /// What was seen.
        cause: String,
    },
    /// A member's driver program ended.
    Left {
        /// The member.
        member: MemberId,
        /// Its slot.
        slot: u32,
        /// The error it ended with.
        error: Option<String>,
        /// Whether that is the error of an action, which all are told.
        #[serde(skip)]
        is_of_all: bool,
    },
    /// A new generation begins.
    Generation {
        /// Its number.
        number: u64,
        /// The slots of its members, by rank.
        slots: Vec<u32>,
        /// Places that nobody is at whose process has ended with an error.
        gave_up: Vec<u32>,
        /// Places that the cluster has.
        processes: u32,
        /// Why the one before ended.
        cause: String,
        /// Since the loss that ended the one before was seen, in microseconds.
        micros: Option<u64>,
    },
    /// Partitions are computed after a loss.
    Recomputed {
        /// Number of the action.
        action: u64,
        /// Results that were still missing.
        partitions: u64,
        /// Of so many.
        partitions_all: u64,
        /// Since the loss was seen, in microseconds.
        micros: Option<u64>,
    },
    /// A loop goes on after it was cut.
    Resumed {
        /// Number of the action.
        action: u64,
        /// From this version of its parameters.
        version: u64,
        /// Since the loss was seen, in microseconds.
        micros: Option<u64>,
    },
    /// Members have not come for long to the action that others wait at.
    Behind {
        /// Their slots.
        slots: Vec<u32>,
        /// Their operating-system processes, in the same order.
        processes: Vec<u32>,
        /// Number of the action.
        action: u64,
        /// Its name and place in the driver program.
        site: String,
        /// Since the others wait, in microseconds.
        micros: u64,
    },
    /// All processes that kept some optimizer state are gone, and the loop waits for one that others have to start.
    LacksState {
        /// Number of the action.
        action: u64,
        /// Its name and place in the driver program.
        site: String,
    },
    /// An action begins: all have come to it.
    Began {
        /// Its number.
        action: u64,
        /// Its name and place in the driver program.
        site: String,
    },
    /// An action has its answer.
    Answered {
        /// Its number.
        action: u64,
        /// Its name and place in the driver program.
        site: String,
        /// Rounds it took.
        rounds: u32,
        /// The error that it ended with.
        error: Option<String>,
    },
    /// The cluster ends.
    Finished {
        /// Why, unless the program ended well.
        error: Option<String>,
    },
}

impl ClusterEvent {
    /// `what`, at the time `now` since the name node started.
    pub fn new(now: Duration, what: Happening) -> Self {
        let seconds = now.as_secs_f64();
        Self { seconds, what }
    }

    /// One JSON object without a line break, with the time of day as `time`: it was noted `at` that time.
    ///
    /// # Errors
    /// None is known; the encoder's error is passed on.
    pub fn line(&self, at: SystemTime) -> Result<String, serde_json::Error> {
        #[derive(Serialize)]
        struct Noted<'a> {
            time: String,
            #[serde(flatten)]
            event: &'a ClusterEvent,
        }
        let time = humantime::format_rfc3339_millis(at).to_string();
        serde_json::to_string(&Noted { time, event: self })
    }

    /// A line for the terminal, if a person should hear of it: losses, what came of them, and what was not expected.
    pub fn sentence(&self) -> Option<String> {
        match &self.what {
            Happening::Lost {
                member,
                slot,
                process,
                cause,
            } => Some(format!("lost {member} (slot {slot}, process {process}): {cause}")),
            // The end of the cluster says it, once for all.
            Happening::Left {
                member,
                slot,
                error: Some(_),
                is_of_all: true,
            } => Some(format!(
                "{member} (slot {slot}) gave up: an action failed, in all processes alike"
            )),
            Happening::Left {
                member,
                slot,
                error: Some(error),
                ..
            } => Some(format!("{member} (slot {slot}) gave up: {error}")),
            Happening::Started {
                slot,
                again: true,
                restarts_left,
                restarts,
            } => Some(format!(
                "starting a new process for slot {slot} ({restarts_left} of {restarts} restarts are left, `--restarts`)"
            )),
            Happening::Exited {
                slot,
                process,
                cause,
                is_unexplained: true,
            } => Some(ended(*slot, *process, cause)),
            Happening::StartsNoMore { slot, restarts } => Some(format!(
                "no process is started for slot {slot} any more: `--restarts {restarts}` is used up"
            )),
            // A process that was started for one that was lost has come too late.
            Happening::Dismissed {
                reason: Dismissal::Over,
            } => None,
            Happening::Dismissed { reason } => Some(format!("a process was turned away: {reason}")),
            _ => self.sentence_of_all(),
        }
    }

    /// The same, of what all together do or wait for.
    fn sentence_of_all(&self) -> Option<String> {
        match &self.what {
            Happening::Generation {
                number,
                slots,
                processes,
                cause,
                micros,
                ..
            } if *number > 1 => {
                let (active, after) = (slots.len(), after(*micros));
                Some(format!(
                    "going on with {active} of {processes} processes{after} (generation {number}: {cause})"
                ))
            }
            Happening::Generation {
                slots,
                gave_up,
                processes,
                ..
            } => {
                let missing: Vec<u32> = (0..*processes).filter(|slot| !slots.contains(slot)).collect();
                let active = slots.len();
                (active < *processes as usize).then(|| {
                    format!(
                        "beginning with {active} of {processes} processes: {}",
                        not_come(&missing, gave_up)
                    )
                })
            }
            Happening::Waits {
                slots,
                gave_up,
                processes,
                micros,
            } => Some(format!(
                "waiting for {} of {processes} processes: {}; the others begin without in {} s",
                slots.len(),
                not_come(slots, gave_up),
                micros.div_ceil(1_000_000)
            )),
            Happening::Recomputed {
                partitions,
                partitions_all,
                micros,
                ..
            } => {
                let after = after(*micros);
                Some(format!(
                    "computing the {partitions} of {partitions_all} partitions that have no result yet{after}"
                ))
            }
            Happening::Resumed { version, micros, .. } => {
                Some(format!("the loop goes on from step {version}{}", after(*micros)))
            }
            Happening::Behind {
                slots,
                processes,
                action,
                site,
                micros,
            } => {
                let (who, have, why) = behind(slots, processes);
                let seconds = micros / 1_000_000;
                Some(format!(
                    "{who} {have} not come to action {action}, {site}, where others wait for {seconds} s: {why}"
                ))
            }
            Happening::WentOn { action, members, error } => {
                let plural = if *members == 1 { "" } else { "s" };
                let failed = error.as_ref().map_or_else(String::new, |error| {
                    format!("; the action before it has failed, as the journal has it, and is not run again: {error}")
                });
                Some(format!(
                    "going on at action {action} with {members} member{plural}{failed}"
                ))
            }
            Happening::LacksState { site, .. } => Some(format!(
                "optimizer state was lost with all the processes that kept it: {site} waits until another process is \
                 started for this cluster, and begins anew then (`--parameter-copies 2` keeps two copies)"
            )),
            _ => None,
        }
    }
}

impl Happening {
    /// The same, so long after the loss that it makes up for was seen.
    pub(super) fn since(mut self, loss: Option<u64>) -> Self {
        if let Self::Resumed { micros, .. } | Self::Recomputed { micros, .. } = &mut self {
            *micros = loss;
        }
        self
    }
}

fn as_text<S: Serializer>(reason: &Dismissal, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(reason)
}

/// Of which places nobody is there, and why.
fn not_come(slots: &[u32], gave_up: &[u32]) -> String {
    let numbers = |gave: bool| -> Vec<String> {
        let chosen = slots.iter().filter(|slot| gave_up.contains(slot) == gave);
        chosen.map(u32::to_string).collect()
    };
    let (away, gave_up) = (numbers(false), numbers(true));
    let away = match away.len() {
        0 => None,
        1 => Some(format!("slot {} has not come", away.concat())),
        _ => Some(format!("slots {} have not come", away.join(", "))),
    };
    let gave_up = match gave_up.len() {
        0 => None,
        1 => Some(format!("slot {} gave up", gave_up.concat())),
        _ => Some(format!("slots {} gave up", gave_up.join(", "))),
    };
    let both: Vec<String> = [away, gave_up].into_iter().flatten().collect();
    both.join(", ")
}

/// How a process ended that was not lost by a decision of the name node.
fn ended(slot: u32, process: Option<u32>, cause: &str) -> String {
    let who = match process {
        Some(process) => format!("slot {slot} (process {process})"),
        None => format!("the process for slot {slot}"),
    };
    match cause.strip_prefix("killed by signal ") {
        None if cause == ENDED_HERE => format!("{who} was {cause}, as it lived on without its connection"),
        Some(signal) if signal.starts_with("9 ") => format!(
            "{who} was {cause}: if nobody sent it, the machine may have run out of memory (see the kernel's log)"
        ),
        Some(_) => format!("{who} was {cause}"),
        None if cause.starts_with(NOT_STARTED) => format!("{who} {cause}"),
        None => format!("{who} has ended: {cause}"),
    }
}

/// Who is behind, for people.
fn behind(slots: &[u32], processes: &[u32]) -> (String, &'static str, &'static str) {
    const NAMED_MAX: usize = 4;
    let named = slots.iter().zip(processes).take(NAMED_MAX);
    let named: Vec<String> = named
        .map(|(slot, process)| format!("slot {slot} (process {process})"))
        .collect();
    let others = slots.len().saturating_sub(NAMED_MAX);
    let who = match others {
        0 => named.join(", "),
        others => format!("{} and {others} more", named.join(", ")),
    };
    match slots.len() {
        1 => (who, "has", "it lives, and its driver program does something else"),
        _ => (who, "have", "they live, and their driver programs do something else"),
    }
}

fn after(micros: Option<u64>) -> String {
    micros.map_or_else(String::new, |micros| {
        format!(", {:.1} ms after the loss was seen", micros as f64 / 1000.0)
    })
}

#[cfg(test)]
mod tests;
