//! Views against plain vectors, for drawn inserts and retractions.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

type Pair = (u8, u8);

/// The records that a view should hold, as text, from those of both inputs.
type Oracle<'a> = Box<dyn Fn(&[Pair], &[Pair]) -> Vec<String> + 'a>;

/// One view of each operator, with the same made of plain vectors.
struct Case<'a> {
    view: LiveView<(String, u64)>,
    oracle: Oracle<'a>,
}

fn case<'a, T: LiveRecord>(
    live: &Live,
    recipe: impl for<'r, 's> Fn(&'r LiveScope<'s>) -> LiveRecords<'s, T> + Send + Sync + 'static,
    oracle: impl Fn(&[Pair], &[Pair]) -> Vec<T> + 'a,
) -> Case<'a> {
    let text = |record: &T| format!("{record:?}");
    let view = live.view("case", 3, move |scope| {
        recipe(scope).map(move |record| text(&record)).count()
    });
    Case {
        view: view.unwrap(),
        oracle: Box::new(move |left, right| oracle(left, right).iter().map(text).collect()),
    }
}

fn cases<'a>(live: &Live, left: &LiveInput<Pair>, right: &LiveInput<Pair>) -> Vec<Case<'a>> {
    let read = || (left.clone(), right.clone());
    vec![
        {
            let (left, _) = read();
            case(
                live,
                move |scope| left.read(scope).map(|(a, b)| a ^ b),
                |left, _| left.iter().map(|(a, b)| a ^ b).collect(),
            )
        },
        {
            let (left, _) = read();
            case(
                live,
                move |scope| left.read(scope).filter(|(a, _)| a % 2 == 0),
                |left, _| left.iter().copied().filter(|(a, _)| a % 2 == 0).collect(),
            )
        },
        {
            let (left, _) = read();
            case(
                live,
                move |scope| left.read(scope).flat_map(|(a, b)| vec![a; usize::from(b % 3)]),
                |left, _| left.iter().flat_map(|(a, b)| vec![*a; usize::from(b % 3)]).collect(),
            )
        },
        {
            let (left, right) = read();
            case(
                live,
                move |scope| left.read(scope).concat(right.read(scope)),
                |left, right| left.iter().chain(right).copied().collect(),
            )
        },
        {
            let (left, _) = read();
            case(
                live,
                move |scope| left.read(scope).distinct(),
                |left, _| set(left).into_iter().collect(),
            )
        },
        {
            let (left, _) = read();
            case(
                live,
                move |scope| left.read(scope).count(),
                |left, _| counts(left).into_iter().collect(),
            )
        },
        {
            let (left, right) = read();
            case(
                live,
                move |scope| left.read(scope).join(right.read(scope)),
                |left, right| {
                    let of = |a: u8, b: u8| {
                        right
                            .iter()
                            .filter(move |(c, _)| *c == a)
                            .map(move |(_, d)| (a, (b, *d)))
                    };
                    left.iter().flat_map(|(a, b)| of(*a, *b)).collect()
                },
            )
        },
        {
            let (left, _) = read();
            // The two smallest values with how often they are there.
            case(
                live,
                move |scope| {
                    left.read(scope).reduce(|_, values| {
                        let two = values.iter().take(2).map(|(value, count)| (**value, *count));
                        two.collect::<Vec<_>>()
                    })
                },
                |left, _| {
                    let keys: BTreeSet<u8> = left.iter().map(|(a, _)| *a).collect();
                    let of = |a: u8| counts(left).into_iter().filter(move |((c, _), _)| *c == a).take(2);
                    keys.into_iter()
                        .flat_map(|a| of(a).map(|((a, b), count)| (a, (b, count))))
                        .collect()
                },
            )
        },
        {
            let (left, _) = read();
            case(
                live,
                move |scope| {
                    left.read(scope)
                        .totals(|(a, b)| (a % 4, vec![i32::from(*b) - 3, i32::from(*a)]))
                },
                |left, _| {
                    let mut totals: BTreeMap<u8, Totals> = BTreeMap::new();
                    for (a, b) in left {
                        totals
                            .entry(a % 4)
                            .or_default()
                            .add(&[i32::from(*b) - 3, i32::from(*a)], 1);
                    }
                    totals.into_iter().collect()
                },
            )
        },
        {
            let (left, _) = read();
            // Of values that are not equally many, zeros among them.
            let values = |(a, b): &Pair| vec![i32::from(*b) - 3; usize::from(a % 3)];
            case(
                live,
                move |scope| left.read(scope).totals(move |pair| (pair.0 / 3, values(pair))),
                move |left, _| {
                    let mut totals: BTreeMap<u8, Totals> = BTreeMap::new();
                    left.iter()
                        .for_each(|pair| totals.entry(pair.0 / 3).or_default().add(&values(pair), 1));
                    totals.into_iter().collect()
                },
            )
        },
        {
            let (left, right) = read();
            // What is reached from the right's first parts along the left's edges.
            case(
                live,
                move |scope| {
                    let edges = left.read(scope);
                    let roots = right.read(scope).map(|(root, _)| root);
                    reach(roots, edges)
                },
                |left, right| reached(right.iter().map(|(root, _)| *root), left).into_iter().collect(),
            )
        },
        {
            let (left, right) = read();
            // A loop in a loop that begins with what is outside of both, and uses what is in the outer one.
            case(
                live,
                move |scope| {
                    let (left, right) = (left.read(scope), right.read(scope));
                    let roots = right.map(|(root, _)| root);
                    let seeds = roots.clone().filter(|root| *root < 2);
                    roots.iterate(move |outer| {
                        let from = outer.clone().map(|node| (node, ()));
                        let edges = from.join(left).map(|(node, ((), to))| (node, to));
                        reach(seeds, edges).concat(outer).distinct()
                    })
                },
                |left, right| {
                    let mut outer = set(&right.iter().map(|(root, _)| *root).collect::<Vec<u8>>());
                    loop {
                        let edges = left.iter().filter(|(from, _)| outer.contains(from)).copied();
                        let seeds = right.iter().map(|(root, _)| *root).filter(|root| *root < 2);
                        let more = reached(seeds, &edges.collect::<Vec<Pair>>());
                        if more.is_subset(&outer) {
                            return outer.into_iter().collect();
                        }
                        outer.extend(more);
                    }
                },
            )
        },
        {
            let (left, right) = read();
            // A loop in a loop: from what is reached, also along the right's edges, again and again.
            case(
                live,
                move |scope| {
                    let (left, right) = (left.read(scope), right.read(scope));
                    let roots = right.clone().map(|(root, _)| root).filter(|root| *root < 2);
                    roots.iterate(move |roots| reach(reach(roots, left), right))
                },
                |left, right| {
                    let both: Vec<Pair> = left.iter().chain(right).copied().collect();
                    let roots = right.iter().map(|(root, _)| *root).filter(|root| *root < 2);
                    reached(roots, &both).into_iter().collect()
                },
            )
        },
    ]
}

