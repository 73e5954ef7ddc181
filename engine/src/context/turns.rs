//! Actions take turns.

use std::sync::MutexGuard;

use super::{Context, lock};
use crate::cancel::RunningAction;
use crate::error::{EngineError, Result};
use crate::lineage::Node;
use crate::progress::Board;
use crate::task;

impl Context {
    /// Errors on a thread that an action waits for: it would wait for itself.
    pub(crate) fn check_outside(&self) -> Result<()> {
        match task::is_inside() || self.inner.cancellation.runs_here() {
            true => Err(EngineError::NestedAction),
            false => Ok(()),
        }
    }

    /// Takes the turn of an action on a dataset.
    pub(crate) fn begin_action(&self, target: &Node) -> Result<Turn<'_>> {
        self.check_outside()?;
        let turn = lock(&self.inner.action);
        Ok(Turn {
            board: &self.inner.resources.board,
            running: self.inner.cancellation.begin(action_on(target)),
            _turn: turn,
        })
    }
}

/// The turn of an action, until it is dropped.
pub(crate) struct Turn<'a> {
    board: &'a Board,
    /// By which it may be cancelled.
    pub(crate) running: RunningAction<'a>,
    _turn: MutexGuard<'a, ()>,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.board.end();
    }
}

/// What errors call an action.
pub(crate) fn action_on(target: &Node) -> String {
    format!("an action on `{}` (declared at {})", target.title(), target.site)
}
