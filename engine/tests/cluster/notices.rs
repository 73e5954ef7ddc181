//! What processes say of themselves, for all of them to read.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use distdl_engine::cluster::chaos::Chaos;
use distdl_engine::testing::TestCluster;
use distdl_engine::{Context, Notice, Result};

use crate::faults::alone;

/// What this process says: its place, and a number.
fn says(notice: &Notice, slot: u32) -> Arc<AtomicU64> {
    let count = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&count);
    let what = move || match counted.load(Ordering::Relaxed) {
        NOTHING => None,
        count => Some(format!("{slot}: {count}").into()),
    };
    notice.say(what).unwrap();
    count
}

/// In place of a number.
const NOTHING: u64 = u64::MAX;

fn read(notice: &Notice) -> BTreeMap<usize, String> {
    let said = notice.said().into_iter();
    said.map(|((process, _), bytes)| (process, String::from_utf8(bytes.to_vec()).unwrap()))
        .collect()
}

/// What is read after an action.
fn act(context: &Context, notice: &Notice) -> Result<BTreeMap<usize, String>> {
    assert_eq!(context.range(0..10, 3).count()?, 10);
    Ok(read(notice))
}

fn of(processes: &[usize], count: u64) -> BTreeMap<usize, String> {
    let said = |process: &usize| (*process, format!("{process}: {count}"));
    processes.iter().map(said).collect()
}

#[test]
fn all_read_it_as_it_was_at_the_end_of_the_last_action() {
    let run = TestCluster::new(3).run_lives(|context, life| {
        let (notice, another) = (context.notice(), context.notice());
        let before = act(context, &notice)?;
        let count = says(&notice, life.slot);
        let unread = read(&notice);
        count.store(1, Ordering::Relaxed);
        let once = act(context, &notice)?;
        assert_eq!(read(&another), of(&[], 0));
        count.store(2, Ordering::Relaxed);
        assert_eq!(read(&notice), once);
        let twice = act(context, &notice)?;
        if life.slot == 1 {
            count.store(NOTHING, Ordering::Relaxed);
        }
        let thrice = act(context, &notice)?;
        drop(notice);
        let number = act(context, &another)?.len();
        assert_eq!(number, 0);
        Ok([before, unread, once, twice, thrice])
    });
    let (all, none) = ([0, 1, 2], of(&[], 0));
    let expected = [none.clone(), none, of(&all, 1), of(&all, 2), of(&[0, 2], 2)];
    assert_eq!(run.unwrap().results, vec![expected; 3]);
}

#[test]
fn a_process_alone_reads_its_own_now() {
    let context = alone();
    let notice = context.notice();
    let count = says(&notice, 0);
    count.store(3, Ordering::Relaxed);
    assert_eq!(read(&notice), of(&[0], 3));
    count.store(NOTHING, Ordering::Relaxed);
    assert_eq!(read(&notice), of(&[], 0));
}

#[test]
fn what_panics_is_asked_no_more_and_does_not_hinder_the_action() {
    let run = TestCluster::new(2).run_lives(|context, life| {
        let notice = context.notice();
        let slot = life.slot;
        let what = move || match slot {
            0 => Some("fine".into()),
            _ => panic!("no words"),
        };
        notice.say(what).unwrap();
        act(context, &notice)?;
        act(context, &notice)
    });
    let expected = BTreeMap::from([(0, "fine".to_owned())]);
    assert_eq!(run.unwrap().results, vec![expected; 2]);
}

#[test]
fn that_of_a_process_that_has_died_is_not_read() {
    let run = TestCluster::new(3).run_lives(|context, life| {
        let notice = context.notice();
        if life.slot == 1 {
            says(&notice, 1).store(u64::from(life.number), Ordering::Relaxed);
        }
        let before = (act(context, &notice)?, notice.said());
        if (life.slot, life.number) == (1, 0) {
            life.kill();
        }
        Ok((life.slot, before, (act(context, &notice)?, notice.said())))
    });
    let results = run.unwrap().results.into_iter().filter(|(slot, ..)| *slot != 1);
    for (slot, (before, one), (after, other)) in results {
        assert_eq!(before, of(&[1], 0), "{slot}");
        // Its next life may be there already.
        assert!(after.is_empty() || after == of(&[1], 1), "{slot}: {after:?}");
        assert!(other.into_keys().all(|key| !one.contains_key(&key)), "{slot}");
    }
}

#[test]
fn a_name_node_that_comes_back_learns_it_anew() {
    // After all have found the first one.
    for report in 9..18 {
        let cluster = TestCluster {
            name_node_grace: Duration::from_secs(20),
            ..TestCluster::new(3)
        };
        let chaos = Chaos::parse(&format!("kill=name@report:{report}")).unwrap();
        let run = cluster.with_chaos(chaos).run_lives(|context, life| {
            let notice = context.notice();
            let count = says(&notice, life.slot);
            for action in 0..3 {
                count.store(action, Ordering::Relaxed);
                // Whoever has not found the new one yet is missing, and whoever was quicker says more.
                for (process, said) in act(context, &notice)? {
                    let may = [action, action + 1].map(|count| of(&[process], count)[&process].clone());
                    assert!(may.contains(&said), "{action}: {said}");
                }
            }
            act(context, &notice)?;
            act(context, &notice)
        });
        assert_eq!(run.unwrap().results, vec![of(&[0, 1, 2], 2); 3], "{report}");
    }
}
