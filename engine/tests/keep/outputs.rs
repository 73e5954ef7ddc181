//! What living processes have sent into shuffles is sent again after a loss, and not computed again.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use distdl_engine::testing::{Life, TestCluster};
use distdl_engine::{Accumulator, Context, Dataset, Result};

use crate::Row;

const ROWS: u64 = 2400;
const SOURCES: usize = 12;
const SUMS: usize = 6;
const VICTIM: u32 = 1;
const DISK_BYTES: u64 = 4 << 20;

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

/// A process dies, and `spoil` is done to the folder of files before.
fn again(keep_shuffles_after: Duration, spoil: fn(&Path)) -> Again {
    let folder = tempfile::tempdir().unwrap();
    let cluster = TestCluster {
        keep_shuffles_after,
        disk_bytes_max: DISK_BYTES,
        spill_folder: Some(folder.path().to_owned()),
        ..TestCluster::new(3)
    };
    let files = folder.path().canonicalize().unwrap();
    let (sources, sums) = (Computed::default(), Computed::default());
    let seen = (Arc::clone(&sources), Arc::clone(&sums));
    let program = move |context: &Context, life: &Life| -> Result<(Vec<Row>, u64)> {
        let (counter, life, files) = (context.counter(), life.clone(), files.clone());
        let result = pipeline(context, &seen.0, &seen.1, &counter);
        // All have sent everything once the last stage reads it.
        let rows = result.map(move |row| {
            if (life.slot, life.number) == (VICTIM, 0) && life.lasts() {
                spoil(&files);
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

/// Damages what all processes have spilled to `folder`. Those files have no names any more; the processes are one to
/// the system, so what is open tells them.
fn damage(folder: &Path) {
    let mut damaged = 0;
    for entry in fs::read_dir("/proc/self/fd").unwrap() {
        let path = entry.unwrap().path();
        if !fs::read_link(&path).is_ok_and(|file| file.starts_with(folder)) {
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
    let again = again(Duration::ZERO, |_| {});
    assert_eq!((again.sources, again.sums), (SOURCES / 3, SUMS / 3));
    assert_eq!(again.sent as usize, (SOURCES + SUMS) * 2 / 3);
}

#[test]
fn actions_that_are_short_keep_nothing() {
    let again = again(Duration::MAX, |_| {});
    assert_eq!((again.sources, again.sums, again.sent), (SOURCES, SUMS, 0));
}

#[test]
fn what_is_damaged_is_computed_again() {
    let again = again(Duration::ZERO, damage);
    assert!(again.sources > SOURCES / 3, "{} sources", again.sources);
}
