//! Actions that are ended from outside, in one process and in several.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use distdl_engine::testing::TestCluster;
use distdl_engine::{CancelHandle, Context, Dataset, EngineError};
use distdl_storage::testing::WAIT_MAX;

use crate::context;

/// Longer than any test.
const LONG: Duration = Duration::from_secs(600);

/// Numbers without end, in four partitions; the first record says that it is there.
fn endless(context: &Context, begun: Sender<()>) -> Dataset<u64> {
    let begun = Mutex::new(Some(begun));
    context.range(0..u64::MAX, 4).filter(move |_| {
        if let Some(begun) = begun.lock().unwrap().take() {
            let _ = begun.send(());
        }
        true
    })
}

/// Cancels from another thread, as soon as there is something to cancel.
fn cancel_when_begun(handle: CancelHandle) -> (Sender<()>, std::thread::JoinHandle<bool>) {
    let (begun, waits) = channel();
    let thread = std::thread::spawn(move || waits.recv().is_ok() && handle.cancel());
    (begun, thread)
}

fn is_cancelled(error: &EngineError, reason: &str) {
    let EngineError::Cancelled { action, .. } = error else {
        panic!("{error}")
    };
    assert!(action.contains("cancelled.rs:"), "{action}");
    assert!(error.to_string().contains(reason), "{error}");
}

#[test]
fn an_action_is_ended_by_another_thread_and_the_context_goes_on() {
    for threads in 1..=3 {
        let context = context(threads);
        let (begun, thread) = cancel_when_begun(context.cancel_handle());
        let error = endless(&context, begun).count().unwrap_err();
        is_cancelled(&error, "`filter`");
        assert!(thread.join().unwrap());
        assert_eq!(context.range(0..10, 3).collect().unwrap().len(), 10);
    }
}

#[test]
fn an_action_is_ended_on_either_side_of_a_shuffle_and_while_it_is_prepared() {
    let context = context(2);
    let (begun, thread) = cancel_when_begun(context.cancel_handle());
    let sums = endless(&context, begun)
        .map(|x| (x % 5, x))
        .reduce_by_key(|left, _| left);
    is_cancelled(&sums.count().unwrap_err(), "by a handle");
    assert!(thread.join().unwrap());

    let (begun, thread) = cancel_when_begun(context.cancel_handle());
    let begun = Mutex::new(Some(begun));
    let grouped = context.range(0..10, 2).map(|x| (x, x)).group_by_key();
    let behind = grouped.map_partitions(move |rows| {
        if let Some(begun) = begun.lock().unwrap().take() {
            let _ = begun.send(());
        }
        rows.flat_map(|_| 0..u64::MAX)
    });
    is_cancelled(&behind.count().unwrap_err(), "`map_partitions`");
    assert!(thread.join().unwrap());

    let (begun, thread) = cancel_when_begun(context.cancel_handle());
    let numbered = endless(&context, begun).zip_with_index();
    is_cancelled(&numbered.count().unwrap_err(), "`filter`");
    assert!(thread.join().unwrap());
    assert_eq!(context.range(0..10, 3).count().unwrap(), 10);
}

/// Nothing but the action itself touches the records: of blocks that are kept, and of what a fold has read of a
/// shuffle.
#[test]
fn an_action_over_blocks_and_a_fold_of_a_shuffle_are_ended_within_their_partition() {
    const RECORDS: u64 = 200_000;
    let context = context(1);
    let kept = context.range(0..RECORDS, 1).cache();
    assert_eq!(kept.count().unwrap(), RECORDS);
    let (handle, seen) = (context.cancel_handle(), Arc::new(AtomicU64::new(0)));
    let count = Arc::clone(&seen);
    let cancelled = kept.for_each(move |_| {
        handle.cancel();
        count.fetch_add(1, Ordering::SeqCst);
    });
    is_cancelled(&cancelled.unwrap_err(), "by a handle");
    let records = seen.swap(0, Ordering::SeqCst);
    assert!(records < RECORDS / 10, "{records} of {RECORDS} records");

    // Four results of each key meet on the reading side.
    let (handle, count) = (context.cancel_handle(), Arc::clone(&seen));
    let pairs = context.range(0..RECORDS, 4).map(|x| (x % (RECORDS / 4), x));
    let folded = pairs.reduce_by_key_into(
        move |left, right| {
            handle.cancel();
            count.fetch_add(1, Ordering::SeqCst);
            left + right
        },
        1,
    );
    is_cancelled(&folded.count().unwrap_err(), "by a handle");
    let merged = seen.load(Ordering::SeqCst);
    assert!(merged < RECORDS / 10, "{merged} of {RECORDS} records");
}

