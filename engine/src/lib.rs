//! Datasets with lineage on timely workers.
//!
//! Read the modules in this order, which is the way of the data: a source becomes lineage, an action makes a plan of
//! it, the dataflow runs the plan as stages on timely workers, and blocks keep what is persisted.

pub mod config;
mod id;
mod exclusive;
pub mod device;
mod error;
mod cancel;
mod metrics;
mod notices;
mod outputs;
mod progress;
pub mod cluster;
mod batch;
mod task;
mod working;
mod partitioner;
mod lineage;
mod memo;
mod plan;
mod evaluate;
mod updates;
pub mod tree;
mod staleness;
mod square_sum;
pub mod parameters;
mod iteration;
mod dataflow;
mod accumulator;
mod broadcast;
mod context;
mod collective;
mod jobs;
mod dataset;
mod source;
mod shuffle;
mod pair;
mod action;
pub mod incremental;
mod iterate;
mod explain;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

pub use accumulator::Accumulator;
pub use action::{Histogram, SaveOptions, Stats};
pub use batch::PartitionIter;
pub use broadcast::Broadcast;
pub use cancel::CancelHandle;
pub use config::Config;
pub use context::{Context, Notice};
pub use dataset::{Dataset, DeviceMap};
pub use error::{EngineError, LiveError, Result, panic_text};
pub use id::DatasetId;
pub use iterate::{LaneData, LanePartition, LaneRecords, Resident, SpillWriter};
pub use iteration::{Iteration, Lane, Placement, ShardUpdate, StepReport, Tallies};
pub use lineage::Determinacy;
pub use metrics::{Metrics, WorkerTimes};
pub use pair::{Cogrouped, FullyJoined};
pub use parameters::{Parameters, RangeGuard, ReadGuard, ShardBefore, ShardValues, SlotValues};
pub use partitioner::{HashPartitioner, Key, KeyRange, PartitionFunction, Partitioner, RangePartitioner};
pub use progress::{JobProgress, LongestTask};
pub use square_sum::SquareSum;
pub use staleness::{LAG_MAX, Staleness};
pub use updates::UpdateFormat;
