//! GPUs that stay open between handles on them.

use std::collections::BTreeMap;
use std::fmt::{Debug, Formatter};
use std::sync::{Arc, Mutex, PoisonError};

use cudarc::driver::{CudaContext, DriverError};

use super::buffer::bind;
use crate::exclusive::Exclusive;

/// Of each GPU that was opened, by its index, what keeps it open: the driver closes one that nobody has, and all that it has
/// loaded there goes, too. Says nothing of what was found, so that all are equal.
#[derive(Clone, Default)]
pub(super) struct Opened(Arc<Mutex<BTreeMap<usize, Kept>>>);

/// What keeps a GPU open, and the turns at it.
type Kept = (Arc<CudaContext>, Arc<Exclusive>);

impl Opened {
    /// Keeps a GPU open from now on, and gives the turns at it. One that has been lost is closed before, as far as nobody else
    /// has it open: it comes back where the driver can bring it back. Most failures of kernels (700, 719) a real one keeps for as
    /// long as the process lives, which has to be started again.
    pub(super) fn keep(&self, index: usize) -> Result<Arc<Exclusive>, DriverError> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_well = |(context, _): &&Kept| bind(context).and_then(|()| context.mem_get_info()).is_ok();
        if let Some((_, capturing)) = kept.get(&index).filter(is_well) {
            return Ok(Arc::clone(capturing));
        }
        kept.remove(&index);
        let capturing = Arc::default();
        kept.insert(index, (CudaContext::new(index)?, Arc::clone(&capturing)));
        Ok(capturing)
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
