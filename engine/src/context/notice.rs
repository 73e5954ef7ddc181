//! What each process says of itself, for all of its cluster to read.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use super::Context;
use crate::cluster::member::Member;
use crate::error::{EngineError, Result};

/// What each process says of itself, figures for example, as it was at the end of the last action. Where an action ends
/// by an error, some of it may be older.
///
/// ```
/// use std::sync::Arc;
/// use std::sync::atomic::{AtomicU64, Ordering};
///
/// use distdl_engine::{Config, Context};
///
/// let context = Context::new(Config::default())?;
/// let (notice, seen) = (context.notice(), Arc::new(AtomicU64::new(0)));
/// let counted = Arc::clone(&seen);
/// notice.say(move || Some(counted.load(Ordering::Relaxed).to_le_bytes().to_vec().into()))?;
/// context.range(0..10, 2).for_each_partition(move |_, numbers| {
///     seen.fetch_add(numbers.count() as u64, Ordering::Relaxed);
/// })?;
/// // Of each process how many of the numbers it has seen.
/// let counts = notice.said().into_values().map(|bytes| bytes[0]);
/// assert_eq!(counts.sum::<u8>(), 10);
/// # Ok::<(), distdl_engine::EngineError>(())
/// ```
#[derive(Debug)]
pub struct Notice {
    context: Context,
    number: u64,
}

impl Context {
    /// A notice. Every process makes the same ones in the same order, whether or not it has something to say.
    pub fn notice(&self) -> Notice {
        Notice {
            context: self.clone(),
            number: self.inner.resources.notices.number(),
        }
    }
}

impl Notice {
    /// From now on, and until this is dropped, `what` is asked at the end of each action what this process has to say,
    /// if anything: up to 4 KiB, else it is left out, with a warning. All of the cluster waits for it, so it is to be
    /// quick, and to begin no action; if it panics, it is asked no more. It keeps alive what it has, which should not
    /// be a context.
    ///
    /// # Errors
    /// If this process has 64 notices already.
    pub fn say(&self, what: impl Fn() -> Option<Bytes> + Send + Sync + 'static) -> Result<()> {
        match self.context.inner.resources.notices.add(self.number, Arc::new(what)) {
            true => Ok(()),
            false => Err(EngineError::invalid(
                "this process says something in 64 notices already",
                "drop those that nobody reads any more",
            )),
        }
    }

    /// What the processes of the cluster that live, this one included, have said, each by its place, counted from 0,
    /// and its life: another number once the process has died and was started again. Nothing before the first action.
    /// Without a cluster it is what this process, 0, says now.
    pub fn said(&self) -> BTreeMap<(usize, u64), Bytes> {
        let own = || {
            let said = self.context.inner.resources.notices.said().remove(&self.number);
            said.map(|said| ((0, 0), said)).into_iter().collect()
        };
        let member = self.context.member();
        member.map_or_else(own, |member: &Member| member.said(self.number))
    }
}

impl Drop for Notice {
    fn drop(&mut self) {
        self.context.inner.resources.notices.remove(self.number);
    }
}
