//! Who is asked for what of remote objects, and who is to fetch what nobody has.

use distdl_storage::Digest;
use distdl_storage::bloom::Bloom;

use super::*;

const KEY: Digest = [7; 32];

/// A name node and members 0, 1 and so on that share, on connections of the same numbers.
struct Sharing(NameNode);

impl Sharing {
    fn of(count: u64) -> Self {
        let mut sharing = Self(NameNode::new(options(count as u32, 0), Duration::ZERO));
        sharing.0.start(Duration::ZERO);
        for number in 0..count {
            sharing.says(number, Report::join(None, None, &number.to_string()));
        }
        (0..count).for_each(|number| drop(sharing.holds(number, &[])));
        sharing
    }

    /// What the name node tells whom in answer.
    fn says(&mut self, number: u64, report: Report) -> Vec<(u64, Order)> {
        let connection = ConnectionId(number);
        sent(self.0.handle(Duration::ZERO, Event::Reported { connection, report }))
    }

    fn holds(&mut self, number: u64, keys: &[Digest]) -> Vec<(u64, Order)> {
        let filter = Bloom::of(keys.iter(), 0.01).snapshot().unwrap().into();
        self.says(number, Report::CacheFilter { filter })
    }

    fn seeks(&mut self, number: u64, tried: &[u64]) -> Vec<(u64, Vec<u64>)> {
        let tried = tried.iter().map(|number| MemberId(*number)).collect();
        let request = 100 + number;
        found(self.says(
            number,
            Report::Seek {
                request,
                key: KEY,
                tried,
            },
        ))
    }

    fn brought(&mut self, number: u64, is_here: bool) -> Vec<(u64, Vec<u64>)> {
        found(self.says(number, Report::Brought { key: KEY, is_here }))
    }

    fn dies(&mut self, number: u64) -> Vec<(u64, Order)> {
        let connection = ConnectionId(number);
        sent(self.0.handle(Duration::ZERO, Event::Disconnected { connection }))
    }
}

fn sent(effects: Vec<Effect>) -> Vec<(u64, Order)> {
    let sent = effects.into_iter().filter_map(|effect| match effect {
        Effect::Send { connection, order } => Some((connection.0, order)),
        _ => None,
    });
    sent.collect()
}

/// Who is told that he may ask whom; none is to fetch it.
fn found(orders: Vec<(u64, Order)>) -> Vec<(u64, Vec<u64>)> {
    let found = orders.into_iter().filter_map(|(to, order)| match order {
        Order::Found { sources, key, request } => {
            assert_eq!((key, request), (KEY, 100 + to));
            Some((to, sources.iter().map(|source| source.member.0).collect()))
        }
        _ => None,
    });
    found.collect()
}

#[test]
fn the_first_brings_it_and_the_others_are_sent_to_him() {
    let mut sharing = Sharing::of(4);
    assert_eq!(sharing.seeks(2, &[]), [(2, vec![])]);
    assert_eq!(sharing.seeks(0, &[]), []);
    assert_eq!(sharing.seeks(1, &[]), []);
    assert_eq!(sharing.brought(2, true), [(0, vec![2]), (1, vec![2])]);
    assert_eq!(
        sharing.seeks(3, &[]),
        [(3, vec![2])],
        "without another word of its filter"
    );
    assert_eq!(sharing.seeks(3, &[2]), [(3, vec![])], "it was not there after all");
}

#[test]
fn a_turn_goes_on_when_it_comes_to_nothing_or_its_member_dies() {
    let mut sharing = Sharing::of(4);
    assert_eq!(sharing.seeks(0, &[]), [(0, vec![])]);
    assert!([1, 2, 3].iter().all(|number| sharing.seeks(*number, &[]).is_empty()));
    assert_eq!(sharing.brought(0, false), [(1, vec![])]);
    sharing.dies(2);
    assert_eq!(found(sharing.dies(1)), [(3, vec![])], "past one who waited and died");
    assert_eq!(sharing.brought(1, true), [], "too late");
    assert_eq!(sharing.brought(3, true), []);
    assert_eq!(sharing.seeks(0, &[]), [(0, vec![3])]);
}

#[test]
fn filters_go_to_all_who_share_and_with_those_who_die() {
    let mut sharing = Sharing::of(3);
    let told = |orders: Vec<(u64, Order)>| {
        let filters = orders.into_iter().filter_map(|(to, order)| match order {
            Order::CacheFilter { of, filter } => {
                let filter = filter.map(|filter| Bloom::from_snapshot(&filter).unwrap().may_contain(&KEY));
                Some((to, of.member.0, filter))
            }
            _ => None,
        });
        filters.collect::<Vec<_>>()
    };
    let orders = sharing.holds(1, &[KEY]);
    assert_eq!(told(orders), [(0, 1, Some(true)), (2, 1, Some(true))]);
    assert_eq!(sharing.seeks(0, &[]), [(0, vec![1])]);
    let orders = sharing.dies(1);
    assert_eq!(told(orders), [(0, 1, None), (2, 1, None)]);
    assert_eq!(sharing.seeks(0, &[]), [(0, vec![])]);
}

#[test]
fn a_filter_that_cannot_be_read_is_the_end_of_its_member() {
    let mut sharing = Sharing::of(2);
    let filter = bytes::Bytes::from_static(b"ones");
    let orders = sharing.says(1, Report::CacheFilter { filter });
    assert!(matches!(orders[..], [(0, Order::CacheFilter { filter: None, .. })]));
    assert!(!sharing.0.members.contains_key(&MemberId(1)));
}

#[test]
fn members_may_wait_for_so_much_and_no_more() {
    let mut sharing = Sharing::of(2);
    let key = |number: u64| *blake3::hash(&number.to_le_bytes()).as_bytes();
    for number in 0..5_000 {
        for member in [0, 1] {
            let report = Report::Seek {
                request: number,
                key: key(number),
                tried: Vec::new(),
            };
            sharing.says(member, report);
        }
    }
    assert!(!sharing.0.members.contains_key(&MemberId(1)));
    assert!(sharing.0.members.contains_key(&MemberId(0)));
}
