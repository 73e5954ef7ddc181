//! How far the action of a context is, and the thread that draws it.

use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

use super::Context;
use crate::error::{EngineError, Result};
use crate::progress::{Board, JobProgress};
use crate::task::Resources;

/// Draws until it is dropped. Then the thread is gone, and with it what it may have held of the stores.
pub(super) struct Bars {
    over: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Context {
    /// How far the action is that runs in this process, for people; `None` while none does.
    pub fn progress(&self) -> Option<JobProgress> {
        self.inner.resources.progress()
    }

    /// Draws no bar of actions in this process from now on, whatever the configuration says: for programs that draw
    /// their own.
    pub fn hide_progress(&self) {
        self.inner.resources.board.hide();
    }
}

/// Starts the thread that draws how far actions are.
pub(super) fn draw(resources: &Arc<Resources>) -> Result<Bars> {
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
    let thread = started.map_err(|error| EngineError::NoThread {
        reason: error.to_string(),
    })?;
    Ok(Bars {
        over: Some(sender),
        thread: Some(thread),
    })
}

impl Drop for Bars {
    fn drop(&mut self) {
        drop(self.over.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