#[test]
fn a_handle_without_an_action_does_nothing() {
    let context = context(2);
    let handle = context.cancel_handle();
    assert!(!handle.clone().cancel());
    assert_eq!(context.range(0..10, 2).count().unwrap(), 10);
    assert!(!handle.cancel());
    drop(context);
    assert!(!handle.cancel(), "it keeps no context alive");
}

#[test]
fn a_limit_ends_what_runs_and_what_comes_after_in_its_thread() {
    let context = context(2);
    let (begun, waits) = channel();
    let outcome = context.with_timeout(Duration::from_millis(1), || {
        let error = endless(&context, begun).count().unwrap_err();
        is_cancelled(&error, "its limit of 1ms has passed");
        let other = context.clone();
        let counted = std::thread::spawn(move || other.range(0..10, 2).count())
            .join()
            .unwrap();
        assert_eq!(counted.unwrap(), 10, "another thread has no limit");
        context.range(0..10, 2).count()
    });
    is_cancelled(&outcome.unwrap_err(), "1ms");
    drop(waits);
    assert_eq!(
        context.with_timeout(LONG, || context.range(0..10, 2).count()).unwrap(),
        10
    );
    assert_eq!(context.range(0..10, 2).count().unwrap(), 10);
}

#[test]
fn accumulators_count_nothing_of_tasks_that_were_ended() {
    let context = context(1);
    let counter = context.counter();
    let (added, handle) = (counter.clone(), context.cancel_handle());
    let rows = context.range(0..100_000, 1).map(move |x| {
        added.add(1);
        if x == 50_000 {
            handle.cancel();
        }
        x
    });
    assert!(rows.count().is_err());
    assert_eq!(counter.value(), 0);
}

#[test]
fn one_process_ends_the_action_of_all() {
    for canceller in 0..3 {
        let (cancelled, computed) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let run = TestCluster::new(3).run_lives(move |context, life| {
            let (cancelled, computed, handle) = (cancelled.clone(), computed.clone(), context.cancel_handle());
            let cancels = life.slot == canceller;
            let endless = context.range(0..u64::MAX, 6).map(move |x| {
                computed.fetch_add(1, Ordering::SeqCst);
                if cancels && !cancelled.swap(true, Ordering::SeqCst) {
                    assert!(handle.cancel());
                }
                x
            });
            let error = endless.count().unwrap_err();
            is_cancelled(&error, "`map`");
            assert_eq!(context.range(0..10, 3).reduce(|left, right| left + right)?, Some(45));
            Ok(error.to_string())
        });
        let results = run.unwrap().results;
        assert_eq!(results.len(), 3);
        assert!(results.iter().all(|error| *error == results[0]), "{results:?}");
    }
}

#[test]
fn a_process_without_work_ends_the_action_of_the_others() {
    let run = TestCluster::new(2).run_lives(|context, life| {
        let handle = context.cancel_handle();
        let watch = (life.slot == 1).then(|| std::thread::spawn(move || while !handle.cancel() {}));
        // One partition, which the first process computes.
        let error = context.range(0..u64::MAX, 1).filter(|x| *x == 7).count().unwrap_err();
        watch.into_iter().for_each(|watch| watch.join().unwrap());
        is_cancelled(&error, "by a handle");
        context.range(0..10, 3).count()
    });
    assert_eq!(run.unwrap().results, vec![10, 10]);
}

#[test]
fn the_first_limit_of_several_processes_ends_the_action_of_all() {
    let run = TestCluster::new(3).run_lives(|context, life| {
        let limit = if life.slot == 1 { Duration::from_millis(5) } else { LONG };
        let outcome = context.with_timeout(limit, || context.range(0..u64::MAX, 6).filter(|x| *x == 7).count());
        is_cancelled(&outcome.unwrap_err(), "its limit of 5ms has passed");
        context.range(0..10, 3).count()
    });
    assert_eq!(run.unwrap().results, vec![10; 3]);
}

