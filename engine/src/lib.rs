//! Datasets with lineage on timely workers.
//!
//! Read the modules in this order, which is the way of the data: a source becomes lineage, an action makes a plan of
//! it, the dataflow runs the plan as stages on timely workers, and blocks keep what is persisted.

pub mod config;
pub mod id;
mod exclusive;
pub mod device;
pub mod error;
pub mod cancel;
pub mod metrics;
mod notices;
pub mod outputs;
pub mod progress;
pub mod cluster;
pub mod batch;
pub mod task;
mod working;
mod runs;
pub mod partitioner;
pub mod lineage;
pub mod memo;
pub mod plan;
pub mod recover;
pub mod assign;
pub mod evaluate;
pub mod updates;
pub mod tree;
pub mod staleness;
pub mod square_sum;
pub mod parameters;
pub mod iteration;
pub mod dataflow;
pub mod accumulator;
pub mod broadcast;
pub mod context;
mod collective;
mod jobs;
pub mod dataset;
pub mod source;
pub mod shuffle;
pub mod pair;
pub mod action;
pub mod incremental;
pub mod iterate;
pub mod explain;
pub mod testing;

pub use accumulator::Accumulator;
pub use action::{Histogram, Stats};
pub use batch::PartitionIter;
pub use broadcast::Broadcast;
pub use cancel::CancelHandle;
pub use config::Config;
pub use context::{Context, Notice};
pub use dataset::{Dataset, DeviceMap};
pub use error::{EngineError, LiveError, Result};
pub use id::DatasetId;
pub use iterate::{LaneData, LanePartition, LaneRecords, Resident};
pub use iteration::{Iteration, Lane, Placement, ShardUpdate, StepReport, Tallies};
pub use lineage::Determinacy;
pub use metrics::{Metrics, WorkerTimes};
pub use parameters::{Parameters, RangeGuard, ReadGuard, ShardBefore, ShardValues, SlotValues};
pub use partitioner::{HashPartitioner, Key, PartitionFunction, Partitioner};
pub use progress::JobProgress;
pub use square_sum::SquareSum;
pub use staleness::Staleness;
pub use updates::UpdateFormat;
