//! Actions take turns.

use super::Context;
use crate::cancel::RunningAction;
use crate::error::{EngineError, Result};
use crate::exclusive::Entered;
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
    ///
    /// # Errors
    /// [`EngineError::NestedAction`]; [`EngineError::Cancelled`] if a limit of this thread passes before it is its turn.
    pub(crate) fn begin_action(&self, target: &Node) -> Result<Turn<'_>> {
        self.check_outside()?;
        let passed = || self.passed_alone(target);
        let turn = self.inner.action.enter_unless(passed)?;
        let turn = turn.ok_or(EngineError::NestedAction)?;
        Ok(Turn {
            board: &self.inner.resources.board,
            running: self.inner.cancellation.begin(action_on(target)),
            _turn: turn,
        })
    }

    /// The error of an action of this thread that waits, if a limit has passed. In a cluster the others wait for it: there it
    /// begins, and ends by itself then.
    pub(super) fn passed_alone(&self, target: &Node) -> Option<EngineError> {
        match self.member() {
            Some(_) => None,
            None => self.inner.cancellation.passed_here(&action_on(target)),
        }
    }
}

/// The turn of an action, until it is dropped.
pub(crate) struct Turn<'a> {
    board: &'a Board,
    /// By which it may be cancelled.
    pub(crate) running: RunningAction<'a>,
    _turn: Entered<'a>,
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
