//! Tasks of a slow process are computed elsewhere as well, and whoever ends first counts.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use distdl_engine::testing::{Life, TestCluster};
use distdl_engine::{Accumulator, Context, Dataset, Determinacy};

type Row = (u64, u64);

const ROWS: u64 = 1200;
const PARTITIONS: usize = 6;
const SLOW: u32 = 1;
/// In batches of this size a task looks often whether it should stop.
const BATCH_RECORDS: usize = 10;

/// The attempts that have ended at each partition, and those who wait for one.
#[derive(Clone, Default)]
struct Attempts(Arc<(Mutex<BTreeMap<usize, usize>>, Condvar)>);

impl Attempts {
    fn ended(&self, partition: usize) {
        *self.0.0.lock().unwrap().entry(partition).or_default() += 1;
        self.0.1.notify_all();
    }

    fn wait_for(&self, partition: usize) {
        self.once(|attempts| attempts.contains_key(&partition));
    }

    fn once_there_are_some(&self) -> BTreeMap<usize, usize> {
        self.once(|attempts| !attempts.is_empty())
    }

    fn once(&self, is_so: impl Fn(&BTreeMap<usize, usize>) -> bool) -> BTreeMap<usize, usize> {
        let attempts = self.0.0.lock().unwrap();
        let waited = self
            .0
            .1
            .wait_timeout_while(attempts, PATIENCE, |attempts| !is_so(attempts));
        let seen = waited.unwrap().0.clone();
        assert!(
            is_so(&seen),
            "after {PATIENCE:?} only these attempts have ended: {seen:?}"
        );
        seen
    }

    fn wait_in_vain_for_another(&self, partition: usize) {
        let attempts = self.0.0.lock().unwrap();
        let alone = |attempts: &mut BTreeMap<usize, usize>| attempts[&partition] == 1;
        drop(self.0.1.wait_timeout_while(attempts, IN_VAIN, alone));
    }
}

/// What has not happened after so long never does.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long nobody comes before nobody will come.
const IN_VAIN: Duration = Duration::from_millis(200);

/// Rows whose making is finished in the slow process only after it was finished in another one.
fn rows(context: &Context, life: &Life, attempts: &Attempts, counter: &Accumulator<u64>) -> Dataset<Row> {
    let (attempts, slow) = (attempts.clone(), life.slot == SLOW);
    let counter = counter.clone();
    let rows = context.range(0..ROWS, PARTITIONS).map(move |x| {
        counter.add(1);
        (x % 70, x)
    });
    rows.map_partitions_with_index(move |partition, rows| {
        let attempts = attempts.clone();
        let mut rows = rows.into_iter();
        std::iter::from_fn(move || {
            let row = rows.next();
            match (&row, slow) {
                (Some(_), true) => attempts.wait_for(partition),
                (None, false) => attempts.ended(partition),
                _ => {}
            }
            row
        })
    })
}

fn cluster(speculate_after: &[Option<Duration>]) -> TestCluster {
    TestCluster {
        batch_records: BATCH_RECORDS,
        speculate_after: speculate_after.to_vec(),
        ..TestCluster::new(3)
    }
}

#[test]
fn a_process_that_would_never_end_its_tasks_holds_nobody_up() {
    let attempts = Attempts::default();
    let run = cluster(&[Some(Duration::ZERO)]).run_lives(move |context, life| {
        let counter = context.counter();
        let sums = rows(context, life, &attempts, &counter).reduce_by_key(|left, right| left.wrapping_mul(31) ^ right);
        let sums = sums.collect()?;
        assert_eq!(
            counter.value(),
            ROWS,
            "each row counts once, however many attempts there were"
        );
        Ok((sums, context.metrics().tasks_copied()))
    });
    let results = run.unwrap().results;
    let alone = Context::new(distdl_engine::Config::default().with_threads(1)).unwrap();
    let expected = alone.range(0..ROWS, PARTITIONS).map(|x| (x % 70, x));
    let expected = expected
        .reduce_by_key(|left, right| left.wrapping_mul(31) ^ right)
        .collect()
        .unwrap();
    assert!(results.iter().all(|(sums, _)| *sums == expected));
    let copied: u64 = results.iter().map(|(_, copied)| copied).sum();
    assert!(copied >= PARTITIONS as u64 / 3, "{copied} copies");
}

#[test]
fn results_of_an_action_are_copied_too() {
    let attempts = Attempts::default();
    let run = cluster(&[Some(Duration::ZERO)]).run_lives(move |context, life| {
        let counter = context.counter();
        let rows = rows(context, life, &attempts, &counter).collect()?;
        assert_eq!(counter.value(), ROWS);
        Ok(rows)
    });
    let expected: Vec<Row> = (0..ROWS).map(|x| (x % 70, x)).collect();
    assert!(run.unwrap().results.iter().all(|rows| *rows == expected));
}

