//! For tests of tiers and commits, and of what is built on them: a suite that every tier passes, and a tier and an
//! object store that fail on demand.

mod conformance;
mod fault;
mod fault_store;

pub use self::conformance::conformance;
pub use self::fault::{FaultTier, Faults, Gate, GetFault, Pause, PutFault};
pub use self::fault_store::{FaultStore, ReadFault, StoreFaults, WriteFault};
