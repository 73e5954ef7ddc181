//! What every tier and every device promises.

#![expect(clippy::expect_used, reason = "a suite of tests speaks through panics")]

use crate::block::{Block, BlockId};
use crate::codec::Codec;
use crate::device::{DeviceError, DeviceMemory};
use crate::error::{Result, StorageError};
use crate::records::{Record, Records};
use crate::tier::Tier;

/// Largest limit of a tier that [`conformance`] fills up, in bytes.
const TIER_BYTES_MAX: u64 = 16 << 20;

/// Checks all that [`Tier`] promises, on an empty tier with a limit from 64 KiB to 16 MiB. Leaves it empty.
///
/// # Panics
/// The tier breaks a promise, or is not empty, or its limit is out of that range.
pub fn conformance(tier: &dyn Tier) {
    assert!(
        (64 << 10..=TIER_BYTES_MAX).contains(&tier.bytes_max()),
        "choose a limit that the suite can fill up"
    );
    assert_empty(tier);
    gives_back_what_was_put(tier);
    replaces(tier);
    keeps_order_and_counts(tier);
    tells_types_apart(tier);
    refuses_what_does_not_fit(tier);
    stays_within_its_limit(tier);
    lets_readers_keep_records(tier);
    serves_threads(tier);
}

fn id(dataset: u64, partition: u64) -> BlockId {
    BlockId { dataset, partition }
}

fn assert_empty(tier: &dyn Tier) {
    assert_eq!(tier.ids(), []);
    assert_eq!(tier.bytes_used(), 0);
    assert!(!tier.contains(id(0, 0)));
    assert!(!tier.remove(id(0, 0)).expect("removing nothing"));
    assert!(get::<u64>(tier, id(0, 0)).expect("getting nothing").is_none());
}

fn get<T: Record>(tier: &dyn Tier, id: BlockId) -> Result<Option<Records<T>>> {
    tier.get(id, Codec::of::<T>())?.map(|block| block.records()).transpose()
}

fn clear(tier: &dyn Tier) {
    for id in tier.ids() {
        assert!(tier.remove(id).expect("removing a block"), "{id} is listed");
    }
    assert_empty(tier);
}

fn round_trip<T: Record + PartialEq>(tier: &dyn Tier, records: Vec<T>) {
    let block = Block::new(records.clone());
    tier.put(id(1, 2), &block).expect("putting a small block");
    assert!(tier.contains(id(1, 2)) && !tier.contains(id(2, 1)));
    let kept = get::<T>(tier, id(1, 2)).expect("reading").expect("it was put");
    assert!(
        *kept == *records,
        "records of {} came back changed",
        std::any::type_name::<T>()
    );
    clear(tier);
}

fn gives_back_what_was_put(tier: &dyn Tier) {
    round_trip(tier, Vec::<u64>::new());
    round_trip(tier, Vec::<String>::new());
    round_trip(tier, vec![1_u8, 0, u8::MAX]);
    round_trip(tier, vec![(1_u64, -1.5_f64), (u64::MAX, f64::INFINITY)]);
    round_trip(tier, vec![[1.0_f32, 2.0, f32::MIN_POSITIVE]; 100]);
    round_trip(tier, vec![(7_u64, true), (8, false)]);
    round_trip(
        tier,
        vec![String::new(), "two words".to_owned(), "\u{1F980}".to_owned()],
    );
    round_trip(tier, vec![(); 5]);
}

fn replaces(tier: &dyn Tier) {
    tier.put(id(1, 1), &Block::new(vec![1_u64; 100])).expect("putting");
    let bytes_once = tier.bytes_used();
    assert!(bytes_once > 0);
    assert_eq!(
        (tier.bytes_of(id(1, 1)), tier.bytes_of(id(1, 2))),
        (Some(bytes_once), None)
    );
    tier.put(id(1, 1), &Block::new(vec![2_u64; 100])).expect("replacing");
    assert_eq!(tier.bytes_used(), bytes_once, "the replaced block still counts");
    tier.put(id(1, 1), &Block::new(vec!["another type".to_owned()]))
        .expect("replacing");
    assert_eq!(
        *get::<String>(tier, id(1, 1)).expect("reading").expect("it was put"),
        ["another type"]
    );
    assert_eq!(tier.ids(), [id(1, 1)]);
    clear(tier);
}

fn keeps_order_and_counts(tier: &dyn Tier) {
    for (dataset, partition) in [(2, 0), (0, 10), (0, 9), (u64::MAX, u64::MAX), (1, 0)] {
        tier.put(id(dataset, partition), &Block::new(vec![dataset, partition]))
            .expect("putting");
    }
    assert_eq!(
        tier.ids(),
        [id(0, 9), id(0, 10), id(1, 0), id(2, 0), id(u64::MAX, u64::MAX)]
    );
    let bytes_before = tier.bytes_used();
    assert!(tier.remove(id(1, 0)).expect("removing"));
    assert!(!tier.remove(id(1, 0)).expect("removing again"));
    assert!(tier.bytes_used() < bytes_before);
    clear(tier);
}

