//! Whether what lanes get of steps suits the options.

use distdl_engine::Staleness;

use super::TrainingOptions;
use crate::deal::Deal;
use crate::error::{Error, Result};
use crate::network::NeuralNetwork;

impl TrainingOptions {
    /// Errors if lanes cannot learn as they are to from their shares of steps; a warning tells of lanes without any.
    pub(super) fn check_shares(&self, network: &NeuralNetwork, deal: &Deal) -> Result<()> {
        self.check_lanes_that_wait_for_nobody(deal)?;
        self.check_rows(network, deal)?;
        if let Some(problem) = lanes_without_samples(deal) {
            tracing::warn!("{problem}");
        }
        Ok(())
    }

    /// A layer that measures its rows would not once do so where all passes are of one row.
    fn check_rows(&self, network: &NeuralNetwork, deal: &Deal) -> Result<()> {
        let Some((layer, kind)) = network.measures_several_rows() else {
            return Ok(());
        };
        let (why, remedy) = match (self.micro_batch, deal.deals_singly()) {
            (Some(1), _) => ("`micro_batch` is 1".to_owned(), "give micro-batches at least 2 samples"),
            (_, true) => (
                format!(
                    "a `batch` of {} over {} `lanes` is one sample a lane",
                    self.batch, self.lanes
                ),
                "raise `batch`, or lower `lanes`",
            ),
            _ => return Ok(()),
        };
        Err(Error::Options(format!(
            "layer {layer} ({kind}) takes mean and variance of the rows that a lane computes at a time, and one row has no variance: {why}, so it \
             would never measure, and its running statistics would stay as they begin; {remedy}, or freeze the layer"
        )))
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

/// What is said where partitions are so uneven that some lanes have nothing to do.
fn lanes_without_samples(deal: &Deal) -> Option<String> {
    let lanes = deal.lengths.len();
    let idle = deal.lengths.iter().filter(|length| **length == 0).count();
    (idle > 0).then(|| {
        format!(
            "{idle} of {lanes} lanes have no samples, since their partitions are empty, and nothing to do: `shuffle_samples` deals \
             samples evenly"
        )
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn lanes_that_have_nothing_to_do_are_counted() {
        let said = |lengths: &[u32]| lanes_without_samples(&Deal::new(lengths.to_vec(), 10).unwrap());
        assert_eq!(said(&[99, 1]), None);
        assert!(said(&[100, 0, 0]).unwrap().starts_with("2 of 3 lanes have no samples"));
    }
}
