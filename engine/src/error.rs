//! What can go wrong in an action, typed so that it survives a trip between processes.

mod live;

pub use live::LiveError;

use std::fmt::Display;
use std::panic::{AssertUnwindSafe, catch_unwind};

use distdl_storage::StorageError;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::config::ConfigError;
use crate::device::NoGpu;
use crate::id::DatasetId;

/// Result of everything in the engine that can fail.
pub type Result<T, E = EngineError> = std::result::Result<T, E>;

/// An action's failure: what failed, where, and how to mend it.
#[derive(Debug, Clone, thiserror::Error, Serialize, Deserialize)]
#[non_exhaustive]
pub enum EngineError {
    /// A user's closure panicked. The action ends, the context stays usable.
    #[error(
        "a closure panicked in `{operator}` (declared at {site}), partition {partition}: {message}\n  mend the closure, or filter out the record that it cannot handle; the context is still usable"
    )]
    Panic {
        /// Operator that ran the closure.
        operator: String,
        /// Source position of the operator in the driver program.
        site: String,
        /// 0-based partition that was being computed.
        partition: usize,
        /// Text of the panic.
        message: String,
    },
    /// A user's closure panicked in the driver program, where no partition is computed. The action ends, the context
    /// stays usable.
    #[error(
        "a closure panicked in `{operator}` (declared at {site}), which the driver program calls: {message}\n  mend the closure; the context is still usable"
    )]
    DriverPanic {
        /// Operator or action that called the closure.
        operator: String,
        /// Source position of the operator in the driver program.
        site: String,
        /// Text of the panic.
        message: String,
    },
    /// A closure or a source returned an error.
    #[error("`{operator}` (declared at {site}), partition {partition}: {message}")]
    Operator {
        /// Operator that failed.
        operator: String,
        /// Source position of the operator in the driver program.
        site: String,
        /// 0-based partition that was being computed.
        partition: usize,
        /// The error's text.
        message: String,
    },
    /// A stored block or an external object could not be read or written.
    #[error(transparent)]
    Storage(
        #[from]
        #[serde(serialize_with = "storage_as_text", deserialize_with = "storage_from_text")]
        StorageError,
    ),
    /// What an operator keeps, or has no memory for, finds no room on disk either, or a block none in its tier.
    #[error("`{operator}` (declared at {site}), partition {partition}: {error}")]
    NoRoom {
        /// Operator whose records these are, and where they are cut for another one by a shuffle, that one too.
        operator: String,
        /// Source position of the operator in the driver program.
        site: String,
        /// 0-based partition that was being computed.
        partition: usize,
        /// What is full, and the setting.
        #[serde(serialize_with = "storage_as_text", deserialize_with = "storage_from_text")]
        error: Box<StorageError>,
    },
    /// A GPU must compute, and none can.
    #[error("`device.gpu` is `on`, but {0}; {remedy}, or set `device.gpu` to `auto` or `off`", remedy = .0.remedy())]
    Device(#[from] NoGpu),
    /// An action was asked of an empty dataset that has no answer for it.
    #[error("`{action}` needs at least one record, but the dataset has none; check the source, or use `{instead}`")]
    Empty {
        /// The action.
        action: String,
        /// An action that accepts an empty dataset.
        instead: String,
    },
    /// A configuration that nothing can run with.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Arguments that make no sense together.
    #[error("{what}; {remedy}")]
    Invalid {
        /// What is wrong, with the values.
        what: String,
        /// How to mend it.
        remedy: String,
    },
    /// An error of a program's own, on its way between processes.
    #[error("{text}")]
    Program {
        /// What it says.
        text: String,
        /// What it is, in whatever form the program can read again.
        details: Vec<u8>,
    },
    /// All that belongs to one key must be in memory at once, and is more than that.
    #[error(
        "`{operator}` (declared at {site}), partition {partition}: one key has {key_bytes} bytes or more, beside which {memory_bytes_max} bytes of memory leave no room; raise the memory limit, combine values as they come (`reduce_by_key`), or spread the key over several by a further part of it"
    )]
    KeyTooLarge {
        /// Operator that brings the key's values together.
        operator: String,
        /// Source position of the operator in the driver program.
        site: String,
        /// 0-based partition that was being computed.
        partition: usize,
        /// What was counted of the key so far, in bytes.
        key_bytes: u64,
        /// The limit of the process, in bytes.
        memory_bytes_max: u64,
    },
    /// Blocks were lost faster than they could be computed again.
    #[error(
        "dataset {dataset} still misses partitions {partitions:?} after {rounds} rounds of recovery; its blocks are lost faster than they are computed: look at the disk or the memory limit"
    )]
    RecoveryExhausted {
        /// The dataset of the action.
        dataset: DatasetId,
        /// Partitions without a result.
        partitions: Vec<usize>,
        /// Rounds tried.
        rounds: usize,
    },
    /// The action was ended from outside: by a [`CancelHandle`](crate::CancelHandle), here or in another process, or by
    /// a limit of time.
    #[error("{action} was cancelled: {reason}; the context is still usable")]
    Cancelled {
        /// The action, and where it was declared.
        action: String,
        /// By what.
        reason: String,
    },
    /// A block is lost whose lineage was cut by `local_checkpoint`, or because it was longer than `cut_lineage_every`.
    #[error(
        "partition {partition} of `{operator}` (declared at {site}) is lost, and its lineage was cut, so that it cannot be computed again; run the program again, with `checkpoint` to a folder or URL in place of `local_checkpoint`, or keep a second copy (`Level::Disk2`)"
    )]
    LineageCut {
        /// Operator of the dataset.
        operator: String,
        /// Source position of the operator in the driver program.
        site: String,
        /// 0-based partition.
        partition: usize,
    },
    /// Remembered blocks were counted on and are gone, and work must be done before they can be computed again. The
    /// engine does it and repeats the action; a program sees this only if that fails to help.
    #[error("dataset {dataset} must be computed, and work that it needs before is not done; run the action again")]
    Unprepared {
        /// The dataset.
        dataset: DatasetId,
    },
    /// A partition is derived in more operations than a task is given: mostly since it reads the same datasets again
    /// and again, and would compute them very many times.
    #[error(
        "partition {partition} of `{operator}` (declared at {site}) takes more than {operations_max} operations: keep datasets that it is derived from by several ways with `persist` (`Level::Disk` or `Level::MemoryAndDisk` where memory has no room for them), or put fewer partitions together in one"
    )]
    ProgramTooLong {
        /// Operator of the dataset.
        operator: String,
        /// Source position of the operator in the driver program.
        site: String,
        /// 0-based partition.
        partition: usize,
        /// Operations that there may be.
        operations_max: usize,
    },
    /// The workers are gone: the context was shut down or a worker thread died.
    #[error("the workers of this context have stopped ({reason}); make a new context")]
    WorkersStopped {
        /// Why.
        reason: String,
    },
    /// The system starts no further thread.
    #[error(
        "cannot start a thread: {reason}; lower `threads`, or raise the limits of threads and memory (`ulimit -u`, `pids.max` of a container)"
    )]
    NoThread {
        /// The system's words.
        reason: String,
    },
    /// This process belongs to its cluster no more: nothing it computes would count.
    #[error("this process has left its cluster: {reason}")]
    LeftCluster {
        /// Why.
        reason: String,
    },
    /// An action was called from inside a closure that runs on a worker, or that another action calls, as it does for
    /// what observes the steps of an iteration.
    #[error(
        "an action was called inside a closure that another action calls; run it in the driver program first and pass its result in with `broadcast`"
    )]
    NestedAction,
    /// What an action comes to is kept for processes that come late, and finds no room in the name node's journal.
    #[error(
        "the name node's journal has {bytes} of at most {bytes_max} bytes, and {more} more were to be written of {action}; raise `disk` (`disk_bytes_max`), or bring less into the driver program and save datasets where they are; the context is still usable"
    )]
    JournalFull {
        /// The action, and where it was declared.
        action: String,
        /// What the journal takes.
        bytes: u64,
        /// What it may take.
        bytes_max: u64,
        /// What the action would add.
        more: u64,
    },
    /// Live records could not be brought up to date.
    #[error(transparent)]
    Live(#[from] LiveError),
    /// This process was started for a cluster whose program has ended by now.
    #[error("the program has ended in the other processes of the cluster, and nothing is left to do for this one")]
    ProgramEnded,
}

