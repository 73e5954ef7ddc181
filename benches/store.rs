//! The storage layer by itself: look-ups in each layer, chunks, reads, checksums and spills, each beside what the
//! machine's memory does in the same run.

mod common;

use std::hint::black_box;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::Parser;
use common::{Spread, emit, machine, mix, spread};
use distdl::storage::bloom::{Bloom, Digest};
use distdl::storage::remote::{CacheOptions, Object, Stores, StoresOptions};
use distdl::storage::testing::{HostDevice, chunks_count};
use distdl::storage::{
    Block, BlockId, BlockStore, Codec, DeviceKey, DeviceTier, Level, Record, Source, StorageError, StoreOptions,
};
use serde::{Deserialize, Serialize};

type Result<T> = std::result::Result<T, StorageError>;

/// Measures the storage layer.
#[derive(Parser)]
struct Arguments {
    /// Bytes of data in reads, checksums and spills.
    #[arg(long, default_value_t = 256 << 20)]
    bytes: usize,
    /// Keys, blocks and batches that look-ups are among.
    #[arg(long, default_value_t = 1_000_000)]
    keys: u64,
    /// Repetitions after a warm-up.
    #[arg(long, default_value_t = 7)]
    runs: usize,
    /// The folder, on the disk to be measured. By default one in the system's folder for temporary files.
    #[arg(long)]
    folder: Option<std::path::PathBuf>,
    /// Figures to measure, by the beginnings of their names.
    #[arg(long, value_delimiter = ',', default_value = "")]
    only: Vec<String>,
    /// Passed by `cargo bench`; means nothing here.
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Serialize)]
struct Figure<'a> {
    bench: &'static str,
    figure: &'a str,
    /// Look-ups, chunks or passes in one measurement.
    count: u64,
    per_second: f64,
    /// Of data; for look-ups one cache line of 64 bytes each, the least that they touch.
    gigabytes_per_second: f64,
    memory_gigabytes_per_second: f64,
    share_of_memory_bandwidth: f64,
    /// Look-ups beside dependent reads at random places in memory, one after the other.
    #[serde(skip_serializing_if = "Option::is_none")]
    share_of_random_reads: Option<f64>,
    #[serde(flatten)]
    spread: Spread,
    machine: &'a str,
}

/// What one thread gets out of this machine's memory, measured before and after each figure's runs.
#[derive(Clone, Copy)]
struct Memory {
    bytes_per_second: f64,
    random_reads_per_second: f64,
}

struct Bench {
    arguments: Arguments,
    machine: String,
    probe: Vec<u64>,
    folder: tempfile::TempDir,
}

const CACHE_LINE_BYTES: usize = 64;

