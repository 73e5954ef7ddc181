//! GPUs that stay open between handles on them.

use std::collections::BTreeMap;
use std::fmt::{Debug, Formatter};
use std::sync::{Arc, Mutex, Weak};

use cudarc::driver::{CudaContext, DriverError};
use distdl_storage::{DeviceBudget, Unpoisoned};

use super::buffer::bind;
use crate::exclusive::Exclusive;

/// Who uses each GPU alone, by its index: of all handles of the process, whichever context they belong to. They lie
/// here since what they keep apart does, too: the driver has one context of a GPU for a process, and lets nobody of it
/// wait for all of that while somebody captures.
static EXCLUSIVE_USE: Mutex<BTreeMap<usize, Arc<Exclusive>>> = Mutex::new(BTreeMap::new());

/// Who may have memory of a GPU that nobody works with at the moment.
pub trait Reclaim: Send + Sync {
    /// Frees that memory, for another that lacks it. Any thread may ask for it, at any time.
    fn reclaim(&self);
}

/// Those that may have memory of a GPU to spare, and some that have gone.
type Reclaims = Vec<Weak<dyn Reclaim>>;

/// Of each GPU that was opened, by its index, what keeps it open: the driver closes one that nobody has, and all that
/// it has loaded there goes, too; what keeps data there shares; and who has memory there to spare. Says nothing of what
/// was found, so that all are equal.
#[derive(Clone, Default)]
pub(super) struct Opened {
    contexts: Arc<Mutex<BTreeMap<usize, Arc<CudaContext>>>>,
    budgets: Arc<Mutex<BTreeMap<usize, DeviceBudget>>>,
    reclaims: Arc<Mutex<BTreeMap<usize, Reclaims>>>,
}

impl Opened {
    /// Keeps a GPU open from now on, and gives what its exclusive use goes by. One that has been lost is closed before,
    /// as far as nobody else has it open: it comes back where the driver can bring it back. Most failures of kernels
    /// (700, 719) a real one keeps for as long as the process lives, which has to be started again.
    pub(super) fn keep(&self, index: usize) -> Result<Arc<Exclusive>, DriverError> {
        let mut kept = self.contexts.lock().unpoisoned();
        let is_well = |context: &Arc<CudaContext>| bind(context).and_then(|()| context.mem_get_info()).is_ok();
        if !kept.get(&index).is_some_and(is_well) {
            kept.remove(&index);
            kept.insert(index, CudaContext::new(index)?);
        }
        Ok(Arc::clone(EXCLUSIVE_USE.lock().unpoisoned().entry(index).or_default()))
    }

    /// What is taken of a GPU's memory for data that stays there.
    pub(super) fn budget(&self, index: usize) -> DeviceBudget {
        self.budgets.lock().unpoisoned().entry(index).or_default().clone()
    }

    /// Says who may have memory of a GPU to spare, as long as it is there.
    pub(super) fn register_reclaim(&self, index: usize, who: Weak<dyn Reclaim>) {
        let mut reclaims = self.reclaims.lock().unpoisoned();
        let of_gpu = reclaims.entry(index).or_default();
        of_gpu.retain(|who| who.strong_count() > 0);
        of_gpu.push(who);
    }

    /// Has all free what they can spare of a GPU.
    pub(super) fn reclaim(&self, index: usize) {
        let of_gpu = self
            .reclaims
            .lock()
            .unpoisoned()
            .get(&index)
            .cloned()
            .unwrap_or_default();
        of_gpu.iter().filter_map(Weak::upgrade).for_each(|who| who.reclaim());
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
