//! What goes wrong is an error, and leaves everything as it was.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use distdl_engine::LiveError;
use serde::{Deserialize, Serialize};

use super::*;

pub(super) fn failure<T: std::fmt::Debug>(result: Result<T>) -> LiveError {
    match result.unwrap_err() {
        EngineError::Live(error) => error,
        other => panic!("{other}"),
    }
}

#[test]
fn what_is_not_there_cannot_be_retracted() {
    let live = live();
    let words = live.input::<String>("words");
    words.insert("one".into()).unwrap();
    words.insert("one".into()).unwrap();
    live.commit().unwrap();
    words.retract("one".into()).unwrap();
    words.retract("one".into()).unwrap();
    let error = failure(words.retract("one".into()));
    assert_eq!(
        error,
        LiveError::Absent {
            input: "words".into(),
            record: "\"one\"".into()
        }
    );
    live.commit().unwrap();
    assert!(words.contents().is_empty());
}

/// Each operator that runs a closure, over numbers of which 13 makes the closure panic.
type Recipe = Box<dyn for<'r, 's> Fn(&'r LiveScope<'s>, &LiveInput<u32>) -> LiveRecords<'s, u32> + Send + Sync>;

fn unlucky(number: u32) -> u32 {
    assert!(number != 13, "bad luck");
    number
}

fn recipes() -> Vec<(&'static str, Recipe)> {
    vec![
        ("map", Box::new(|scope, numbers| numbers.read(scope).map(unlucky))),
        (
            "filter",
            Box::new(|scope, numbers| numbers.read(scope).filter(|number| unlucky(*number) < 100)),
        ),
        (
            "flat_map",
            Box::new(|scope, numbers| numbers.read(scope).flat_map(|number| Some(unlucky(number)))),
        ),
        (
            "reduce",
            Box::new(|scope, numbers| {
                let reduced = numbers
                    .read(scope)
                    .map(|number| (number, number))
                    .reduce(|key, _| Some(unlucky(*key)));
                reduced.map(|(key, _)| key)
            }),
        ),
        (
            "totals",
            Box::new(|scope, numbers| {
                let totals = numbers.read(scope).totals(|number| (unlucky(*number), vec![]));
                totals.map(|(key, _)| key)
            }),
        ),
    ]
}

#[test]
fn a_closure_that_panics_fails_the_commit_and_changes_nothing() {
    for (operator, recipe) in recipes() {
        let live = live();
        let numbers = live.input::<u32>("numbers");
        let (read, plain) = (numbers.clone(), numbers.clone());
        let view = live.view("closures", 2, move |scope| recipe(scope, &read)).unwrap();
        let other = live.view("plain", 2, move |scope| plain.read(scope)).unwrap();
        [1, 2].into_iter().for_each(|number| numbers.insert(number).unwrap());
        live.commit().unwrap();
        [13, 14].into_iter().for_each(|number| numbers.insert(number).unwrap());
        for _ in 0..2 {
            match failure(live.commit()) {
                LiveError::Panic {
                    operator: failed,
                    site,
                    record,
                    message,
                } => {
                    assert_eq!((&*failed, &*message), (operator, "bad luck"));
                    assert_eq!(record.as_deref(), Some("13"));
                    assert!(site.contains("failures.rs"), "{site}");
                }
                other => panic!("{other}"),
            }
        }
        let before = [(1, 1), (2, 1)];
        assert_eq!(numbers.contents(), before, "`{operator}`");
        assert_eq!(view.contents().unwrap(), before, "`{operator}`");
        assert_eq!(other.contents().unwrap(), before, "`{operator}`");
        numbers.retract(13).unwrap();
        assert_eq!(live.commit().unwrap(), 1);
        let after = [(1, 1), (2, 1), (14, 1)];
        assert_eq!(view.contents().unwrap(), after, "`{operator}`");
        assert_eq!(other.contents().unwrap(), after, "`{operator}`");
        numbers.insert(13).unwrap();
        failure(live.commit());
        live.discard().unwrap();
        numbers.retract(1).unwrap();
        live.commit().unwrap();
        assert_eq!(view.contents().unwrap(), after[1..], "`{operator}`");
    }
}

