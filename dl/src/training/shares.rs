//! Whether what lanes get of steps suits the options.

use distdl_engine::Staleness;

use super::TrainingOptions;
use crate::deal::Deal;
use crate::error::{Error, Result};

impl TrainingOptions {
    /// Errors if lanes cannot learn as they are to from their shares of steps.
    pub(super) fn check_shares(&self, deal: &Deal) -> Result<()> {
        self.check_lanes_that_wait_for_nobody(deal)
    }

    /// Where updates take the places of steps as they come, a lane that has nothing to compute would take most of them.
    fn check_lanes_that_wait_for_nobody(&self, deal: &Deal) -> Result<()> {
        if self.staleness != Staleness::Asynchronous {
            return Ok(());
        }
        let Some((lane, length)) = deal.lane_with_empty_shares() else {
            return Ok(());
        };
        let samples: u64 = deal.lengths.iter().map(|length| u64::from(*length)).sum();
        Err(Error::Data(format!(
            "lane {lane} has {length} of the {samples} samples, so there are steps of {} of which it takes none; with \
             `Staleness::Asynchronous` it would wait for nobody, and fill steps with nothing: deal the samples to partitions that are \
             alike, or take fewer lanes, a larger `batch` or another staleness",
            self.batch
        )))
    }
}
