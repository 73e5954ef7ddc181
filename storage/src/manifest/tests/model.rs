//! Whatever is done and fails, in whatever order.

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Act {
    Commit {
        seed: u64,
        fault: Option<(u64, WriteFault)>,
    },
    Keep {
        count: usize,
        fault: Option<(u64, WriteFault)>,
    },
}

fn acts() -> impl Strategy<Value = Act> {
    use WriteFault::{DieAfter, DieBefore, FailAfter, FailBefore, Full, Twice};
    let kinds = prop::sample::select(vec![DieAfter, DieBefore, FailAfter, FailBefore, Full, Twice]);
    let fault = || prop::option::of((0..6u64, kinds.clone()));
    prop_oneof![
        3 => (0..50u64, fault()).prop_map(|(seed, fault)| Act::Commit { seed, fault }),
        1 => (1..4usize, fault()).prop_map(|(count, fault)| Act::Keep { count, fault }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// Against a list of what was committed: every try of a new writer starts over from what is there.
    #[test]
    fn the_newest_commit_is_always_whole(acts in prop::collection::vec(acts(), 1..20)) {
        let shared = Shared::new();
        let mut newest: Option<(u64, u64)> = None;
        for act in acts {
            let (commits, faults) = shared.faulty();
            match act {
                Act::Commit { seed, fault } => {
                    if let Some((after, fault)) = fault {
                        faults.on_write(after, fault);
                    }
                    let before = newest;
                    let result = commit(&commits, seed);
                    let latest = shared.commits().latest().unwrap();
                    newest = latest.as_ref().map(|commit| (commit.number, commit.blobs["values"][0].into()));
                    if let Ok(number) = result {
                        prop_assert_eq!(&shared.commits().read(number).unwrap().blobs, &blobs(seed));
                    }
                    let added = newest != before;
                    prop_assert!(!added || newest.map(|(_, found)| found) == Some(seed));
                    prop_assert!(newest.map(|(number, _)| number) >= before.map(|(number, _)| number));
                    if let Some(commit) = latest {
                        prop_assert_eq!(&commit.blobs, &blobs(newest.unwrap().1));
                        prop_assert!(commit.passed_over.is_empty());
                    }
                }
                Act::Keep { count, fault } => {
                    let before = commits.numbers().unwrap();
                    let blobs_of = |number: &u64| (*number, commits.read(*number).unwrap().blobs);
                    let mut held: BTreeMap<_, _> = before.iter().map(blobs_of).collect();
                    if let Some((after, fault)) = fault {
                        faults.on_write(after, fault);
                    }
                    let kept = commits.keep(count);
                    // The newest ones, of equal ones the newest.
                    let (mut expected, mut seen) = (Vec::new(), Vec::new());
                    for number in before.into_iter().rev() {
                        let blobs = held.remove(&number).unwrap();
                        if expected.len() < count && !seen.contains(&blobs) {
                            expected.insert(0, number);
                            seen.push(blobs);
                        }
                    }
                    let numbers = shared.commits().numbers().unwrap();
                    prop_assert!(expected.iter().all(|number| numbers.contains(number)));
                    prop_assert!(kept.is_err() || numbers == expected);
                }
            }
            for number in shared.commits().numbers().unwrap() {
                shared.commits().read(number).unwrap();
            }
        }
    }
}
