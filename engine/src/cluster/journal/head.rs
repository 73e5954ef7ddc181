//! Which action the processes are at, and what one is told that is at another.

use serde::{Deserialize, Serialize};

use crate::cluster::protocol::{ActionKind, Answer};
use crate::error::EngineError;

/// Which action it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Head {
    /// Its number.
    pub action: u64,
    /// BLAKE3 over the lineage and the action.
    pub fingerprint: [u8; 32],
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

    /// What a process is told that comes to an action of this number, at `head`, when this one has that answer: the answer,
    /// or that the programs diverged.
    pub(crate) fn answer_of(&self, head: &Self, answer: Answer) -> Answer {
        if self.same(head) { answer } else { self.diverged(head) }
    }

    /// The answer to an action of which two processes mean different things.
    pub(crate) fn diverged(&self, second: &Self) -> Answer {
        let what = format!(
            "the driver programs diverged at action {}: one process is at {}, another at {}",
            self.action, self.site, second.site
        );
        let remedy = "every process must call the same actions in the same order: start the same binary with the same \
                      arguments everywhere, run all actions in one thread, and let none depend on time, on random numbers that are not seeded, on the \
                      order of a HashMap, on files or records that differ between processes, or on parameters that a failed iteration \
                      has left";
        Answer::Failed(EngineError::invalid(what, remedy))
    }
}
