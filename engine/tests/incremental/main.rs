//! Live inputs and views: what they hold, what they cost, and how they fail.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod failures;
mod oracle;
mod several;
mod unsteady;
mod work;

use distdl_engine::incremental::{Live, LiveInput, LiveOptions, LiveRecord, LiveRecords, LiveScope, LiveView, Totals};
use distdl_engine::{Config, Context, Dataset, EngineError, Result};

fn context() -> Context {
    Context::new(Config {
        threads: 2,
        ..Config::default()
    })
    .unwrap()
}

fn live() -> Live {
    context().live(LiveOptions::default())
}

#[test]
fn unchanged_partitions_share_their_records_and_their_digest() {
    let live = live();
    let numbers = live.input::<u64>("numbers");
    let (read, digits) = (numbers.clone(), |number: &u64| number % 10);
    let view = live
        .view_by("numbers", 4, digits, move |scope| read.read(scope))
        .unwrap();
    (0..100).for_each(|number| numbers.insert(number).unwrap());
    live.commit().unwrap();
    let first = view.snapshot().unwrap();
    assert_eq!(live.figures().written, 100);
    numbers.retract(7).unwrap();
    live.commit().unwrap();
    let second = view.snapshot().unwrap();
    let (before, after) = (pieces(&first), pieces(&second));
    let changed = second.changed_partitions(&first).unwrap();
    assert_eq!(changed.len(), 1);
    for partition in 0..4 {
        let is_same = before[partition].as_ptr() == after[partition].as_ptr();
        assert_eq!(is_same, !changed.contains(&partition), "partition {partition}");
    }
    let written = after[changed[0]].len() as u64;
    assert_eq!(live.figures().written, 100 + written);
    // What was given stays as it is.
    assert_eq!(first.count().unwrap(), 100);
    assert_eq!(second.count().unwrap(), 99);
    // A change that is taken back gives the same digests again.
    numbers.insert(7).unwrap();
    live.commit().unwrap();
    assert_eq!(
        view.snapshot().unwrap().changed_partitions(&first).unwrap(),
        [0usize; 0]
    );
}

/// The blocks of a snapshot, as its readers get them.
fn pieces(snapshot: &Dataset<u64>) -> Vec<distdl_storage::Records<u64>> {
    let kept = snapshot.clone().cache();
    kept.count().unwrap();
    let store = snapshot.context().store();
    let codec = distdl_storage::Codec::of::<u64>();
    let block = |partition| store.get(kept.id().block(partition), codec).unwrap().unwrap();
    (0..kept.partitions())
        .map(|partition| block(partition).records().unwrap())
        .collect()
}

#[test]
fn a_view_begins_with_what_was_committed() {
    let live = live();
    let words = live.input::<String>("words");
    words.insert("early".into()).unwrap();
    live.commit().unwrap();
    words.insert("waiting".into()).unwrap();
    let read = words.clone();
    let view = live.view("words", 2, move |scope| read.read(scope)).unwrap();
    assert_eq!(view.contents().unwrap(), [("early".to_owned(), 1)]);
    live.commit().unwrap();
    assert_eq!(view.contents().unwrap().len(), 2);
}

#[test]
fn a_view_that_is_dropped_is_kept_up_to_date_no_more() {
    let live = live();
    let numbers = live.input::<u64>("numbers");
    let make = |name: &str| {
        let read = numbers.clone();
        live.view(name, 2, move |scope| read.read(scope).count()).unwrap()
    };
    let (first, dropped) = (make("kept"), make("dropped"));
    let kept = first.clone();
    drop(first);
    (0..500).for_each(|number| numbers.insert(number).unwrap());
    live.commit().unwrap();
    let both = live.figures();
    drop(dropped);
    numbers.insert(500).unwrap();
    live.commit().unwrap();
    numbers.insert(501).unwrap();
    live.commit().unwrap();
    let one = live.figures();
    assert!(one.held <= both.held / 2 + 100, "{both:?} {one:?}");
    assert_eq!(kept.contents().unwrap().len(), 502);
}

/// Neither another view nor a commit of nothing or of much may fail for what nobody has any more.
#[test]
fn what_dropped_views_held_is_free_for_what_comes_next() {
    let options = LiveOptions {
        operator_records_max: 5_000,
        ..LiveOptions::default()
    };
    let live = context().live(options);
    let numbers = live.input::<u64>("numbers");
    (0..1_000).for_each(|number| numbers.insert(number).unwrap());
    live.commit().unwrap();
    let make = || {
        let read = numbers.clone();
        live.view("ad hoc", 2, move |scope| read.read(scope).count()).unwrap()
    };
    drop(make());
    let held = live.figures().held;
    assert!(
        held > 2_500 / 2 && held < 2_500,
        "two are not too many, and three are: {held}"
    );
    (0..5).for_each(|_| drop(make()));
    live.commit().unwrap();
    assert_eq!(live.figures().held, 0);
    drop((make(), make()));
    (1_000..1_500).for_each(|number| numbers.insert(number).unwrap());
    live.commit().unwrap();
    assert_eq!(live.figures().held, 0);
    assert_eq!(make().contents().unwrap().len(), 1_500);
}

#[test]
fn totals_are_those_of_the_records_that_are_there() {
    let live = live();
    let values = live.input::<Vec<i32>>("values");
    let view = |name: &str| {
        let read = values.clone();
        let totals = live.view(name, 1, move |scope| {
            read.read(scope).totals(|values: &Vec<i32>| ((), values.clone()))
        });
        totals.unwrap()
    };
    let early = view("early");
    // The last values may be 0 all the same.
    for record in [vec![1, 0], vec![2, 0, 5]] {
        values.insert(record).unwrap();
    }
    live.commit().unwrap();
    values.retract(vec![2, 0, 5]).unwrap();
    live.commit().unwrap();
    let mut expected = Totals::default();
    expected.add(&[1, 0], 1);
    assert_eq!(early.contents().unwrap(), [(((), expected), 1)]);
    let late = view("late");
    assert_eq!(late.contents().unwrap(), early.contents().unwrap());
}

#[test]
fn objects_of_a_pattern_are_watched() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    let live = live();
    let objects = live.objects(&format!("{}/*.txt", folder.path().display()));
    let read = objects.clone();
    let lengths = live
        .view("lengths", 2, move |scope| read.read(scope).map(|object| object.bytes))
        .unwrap();
    let refreshed = |inserted, retracted| {
        // To ask twice before a commit is to ask once.
        for _ in 0..2 {
            let refreshed = objects.refresh().unwrap();
            assert_eq!((refreshed.inserted, refreshed.retracted), (inserted, retracted));
        }
        live.commit().unwrap();
        let lengths = lengths.contents().unwrap();
        lengths.iter().map(|(length, _)| *length).collect::<Vec<_>>()
    };
    assert_eq!(refreshed(0, 0), [0u64; 0]);
    write("a.txt", "a");
    write("b.txt", "bb");
    write("c.csv", "ccc");
    assert_eq!(refreshed(2, 0), [1, 2]);
    write("a.txt", "aaaa");
    assert_eq!(refreshed(1, 1), [2, 4]);
    std::fs::remove_file(folder.path().join("b.txt")).unwrap();
    assert_eq!(refreshed(0, 1), [4]);
    assert_eq!(refreshed(0, 0), [4]);
}
