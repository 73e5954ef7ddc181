//! How pieces of work are dealt to members of different speed: pure functions that every process works out alike.
//! Results never depend on a deal.

/// How fast a member is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MemberSpeed {
    /// How long a piece takes there, in any unit that all share; `None` if nobody knows.
    pub cost: Option<u64>,
    /// Pieces that it works on at the same time.
    pub threads: usize,
}

impl MemberSpeed {
    /// How long it takes over a number of pieces.
    fn time(&self, pieces: usize, cost_unknown: u64) -> u64 {
        let turns = pieces.div_ceil(self.threads.max(1)) as u64;
        turns.saturating_mul(self.cost.unwrap_or(cost_unknown).max(1))
    }
}

/// What a piece takes where nobody knows: the mean of what is known.
fn cost_unknown(speeds: &[MemberSpeed]) -> u64 {
    let known: Vec<u64> = speeds.iter().filter_map(|speed| speed.cost).collect();
    let sum = known.iter().fold(0, |sum: u64, cost| sum.saturating_add(*cost));
    sum / known.len().max(1) as u64
}

/// The members that `pieces` go to, one after the other: each to the one that would be done with it first, the lower
/// one of two. Where all are alike they take turns. Empty if there are none.
pub(crate) fn deal(speeds: &[MemberSpeed], pieces: usize) -> Vec<usize> {
    let unknown = cost_unknown(speeds);
    let mut counts = vec![0; speeds.len()];
    let mut dealt = Vec::with_capacity(pieces);
    for _ in 0..pieces {
        // Of two that would be done at the same time, the one with fewer pieces.
        let done = |member: &usize| {
            (
                speeds[*member].time(counts[*member] + 1, unknown),
                counts[*member],
                *member,
            )
        };
        let Some(next) = (0..speeds.len()).min_by_key(done) else {
            return Vec::new();
        };
        counts[next] += 1;
        dealt.push(next);
    }
    dealt
}

/// How long the slowest of the members takes over its pieces.
pub(crate) fn time(speeds: &[MemberSpeed], dealt: &[usize]) -> u64 {
    let unknown = cost_unknown(speeds);
    let count = |member: usize| dealt.iter().filter(|dealt| **dealt == member).count();
    let times = speeds
        .iter()
        .enumerate()
        .map(|(index, speed)| speed.time(count(index), unknown));
    times.max().unwrap_or(0)
}

/// Deals pieces that have lain somewhere before (`None`: nowhere that counts), so that as few move as a fair deal
/// allows. What moves goes to the members in order, neighbours together.
pub(crate) fn deal_again(speeds: &[MemberSpeed], before: &[Option<usize>]) -> Vec<usize> {
    let mut room = vec![0; speeds.len()];
    for member in deal(speeds, before.len()) {
        room[member] += 1;
    }
    let mut stays = |place: &Option<usize>| {
        let room = place
            .and_then(|member| room.get_mut(member))
            .filter(|room| **room > 0)?;
        *room -= 1;
        *place
    };
    let kept: Vec<Option<usize>> = before.iter().map(&mut stays).collect();
    let mut free = (0..speeds.len()).flat_map(|member| std::iter::repeat_n(member, room[member]));
    // There is room for exactly those that did not stay, or there are no members.
    kept.into_iter()
        .filter_map(|kept| kept.or_else(|| free.next()))
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn member(cost: u64) -> MemberSpeed {
        MemberSpeed {
            cost: Some(cost),
            threads: 1,
        }
    }

    #[test]
    fn members_that_are_alike_take_turns() {
        assert_eq!(deal(&[member(5); 3], 7), [0, 1, 2, 0, 1, 2, 0]);
        let unknown = MemberSpeed { cost: None, threads: 2 };
        assert_eq!(deal(&[unknown; 2], 5), [0, 1, 0, 1, 0]);
        assert!(deal(&[], 3).is_empty() && deal_again(&[], &[None, None]).is_empty());
    }

    #[test]
    fn who_takes_longer_gets_less() {
        let speeds = [member(4), member(1)];
        let dealt = deal(&speeds, 5);
        assert_eq!(dealt.iter().filter(|member| **member == 0).count(), 1);
        assert_eq!(time(&speeds, &dealt), 4);
        assert_eq!(time(&speeds, &[0, 1, 0, 1, 0]), 12);
    }

    #[test]
    fn first_deals_keep_neighbours_together_and_later_ones_move_little() {
        let first = deal_again(&[member(1); 3], &[None; 8]);
        assert_eq!(first, [0, 0, 0, 1, 1, 1, 2, 2]);
        // The second one is gone, and another has come behind the third.
        let before: Vec<Option<usize>> = first.iter().map(|member| [Some(0), None, Some(1)][*member]).collect();
        assert_eq!(deal_again(&[member(1); 3], &before), [0, 0, 0, 1, 2, 2, 1, 1]);
        assert_eq!(deal_again(&[member(1); 2], &before), [0, 0, 0, 0, 1, 1, 1, 1]);
    }

    proptest! {
        #[test]
        fn every_piece_is_dealt_and_no_other_deal_is_quicker(
            speeds in vec((prop::option::of(1..6u64), 1..3usize), 1..4),
            before in vec(prop::option::of(0..5usize), 0..7),
        ) {
            let speeds: Vec<MemberSpeed> = speeds.into_iter().map(|(cost, threads)| MemberSpeed { cost, threads }).collect();
            let dealt = deal_again(&speeds, &before);
            prop_assert_eq!(dealt.len(), before.len());
            let counts = |dealt: &[usize]| {
                (0..speeds.len()).map(|member| dealt.iter().filter(|dealt| **dealt == member).count()).collect::<Vec<_>>()
            };
            prop_assert_eq!(counts(&dealt), counts(&deal(&speeds, before.len())));
            let all = speeds.len().pow(before.len() as u32);
            let other = |number: usize| {
                (0..before.len()).map(|piece| number / speeds.len().pow(piece as u32) % speeds.len()).collect::<Vec<_>>()
            };
            let quickest = (0..all).map(|number| time(&speeds, &other(number))).min();
            prop_assert_eq!(Some(time(&speeds, &dealt)), quickest);
            // Nothing moves from a member that has fewer than are dealt to it.
            for (piece, place) in before.iter().enumerate() {
                if let Some(place) = place.filter(|place| *place < speeds.len()) {
                    let had = before.iter().filter(|before| **before == Some(place)).count();
                    prop_assert!(dealt[piece] == place || had > counts(&dealt)[place]);
                }
            }
        }
    }
}
