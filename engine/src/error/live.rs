//! What can go wrong with records that are kept up to date.

use serde::{Deserialize, Serialize};

/// A failure of live records. What was committed before stays as it was; what was to be committed is still pending.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[non_exhaustive]
pub enum LiveError {
    /// A record was to be retracted that is not there.
    #[error(
        "live input \"{input}\" does not hold {record}, so it cannot be retracted; retract what was inserted before, as often as it was"
    )]
    Absent {
        /// Name of the input.
        input: String,
        /// The record, as `Debug` writes it.
        record: String,
    },
    /// A view reads an input of other live records.
    #[error(
        "live input \"{input}\" is of another `Live` than the view that reads it; derive a view from inputs of its own `Live`"
    )]
    Foreign {
        /// Name of the input.
        input: String,
    },
    /// A closure panicked.
    #[error(
        "a closure panicked in the live operator `{operator}` (declared at {site}){}: {message}\n  mend the closure, or `discard` the changes that it cannot handle; nothing of them was committed", .record.as_ref().map(|record| format!(" at {record}")).unwrap_or_default()
    )]
    Panic {
        /// Operator that ran the closure.
        operator: String,
        /// Source position of the operator in the driver program.
        site: String,
        /// The record, or the key of `reduce`, as `Debug` writes it, cut at 200 characters; none if the closure is a
        /// view's recipe.
        record: Option<String>,
        /// Text of the panic.
        message: String,
    },
    /// A loop did not settle.
    #[error(
        "`iterate` (declared at {site}) still changes after {rounds} rounds; end its body with something that settles, such as `distinct` or a smallest value by `reduce`, or raise `rounds_max`"
    )]
    Unsettled {
        /// Source position of the loop in the driver program.
        site: String,
        /// Rounds allowed.
        rounds: u64,
    },
    /// There are more records than allowed.
    #[error("{what} would hold {records} records, {records_max} are allowed; raise `{option}`, or keep fewer records")]
    Full {
        /// What holds them.
        what: String,
        /// How many, at least.
        records: u64,
        /// How many may be.
        records_max: u64,
        /// The field of `LiveOptions` that sets the limit.
        option: String,
    },
    /// More of a record was taken away than was there, or what was made anew differs in it from what a view holds: a
    /// closure gives different answers for one record.
    #[error(
        "{what} holds {record} less or more often than its input allows; the closures before it must give the same answer for the same record each time. Where this comes again, drop the view and derive it anew"
    )]
    Unsteady {
        /// The view or the operator whose records differ.
        what: String,
        /// The record, as `Debug` writes it, cut at 200 characters.
        record: String,
    },
    /// The thread that keeps records up to date ended in a way that names no closure.
    #[error(
        "the thread that keeps live records up to date stopped: {reason}; look at `Ord`, `Hash` and `Clone` of the records. The next commit starts it again"
    )]
    Stopped {
        /// What it said.
        reason: String,
    },
}