#[test]
fn a_panic_names_the_record_or_its_beginning() {
    let live = live();
    let words = live.input::<String>("words");
    let read = words.clone();
    let _view = live
        .view("words", 1, move |scope| {
            read.read(scope).filter(|word| {
                assert!(word.len() < 10, "too long");
                true
            })
        })
        .unwrap();
    words.insert("too many words".to_owned()).unwrap();
    let error = failure(live.commit()).to_string();
    assert!(error.contains(") at \"too many words\": too long\n"), "{error}");
    live.discard().unwrap();
    words.insert("ö".repeat(100_000)).unwrap();
    match failure(live.commit()) {
        LiveError::Panic { record, .. } => assert_eq!(record.unwrap(), format!("\"{}…", "ö".repeat(199))),
        other => panic!("{other}"),
    }
}

#[test]
fn a_view_whose_closure_panics_is_none_and_the_others_go_on() {
    let live = live();
    let numbers = live.input::<u32>("numbers");
    let plain = numbers.clone();
    let view = live.view("plain", 2, move |scope| plain.read(scope)).unwrap();
    numbers.insert(13).unwrap();
    live.commit().unwrap();
    let read = numbers.clone();
    failure(live.view("unlucky", 2, move |scope| read.read(scope).map(unlucky)));
    let read = numbers.clone();
    failure(live.view_by("key", 2, |number| unlucky(*number), move |scope| read.read(scope)));
    let read = numbers.clone();
    failure(live.view("recipe", 2, move |scope| {
        assert!(read.contents().is_empty(), "the recipe itself");
        read.read(scope)
    }));
    numbers.insert(1).unwrap();
    live.commit().unwrap();
    assert_eq!(view.contents().unwrap(), [(1, 1), (13, 1)]);
}

#[test]
fn a_loop_that_does_not_settle_ends() {
    let options = LiveOptions {
        rounds_max: 20,
        ..LiveOptions::default()
    };
    let live = context().live(options);
    let numbers = live.input::<u64>("numbers");
    let read = numbers.clone();
    // Up to 15 it settles in as many rounds; 100 and 101 change places for ever.
    let view = live
        .view("loop", 2, move |scope| {
            read.read(scope).iterate(|numbers| {
                numbers.map(|number| match number {
                    100 => 101,
                    101 => 100,
                    number => number.saturating_sub(1),
                })
            })
        })
        .unwrap();
    numbers.insert(15).unwrap();
    live.commit().unwrap();
    assert_eq!(view.contents().unwrap(), [(0, 1)]);
    numbers.insert(100).unwrap();
    match failure(live.commit()) {
        LiveError::Unsettled { site, rounds } => {
            assert!(site.contains("failures.rs") && rounds == 20, "{site} {rounds}")
        }
        other => panic!("{other}"),
    }
    live.discard().unwrap();
    numbers.insert(3).unwrap();
    live.commit().unwrap();
    assert_eq!(view.contents().unwrap(), [(0, 2)]);
}

#[test]
fn limits_of_records_hold() {
    let options = LiveOptions {
        input_records_max: 300,
        operator_records_max: 5_000,
        ..LiveOptions::default()
    };
    let live = context().live(options);
    let numbers = live.input::<u64>("numbers");
    let read = numbers.clone();
    let view = live
        .view("pairs", 2, move |scope| {
            let numbers = read.read(scope).map(|number| ((), number));
            numbers.clone().join(numbers).map(|((), pair)| pair).distinct()
        })
        .unwrap();
    let endless = numbers.clone();
    let _endless = live
        .view("endless", 2, move |scope| {
            endless
                .read(scope)
                .filter(|number| *number == 1_000)
                .flat_map(|_| 0u64..)
                .distinct()
        })
        .unwrap();
    (0..30).for_each(|number| numbers.insert(number).unwrap());
    live.commit().unwrap();
    assert_eq!(view.contents().unwrap().len(), 900);
    numbers.insert(1_000).unwrap();
    assert!(matches!(
        failure(live.commit()),
        LiveError::Full { records_max: 5_000, .. }
    ));
    live.discard().unwrap();
    (30..300).for_each(|number| numbers.insert(number).unwrap());
    assert!(matches!(
        failure(numbers.insert(300)),
        LiveError::Full { records_max: 300, .. }
    ));
    assert!(matches!(
        failure(live.commit()),
        LiveError::Full { records_max: 5_000, .. }
    ));
    live.discard().unwrap();
    numbers.insert(31).unwrap();
    live.commit().unwrap();
    assert_eq!(view.contents().unwrap().len(), 31 * 31);
}

