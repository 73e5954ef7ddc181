//! Actions take turns.

use std::sync::MutexGuard;

use super::{Context, lock};
use crate::cancel::RunningAction;
use crate::error::{EngineError, Result};
use crate::lineage::Node;
use crate::progress::Board;
use crate::task;

impl Context {
    /// Takes the turn of an action on a dataset.
    pub(crate) fn begin_action(&self, target: &Node) -> Result<Turn<'_>> {
        if task::is_inside() || self.inner.cancellation.runs_here() {
            return Err(EngineError::NestedAction);
        }
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
