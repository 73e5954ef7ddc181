//! GPUs that stay open between handles on them.

use std::collections::BTreeMap;
use std::fmt::{Debug, Formatter};
use std::sync::{Arc, Mutex, PoisonError};

use cudarc::driver::{CudaContext, DriverError};

use super::buffer::bind;

/// Of each GPU that was opened, by its index, what keeps it open: the driver closes one that nobody has, and all that it has
/// loaded there goes, too. Says nothing of what was found, so that all are equal.
#[derive(Clone, Default)]
pub(super) struct Opened(Arc<Mutex<BTreeMap<usize, Arc<CudaContext>>>>);

impl Opened {
    /// Keeps a GPU open from now on. One that has been lost is closed before, as far as nobody else has it open: that is how
    /// it comes back.
    pub(super) fn keep(&self, index: usize) -> Result<(), DriverError> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_well = |context: &Arc<CudaContext>| bind(context).and_then(|()| context.mem_get_info()).is_ok();
        if kept.get(&index).is_some_and(is_well) {
            return Ok(());
        }
        kept.remove(&index);
        kept.insert(index, CudaContext::new(index)?);
        Ok(())
    }
}

impl Debug for Opened {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Opened")
    }
}

impl PartialEq for Opened {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Opened {}