/// A record that cannot be compared with 13.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
struct Proud(u32);

impl Ord for Proud {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        assert!(self.0 != 13 && other.0 != 13, "beneath comparison");
        self.0.cmp(&other.0)
    }
}

impl PartialOrd for Proud {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

#[test]
fn a_panic_outside_of_closures_is_an_error_too() {
    let live = live();
    let numbers = live.input::<u32>("numbers");
    let read = numbers.clone();
    let view = live
        .view("proud", 1, move |scope| read.read(scope).map(Proud).distinct())
        .unwrap();
    numbers.insert(1).unwrap();
    live.commit().unwrap();
    numbers.insert(13).unwrap();
    match failure(live.commit()) {
        LiveError::Stopped { reason } => assert_eq!(reason, "beneath comparison"),
        other => panic!("{other}"),
    }
    live.discard().unwrap();
    numbers.insert(2).unwrap();
    live.commit().unwrap();
    assert_eq!(view.contents().unwrap(), [(Proud(1), 1), (Proud(2), 1)]);
}

#[test]
fn commits_and_changes_inside_a_task_are_refused() {
    let live = live();
    let inside = live.clone();
    let words = live.input::<u32>("words");
    words.insert(1).unwrap();
    live.commit().unwrap();
    let changed = words.clone();
    let numbers = live.context().range(0..4, 2);
    let result = numbers.for_each_partition(move |_, _| {
        assert!(matches!(inside.commit(), Err(EngineError::NestedAction)));
        assert!(matches!(changed.insert(2), Err(EngineError::NestedAction)));
        assert!(matches!(changed.retract(1), Err(EngineError::NestedAction)));
    });
    result.unwrap();
    assert_eq!(live.commit().unwrap(), 0);
    assert_eq!(words.contents(), [(1, 1)]);
}

/// The driver program waits for the closure, which would wait for the driver program.
#[test]
fn what_a_closure_of_a_view_must_not_ask_for_is_an_error() {
    let live = live();
    let (numbers, read) = (live.input::<u32>("numbers"), live.input::<u32>("read"));
    let first = Arc::new(live.view("first", 1, move |scope| read.read(scope)).unwrap());
    let rows = live.context().range(0..3, 1);
    let (asking, refusals, from) = (live.clone(), Arc::new(AtomicUsize::new(0)), numbers.clone());
    let changed = numbers.clone();
    let counting = Arc::clone(&refusals);
    let view = live.view("asks", 1, move |scope| {
        let (asking, first, rows) = (asking.clone(), Arc::clone(&first), rows.clone());
        let (counting, changed) = (Arc::clone(&counting), changed.clone());
        from.read(scope).map(move |number| {
            assert_eq!(asking.figures().written, 0);
            let _ = asking.input::<u32>("another");
            let refused = [
                asking.commit().err(),
                asking.discard().err(),
                changed.insert(2).err(),
                changed.retract(1).err(),
                first.contents().err(),
                rows.count().err(),
            ];
            let nested = |error: &&Option<EngineError>| matches!(error, Some(EngineError::NestedAction));
            counting.fetch_add(refused.iter().filter(nested).count(), Ordering::SeqCst);
            number
        })
    });
    let view = view.unwrap();
    numbers.insert(1).unwrap();
    live.commit().unwrap();
    assert_eq!(view.contents().unwrap(), [(1, 1)]);
    assert_eq!(refusals.load(Ordering::SeqCst), 6);
}

/// Its changes would never come, since it is not committed with the view.
#[test]
fn an_input_of_other_live_records_is_refused() {
    let (live, other) = (live(), live());
    let (own, foreign) = (live.input::<u32>("own"), other.input::<u32>("foreign"));
    let read = (own.clone(), foreign.clone());
    let view = live.view("both", 1, move |scope| read.0.read(scope).concat(read.1.read(scope)));
    let error = failure(view);
    assert_eq!(
        error,
        LiveError::Foreign {
            input: "foreign".into()
        }
    );
    let view = live.view("one", 1, move |scope| own.read(scope));
    assert_eq!(view.unwrap().contents().unwrap(), [], "the others go on");
}

/// A commit is not to hold a listing that never was.
#[test]
fn objects_that_are_too_many_are_listed_in_whole_or_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str| std::fs::write(folder.path().join(name), "x").unwrap();
    let live = context().live(LiveOptions {
        input_records_max: 2,
        ..LiveOptions::default()
    });
    let objects = live.objects(&format!("{}/*", folder.path().display()));
    write("a");
    objects.refresh().unwrap();
    live.commit().unwrap();
    ["b", "c"].into_iter().for_each(write);
    assert!(matches!(failure(objects.refresh()), LiveError::Full { .. }));
    live.commit().unwrap();
    assert_eq!(objects.contents().len(), 1);
    std::fs::remove_file(folder.path().join("c")).unwrap();
    objects.refresh().unwrap();
    live.commit().unwrap();
    assert_eq!(objects.contents().len(), 2);
}

