//! What a report may bring.

use super::cache_directory;
use crate::cluster::protocol::{Inventory, LoopState, Outcome, Report};

/// Runs of partitions and versions that one report may list.
pub(super) const LISTED_MAX: usize = 1 << 22;

/// Whether a report keeps to the limits; what is wrong with it.
pub(super) fn within_limits(report: &Report) -> Result<(), String> {
    let listed = |held: &Inventory| held.values().map(|partitions| partitions.runs() + 1).sum::<usize>();
    let versions = |state: &LoopState| {
        let shards = state.shards.iter().map(|(_, versions)| versions.len() + 1);
        shards.sum::<usize>() + state.versions.len() + state.origins.rounds()
    };
    let count = match report {
        Report::Arrive { held, state, .. } => listed(held) + versions(state),
        Report::Ended {
            held,
            outcome: Outcome::Looped { state, .. },
            ..
        } => listed(held) + versions(state),
        Report::Ended { held, .. } => listed(held),
        Report::Seek { tried, .. } => tried.len(),
        Report::CacheFilter { filter } if filter.len() > cache_directory::FILTER_BYTES_MAX => {
            return Err(format!(
                "its filter has {} bytes, more than the {} allowed",
                filter.len(),
                cache_directory::FILTER_BYTES_MAX
            ));
        }
        Report::Notices { said } => return crate::notices::check(said),
        _ => 0,
    };
    let fault = || format!("it reported {count} runs of partitions and versions, more than the {LISTED_MAX} allowed");
    (count <= LISTED_MAX).then_some(()).ok_or_else(fault)
}
