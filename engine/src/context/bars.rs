//! How far the action of a context is, and the thread that draws it.

use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};

use super::Context;
use crate::error::{EngineError, Result};
use crate::progress::{Board, JobProgress};
use crate::task::Resources;

impl Context {
    /// How far the action is that runs in this process, for people; `None` while none does.
    pub fn progress(&self) -> Option<JobProgress> {
        self.inner.resources.progress()
    }

    /// Draws no bar of actions in this process from now on, whatever the configuration says: for programs that draw their
    /// own.
    pub fn hide_progress(&self) {
        self.inner.resources.board.hide();
    }
}

/// Starts the thread that draws how far actions are, until the other end of the channel is dropped.
pub(super) fn draw(resources: &Arc<Resources>) -> Result<Sender<()>> {
    let (sender, over) = channel();
    let weak = Arc::downgrade(resources);
    let look = move |draw: &dyn Fn(&Board, Option<JobProgress>)| {
        let resources = weak.upgrade();
        resources.is_some_and(|resources| {
            draw(&resources.board, resources.progress());
            true
        })
    };
    let thread = std::thread::Builder::new().name("distdl-progress".to_owned());
    let started = thread.spawn(move || Board::watch(&over, look));
    started.map_err(|error| EngineError::WorkersStopped {
        reason: format!("cannot start a thread: {error}"),
    })?;
    Ok(sender)
}
