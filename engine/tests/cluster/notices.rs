//! What a process lets all of them read of it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use distdl_engine::testing::TestCluster;
use distdl_engine::{Context, Result};

use crate::faults::alone;

/// Says in all processes how often it was told to.
fn publish(context: &Context, slot: u32) -> Arc<AtomicU64> {
    let count = Arc::new(AtomicU64::new(0));
    let counted = Arc::downgrade(&count);
    context.publish("count", move || {
        let count = counted.upgrade()?.load(Ordering::Relaxed);
        Some(format!("{slot}: {count}").into())
    });
    count
}

fn read(context: &Context) -> BTreeMap<usize, String> {
    let all = context.published("count").into_iter();
    all.map(|(process, bytes)| (process, String::from_utf8(bytes.to_vec()).unwrap()))
        .collect()
}

fn act(context: &Context) -> Result<BTreeMap<usize, String>> {
    assert_eq!(context.range(0..10, 3).count()?, 10);
    Ok(read(context))
}

fn of(processes: &[usize], count: u64) -> BTreeMap<usize, String> {
    let all = processes
        .iter()
        .map(|process| (*process, format!("{process}: {count}")));
    all.collect()
}

#[test]
fn all_read_it_as_it_was_at_the_end_of_the_last_action() {
    let run = TestCluster::new(3).run_lives(|context, life| {
        let before = act(context)?;
        let count = publish(context, life.slot);
        let unread = read(context);
        count.store(1, Ordering::Relaxed);
        let once = act(context)?;
        count.store(2, Ordering::Relaxed);
        assert_eq!(read(context), once);
        let twice = act(context)?;
        // There is none any more in one of them.
        let _count = (life.slot != 1).then_some(count);
        Ok((life.slot, [before, unread, once, twice, act(context)?]))
    });
    let results = run.unwrap().results;
    assert_eq!(results.len(), 3);
    for (slot, read) in results {
        let others: Vec<usize> = (0..3).filter(|process| *process != slot as usize).collect();
        let remaining: Vec<usize> = others.iter().copied().filter(|process| *process != 1).collect();
        let expected = [
            of(&[], 0),
            of(&[], 0),
            of(&others, 1),
            of(&others, 2),
            of(&remaining, 2),
        ];
        assert_eq!(read, expected, "{slot}");
    }
}

#[test]
fn a_process_alone_reads_its_own() {
    let context = alone();
    let count = publish(&context, 0);
    count.store(3, Ordering::Relaxed);
    assert_eq!(read(&context), of(&[0], 3));
    drop(count);
    assert_eq!(read(&context), of(&[], 0));
}

#[test]
fn that_of_a_process_that_has_died_is_not_read() {
    let run = TestCluster::new(3).run_lives(|context, life| {
        let count = (life.slot == 1).then(|| publish(context, life.slot));
        if let Some(count) = &count {
            count.store(u64::from(life.number), Ordering::Relaxed);
        }
        let before = act(context)?;
        if (life.slot, life.number) == (1, 0) {
            life.kill();
        }
        Ok((life.slot, [before, act(context)?]))
    });
    let results = run.unwrap().results.into_iter().filter(|(slot, _)| *slot != 1);
    for (slot, [before, after]) in results {
        assert_eq!(before, of(&[1], 0), "{slot}");
        // Its next life may be there already.
        assert!(after.is_empty() || after == of(&[1], 1), "{slot}: {after:?}");
    }
}

#[test]
fn a_name_node_that_comes_back_learns_it_anew() {
    let cluster = TestCluster {
        name_node_grace: Duration::from_secs(20),
        ..TestCluster::new(3)
    };
    let run = cluster.run_lives(|context, life| {
        let _count = publish(context, life.slot);
        act(context)?;
        if life.slot == 0 && life.number == 0 {
            life.kill_name_node();
        }
        Ok((life.slot, act(context)?))
    });
    for (slot, read) in run.unwrap().results {
        assert_eq!(read, of(&[0, 1, 2], 0), "{slot}");
    }
}
