//! The closure of the driver program that sees the steps of an iteration.

use crate::error::{EngineError, Result, in_driver};
use crate::iteration::{Iteration, StepReport};

/// Shows steps to the closure, until it panics: that ends the iteration, as a panic of a lane does.
pub(crate) struct Observer<'a> {
    observe: &'a mut dyn FnMut(&StepReport),
    site: String,
    failed: Option<EngineError>,
}

impl<'a> Observer<'a> {
    /// For the steps of `iteration`.
    pub(crate) fn new(iteration: &Iteration, observe: &'a mut dyn FnMut(&StepReport)) -> Self {
        Self {
            observe,
            site: iteration.site.to_string(),
            failed: None,
        }
    }

    /// Shows a step. Errors if the closure panics, or has panicked before and so is not called any more.
    pub(crate) fn show(&mut self, report: &StepReport) -> Result<()> {
        if self.failed.is_none() {
            let seen = in_driver("iterate (what sees its steps)", &self.site, || (self.observe)(report));
            self.failed = seen.err();
        }
        self.failed.clone().map_or(Ok(()), Err)
    }
}