/// What has gone wrong for a copy may go right where the task belongs.
#[test]
fn a_copy_that_fails_is_dropped() {
    let (attempts, failed) = (Attempts::default(), Attempts::default());
    let seen = failed.clone();
    let run = cluster(&[Some(Duration::ZERO)]).run_lives(move |context, life| {
        let (begun, failed, slow) = (attempts.clone(), failed.clone(), life.slot == SLOW);
        let rows = context.range(0..ROWS, PARTITIONS);
        let rows = rows.map_partitions_with_index(move |partition, rows| {
            // Of what the slow process has begun the others can only be copying.
            if slow {
                begun.ended(partition);
                failed.once_there_are_some();
            } else if begun.once_there_are_some().contains_key(&partition) {
                failed.ended(partition);
                panic!("this process cannot");
            }
            rows
        });
        rows.map(|x| (x % 7, x)).reduce_by_key(u64::wrapping_add).count()
    });
    assert!(run.unwrap().results.iter().all(|count| *count == 7));
    assert!(!seen.0.0.lock().unwrap().is_empty());
}

/// Files that an action writes: an attempt that is stopped half-way would leave the half.
#[test]
fn what_may_do_something_to_the_world_is_not_copied() {
    let attempts = Attempts::default();
    let begun = attempts.clone();
    let run = cluster(&[Some(Duration::ZERO)]).run_lives(move |context, life| {
        let (begun, slow) = (begun.clone(), life.slot == SLOW);
        let counts = context
            .range(0..ROWS, PARTITIONS)
            .run_partitions(move |partition, rows| {
                begun.ended(partition);
                if slow {
                    begun.wait_in_vain_for_another(partition);
                }
                Ok(rows.count())
            });
        Ok((counts?.iter().sum::<usize>() as u64, context.metrics().tasks_copied()))
    });
    assert!(run.unwrap().results.iter().all(|result| *result == (ROWS, 0)));
    assert!(attempts.0.0.lock().unwrap().values().all(|count| *count == 1));
}

/// Two attempts at what is not the same twice would differ, and readers would see both.
#[test]
fn what_is_not_the_same_twice_is_not_copied() {
    let attempts = Attempts::default();
    let begun = attempts.clone();
    let run = cluster(&[Some(Duration::ZERO)]).run_lives(move |context, life| {
        let (begun, slow) = (begun.clone(), life.slot == SLOW);
        let drawn = context.range(0..ROWS, PARTITIONS);
        let drawn = drawn.map_partitions_with_index(move |partition, rows| {
            begun.ended(partition);
            if slow {
                begun.wait_in_vain_for_another(partition);
            }
            rows
        });
        let drawn = drawn.with_determinacy(Determinacy::Indeterminate);
        let count = drawn.count()?;
        let copied = context.metrics().tasks_copied();
        // It is kept for this, and what is kept is the same for everybody.
        assert_eq!(drawn.map(|x| x + 1).count()?, count);
        Ok((count, copied))
    });
    assert!(run.unwrap().results.iter().all(|result| *result == (ROWS, 0)));
    let attempts = attempts.0.0.lock().unwrap();
    assert!(
        attempts.values().all(|count| *count == 2),
        "once for each action: {attempts:?}"
    );
}

#[test]
fn nothing_is_computed_twice_unless_that_is_wanted() {
    let attempts = Attempts::default();
    let seen = attempts.clone();
    let run = cluster(&[]).run(move |context| {
        let seen = seen.clone();
        let rows = context.range(0..ROWS, PARTITIONS);
        let rows = rows.map_partitions_with_index(move |partition, rows| {
            seen.ended(partition);
            rows
        });
        rows.count()?;
        Ok(context.metrics().tasks_copied())
    });
    assert!(run.unwrap().results.iter().all(|copied| *copied == 0));
    assert!(attempts.0.0.lock().unwrap().values().all(|count| *count == 1));
}

/// One that hears of no task's end would wait for ever, or compute everything again.
#[test]
fn nobody_copies_unless_all_do() {
    let run = cluster(&[Some(Duration::ZERO), None]).run(|context| {
        let of_one = context.range(0..ROWS, 1).count()?;
        let keys = context.range(0..ROWS, PARTITIONS).map(|x| (x % 7, x));
        let keys = keys.reduce_by_key(u64::wrapping_add).count()?;
        Ok((of_one, keys, context.metrics().tasks_copied()))
    });
    assert_eq!(run.unwrap().results, [(ROWS, 7, 0); 3]);
}
