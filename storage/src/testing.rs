//! For tests of tiers and commits, and of what is built on them: a suite that every tier passes, and a tier, an
//! object store and a device that fail on demand.

mod conformance;
mod cutting;
mod fault;
mod fault_store;
mod host_device;
mod waiting;

pub use self::conformance::{conformance, device_conformance};
pub use self::cutting::chunks_count;
pub use self::fault::{FaultTier, Faults, Gate, GetFault, Pause, PutFault};
pub use self::fault_store::{FaultStore, ReadFault, StoreFaults, WriteFault};
pub use self::host_device::{DeviceFault, HostBuffer, HostDevice};
pub use self::waiting::{WAIT_MAX, wait_until};
