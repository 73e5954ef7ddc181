//! Which action the processes are at, how it ends, and what one is told that is at another.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use distdl_storage::Digest;

use crate::error::EngineError;
use crate::id::DatasetId;

/// What kind of collective an action is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum ActionKind {
    /// Computes partitions of a dataset; the answer has one result for each.
    Compute {
        /// Partitions, in any order, each once.
        wanted: Vec<u64>,
        /// The dataset, for errors.
        dataset: DatasetId,
        /// Rounds that may end without all results although no member was lost.
        rounds_max: u32,
    },
    /// Places data (rounds of [`Work::Compute`](super::Work::Compute)) and then runs a loop over it
    /// ([`Work::Loop`](super::Work::Loop)).
    Iterate {
        /// As for `Compute`.
        dataset: DatasetId,
        /// As for `Compute`.
        rounds_max: u32,
        /// The version of the parameters that the loop starts from.
        first_step: u64,
        /// Lanes to be hosted.
        lanes: u32,
        /// What its answer takes at most.
        answer_bytes_max: u64,
    },
}

/// Which action it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Head {
    /// Its number.
    pub action: u64,
    /// BLAKE3 over the lineage and the action, equal in all processes.
    pub fingerprint: Digest,
    /// Name and place in the driver program, for errors.
    pub site: String,
    /// What is asked for.
    pub kind: ActionKind,
}

impl Head {
    /// Whether it is an iteration.
    pub(crate) fn is_iterate(&self) -> bool {
        matches!(self.kind, ActionKind::Iterate { .. })
    }

    /// Whether two processes mean the same by it.
    pub(crate) fn same(&self, other: &Self) -> bool {
        self.fingerprint == other.fingerprint && self.kind == other.kind
    }

    /// What a process is told that comes to an action of this number, at `head`, when this one has that answer: the
    /// answer, or that the programs diverged.
    pub(crate) fn answer_of(&self, head: &Self, answer: Answer) -> Answer {
        match self.same(head) {
            true => answer,
            false => self.diverged("one that came first", head, "one that came later"),
        }
    }

    /// The answer to an action of which two processes, which it names, mean different things.
    pub(crate) fn diverged(&self, first: &str, second: &Self, second_name: &str) -> Answer {
        let (action, site) = (self.action, &self.site);
        if second.site == *site {
            let what = format!(
                "the driver programs diverged at action {action}: {first} and {second_name} are both at {site}, but \
                 what it reads, or what it was given, is not the same"
            );
            let remedy = "compare what differs between these processes: input files (names, sizes, order), the driver's \
                          records (which come out of a `HashMap` in any order), parameters, seeds, options and \
                          environment, and the program file itself; a file that the program writes belongs into \
                          `context.once`";
            return Answer::Failed(EngineError::invalid(what, remedy));
        }
        let what = format!(
            "the driver programs diverged at action {action}: {first} is at {site}, {second_name} at {}",
            second.site
        );
        let remedy = "every process must call the same actions in the same order: start the same binary with the same \
                      arguments everywhere, run all actions in one thread, and let none depend on time, on random numbers that are not seeded, on the \
                      order of a HashMap, on files or records that differ between processes (a file that the program writes belongs \
                      into `context.once`), or on parameters that a failed iteration \
                      has left";
        Answer::Failed(EngineError::invalid(what, remedy))
    }
}

/// How an action ended.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Answer {
    /// One result for each partition asked for, and what closures added to accumulators.
    Computed {
        /// By partition, ascending.
        results: Vec<(u64, Bytes)>,
        /// Opaque to the name node, in the order in which they came.
        updates: Vec<Bytes>,
    },
    /// The loop is finished; `None` to a member that finished it itself.
    Iterated {
        /// As in [`Outcome::Looped`](super::Outcome::Looped).
        result: Option<Bytes>,
    },
    /// The program is at fault.
    Failed(EngineError),
}
