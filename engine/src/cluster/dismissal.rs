//! Why a name node does not let a process in.

use serde::{Deserialize, Serialize};

use super::identity::MemberId;

/// Why a name node does not let a process in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[non_exhaustive]
pub enum Dismissal {
    /// There is nothing to do any more.
    #[error("the program has ended")]
    Over,
    /// It is there already. The connection may be one that is broken, of which the name node has not heard.
    #[error("{0} has another connection")]
    Connected(MemberId),
    /// It was waited for in vain.
    #[error(
        "{0} was counted as lost, and what it has computed since counts for nothing; a new process takes its place: start the program again, unless that was done"
    )]
    Lost(MemberId),
    /// It is taken for lost just now.
    #[error(
        "{member} is counted as lost: {cause}; what it has computed counts for nothing, and a new process takes its place: start the program again, unless that was done"
    )]
    TakenForLost {
        /// Who it is.
        member: MemberId,
        /// Why.
        cause: String,
    },
    /// It says that it is who it cannot be.
    #[error("{0} listens at another address than before; start the program again")]
    Moved(MemberId),
    /// It took part in what the name node does not know of.
    #[error(
        "the journal of the name node has lost its end, and with it what {0} took part in; start the program again: it goes on behind the last action that has an answer"
    )]
    Ahead(MemberId),
    /// It was left over when another run of a program ended before its time.
    #[error("it belongs to an earlier run, and another one has begun at the address of the name node")]
    EarlierRun,
    /// What both compute may differ.
    #[error(
        "its machine computes other bits than those of the others: another processor (only one of them has AVX2 and FMA) or another system library, or `unlike_machines` is not set alike; records that are computed again might be lost: start all processes on machines of one kind, or let them differ with `unlike_machines = true` for each (see docs/processes.md)"
    )]
    Unlike,
    /// Nobody is missing.
    #[error(
        "every place of the cluster is taken; start fewer processes, or give the name node more `--processes` or `--spares`"
    )]
    Full,
}
