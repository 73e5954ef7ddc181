//! Objects of a remote store, read by processes with cache folders of their own.

use std::sync::Arc;

use distdl_engine::cluster::chaos::Chaos;
use distdl_engine::testing::TestCluster;
use distdl_storage::StoreFigures;
use distdl_storage::remote::{ObjectStore, Stores, StoresOptions};
use distdl_storage::testing::{FaultStore, StoreFaults};

const URL: &str = "memory://data/records";
const RECORD_BYTES: usize = 8;

struct Remote {
    faults: StoreFaults,
    objects: Arc<dyn ObjectStore>,
    folder: tempfile::TempDir,
}

impl Remote {
    fn new() -> Self {
        let faults = StoreFaults::new();
        Self {
            objects: Arc::new(FaultStore::in_memory(faults.clone())),
            faults,
            folder: tempfile::tempdir().unwrap(),
        }
    }

    /// An object of the numbers below `count`, scattered so that no two chunks are alike.
    fn put(&self, count: u64) {
        let stores = Stores::over(Arc::clone(&self.objects), StoresOptions::default());
        let bytes: Vec<u8> = (0..count).flat_map(|number| scattered(number).to_le_bytes()).collect();
        stores.write(URL, bytes.into()).unwrap();
    }

    fn cluster(&self) -> TestCluster {
        TestCluster {
            caches: (0..3).map(|slot| self.folder.path().join(slot.to_string())).collect(),
            objects: Some(Arc::clone(&self.objects)),
            ..TestCluster::new(3)
        }
    }

    /// Reads the object twice over, and says how many bytes were fetched, as the store and as the cluster counts.
    fn read(&self, cluster: &TestCluster, count: u64) -> (u64, StoreFigures) {
        let before = self.faults.read_bytes();
        let run = cluster.run(move |context| {
            let records = context.binary_records(URL, RECORD_BYTES as u64, 0, 7)?;
            let number = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().unwrap());
            let sums: Vec<u64> = records.map(move |bytes| number(&bytes)).glom().map(sum).collect()?;
            assert_eq!(sum(sums), sum((0..count).map(scattered)));
            // Two partitions more, so that they lie elsewhere.
            let again = context.binary_records(URL, RECORD_BYTES as u64, 0, 9)?;
            assert_eq!(again.count()?, count);
            Ok(context.reading())
        });
        let run = run.unwrap();
        let figures = run.results[0];
        assert!(run.results.iter().all(|result| *result == figures));
        (self.faults.read_bytes() - before, figures)
    }
}

fn scattered(number: u64) -> u64 {
    number.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (number << 7)
}

fn sum(numbers: impl IntoIterator<Item = u64>) -> u64 {
    numbers.into_iter().fold(0, u64::wrapping_add)
}

#[test]
fn each_byte_is_fetched_once_for_all_processes_and_runs() {
    let (remote, count) = (Remote::new(), 2_000_000);
    remote.put(count);
    let bytes = count * RECORD_BYTES as u64;
    let (fetched, figures) = remote.read(&remote.cluster(), count);
    assert_eq!((fetched, figures.remote_bytes), (bytes, bytes));
    assert!(
        figures.peer_bytes > 0,
        "some partitions were read elsewhere the second time"
    );
    let (fetched, figures) = remote.read(&remote.cluster(), count);
    assert_eq!((fetched, figures.remote_bytes), (0, 0));
    // One of the hosts is new.
    std::fs::remove_dir_all(remote.folder.path().join("1")).unwrap();
    let (fetched, figures) = remote.read(&remote.cluster(), count);
    assert_eq!((fetched, figures.remote_bytes), (0, 0));
    assert!(figures.peer_bytes > 0);
}

#[test]
fn of_a_grown_object_the_tail_is_fetched_once() {
    let (remote, count) = (Remote::new(), 2_000_000);
    let cluster = TestCluster {
        cache_grows_only: vec!["memory://data/".into()],
        ..remote.cluster()
    };
    remote.put(count);
    remote.read(&cluster, count);
    remote.put(count + 100_000);
    let (fetched, figures) = remote.read(&cluster, count + 100_000);
    assert_eq!(fetched, figures.remote_bytes);
    assert!((800_000..3_000_000).contains(&fetched), "{fetched}");
    assert_eq!(remote.read(&cluster, count + 100_000).0, 0);
}

#[test]
fn work_goes_to_where_the_bytes_are() {
    let remote = Remote::new();
    let stores = Stores::over(Arc::clone(&remote.objects), StoresOptions::default());
    for number in 0..9_u8 {
        stores
            .write(&format!("memory://data/{number}"), vec![number; 100_000].into())
            .unwrap();
    }
    let mut caches = remote.cluster().caches;
    for (from_store, from_peers) in [(900_000, 0), (0, 0), (0, 0)] {
        let cluster = TestCluster {
            caches: caches.clone(),
            ..remote.cluster()
        };
        let run = cluster.run(|context| {
            let lengths = context
                .objects("memory://data/*", 9)?
                .map(|(_, bytes)| bytes.len() as u64);
            assert_eq!(lengths.reduce(|one, other| one + other)?, Some(900_000));
            Ok(context.reading())
        });
        let figures = run.unwrap().results[0];
        assert_eq!((figures.remote_bytes, figures.peer_bytes), (from_store, from_peers));
        // Each process has another one's folder next.
        caches.rotate_left(1);
    }
}

#[test]
fn whoever_dies_no_byte_is_wrong_and_few_are_fetched_again() {
    let (remote, count) = (Remote::new(), 2_000_000);
    remote.put(count);
    let bytes = count * RECORD_BYTES as u64;
    // Who is killed is missed at once, and who is stopped after a lease. Others must not be, however slow they are.
    for (chaos, lease_seconds) in [
        ("kill=worker:1@report:4", 20),
        ("kill=worker:0@report:3,kill=worker:2@report:6", 20),
        ("stop=worker:1@report:4", 2),
    ] {
        let cluster = TestCluster {
            lease: std::time::Duration::from_secs(lease_seconds),
            ..remote.cluster()
        };
        let (fetched, _) = remote.read(&cluster.with_chaos(Chaos::parse(chaos).unwrap()), count);
        assert!(fetched <= 2 * bytes, "{chaos}: {fetched}");
        std::fs::remove_dir_all(remote.folder.path().join("0")).unwrap();
        std::fs::remove_dir_all(remote.folder.path().join("2")).unwrap();
    }
}

#[test]
fn a_name_node_that_comes_back_learns_anew_who_has_what() {
    let (remote, count) = (Remote::new(), 1_000_000);
    remote.put(count);
    remote.read(&remote.cluster(), count);
    std::fs::remove_dir_all(remote.folder.path().join("1")).unwrap();
    let cluster = TestCluster {
        name_node_grace: std::time::Duration::from_secs(20),
        ..remote.cluster()
    };
    let run = cluster.run_lives(move |context, life| {
        assert_eq!(context.range(0..10, 3).count()?, 10);
        if life.slot == 0 && life.number == 0 {
            life.kill_name_node();
        }
        let records = context.binary_records(URL, RECORD_BYTES as u64, 0, 7)?;
        assert_eq!(records.count()?, count);
        Ok(context.stores().figures().remote_bytes)
    });
    assert!(run.unwrap().results.iter().all(|fetched| *fetched == 0));
}
