//! What living processes have sent into shuffles is sent again after a loss, and not computed again.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use distdl_engine::testing::{Life, TestCluster};
use distdl_engine::{Accumulator, Context, Dataset, Result};

use crate::Row;

const ROWS: u64 = 2400;
const SOURCES: usize = 12;
const SUMS: usize = 6;
const VICTIM: u32 = 1;
const DISK_BYTES: u64 = 4 << 20;

/// One test damages the files of all.
static FILES: Mutex<()> = Mutex::new(());

fn files() -> MutexGuard<'static, ()> {
    FILES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How often each partition was computed, in all processes together.
type Computed = Arc<Mutex<BTreeMap<usize, usize>>>;

fn counted(dataset: &Dataset<Row>, computed: &Computed) -> Dataset<Row> {
    let computed = Arc::clone(computed);
    dataset.map_partitions_with_index(move |partition, rows| {
        *computed.lock().unwrap().entry(partition).or_default() += 1;
        rows
    })
}

/// Two shuffles; what is between them and before them is counted.
fn pipeline(context: &Context, sources: &Computed, sums: &Computed, counter: &Accumulator<u64>) -> Dataset<Row> {
    let counter = counter.clone();
    let rows = context.range(0..ROWS, SOURCES).map(move |x| {
        counter.add(1);
        (x % 300, x)
    });
    let folded = counted(&rows, sources).reduce_by_key_into(|left, right| left.wrapping_mul(31) ^ right, SUMS);
    let turned = counted(&folded, sums).map(|(key, sum)| (key % 40, sum));
    turned.reduce_by_key_into(|left, right| left.wrapping_mul(17) ^ right, 3)
}

/// Partitions that were computed beyond their first time: of sources, of sums; and outputs that were sent again.
struct Again {
    sources: usize,
    sums: usize,
    sent: u64,
}

/// A process dies, and `spoil` is done before.
fn again(cluster: &TestCluster, spoil: fn()) -> Again {
    let (sources, sums) = (Computed::default(), Computed::default());
    let seen = (Arc::clone(&sources), Arc::clone(&sums));
    let program = move |context: &Context, life: &Life| -> Result<(Vec<Row>, u64)> {
        let (counter, life) = (context.counter(), life.clone());
        let result = pipeline(context, &seen.0, &seen.1, &counter);
        // All have sent everything once the last stage reads it.
        let rows = result.map(move |row| {
            if (life.slot, life.number) == (VICTIM, 0) && life.lasts() {
                spoil();
                life.kill();
            }
            row
        });
        let rows = rows.collect()?;
        assert_eq!(counter.value(), ROWS, "each counts once");
        // The disk is as empty as it was.
        context.store().spill()?.append(&vec![0; DISK_BYTES as usize - 4])?;
        Ok((rows, context.metrics().outputs_sent_again()))
    };
    let run = cluster.run_lives(program).unwrap();
    let alone = crate::context(1);
    let expected = pipeline(&alone, &Computed::default(), &Computed::default(), &alone.counter());
    let expected = expected.collect().unwrap();
    assert!(run.results.iter().all(|(rows, _)| *rows == expected));
    let more = |computed: &Computed, first: usize| {
        let computed = computed.lock().unwrap();
        assert_eq!(computed.len(), first);
        computed.values().sum::<usize>() - first
    };
    Again {
        sources: more(&sources, SOURCES),
        sums: more(&sums, SUMS),
        sent: run.results.iter().map(|(_, sent)| sent).sum(),
    }
}

fn cluster(keep_shuffles_after: Duration) -> TestCluster {
    TestCluster {
        keep_shuffles_after,
        disk_bytes_max: DISK_BYTES,
        ..TestCluster::new(3)
    }
}

/// Damages what is spilled by all processes of the test, which are one to the system.
fn damage() {
    let mut damaged = 0;
    for entry in fs::read_dir("/proc/self/fd").unwrap() {
        let path = entry.unwrap().path();
        let is_spill = |name: std::path::PathBuf| name.to_string_lossy().contains("distdl-blocks-");
        if !fs::read_link(&path).is_ok_and(is_spill) {
            continue;
        }
        let Ok(file) = File::options().read(true).write(true).open(&path) else {
            continue;
        };
        let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
        file.read_exact_at(&mut bytes, 0).unwrap();
        bytes.iter_mut().for_each(|byte| *byte ^= 1);
        file.write_all_at(&bytes, 0).unwrap();
        damaged += usize::from(!bytes.is_empty());
    }
    assert!(damaged > 0, "there is nothing to damage");
}

#[test]
fn only_the_work_of_the_dead_is_done_again() {
    let _files = files();
    let again = again(&cluster(Duration::ZERO), || {});
    assert_eq!((again.sources, again.sums), (SOURCES / 3, SUMS / 3));
    assert_eq!(again.sent as usize, (SOURCES + SUMS) * 2 / 3);
}

#[test]
fn actions_that_are_short_keep_nothing() {
    let _files = files();
    let again = again(&cluster(Duration::MAX), || {});
    assert_eq!((again.sources, again.sums, again.sent), (SOURCES, SUMS, 0));
}

#[test]
fn what_is_damaged_is_computed_again() {
    let _files = files();
    let again = again(&cluster(Duration::ZERO), damage);
    assert!(again.sources > SOURCES / 3, "{} sources", again.sources);
}
