//! Where a loop goes on after members were lost or taken in: a pure decision over what its members report.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use super::origins::{Origin, Origins};
use super::protocol::{LoopStart, LoopState};

/// What a loop resumes from. `states` are by rank of the new generation.
///
/// A version can be gone on from if one member has all its parameters and if of every shard some member has its
/// optimizer state. A shard counts as soon as one report names it, and a report names every shard of the loop, with no
/// versions for those whose state it does not keep: otherwise a shard whose keepers all died would go unnoticed.
/// Versions of one number that different rounds have made are different versions. Of those that can be gone on from,
/// one of the last round is taken, and of these the newest: where all rounds make the same, the newest of all.
pub(crate) fn resume(states: &[LoopState], first_step: u64) -> LoopStart {
    let shards = kept_by_shard(states);
    let is_whole = |made: &(Origin, u64)| shards.values().all(|kept| kept.contains(made));
    let offered = (0_u32..).zip(states).flat_map(|(rank, state)| {
        let versions = state.versions.iter().filter(|version| **version >= first_step);
        versions.map(move |version| (made(state, *version), Reverse(rank)))
    });
    match offered.filter(|(made, _)| is_whole(made)).max() {
        Some(((_, version), Reverse(rank))) => LoopStart {
            version,
            source: Some(rank),
            states: states
                .iter()
                .map(|state| of_history(state, &states[rank as usize].origins))
                .collect(),
        },
        None => LoopStart {
            version: first_step,
            source: None,
            states: states.to_vec(),
        },
    }
}

/// A state with those versions alone that are of a history. All shards stay named.
pub(crate) fn of_history(state: &LoopState, history: &Origins) -> LoopState {
    let of = |versions: &[u64]| {
        let same = versions
            .iter()
            .filter(|version| state.origins.of(**version) == history.of(**version));
        same.copied().collect()
    };
    LoopState {
        versions: of(&state.versions),
        origins: state.origins.clone(),
        shards: state.shards.iter().map(|(shard, kept)| (*shard, of(kept))).collect(),
    }
}

fn made(state: &LoopState, version: u64) -> (Origin, u64) {
    (state.origins.of(version), version)
}

fn kept_by_shard(states: &[LoopState]) -> BTreeMap<u32, BTreeSet<(Origin, u64)>> {
    let mut shards: BTreeMap<u32, BTreeSet<(Origin, u64)>> = BTreeMap::new();
    for state in states {
        for (shard, versions) in &state.shards {
            let kept = versions.iter().map(|version| made(state, *version));
            shards.entry(*shard).or_default().extend(kept);
        }
    }
    shards
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
            origins: Origins::default(),
            shards: shards.iter().map(|(shard, kept)| (*shard, kept.to_vec())).collect(),
        }
    }

    /// What `state` has, where rounds have begun at these versions.
    fn made_in(mut state: LoopState, rounds: &[(u64, Origin)]) -> LoopState {
        rounds
            .iter()
            .for_each(|(version, round)| state.origins.go_on(*version, *round));
        state
    }

    fn decision(states: &[LoopState], first_step: u64) -> (u64, Option<u32>) {
        let resumed = resume(states, first_step);
        (resumed.version, resumed.source)
    }

    #[test]
    fn nothing_reported_starts_from_the_first_step() {
        assert_eq!(decision(&[], 7), (7, None));
        assert_eq!(decision(&[LoopState::default(), LoopState::default()], 7), (7, None));
    }

    #[test]
    fn the_newest_version_anywhere_wins_and_the_lowest_rank_gives_it() {
        let states = [state(&[4, 5], &[]), state(&[5, 6], &[]), state(&[6], &[])];
        assert_eq!(decision(&states, 0), (6, Some(1)));
    }

    #[test]
    fn a_version_without_the_state_of_every_shard_is_passed_over() {
        let states = [
            state(&[5, 6], &[(0, &[5, 6]), (1, &[5])]),
            state(&[5, 6], &[(0, &[6]), (1, &[])]),
        ];
        assert_eq!(decision(&states, 0), (5, Some(0)));
    }

    #[test]
    fn a_shard_that_nobody_keeps_any_more_starts_the_loop_over() {
        let states = [state(&[5, 6], &[(0, &[5, 6]), (1, &[])])];
        assert_eq!(decision(&states, 2), (2, None));
    }

    #[test]
    fn versions_from_before_the_loop_do_not_count() {
        assert_eq!(decision(&[state(&[3], &[])], 4), (4, None));
    }

    #[test]
    fn versions_of_an_earlier_round_are_others() {
        let mut states = vec![
            made_in(state(&[7, 8], &[(0, &[7, 8])]), &[(5, (1, 4))]),
            made_in(state(&[6], &[(0, &[6])]), &[(5, (2, 0))]),
        ];
        let resumed = resume(&states, 5);
        assert_eq!((resumed.version, resumed.source), (6, Some(1)));
        let had = &resumed.states[0];
        assert_eq!((&had.versions[..], &had.shards[..]), (&[][..], &[(0, vec![])][..]));
        assert_eq!(resumed.states[1], states[1]);
        // All that the last round made is lost.
        states[1].shards[0].1.clear();
        assert_eq!(decision(&states, 5), (8, Some(0)));
        // And what the one before it made.
        states[0].shards[0].1.clear();
        states.push(state(&[5], &[(0, &[5])]));
        let resumed = resume(&states, 5);
        assert_eq!((resumed.version, resumed.source), (5, Some(2)));
        assert!(resumed.states[..2].iter().all(|state| state.versions.is_empty()));
    }

    /// The round was cut before it made anything, and one member had not heard of it.
    #[test]
    fn who_goes_on_from_a_version_has_the_same_one_as_who_has_not_begun_to() {
        let states = [
            made_in(state(&[6], &[(0, &[6]), (1, &[])]), &[(2, (1, 0)), (6, (2, 1))]),
            made_in(state(&[6], &[(0, &[]), (1, &[6])]), &[(2, (1, 0))]),
        ];
        assert_eq!(decision(&states, 2), (6, Some(0)));
    }

    proptest! {
        #[test]
        fn the_decision_is_possible_and_none_newer_is(
            reports in vec((vec(0..6_u64, 0..4), vec(vec(0..6_u64, 0..4), 2)), 0..5),
            first_step in 0..3_u64,
        ) {
            let states: Vec<LoopState> = reports
                .into_iter()
                .map(|(versions, kept)| LoopState { versions, shards: (0_u32..).zip(kept).collect(), ..LoopState::default() })
                .collect();
            let possible = |version: u64| {
                version >= first_step
                    && states.iter().any(|state| state.versions.contains(&version))
                    && (0..2).all(|shard| states.iter().any(|state| state.shards[shard].1.contains(&version)))
            };
            let (version, source) = decision(&states, first_step);
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