fn tells_types_apart(tier: &dyn Tier) {
    tier.put(id(1, 1), &Block::new(vec![1_u64])).expect("putting");
    for codec in [Codec::of::<i64>(), Codec::of::<String>()] {
        let error = tier.get(id(1, 1), codec).expect_err("records of another type");
        assert!(matches!(error, StorageError::WrongType { .. }), "{error}");
    }
    assert_eq!(*get::<u64>(tier, id(1, 1)).expect("reading").expect("it stays"), [1]);
    clear(tier);
}

fn refuses_what_does_not_fit(tier: &dyn Tier) {
    tier.put(id(1, 1), &Block::new(vec![1_u8])).expect("putting");
    let bytes_used = tier.bytes_used();
    let too_large = usize::try_from(tier.bytes_max() + 1).expect("the limit was checked");
    for refused in [id(1, 1), id(1, 2)] {
        let error = tier
            .put(refused, &Block::new(vec![0_u8; too_large]))
            .expect_err("more than the limit");
        assert!(matches!(error, StorageError::OverBudget { .. }), "{error}");
    }
    assert_eq!(*get::<u8>(tier, id(1, 1)).expect("reading").expect("it stays"), [1]);
    assert_eq!((tier.ids(), tier.bytes_used()), (vec![id(1, 1)], bytes_used));
    clear(tier);
}

fn stays_within_its_limit(tier: &dyn Tier) {
    let block_bytes = usize::try_from(tier.bytes_max() / 8).expect("the limit was checked");
    let block = Block::new(vec![1_u8; block_bytes]);
    let refused = (0..=8)
        .find(|partition| tier.put(id(1, *partition), &block).is_err())
        .expect("nine eighths do not fit");
    assert!(refused >= 6, "refused with room left");
    assert!(tier.bytes_used() <= tier.bytes_max());
    assert!(tier.remove(id(1, 0)).expect("removing"));
    tier.put(id(1, refused), &block).expect("there is room again");
    clear(tier);
}

fn lets_readers_keep_records(tier: &dyn Tier) {
    let records: Vec<u64> = (0..1000).collect();
    tier.put(id(1, 1), &Block::new(records.clone())).expect("putting");
    let first = get::<u64>(tier, id(1, 1)).expect("reading").expect("it was put");
    tier.put(id(1, 1), &Block::new(vec![0_u64; 1000])).expect("replacing");
    let second = get::<u64>(tier, id(1, 1)).expect("reading").expect("it was put");
    clear(tier);
    assert_eq!(*first, *records);
    assert_eq!(*second, [0; 1000]);
}

fn serves_threads(tier: &dyn Tier) {
    std::thread::scope(|scope| {
        for dataset in 0..4 {
            scope.spawn(move || {
                for partition in 0..8 {
                    tier.put(id(dataset, partition), &Block::new(vec![dataset, partition]))
                        .expect("putting");
                    let kept = get::<u64>(tier, id(dataset, partition))
                        .expect("reading")
                        .expect("it was put");
                    assert_eq!(*kept, [dataset, partition]);
                }
            });
        }
    });
    assert_eq!(tier.ids().len(), 32);
    clear(tier);
}

/// Checks all that [`DeviceMemory`] promises, on a device that has no more than `bytes_max` bytes. Frees what it takes.
///
/// # Panics
/// The device breaks a promise.
pub fn device_conformance<M: DeviceMemory>(memory: &M, bytes_max: u64) {
    for bytes in [0, 1, 255, 4096, 100_003] {
        let source: Vec<u8> = (0..bytes).map(|at| (at * 7 + 3) as u8).collect();
        assert!(M::taken_bytes(bytes) >= bytes);
        let mut buffer = memory.allocate(bytes).expect("allocating a little");
        memory.copy_in(&source, &mut buffer).expect("copying");
        assert!(memory.copy_out(&buffer).expect("copying back") == source);
        assert!(
            memory.copy_in(&[&source[..], &[0]].concat(), &mut buffer).is_err(),
            "a byte too many"
        );
        assert!(
            memory.copy_out(&buffer).expect("copying back") == source,
            "a refused copy changes nothing"
        );
    }
    let too_large = usize::try_from(bytes_max + 1).expect("a size of this machine");
    match memory.allocate(too_large).err() {
        Some(DeviceError::OutOfMemory { needed_bytes, .. }) => assert_eq!(needed_bytes, bytes_max + 1),
        other => panic!("more than the device has: {other:?}"),
    }
    // Were nothing freed, this would need four times the memory.
    let half = usize::try_from(bytes_max / 2).expect("a size of this machine");
    for _ in 0..8 {
        drop(memory.allocate(half).expect("what was freed is there again"));
    }
}
