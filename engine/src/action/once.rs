//! What one process does for all.

use std::fmt::Display;
use std::panic::Location;

use distdl_storage::Record;

use crate::context::Context;
use crate::error::{EngineError, Result};

impl Context {
    /// Runs `function` in one process for all of a cluster, in another one if that dies before its answer is known, and
    /// gives the answer to each. What a driver program does outside of datasets is done by every process, and again by
    /// one that is started for a process that was lost: files that it writes or removes, rows that it inserts, belong
    /// in here.
    ///
    /// It may be begun more than once where processes die, so it must bear being begun again, also when it was half
    /// done, and is to take seconds rather than minutes. Once its answer is known it is never run again: a process that
    /// comes later is told the answer.
    ///
    /// ```
    /// # use distdl_engine::{Config, Context};
    /// # let context = Context::new(Config::default())?;
    /// # let folder = tempfile::tempdir().expect("a folder");
    /// # let path = folder.path().join("squares");
    /// # let url = path.to_str().expect("UTF-8").to_owned();
    /// # std::fs::create_dir(&path).expect("an old one");
    /// context.once(move || match path.exists() {
    ///     true => std::fs::remove_dir_all(&path),
    ///     false => Ok(()),
    /// })?;
    /// context.range(0..5, 2).map(|number| number * number).save_as_text_file(&url)?;
    /// # Ok::<(), distdl_engine::EngineError>(())
    /// ```
    ///
    /// # Errors
    /// [`EngineError::Operator`] with the words of the error of `function`, in all processes; otherwise as any action.
    #[track_caller]
    pub fn once<R: Record, E: Display>(
        &self,
        function: impl Fn() -> std::result::Result<R, E> + Send + Sync + 'static,
    ) -> Result<R> {
        let site = Location::caller();
        once(self, move || {
            function().map_err(|error| EngineError::Operator {
                operator: "once".into(),
                site: site.to_string(),
                partition: 0,
                message: error.to_string(),
            })
        })
    }
}

/// The same with an error of the engine's own.
#[track_caller]
pub(super) fn once<R: Record>(
    context: &Context,
    function: impl Fn() -> Result<R> + Send + Sync + 'static,
) -> Result<R> {
    let mut answers = context.range(0..1, 1).run_partitions(move |_, _| function())?;
    answers.pop().ok_or_else(|| EngineError::WorkersStopped {
        reason: "an action of one partition had no answer".into(),
    })
}