#[test]
fn an_input_is_full_of_the_records_that_will_be_there() {
    let live = context().live(LiveOptions {
        input_records_max: 3,
        ..LiveOptions::default()
    });
    let numbers = live.input::<u64>("numbers");
    let is_full = |number| matches!(failure(numbers.insert(number)), LiveError::Full { records: 4, .. });
    (0..3).for_each(|number| numbers.insert(number).unwrap());
    live.commit().unwrap();
    numbers.insert(0).unwrap();
    assert!(is_full(3), "another copy is no other record");
    live.discard().unwrap();
    assert!(is_full(3));
    // All change, and some of it is taken back.
    (0..3).for_each(|number| numbers.retract(number).unwrap());
    (10..13).for_each(|number| numbers.insert(number).unwrap());
    assert!(is_full(13));
    live.discard().unwrap();
    assert!(is_full(10));
    numbers.retract(2).unwrap();
    numbers.insert(12).unwrap();
    live.commit().unwrap();
    assert!(is_full(2));
    assert_eq!(numbers.contents(), [(0, 1), (1, 1), (12, 1)]);
}

/// A handful of updates that stand for ten thousand records.
#[test]
fn a_view_holds_no_more_copies_than_it_may() {
    let live = context().live(LiveOptions {
        view_records_max: 9_999,
        ..LiveOptions::default()
    });
    let numbers = live.input::<u64>("numbers");
    let read = numbers.clone();
    let pairs = live.view("pairs", 2, move |scope| {
        let ones = read.read(scope).map(|_| ((), ()));
        ones.clone().join(ones)
    });
    let pairs = pairs.unwrap();
    (0..99).for_each(|number| numbers.insert(number).unwrap());
    live.commit().unwrap();
    numbers.insert(99).unwrap();
    let error = failure(live.commit());
    let LiveError::Full {
        what, records, option, ..
    } = &error
    else {
        panic!("{error}")
    };
    assert_eq!(
        (&**what, *records, &**option),
        ("live view \"pairs\"", 10_000, "view_records_max")
    );
    assert_eq!(pairs.snapshot().unwrap().count().unwrap(), 99 * 99);
    numbers.retract(0).unwrap();
    live.commit().unwrap();
    assert_eq!(pairs.snapshot().unwrap().count().unwrap(), 99 * 99);
}
