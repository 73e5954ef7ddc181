//! Several processes remember together.

use std::path::PathBuf;

use distdl_engine::cluster::chaos::Chaos;
use distdl_engine::testing::{Life, TestCluster};
use distdl_engine::{Context, Result};

use crate::pipeline::*;

const PARTITIONS: usize = 12;

type Rows = Vec<(u64, u64)>;

fn program(context: &Context, read: &Ledger, summed: &Ledger) -> Result<(Rows, Rows)> {
    let (read, summed) = (read.clone(), summed.clone());
    let rows = context
        .range(0..600, PARTITIONS)
        .map_partitions_with_index(move |partition, numbers| {
            read.note(partition);
            numbers.map(|number| (number % 37, number))
        });
    let rows = rows.memoize("rows", 1)?;
    let sums = rows.reduce_by_key(|left, right| left.wrapping_mul(31).wrapping_add(right));
    let sums = sums.map_partitions_with_index(move |partition, sums| {
        summed.note(partition);
        sums
    });
    let sums = sums
        .zip_with_index()
        .map(|((key, sum), index)| (key ^ index, sum))
        .memoize("sums", 1)?;
    Ok((sums.collect()?, rows.collect()?))
}

fn cluster(processes: u32, caches: &[PathBuf]) -> TestCluster {
    TestCluster {
        caches: caches.to_vec(),
        ..TestCluster::new(processes)
    }
}

/// Runs the program in a cluster; all results are `expected`. How often partitions were computed before the shuffle,
/// and behind it.
fn run(cluster: &TestCluster, expected: &(Rows, Rows), kill: impl Fn(&Life) + Send + Sync + 'static) -> [usize; 2] {
    let ledgers = [Ledger::default(), Ledger::default()];
    let [read, summed] = ledgers.clone();
    let run = cluster.run_lives(move |context, life| {
        kill(life);
        program(context, &read, &summed)
    });
    let results = run.unwrap().results;
    assert!(!results.is_empty());
    results.iter().for_each(|result| assert!(result == expected));
    ledgers.map(|ledger| ledger.take().len())
}

fn expected() -> (Rows, Rows) {
    let cache = tempfile::tempdir().unwrap();
    program(&context(cache.path()), &Ledger::default(), &Ledger::default()).unwrap()
}

#[test]
fn processes_that_share_a_folder_compute_each_partition_once_and_then_never() {
    let (expected, cache) = (expected(), tempfile::tempdir().unwrap());
    let caches = [cache.path().to_owned()];
    assert_eq!(
        run(&cluster(3, &caches), &expected, |_| {}),
        [PARTITIONS, PARTITIONS + PARTITIONS]
    );
    for processes in [3, 1, 4] {
        assert_eq!(
            run(&cluster(processes, &caches), &expected, |_| {}),
            [0, 0],
            "{processes} processes"
        );
    }
    let (read, summed) = (Ledger::default(), Ledger::default());
    let alone = program(&context(cache.path()), &read, &summed).unwrap();
    assert!(alone == expected && read.take().is_empty() && summed.take().is_empty());
}

#[test]
fn processes_with_folders_of_their_own_give_each_other_what_each_has() {
    let expected = expected();
    let folders = [(); 3].map(|()| tempfile::tempdir().unwrap());
    let caches = folders.each_ref().map(|folder| folder.path().to_owned());
    run(&cluster(3, &caches), &expected, |_| {});
    assert!(
        caches.iter().all(|cache| !remembered(cache).is_empty()),
        "each has some"
    );
    assert_eq!(run(&cluster(3, &caches), &expected, |_| {}), [0, 0]);
    // What only one of them had is lost with its folder.
    let lost = remembered(&caches[1]).len();
    std::fs::remove_dir_all(&caches[1]).unwrap();
    let [read, summed] = run(&cluster(3, &caches), &expected, |_| {});
    assert!(
        read + summed > 0 && read <= lost + PARTITIONS,
        "{read} {summed} of {lost}"
    );
}

#[test]
fn processes_that_die_leave_what_they_have_computed_to_the_others() {
    let expected = expected();
    for block in [0, 3, 9, 15] {
        let cache = tempfile::tempdir().unwrap();
        let caches = [cache.path().to_owned()];
        let chaos = Chaos::parse(&format!("kill=worker:1@block:{block}")).unwrap();
        let killed = cluster(3, &caches).with_chaos(chaos);
        let [read, _] = run(&killed, &expected, |_| {});
        // The blocks of the killed process are on disk already, so nothing before the shuffle is computed twice but
        // what each of the three had in hand when the round was cut.
        assert!((PARTITIONS..=PARTITIONS + 3).contains(&read), "{read} at block {block}");
        assert_eq!(
            run(&cluster(2, &caches), &expected, |_| {}),
            [0, 0],
            "after block {block}"
        );
    }
}

#[test]
fn damage_costs_computations_in_a_cluster_too() {
    let (expected, cache) = (expected(), tempfile::tempdir().unwrap());
    let caches = [cache.path().to_owned()];
    run(&cluster(2, &caches), &expected, |_| {});
    for (number, file) in remembered(cache.path())
        .iter()
        .enumerate()
        .filter(|(number, _)| number % 3 == 0)
    {
        match number % 2 {
            0 => std::fs::write(file, "damaged").unwrap(),
            _ => std::fs::remove_file(file).unwrap(),
        }
    }
    let [read, summed] = run(&cluster(3, &caches), &expected, |_| {});
    assert!(read + summed > 0);
    assert_eq!(run(&cluster(3, &caches), &expected, |_| {}), [0, 0]);
    let small = TestCluster {
        memo_bytes_max: 3 * 4096,
        ..cluster(3, &caches)
    };
    run(&small, &expected, |_| {});
}