fn reach<'s>(roots: LiveRecords<'s, u8>, edges: LiveRecords<'s, Pair>) -> LiveRecords<'s, u8> {
    roots.iterate(move |reached| {
        let next = reached.clone().map(|node| (node, ())).join(edges);
        next.map(|(_, ((), to))| to).concat(reached).distinct()
    })
}

fn reached(roots: impl Iterator<Item = u8>, edges: &[Pair]) -> BTreeSet<u8> {
    let mut reached: BTreeSet<u8> = roots.collect();
    loop {
        let next: BTreeSet<u8> = edges
            .iter()
            .filter(|(from, _)| reached.contains(from))
            .map(|(_, to)| *to)
            .collect();
        if next.is_subset(&reached) {
            return reached;
        }
        reached.extend(next);
    }
}

fn set<T: Ord + Copy>(records: &[T]) -> BTreeSet<T> {
    records.iter().copied().collect()
}

fn counts<T: Ord + Clone>(records: &[T]) -> BTreeMap<T, u64> {
    let mut counts = BTreeMap::new();
    records
        .iter()
        .for_each(|record| *counts.entry(record.clone()).or_default() += 1);
    counts
}

/// A change: to which input, which record, and whether it is a retraction.
type Change = (bool, Pair, bool);

fn apply(contents: &mut Vec<Pair>, input: &LiveInput<Pair>, record: Pair, retract: bool) {
    let place = contents.iter().position(|held| *held == record);
    match (retract, place) {
        (true, Some(place)) => {
            contents.swap_remove(place);
            input.retract(record).unwrap();
        }
        (true, None) => {
            let error = input.retract(record).unwrap_err();
            assert!(error.to_string().contains(&format!("{record:?}")), "{error}");
        }
        (false, _) => {
            contents.push(record);
            input.insert(record).unwrap();
        }
    }
}

fn compare(cases: &[Case<'_>], left: &[Pair], right: &[Pair]) {
    for (index, case) in cases.iter().enumerate() {
        let expected = counts(&(case.oracle)(left, right));
        let got = case.view.snapshot().unwrap().collect().unwrap();
        assert_eq!(got.len(), expected.len(), "case {index}: {got:?} {expected:?}");
        let got: BTreeMap<String, u64> = got.into_iter().collect();
        assert_eq!(got, expected, "case {index}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn snapshots_are_what_plain_vectors_give(
        commits in proptest::collection::vec(
            proptest::collection::vec((any::<bool>(), (0u8..6, 0u8..6), any::<bool>()), 0..12),
            1..6,
        ),
        late in 0usize..3,
    ) {
        let live = live();
        let (first, second) = (live.input::<Pair>("first"), live.input::<Pair>("second"));
        let (mut left, mut right) = (Vec::new(), Vec::new());
        let mut cases = cases(&live, &first, &second);
        for (index, changes) in commits.iter().enumerate() {
            if index == late {
                // Views that are declared late see the same.
                cases.extend(self::cases(&live, &first, &second));
            }
            for change in changes {
                let (is_left, record, retract): Change = *change;
                match is_left {
                    true => apply(&mut left, &first, record, retract),
                    false => apply(&mut right, &second, record, retract),
                }
            }
            live.commit().unwrap();
            compare(&cases, &left, &right);
        }
    }

    #[test]
    fn a_snapshot_is_a_function_of_the_contents_alone(
        records in proptest::collection::vec(0u16..50, 0..40),
        others in proptest::collection::vec(0u16..50, 0..40),
    ) {
        let live = live();
        let (straight, crooked) = (live.input::<u16>("straight"), live.input::<u16>("crooked"));
        let view = |input: &LiveInput<u16>| {
            let input = input.clone();
            live.view("view", 4, move |scope| input.read(scope)).unwrap()
        };
        let (first, second) = (view(&straight), view(&crooked));
        records.iter().for_each(|record| straight.insert(*record).unwrap());
        others.iter().for_each(|record| crooked.insert(*record).unwrap());
        live.commit().unwrap();
        records.iter().rev().for_each(|record| crooked.insert(*record).unwrap());
        live.commit().unwrap();
        others.iter().for_each(|record| crooked.retract(*record).unwrap());
        live.commit().unwrap();
        let (first, second) = (first.snapshot().unwrap(), second.snapshot().unwrap());
        prop_assert_eq!(second.changed_partitions(&first), Some(vec![]));
        prop_assert_eq!(first.glom().collect().unwrap(), second.glom().collect().unwrap());
    }
}
