//! Room in a device's memory that several tiers share.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What tiers have taken of a device's memory, all together; copies count the same. Each tier has a limit of its own
/// for that sum.
#[derive(Debug, Clone, Default)]
pub struct DeviceBudget(Arc<AtomicU64>);

/// What was taken, until it is dropped.
#[derive(Debug)]
pub(super) struct Share {
    budget: DeviceBudget,
    bytes: u64,
}

impl DeviceBudget {
    /// What is taken now, in bytes.
    pub fn taken_bytes(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }

    /// Takes `bytes` bytes, unless the sum were more than `bytes_max` then.
    pub(super) fn take(&self, bytes: u64, bytes_max: u64) -> Option<Share> {
        let more = |taken: u64| taken.checked_add(bytes).filter(|sum| *sum <= bytes_max);
        self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).ok()?;
        Some(Share {
            budget: self.clone(),
            bytes,
        })
    }
}

impl Share {
    /// How much it is, in bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.0.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}
