//! What the programs say and leave behind: bad input ends in one message that names file, place and remedy, with exit
//! code 1 (2 for wrong usage), and nothing half-written.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod workplace;

mod classifier;
mod devices;
mod failures;
mod launches;
mod runs;
