//! Where a loop goes on after members were lost or taken in: a pure decision over what its members report.

use std::collections::{BTreeMap, BTreeSet};

use super::protocol::LoopState;

/// The version that a loop resumes from, and the rank that gives its parameters to those that lack it. `states` are by
/// rank of the new generation.
///
/// It is the newest version of which one member has all parameters and of which every shard has its optimizer state on
/// some member. A shard counts as soon as one report names it, and a report names every shard of the loop, with no
/// versions for those whose state it does not keep: otherwise a shard whose keepers all died would go unnoticed.
/// Without such a version the loop starts over from `first_step`, which every member can make by itself.
pub fn resume(states: &[LoopState], first_step: u64) -> (u64, Option<u32>) {
    let shards = versions_by_shard(states);
    let mut offered: BTreeSet<u64> = states.iter().flat_map(|state| &state.versions).copied().collect();
    offered.retain(|version| *version >= first_step && shards.values().all(|kept| kept.contains(version)));
    let newest = offered
        .last()
        .and_then(|version| Some((*version, lowest_rank(states, *version)?)));
    newest.map_or((first_step, None), |(version, rank)| (version, Some(rank)))
}

/// As [`resume`], for a loop whose results may depend on time: with what each member is taken to have by that. Versions of
/// an earlier round than the last one are others, whatever their numbers, and only those that the loop began with are
/// the same for all.
pub fn resume_from(states: Vec<LoopState>, first_step: u64) -> (u64, Option<u32>, Vec<LoopState>) {
    let newest = states.iter().map(|state| state.made_in).max().unwrap_or_default();
    let last = only(&states, |state, _| state.made_in == newest);
    match resume(&last, first_step) {
        (version, Some(source)) => (version, Some(source), last),
        (_, None) => {
            let first = only(&states, |_, version| version == first_step);
            let (version, source) = resume(&first, first_step);
            (version, source, first)
        }
    }
}

/// States with the versions that `is_had`. All shards stay named.
fn only(states: &[LoopState], is_had: impl Fn(&LoopState, u64) -> bool) -> Vec<LoopState> {
    let kept = |state: &LoopState| {
        let had = |versions: &[u64]| {
            versions
                .iter()
                .copied()
                .filter(|version| is_had(state, *version))
                .collect()
        };
        LoopState {
            versions: had(&state.versions),
            made_in: state.made_in,
            shards: state.shards.iter().map(|(shard, kept)| (*shard, had(kept))).collect(),
        }
    };
    states.iter().map(kept).collect()
}

fn versions_by_shard(states: &[LoopState]) -> BTreeMap<u32, BTreeSet<u64>> {
    let mut shards: BTreeMap<u32, BTreeSet<u64>> = BTreeMap::new();
    for (shard, versions) in states.iter().flat_map(|state| &state.shards) {
        shards.entry(*shard).or_default().extend(versions);
    }
    shards
}

fn lowest_rank(states: &[LoopState], version: u64) -> Option<u32> {
    let rank = states.iter().position(|state| state.versions.contains(&version))?;
    u32::try_from(rank).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn state(versions: &[u64], shards: &[(u32, &[u64])]) -> LoopState {
        LoopState {
            versions: versions.to_vec(),
            made_in: (0, 0),
            shards: shards.iter().map(|(shard, kept)| (*shard, kept.to_vec())).collect(),
        }
    }

    #[test]
    fn nothing_reported_starts_from_the_first_step() {
        assert_eq!(resume(&[], 7), (7, None));
        assert_eq!(resume(&[LoopState::default(), LoopState::default()], 7), (7, None));
    }

    #[test]
    fn the_newest_version_anywhere_wins_and_the_lowest_rank_gives_it() {
        let states = [state(&[4, 5], &[]), state(&[5, 6], &[]), state(&[6], &[])];
        assert_eq!(resume(&states, 0), (6, Some(1)));
    }

    #[test]
    fn a_version_without_the_state_of_every_shard_is_passed_over() {
        let states = [
            state(&[5, 6], &[(0, &[5, 6]), (1, &[5])]),
            state(&[5, 6], &[(0, &[6]), (1, &[])]),
        ];
        assert_eq!(resume(&states, 0), (5, Some(0)));
    }

    #[test]
    fn a_shard_that_nobody_keeps_any_more_starts_the_loop_over() {
        let states = [state(&[5, 6], &[(0, &[5, 6]), (1, &[])])];
        assert_eq!(resume(&states, 2), (2, None));
    }

    #[test]
    fn versions_from_before_the_loop_do_not_count() {
        assert_eq!(resume(&[state(&[3], &[])], 4), (4, None));
    }

    #[test]
    fn versions_of_an_earlier_round_are_others() {
        let mut states = vec![state(&[7, 8], &[(0, &[7, 8])]), state(&[5, 6], &[(0, &[5, 6])])];
        (states[0].made_in, states[1].made_in) = ((1, 4), (2, 0));
        let (version, source, had) = resume_from(states.clone(), 5);
        assert_eq!((version, source), (6, Some(1)));
        assert_eq!(
            (&had[0].versions[..], &had[0].shards[..]),
            (&[][..], &[(0, vec![])][..])
        );
        assert_eq!(had[1], states[1]);
        // All that the last round made is lost: who has just come has what the loop began with.
        states[1].shards[0].1.clear();
        states.push(state(&[5], &[(0, &[5])]));
        let (version, source, had) = resume_from(states, 5);
        assert_eq!((version, source), (5, Some(1)));
        assert_eq!(had[2].versions, [5]);
    }

    proptest! {
        #[test]
        fn the_decision_is_possible_and_none_newer_is(
            reports in vec((vec(0..6_u64, 0..4), vec(vec(0..6_u64, 0..4), 2)), 0..5),
            first_step in 0..3_u64,
        ) {
            let states: Vec<LoopState> = reports
                .into_iter()
                .map(|(versions, kept)| LoopState { versions, made_in: (0, 0), shards: (0_u32..).zip(kept).collect() })
                .collect();
            let possible = |version: u64| {
                version >= first_step
                    && states.iter().any(|state| state.versions.contains(&version))
                    && (0..2).all(|shard| states.iter().any(|state| state.shards[shard].1.contains(&version)))
            };
            let (version, source) = resume(&states, first_step);
            prop_assert!((version + 1..8).all(|newer| !possible(newer)));
            match source {
                Some(rank) => {
                    prop_assert!(possible(version));
                    prop_assert!(states[rank as usize].versions.contains(&version));
                    prop_assert!(states[..rank as usize].iter().all(|state| !state.versions.contains(&version)));
                }
                None => prop_assert!(version == first_step && !possible(version)),
            }
        }
    }
}