impl EngineError {
    /// An error about arguments: `what` is wrong, and `remedy`.
    pub fn invalid(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::Invalid {
            what: what.into(),
            remedy: remedy.into(),
        }
    }

    /// An error of code of the program says what input its task has read, too.
    pub(crate) fn with_input(mut self, input: &str) -> Self {
        if let Self::Panic { message, .. } | Self::Operator { message, .. } = &mut self {
            message.push_str(&format!(" (of the input {input})"));
        }
        self
    }
}

/// What `work` gives, in which the driver program calls a closure for `operator`, declared at `site`: a panic of it is
/// an error.
pub(crate) fn in_driver<R>(operator: &str, site: &dyn Display, work: impl FnOnce() -> R) -> Result<R> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|panic| EngineError::DriverPanic {
        operator: operator.to_owned(),
        site: site.to_string(),
        message: panic_text(&*panic),
    })
}

/// An error of the operating system means something only where it happened: other processes get its text.
fn storage_as_text<S: Serializer>(error: &StorageError, serializer: S) -> std::result::Result<S::Ok, S::Error> {
    serializer.serialize_str(&error.to_string())
}

fn storage_from_text<'de, D: Deserializer<'de>, E: From<StorageError>>(
    deserializer: D,
) -> std::result::Result<E, D::Error> {
    let message = String::deserialize(deserializer)?;
    Ok(StorageError::Elsewhere { message }.into())
}

/// The text of a panic that was caught.
pub fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without a text".to_owned())
}
