//! Datasets with lineage on timely dataflow, and deep learning on the same partitions.
//!
//! This crate is the facade: storage, engine and deep-learning layer under one name, a prelude, and what programs share
//! ([`run`], [`report`]). Begin with [`Context`] and [`Dataset`] for pipelines, [`NeuralNetwork`] and [`Training`] for
//! networks. Examples of these crates' own documentation name the crates; here `distdl_dl::` is `distdl::` or
//! [`distdl::dl::`](dl), `distdl_engine::` is `distdl::` or [`distdl::engine::`](engine), and so with
//! [storage](storage). What follows is the README.
#![doc = include_str!("../README.md")]

mod log;
pub mod report;

/// The program in that document is compiled with those of the README.
#[cfg(doctest)]
#[doc = include_str!("../docs/gpu.md")]
mod gpu_guide {}

/// So is that of this one.
#[cfg(doctest)]
#[doc = include_str!("../docs/spark.md")]
mod spark_guide {}

/// And those of this one.
#[cfg(doctest)]
#[doc = include_str!("../docs/pytorch.md")]
mod pytorch_guide {}

pub use log::to_standard_error as log_to_standard_error;

use std::error::Error;
use std::io::{Write, stderr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use distdl_engine::cluster::{NameNodeOptions, SignalledEnd, run_name_node};
use distdl_engine::panic_text;

pub use distdl_dl as dl;
pub use distdl_engine as engine;
pub use distdl_storage as storage;

pub use distdl_dl::{
    Activate, Activation, Adagrad, Adam, AdamW, Augmentation, AvgPool2d, Backward, Batch, BatchId, BatchNorm,
    BatchReport, BestModel, BestModels, CheckpointOptions, Compression, ConfusionMatrix, Conv2d, DataChange, Decay,
    Dense, Draw, Dropout, Embedding, Features, Flatten, Forward, Gelu, GpuFigures, Image, Initialization, Input, Lamb,
    Layer, LayerNorm, LayerSpecification, Loss, LossFunction, Masked, MaxPool2d, Mnist, Mode, NetworkBuilder,
    NeuralNetwork, Normalization, Optimizer, OwnLoss, ParameterEntry, ParameterLayout, ParameterShape,
    ParseResumeError, Plateau, PrepareSamples, Resume, Resumed, RmsProp, SampleTargets, Samples, Scalar, Schedule, Sgd,
    Shape, Sides, Statistics, StepResult, Target, Targets, TopK, Training, TrainingOptions, Workspace,
    area_under_curve, parameters_hash, shuffle,
};
pub use distdl_engine::config::{Config, ConfigError, Flags, GpuUse, Log, Precision, Progress};
pub use distdl_engine::incremental::{
    Live, LiveFigures, LiveInput, LiveObjects, LiveOptions, LiveRecord, LiveRecords, LiveScope, LiveView, Refreshed,
    Totals,
};
pub use distdl_engine::{
    Accumulator, Broadcast, CancelHandle, Cogrouped, Context, Dataset, DatasetId, Determinacy, DeviceMap, EngineError,
    FullyJoined, HashPartitioner, Histogram, Iteration, JobProgress, Key, KeyRange, Lane, LaneData, LanePartition,
    LaneRecords, LiveError, LongestTask, Metrics, Notice, Parameters, PartitionFunction, PartitionIter, Partitioner,
    Placement, RangePartitioner, ReadGuard, Resident, SaveOptions, ShardBefore, ShardUpdate, ShardValues, SlotValues,
    SquareSum, Staleness, Stats, StepReport, Tallies, UpdateFormat, WorkerTimes,
};
pub use distdl_storage::array::Element;
#[cfg(feature = "arrow")]
pub use distdl_storage::arrow::ArrowOptions;
pub use distdl_storage::csv::CsvOptions;
pub use distdl_storage::object::Object;
#[cfg(feature = "parquet")]
pub use distdl_storage::parquet::ParquetOptions;
pub use distdl_storage::remote::{Existing, key_of_name};
pub use distdl_storage::text::{FileCompression, TextOptions};
pub use distdl_storage::{BadRecord, Level, Record, Records, StorageError};

/// What most programs need.
pub mod prelude {
    pub use crate::report::Reporter;
    pub use crate::{
        Accumulator, Activate, Activation, Adagrad, Adam, AdamW, Augmentation, AvgPool2d, BadRecord, BatchNorm,
        BestModels, Broadcast, CheckpointOptions, Compression, Config, Context, Conv2d, CsvOptions, Dataset, Decay,
        Dense, Dropout, Embedding, Existing, Failure, Features, FileCompression, Flags, Flatten, Gelu, GpuUse,
        HashPartitioner, Image, Input, Key, Lamb, LayerNorm, Level, Loss, MaxPool2d, Mnist, NetworkBuilder,
        NeuralNetwork, Normalization, PartitionFunction, PartitionIter, Partitioner, Plateau, PrepareSamples, Record,
        Resume, RmsProp, SampleTargets, Samples, SaveOptions, Schedule, Sgd, Staleness, Training, TrainingOptions, run,
    };
}

/// Any error of a driver program. Those of the crates are [`dl::Error`], [`EngineError`] and [`StorageError`]; layers,
/// losses and optimizers of one's own return a [`dl::Result`].
pub type Failure = Box<dyn Error + Send + Sync>;

/// Runs a driver program with a context made from a configuration; with `--processes` more than 1, in as many processes
/// that this one starts and watches over, as the name node of their cluster. An error goes to standard error as one
/// message, and ends the process with exit code 1, and so does a panic of the program. A process that its cluster has
/// given up ends within some seconds, whatever the program does.
///
/// SIGINT, SIGTERM and SIGHUP end the process or processes, which take along what they have on disk, also as the first
/// process of a container. In one process this is so only for those of them about which nothing is done when this
/// begins: a program that handles or ignores one itself says so before.
///
/// ```no_run
/// use distdl::prelude::*;
///
/// fn main() -> std::process::ExitCode {
///     distdl::run(Config::from_args(), |context| {
///         println!("{}", context.range(0..10, 2).map(|x| x * x).collect()?.len());
///         Ok(())
///     })
/// }
/// ```
pub fn run<E: Into<Failure>>(
    config: Result<Config, E>,
    program: impl FnOnce(&Context) -> Result<(), Failure>,
) -> ExitCode {
    let mut signals = None;
    let outcome = config.map_err(Into::into).and_then(|config| {
        log::to_standard_error(config.log);
        if config.join.is_none() && config.processes > 1 {
            return Ok(run_name_node(NameNodeOptions::for_this_program(config)?));
        }
        let signals = signals.insert(SignalledEnd::begin());
        let context = match Context::new(config) {
            // It was started for a process that was lost, and the others were done without it.
            Err(EngineError::ProgramEnded) => return Ok(ExitCode::SUCCESS),
            context => context?,
        };
        context.end_process_with_membership();
        signals.with_blocks(context.store());
        // A process that just ended would be taken for lost, and started again to the same end.
        let outcome = catch_unwind(AssertUnwindSafe(|| program(&context)));
        let outcome =
            outcome.unwrap_or_else(|panic| Err(format!("the program panicked: {}", panic_text(&*panic)).into()));
        // What a signal has taken away is no failure of the program's.
        signals.wait_if_signalled();
        let is_member = context.leave(outcome.as_ref().err().map(|error| with_sources(error.as_ref())));
        match outcome {
            // The name node says it, once for all processes. Whoever started this one elsewhere may not look there.
            Err(_) if is_member && context.is_child() => Ok(ExitCode::FAILURE),
            outcome => outcome.map(|()| ExitCode::SUCCESS),
        }
    });
    if let Some(signals) = signals {
        signals.wait_if_signalled();
    }
    outcome.unwrap_or_else(|error: Failure| {
        // Whether anybody can be told changes nothing.
        let _ = writeln!(stderr(), "error: {}", with_sources(error.as_ref()));
        ExitCode::FAILURE
    })
}

/// An error's message, and those of what has caused it as far as they are not in there.
fn with_sources(error: &(dyn Error + 'static)) -> String {
    let mut message = error.to_string();
    for source in std::iter::successors(error.source(), |source| (*source).source()) {
        let text = source.to_string();
        if !message.contains(&text) {
            message += ": ";
            message += &text;
        }
    }
    message
}

#[cfg(test)]
mod tests {
    use std::fmt::{Display, Formatter, Result};

    use super::*;

    /// Words, and what has caused them.
    #[derive(Debug)]
    struct Caused(&'static str, Option<Box<Caused>>);

    impl Display for Caused {
        fn fmt(&self, formatter: &mut Formatter<'_>) -> Result {
            formatter.write_str(self.0)
        }
    }

    impl Error for Caused {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            self.1.as_deref().map(|cause| cause as _)
        }
    }

    #[test]
    fn a_message_has_its_causes_once() {
        let cause = |words, of| Some(Box::new(Caused(words, of)));
        let deepest = cause("no such file", None);
        let error = Caused("no model: not read", cause("not read", cause("model.bin", deepest)));
        assert_eq!(with_sources(&error), "no model: not read: model.bin: no such file");
    }
}
