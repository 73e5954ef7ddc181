//! Which round has made which version of a loop's state: what tells apart versions of one number where results depend
//! on time.

use serde::{Deserialize, Serialize};

/// The generation and the number of a round.
pub(crate) type Origin = (u64, u32);

/// The round that made each version that a process has. Where all rounds would make the same versions nothing is noted,
/// and all have the same origin, as has what a loop begins with.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Origins {
    /// The first version that a round made, and the round; ascending.
    spans: Vec<(u64, Origin)>,
}

impl Origins {
    /// The round that made a version. Two processes have the same version if they have one of this number and origin.
    pub(crate) fn of(&self, version: u64) -> Origin {
        let behind = self.spans.partition_point(|(first, _)| *first <= version);
        behind.checked_sub(1).map_or((0, 0), |at| self.spans[at].1)
    }

    /// What comes after `version` is made in `round`, and what was made after it by others is forgotten.
    pub(crate) fn go_on(&mut self, version: u64, round: Origin) {
        self.spans.retain(|(first, _)| *first <= version);
        self.spans.push((version + 1, round));
    }

    /// What there is to know of versions from `oldest` on.
    #[must_use]
    pub(crate) fn since(&self, oldest: u64) -> Self {
        let before = self.spans.partition_point(|(first, _)| *first <= oldest);
        Self {
            spans: self.spans[before.saturating_sub(1)..].to_vec(),
        }
    }

    /// How many rounds are named.
    pub(crate) fn rounds(&self) -> usize {
        self.spans.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_of_the_round_that_made_it_and_not_of_one_that_goes_on_from_it() {
        let mut origins = Origins::default();
        origins.go_on(4, (1, 0));
        origins.go_on(7, (2, 1));
        assert_eq!(
            [4, 5, 7, 8].map(|version| origins.of(version)),
            [(0, 0), (1, 0), (1, 0), (2, 1)]
        );
        // Cut before it made anything, and again with an older version.
        origins.go_on(7, (3, 2));
        origins.go_on(6, (4, 3));
        assert_eq!(
            [5, 6, 7, 9].map(|version| origins.of(version)),
            [(1, 0), (1, 0), (4, 3), (4, 3)]
        );
    }

    #[test]
    fn what_is_kept_for_newer_versions_says_the_same_of_them() {
        let mut origins = Origins::default();
        (0..6).for_each(|round| origins.go_on(3 * u64::from(round), (1, round)));
        for oldest in 0..20 {
            let since = origins.since(oldest);
            assert!((oldest..20).all(|version| since.of(version) == origins.of(version)));
        }
        assert_eq!((origins.rounds(), origins.since(16).rounds()), (6, 1));
    }
}