/// Numbers that the memory is measured over, beyond what caches hold: 256 MiB.
const PROBE_LEN: usize = 32 << 20;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match Bench::new(arguments).and_then(|bench| bench.run()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

type Failure = Box<dyn std::error::Error>;

impl Bench {
    fn new(arguments: Arguments) -> std::result::Result<Self, Failure> {
        let outer = arguments.folder.clone().unwrap_or_else(std::env::temp_dir);
        Ok(Self {
            arguments,
            machine: machine(),
            probe: (0..PROBE_LEN as u64).map(mix).collect(),
            folder: tempfile::tempdir_in(outer)?,
        })
    }

    fn run(&self) -> std::result::Result<(), Failure> {
        self.bloom_and_cache_lookups()?;
        self.block_lookups()?;
        self.device_lookups()?;
        self.chunks();
        self.reads()?;
        self.spills()?;
        Ok(())
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The median of a few short measurements, so that it is of the same moment as what it is compared with.
    fn memory(&self) -> Memory {
        let mut sums: Vec<f64> = (0..3).map(|_| seconds(|| black_box(sum(&self.probe)))).collect();
        sums.sort_by(f64::total_cmp);
        let steps = 1_000_000;
        let chased = seconds(|| {
            let mut at = 0_u64;
            for step in 0..steps {
                // The next place depends on what this one holds, so they come one after the other.
                at = self.probe[((at ^ mix(step)) & (PROBE_LEN as u64 - 1)) as usize];
            }
            black_box(at)
        });
        Memory {
            bytes_per_second: (8 * PROBE_LEN) as f64 / sums[1],
            random_reads_per_second: steps as f64 / chased,
        }
    }

    /// Runs `work`, which does `count` things over `bytes` bytes and says how long it took.
    fn measure(
        &self,
        figure: &str,
        count: u64,
        bytes: usize,
        is_lookup: bool,
        mut work: impl FnMut() -> Result<Duration>,
    ) -> Result<()> {
        if !self.arguments.only.iter().any(|only| figure.starts_with(only.as_str())) {
            return Ok(());
        }
        work()?;
        let before = self.memory();
        let seconds: Result<Vec<f64>> = (0..self.arguments.runs.max(1))
            .map(|_| Ok(work()?.as_secs_f64()))
            .collect();
        let after = self.memory();
        let spread = spread(seconds?);
        let mean = |of: fn(&Memory) -> f64| (of(&before) + of(&after)) / 2.0;
        let (memory, random) = (
            mean(|memory| memory.bytes_per_second),
            mean(|memory| memory.random_reads_per_second),
        );
        let bytes_per_second = bytes as f64 / spread.median_seconds;
        let per_second = count as f64 / spread.median_seconds;
        emit(&Figure {
            bench: "store",
            figure,
            count,
            per_second,
            gigabytes_per_second: 1e-9 * bytes_per_second,
            memory_gigabytes_per_second: 1e-9 * memory,
            share_of_memory_bandwidth: bytes_per_second / memory,
            share_of_random_reads: is_lookup.then_some(per_second / random),
            spread,
            machine: &self.machine,
        });
        Ok(())
    }

    /// Look-ups of keys `asked`, of which `found` must say yes where `expected` says so, or never.
    fn lookups(
        &self,
        figure: &str,
        count: u64,
        mut found: impl FnMut(u64) -> Result<bool>,
        expected: bool,
    ) -> Result<()> {
        self.measure(figure, count, CACHE_LINE_BYTES * count as usize, true, || {
            let start = Instant::now();
            let mut hits = 0;
            for key in 0..count {
                hits += u64::from(found(mix(key))?);
            }
            let took = start.elapsed();
            // A Bloom filter may say "maybe" of some of the absent.
            assert!(
                if expected { hits == count } else { hits < count / 20 },
                "{figure}: {hits} of {count}"
            );
            Ok(took)
        })
    }

    /// The first layer: remote store and worker.
    fn bloom_and_cache_lookups(&self) -> Result<()> {
        let keys = self.arguments.keys;
        let digests: Vec<Digest> = (0..keys).map(digest).collect();
        let absent: Vec<Digest> = (keys..2 * keys).map(digest).collect();
        let bloom = Bloom::of(digests.iter(), 0.01);
        let one = |digests: &[Digest], key: u64| bloom.may_contain(&digests[(key % keys) as usize]);
        self.lookups("lookup.bloom.present", keys, |key| Ok(one(&digests, key)), true)?;
        self.lookups("lookup.bloom.absent", keys, |key| Ok(one(&absent, key)), false)?;

        let bytes = 64 << 20;
        let (stores, object) = cached_object(&self.path().join("lookups"), bytes)?;
        let other = Object {
            version: Some("another".into()),
            ..object.clone()
        };
        let segments = bytes as u64 / SEGMENT_BYTES;
        let look = |object: &Object, key: u64| {
            let start = key % segments * SEGMENT_BYTES;
            Ok(stores.may_hold(object, &(start..start + 1)) && stores.read_range(object, start..start + 1).is_ok())
        };
        self.lookups("lookup.cache.absent", 10_000, |key| look(&other, key), false)?;
        self.lookups("lookup.cache.present", 1_000, |key| look(&object, key), true)
    }

    /// The second layer: disk and memory.
    fn block_lookups(&self) -> Result<()> {
        let blocks = self.arguments.keys / 10;
        let store = self.block_store()?;
        for partition in 0..blocks {
            store.put(id(partition), &Block::new(vec![partition; 4]), Level::Memory)?;
        }
        let found = |store: &BlockStore, partition| Ok(store.get(id(partition), Codec::of::<u64>())?.is_some());
        self.lookups("lookup.blocks.memory", blocks, |key| found(&store, key % blocks), true)?;
        self.lookups(
            "lookup.blocks.absent",
            blocks,
            |key| found(&store, blocks + key % blocks),
            false,
        )?;
        let on_disk = 1_000;
        let store = self.block_store()?;
        for partition in 0..on_disk {
            store.put(id(partition), &Block::new(vec![partition; 4]), Level::Disk)?;
        }
        self.lookups("lookup.blocks.disk", on_disk, |key| found(&store, key % on_disk), true)
    }

    /// The third layer: memory of the host and of a device, with a stand-in for the device.
    fn device_lookups(&self) -> Result<()> {
        let batches = self.arguments.keys / 10;
        let device = HostDevice::new(1 << 30);
        let tier = DeviceTier::new("host", 1 << 30);
        let key = |batch| DeviceKey::Batch { block: id(7), batch };
        for batch in 0..batches {
            tier.pin(&device, key(batch), || Ok([0_u8; 16])).map_err(in_storage)?;
        }
        let pin = |batch| {
            tier.pin(&device, key(batch), || Ok([0_u8; 16]))
                .map(|_| true)
                .map_err(in_storage)
        };
        self.lookups("lookup.device.resident", batches, |asked| pin(asked % batches), true)?;
        self.lookups(
            "lookup.device.absent",
            batches,
            |asked| Ok(tier.contains(&key(batches + asked % batches))),
            false,
        )
    }

    fn chunks(&self) {
        let bytes = self.arguments.bytes.min(64 << 20) / SEGMENT_BYTES as usize * SEGMENT_BYTES as usize;
        let data = noise(bytes);
        let cut = || data.chunks(SEGMENT_BYTES as usize).map(chunks_count).sum::<usize>() as u64;
        let count = cut();
        let timed = || {
            let start = Instant::now();
            black_box(cut());
            Ok(start.elapsed())
        };
        let _ = self.measure("chunks.cut_and_hash", count, bytes, false, timed);
        let timed = || {
            let start = Instant::now();
            black_box(blake3::hash(&data));
            Ok(start.elapsed())
        };
        let _ = self.measure("checksum.blake3", 1, bytes, false, timed);
    }

    fn reads(&self) -> Result<()> {
        let records = numbers(self.arguments.bytes);
        let bytes = 8 * records.len();
        for (figure, level) in [("read.blocks.memory", Level::Memory), ("read.blocks.disk", Level::Disk)] {
            let store = self.block_store()?;
            store.put(id(1), &Block::new(records.clone()), level)?;
            let expected = sum(&records);
            self.measure(figure, 1, bytes, false, || {
                let start = Instant::now();
                let block = store.get(id(1), Codec::of::<u64>())?;
                let read = block.map(|block| block.records::<u64>()).transpose()?;
                assert_eq!(read.map(|records| sum(&records)), Some(expected));
                Ok(start.elapsed())
            })?;
        }
        let bytes = self.arguments.bytes.min(128 << 20);
        let (stores, object) = cached_object(&self.path().join("reads"), bytes)?;
        self.measure("read.cache_folder", 1, bytes, false, || {
            let start = Instant::now();
            black_box(stores.read(&object)?);
            Ok(start.elapsed())
        })
    }

    /// The same numbers as abomonation writes them, in place, and as postcard does.
    fn spills(&self) -> Result<()> {
        let records = numbers(self.arguments.bytes / 4);
        // What every spill costs at least: the copy that is written, in memory that is touched for the first time.
        self.measure("memory.copy", 1, size_of_val(&records[..]), false, || {
            let start = Instant::now();
            black_box(records.to_vec());
            Ok(start.elapsed())
        })?;
        let wrapped = records.iter().copied().map(Wrapped).collect();
        self.spill("abomonation", records)?;
        self.spill("postcard", wrapped)
    }

    fn spill<T: Record>(&self, codec: &str, records: Vec<T>) -> Result<()> {
        let bytes = size_of_val(&records[..]);
        let block = Block::new(records);
        self.measure(&format!("spill.{codec}.encode"), 1, bytes, false, || {
            let start = Instant::now();
            black_box(block.codec().encode(&block)?);
            Ok(start.elapsed())
        })?;
        let frame = block.codec().encode(&block)?;
        self.measure(&format!("spill.{codec}.decode"), 1, bytes, false, || {
            let source = Source::from(frame.clone());
            let start = Instant::now();
            black_box(block.codec().decode(source)?);
            Ok(start.elapsed())
        })?;
        let store = self.block_store()?;
        self.measure(&format!("spill.{codec}.put_on_disk"), 1, bytes, false, || {
            let start = Instant::now();
            store.put(id(1), &block, Level::Disk)?;
            Ok(start.elapsed())
        })?;
        self.measure(&format!("spill.{codec}.get_from_disk"), 1, bytes, false, || {
            let start = Instant::now();
            black_box(store.get(id(1), block.codec())?);
            Ok(start.elapsed())
        })
    }

    fn block_store(&self) -> Result<BlockStore> {
        BlockStore::new(StoreOptions {
            memory_bytes_max: 4 << 30,
            folder: Some(self.path().to_path_buf()),
            ..StoreOptions::default()
        })
    }
}

/// A number that goes through postcard.
#[derive(Clone, Serialize, Deserialize)]
struct Wrapped(u64);

/// What is fetched of an object at once.
const SEGMENT_BYTES: u64 = 4 << 20;

fn id(partition: u64) -> BlockId {
    BlockId { dataset: 1, partition }
}

fn digest(number: u64) -> Digest {
    *blake3::hash(&number.to_le_bytes()).as_bytes()
}

fn in_storage(error: impl std::fmt::Display) -> StorageError {
    StorageError::Elsewhere {
        message: error.to_string(),
    }
}

fn seconds<R>(work: impl FnOnce() -> R) -> f64 {
    let start = Instant::now();
    black_box(work());
    start.elapsed().as_secs_f64()
}

fn sum(numbers: &[u64]) -> u64 {
    numbers.iter().fold(0, |sum, number| sum.wrapping_add(*number))
}

fn numbers(bytes: usize) -> Vec<u64> {
    (0..bytes as u64 / 8).map(mix).collect()
}

fn noise(bytes: usize) -> Vec<u8> {
    numbers(bytes).into_iter().flat_map(u64::to_le_bytes).collect()
}

/// An object of which all lies in a cache folder.
fn cached_object(folder: &Path, bytes: usize) -> Result<(Stores, Object)> {
    let cache = CacheOptions {
        includes_memory: true,
        ..CacheOptions::new(folder)
    };
    let stores = Stores::with_options(StoresOptions {
        cache: Some(cache),
        ..StoresOptions::default()
    });
    stores.write("memory://bench/x", Bytes::from(noise(bytes)))?;
    let object = stores.list("memory://bench/x")?.remove(0);
    stores.read(&object)?;
    Ok((stores, object))
}
