//! For tests of tiers, and of what is built on them: a suite that every tier passes, and a tier that fails on demand.

mod conformance;
mod fault;

pub use self::conformance::conformance;
pub use self::fault::{FaultTier, Faults, Gate, GetFault, Pause, PutFault};
