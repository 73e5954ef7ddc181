//! What living processes have sent into shuffles is sent again after a loss, and not computed again.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use distdl_engine::testing::{Life, TestCluster};
use distdl_engine::{Context, Dataset, Result};

use crate::Row;

const SOURCES: usize = 12;
const SUMS: usize = 6;
const VICTIM: u32 = 1;

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
fn pipeline(context: &Context, sources: &Computed, sums: &Computed) -> Dataset<Row> {
    let rows = context.range(0..2400, SOURCES).map(|x| (x % 300, x));
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

fn again(cluster: &TestCluster, spoil: impl Fn(&Context) + Send + Sync + 'static) -> Again {
    let (sources, sums) = (Computed::default(), Computed::default());
    let seen = (Arc::clone(&sources), Arc::clone(&sums));
    let program = move |context: &Context, life: &Life| -> Result<(Vec<Row>, u64)> {
        let (result, life) = (pipeline(context, &seen.0, &seen.1), life.clone());
        // All have sent everything once the last stage reads it.
        let rows = result.map(move |row| {
            if (life.slot, life.number) == (VICTIM, 0) {
                life.kill();
            }
            row
        });
        let rows = rows.collect()?;
        spoil(context);
        Ok((rows, context.metrics().outputs_sent_again()))
    };
    let run = cluster.run_lives(program).unwrap();
    let expected = pipeline(&crate::context(1), &Computed::default(), &Computed::default());
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
        ..TestCluster::new(3)
    }
}

#[test]
fn only_the_work_of_the_dead_is_done_again() {
    let again = again(&cluster(Duration::ZERO), |_| {});
    assert_eq!((again.sources, again.sums), (SOURCES / 3, SUMS / 3));
    assert_eq!(again.sent as usize, (SOURCES + SUMS) * 2 / 3);
}

#[test]
fn actions_that_are_short_keep_nothing() {
    let again = again(&cluster(Duration::MAX), |_| {});
    assert_eq!((again.sources, again.sums, again.sent), (SOURCES, SUMS, 0));
}

#[test]
fn nothing_is_left_on_disk() {
    again(&cluster(Duration::ZERO), |context| {
        assert_eq!(context.store().disk_bytes_used(), 0);
    });
}
