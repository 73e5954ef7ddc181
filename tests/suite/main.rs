//! What DistDL promises, tested from outside: every operation against a plain program on vectors, loss of blocks at any
//! moment, deep lineages, panics, training and iteration.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod cluster;
mod common;
mod oracle;
mod pipelines;
mod plain_training;

mod accumulators;
mod checkpoints;
mod depth;
mod formats;
mod iteration;
mod losses;
mod operations;
mod panics;
mod pipes;
mod placing;
mod saving;
mod saving_by_key;
mod sources;
mod staleness;
mod statistics;
mod training;