/// The other thread's checkpoint may take as long as it likes.
#[test]
fn a_limit_ends_the_wait_for_another_threads_local_checkpoint() {
    let context = context(1);
    let (begun, waits) = channel();
    let (open, gate) = channel::<()>();
    let gate = Mutex::new(gate);
    let slow = context.range(0..1, 1).map(move |x| {
        let _ = begun.send(());
        let _ = gate.lock().unwrap().recv();
        x
    });
    let other = context.range(0..10, 1);
    std::thread::scope(|scope| {
        // Where something here fails the other thread is let go, too.
        let open = open;
        let checkpoint = scope.spawn(|| slow.local_checkpoint().map(drop));
        waits.recv().unwrap();
        let error = context.with_timeout(Duration::from_millis(1), || other.local_checkpoint());
        is_cancelled(&error.err().unwrap(), "its limit of 1ms has passed");
        drop(open);
        checkpoint.join().unwrap().unwrap();
    });
    assert_eq!(other.local_checkpoint().unwrap().count().unwrap(), 10);
}

#[test]
fn a_limit_that_passes_while_others_have_the_turn_ends_who_waits_for_it() {
    let context = context(2);
    let (begun, has_begun) = channel();
    let waits = || context.range(0..10, 3).map(|x| x).count();
    std::thread::scope(|scope| {
        let runs = scope.spawn(|| endless(&context, begun).count());
        has_begun.recv_timeout(WAIT_MAX).unwrap();
        let error = context.with_timeout(Duration::from_millis(5), waits).unwrap_err();
        is_cancelled(&error, "its limit of 5ms has passed");
        assert!(!runs.is_finished(), "who has the turn is not meant");
        let waiting = scope.spawn(|| context.with_timeout(LONG, waits));
        assert!(context.cancel_handle().cancel());
        is_cancelled(&runs.join().unwrap().unwrap_err(), "by a handle");
        assert_eq!(
            waiting.join().unwrap().unwrap(),
            10,
            "one whose limit has not passed gets its turn"
        );
    });
}

/// Calls a function when it is dropped.
struct Guard<F: Fn()>(F);

impl<F: Fn()> Drop for Guard<F> {
    fn drop(&mut self) {
        self.0();
    }
}

/// Numbers in one partition, until whose task is dropped a guard lives that calls `dropped` then.
fn guarded(context: &Context, records: u64, dropped: impl Fn() + Clone + Send + Sync + 'static) -> Dataset<u64> {
    context.range(0..1, 1).map_partitions(move |_| {
        let guard = Guard(dropped.clone());
        (0..records).inspect(move |_| {
            let _alive = &guard;
        })
    })
}

/// One worker has begun both sides of a join when the right one is cancelled; the left one is dropped between its
/// batches.
#[test]
fn what_closures_made_is_dropped_within_its_task_where_a_round_is_cut() {
    let context = context(1);
    let (counter, dropped) = (context.counter(), Arc::new(AtomicBool::new(false)));
    let (added, noted, handle) = (counter.clone(), Arc::clone(&dropped), context.cancel_handle());
    let left = guarded(&context, u64::MAX, move || {
        added.add(1);
        noted.store(true, Ordering::SeqCst);
        panic!("the guard panics");
    });
    let right = context.range(0..u64::MAX, 1).map(move |x| {
        if x == 1_000_000 {
            handle.cancel();
        }
        x
    });
    let sum = |rows: Dataset<u64>| rows.map(|x| (x % 5, x)).reduce_by_key(|left, _| left);
    is_cancelled(&sum(left).join(&sum(right)).count().unwrap_err(), "by a handle");
    assert!(dropped.load(Ordering::SeqCst));
    assert_eq!(counter.value(), 0, "an action that ends with an error adds nothing");
    assert_eq!(
        context.range(0..10, 3).count().unwrap(),
        10,
        "the worker is still there"
    );
}

#[test]
fn what_closures_made_is_dropped_within_its_task_at_its_end() {
    let context = context(1);
    let counter = context.counter();
    let added = counter.clone();
    let sums = guarded(&context, 10, move || added.add(1))
        .map(|x| (x % 5, x))
        .reduce_by_key(|left, _| left);
    assert!(sums.for_each(|_| panic!("the action fails")).is_err());
    assert_eq!(counter.value(), 0, "an action that ends with an error adds nothing");
    assert_eq!(sums.count().unwrap(), 5);
    assert_eq!(counter.value(), 1);

    let panics = guarded(&context, 10, || panic!("the guard panics"));
    let error = panics.map(|x| (x, x)).group_by_key().count().unwrap_err();
    assert!(matches!(error, EngineError::Panic { .. }), "{error}");
}
