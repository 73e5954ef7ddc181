//! Actions of a context run one after another.

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

    /// Waits until no other action of this context runs, and begins one on a dataset.
    ///
    /// # Errors
    /// [`EngineError::NestedAction`]; [`EngineError::Cancelled`] if a limit of this thread passes before it is its
    /// turn.
    pub(crate) fn begin_action(&self, target: &Node) -> Result<ActionGuard<'_>> {
        self.check_outside()?;
        let passed = || self.passed_alone(target);
        let entered = self.inner.action.enter_unless(passed)?;
        let entered = entered.ok_or(EngineError::NestedAction)?;
        Ok(ActionGuard {
            board: &self.inner.resources.board,
            running: self.inner.cancellation.begin(action_on(target)),
            _entered: entered,
        })
    }

    /// The error of an action of this thread that waits, if a limit has passed. In a cluster the others wait for it:
    /// there it begins, and ends by itself then.
    pub(super) fn passed_alone(&self, target: &Node) -> Option<EngineError> {
        match self.member() {
            Some(_) => None,
            None => self.inner.cancellation.passed_here(&action_on(target)),
        }
    }
}

/// The running action of a context: the next one begins when this is dropped.
pub(crate) struct ActionGuard<'a> {
    board: &'a Board,
    /// By which it may be cancelled.
    pub(crate) running: RunningAction<'a>,
    _entered: Entered<'a>,
}

impl Drop for ActionGuard<'_> {
    fn drop(&mut self) {
        self.board.end();
    }
}

/// What errors call an action.
pub(crate) fn action_on(target: &Node) -> String {
    format!("an action on `{}` (declared at {})", target.title(), target.site)
}
