//! Closures that give two answers for one record.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use distdl_engine::LiveError;

use super::failures::failure;
use super::*;

#[test]
fn a_closure_that_gives_different_answers_is_noticed() {
    let live = live();
    let numbers = live.input::<u64>("numbers");
    let (read, calls) = (numbers.clone(), AtomicUsize::new(0));
    let calls = Arc::new(calls);
    let view = live
        .view("unsteady", 2, move |scope| {
            let calls = Arc::clone(&calls);
            read.read(scope).map(move |_| calls.fetch_add(1, Ordering::SeqCst))
        })
        .unwrap();
    numbers.insert(1).unwrap();
    live.commit().unwrap();
    assert_eq!(view.contents().unwrap(), [(0, 1)]);
    numbers.retract(1).unwrap();
    let error = failure(live.commit());
    assert_eq!(
        error,
        LiveError::Unsteady {
            what: "live view \"unsteady\"".into(),
            record: "1".into()
        }
    );
    assert_eq!(view.contents().unwrap(), [(0, 1)]);
}

/// What a closure reads may change while another view fails.
#[test]
fn a_view_that_is_built_anew_must_be_what_it_was() {
    let live = live();
    let numbers = live.input::<usize>("numbers");
    let (read, plain, unlucky) = (numbers.clone(), numbers.clone(), numbers.clone());
    let factor = Arc::new(AtomicUsize::new(1));
    let read_factor = Arc::clone(&factor);
    let view = live.view("priced", 1, move |scope| {
        let factor = Arc::clone(&read_factor);
        read.read(scope)
            .map(move |number| number * factor.load(Ordering::SeqCst))
    });
    let view = view.unwrap();
    let other = live.view("plain", 2, move |scope| plain.read(scope)).unwrap();
    let _unlucky = live
        .view("unlucky", 1, move |scope| {
            unlucky.read(scope).filter(|number| {
                assert!(*number != 13, "bad luck");
                true
            })
        })
        .unwrap();
    (5..7).for_each(|number| numbers.insert(number).unwrap());
    live.commit().unwrap();
    let fail = || {
        numbers.insert(13).unwrap();
        assert!(matches!(failure(live.commit()), LiveError::Panic { .. }));
        live.discard().unwrap();
        numbers.insert(7).unwrap();
    };
    // 5 and 6 become 50 and 60, none of which is there, or 0, which is there twice.
    for (other_factor, first) in [(10, "5"), (0, "0")] {
        fail();
        factor.store(other_factor, Ordering::SeqCst);
        let differs = LiveError::Unsteady {
            what: "live view \"priced\"".into(),
            record: first.into(),
        };
        (0..2).for_each(|_| assert_eq!(failure(live.commit()), differs));
        factor.store(1, Ordering::SeqCst);
        live.commit().unwrap();
        numbers.retract(7).unwrap();
        live.commit().unwrap();
        assert_eq!(view.contents().unwrap(), [(5, 1), (6, 1)]);
    }
    fail();
    factor.store(10, Ordering::SeqCst);
    failure(live.commit());
    drop(view);
    live.commit().unwrap();
    assert_eq!(other.contents().unwrap(), [(5, 1), (6, 1), (7, 1)]);
}

/// What `operator` makes of records that are all different, as text.
fn behind<'s>(operator: &str, records: LiveRecords<'s, usize>) -> LiveRecords<'s, String> {
    match operator {
        "count" => records.count().map(|count| format!("{count:?}")),
        "distinct" => records.distinct().map(|record| format!("{record}")),
        "totals" => records
            .totals(|record| (*record, vec![1]))
            .map(|totals| format!("{totals:?}")),
        _ => records
            .map(|record| (record / 2, record))
            .reduce(|_, values| Some(format!("{values:?}")))
            .map(|made| format!("{made:?}")),
    }
}

/// These operators would make records of what was taken away and never there.
#[test]
fn a_closure_that_gives_different_answers_is_noticed_before_operators_that_hold_records() {
    for (operator, in_loop, lost) in [
        ("count", false, "1"),
        ("distinct", false, "1"),
        ("distinct", true, "1"),
        ("totals", false, "1"),
        ("reduce", false, "(0, 1)"),
    ] {
        let live = live();
        let numbers = live.input::<u64>("numbers");
        let (read, calls) = (numbers.clone(), Arc::new(AtomicUsize::new(0)));
        let view = live.view("unsteady", 2, move |scope| {
            let calls = Arc::clone(&calls);
            let records = read.read(scope).map(move |_| calls.fetch_add(1, Ordering::SeqCst));
            match in_loop {
                true => records
                    .iterate(|records| records.distinct())
                    .map(|record| format!("{record}")),
                false => behind(operator, records),
            }
        });
        let view = view.unwrap();
        numbers.insert(1).unwrap();
        live.commit().unwrap();
        let before = view.contents().unwrap();
        numbers.retract(1).unwrap();
        match failure(live.commit()) {
            LiveError::Unsteady { what, record } => {
                assert!(what.starts_with(&format!("`{operator}` (declared at ")), "{what}");
                assert!(what.contains("unsteady.rs") && record == lost, "{what} {record}");
            }
            other => panic!("{operator}: {other}"),
        }
        assert_eq!(view.contents().unwrap(), before, "`{operator}`");
    }
}

/// What a loop takes back from round to round is no sign of an unsteady closure.
#[test]
fn loops_of_operators_that_hold_records_stay_steady_as_edges_come_and_go() {
    let live = live();
    let edges = live.input::<(u64, u64)>("edges");
    let read = edges.clone();
    let view = live.view("smallest label in reach", 2, move |scope| {
        let edges = read.read(scope);
        let there_and_back = edges.clone().concat(edges.map(|(from, to)| (to, from)));
        let nodes = there_and_back.clone().map(|(node, _)| (node, node)).distinct();
        nodes.iterate(move |labels| {
            let settled = labels.clone().iterate(|labels| labels.count().map(|(label, _)| label));
            let near = settled.join(there_and_back).map(|(_, (label, to))| (to, label));
            near.concat(labels)
                .reduce(|_, labels| labels.first().map(|(label, _)| **label))
        })
    });
    let view = view.unwrap();
    let mut held: Vec<(u64, u64)> = Vec::new();
    for number in 0..600_u64 {
        let edge = (number * number % 97, number * 31 % 89);
        edges.insert(edge).unwrap();
        held.push(edge);
        if held.len() > 60 {
            edges
                .retract(held.swap_remove(number as usize * 7 % held.len()))
                .unwrap();
        }
        if number % 10 == 0 {
            live.commit().unwrap();
        }
    }
    live.commit().unwrap();
    let mut labels: std::collections::BTreeMap<u64, u64> = held
        .iter()
        .flat_map(|(from, to)| [(*from, *from), (*to, *to)])
        .collect();
    for _ in 0..labels.len() {
        for (from, to) in &held {
            let label = labels[from].min(labels[to]);
            labels.extend([(*from, label), (*to, label)]);
        }
    }
    let expected: Vec<_> = labels.into_iter().map(|label| (label, 1)).collect();
    assert_eq!(view.contents().unwrap(), expected);
}
