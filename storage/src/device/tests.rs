//! What a pin gives is what was to be copied, whatever was evicted, refused or wrong in the filter.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod model;

use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use super::*;
use crate::block::BlockId;
use crate::bloom::Bloom;
use crate::testing::{DeviceFault, HostBuffer, HostDevice, Pause};

type Tier = DeviceTier<HostBuffer>;

/// A handle that stays on its thread, as those of some libraries do.
struct Handle(HostDevice, PhantomData<*const ()>);

impl DeviceMemory for Handle {
    type Buffer = HostBuffer;

    fn name(&self) -> &str {
        self.0.name()
    }

    fn allocate(&self, bytes: usize) -> Result<HostBuffer, DeviceError> {
        self.0.allocate(bytes)
    }

    fn copy_in(&self, bytes: &[u8], buffer: &mut HostBuffer) -> Result<(), DeviceError> {
        self.0.copy_in(bytes, buffer)
    }

    fn copy_out(&self, buffer: &HostBuffer) -> Result<Vec<u8>, DeviceError> {
        self.0.copy_out(buffer)
    }
}

fn key(batch: u64) -> DeviceKey {
    let block = BlockId {
        dataset: 3,
        partition: batch % 2,
    };
    DeviceKey::Batch { block, batch }
}

/// The bytes that a key stands for: 40 to 100 of them.
fn bytes_of(batch: u64) -> Vec<u8> {
    vec![batch as u8 ^ 0x5a; 40 + (batch as usize * 20) % 80]
}

fn pin(tier: &Tier, device: &HostDevice, batch: u64) -> Result<DevicePin<HostBuffer>, DeviceError> {
    let pin = tier.pin(device, key(batch), || Ok(bytes_of(batch)))?;
    assert_eq!(pin.as_bytes(), bytes_of(batch), "batch {batch}");
    Ok(pin)
}

#[test]
fn an_epoch_over_data_that_fits_copies_nothing_after_the_first() {
    let (device, tier) = (HostDevice::new(10_000), Tier::new("a device", 10_000));
    let epoch = |tier: &Tier| (0..100).for_each(|batch| drop(pin(tier, &device, batch).unwrap()));
    epoch(&tier);
    let first = tier.figures();
    assert_eq!((first.copies, first.hits, first.bloom_absent), (100, 0, 100));
    for _ in 0..3 {
        epoch(&tier);
    }
    let figures = tier.figures();
    assert_eq!(figures.copied_bytes, first.copied_bytes);
    assert_eq!((figures.avoided_bytes, figures.hits), (3 * first.copied_bytes, 300));
    assert_eq!((device.copies_count(), device.bytes_used()), (100, first.copied_bytes));
}

#[test]
fn what_is_here_is_not_asked_for() {
    let (device, tier) = (HostDevice::new(1000), Tier::new("a device", 1000));
    let held = pin(&tier, &device, 1).unwrap();
    let again = tier.pin(&device, key(1), || -> crate::Result<Vec<u8>> {
        unreachable!("it is on the device")
    });
    assert_eq!(again.unwrap().as_bytes().as_ptr(), held.as_bytes().as_ptr());
}

#[test]
fn what_was_used_least_recently_goes_first_and_what_is_in_use_stays() {
    let (device, tier) = (HostDevice::new(1000), Tier::new("a device", 300));
    let bytes = |batch: u64| tier.pin(&device, key(batch), || Ok(vec![batch as u8; 100]));
    let in_use = bytes(0).unwrap();
    bytes(1).unwrap();
    bytes(2).unwrap();
    bytes(1).unwrap();
    bytes(3).unwrap();
    let kept = |batch| tier.contains(&key(batch));
    assert_eq!([kept(0), kept(1), kept(2), kept(3)], [true, true, false, true]);
    let others = [bytes(1).unwrap(), bytes(3).unwrap()];
    let error = bytes(4).unwrap_err();
    assert!(
        matches!(
            &error,
            DeviceError::OverBudget {
                needed_bytes: 100,
                bytes_max: 300,
                in_use_bytes: 300,
                ..
            }
        ),
        "{error}"
    );
    drop(others);
    bytes(4).unwrap();
    assert_eq!(in_use.as_bytes(), [0; 100]);
    assert!(device.bytes_used_most() <= 300);
}

/// A device whose memory comes in pieces of 64 bytes.
struct Pieces(HostDevice);

impl DeviceMemory for Pieces {
    type Buffer = HostBuffer;

    fn name(&self) -> &str {
        self.0.name()
    }

    fn taken_bytes(bytes: usize) -> usize {
        bytes.next_multiple_of(64)
    }

    fn allocate(&self, bytes: usize) -> Result<HostBuffer, DeviceError> {
        self.0.allocate(bytes)
    }

    fn copy_in(&self, bytes: &[u8], buffer: &mut HostBuffer) -> Result<(), DeviceError> {
        self.0.copy_in(bytes, buffer)
    }

    fn copy_out(&self, buffer: &HostBuffer) -> Result<Vec<u8>, DeviceError> {
        self.0.copy_out(buffer)
    }
}

#[test]
fn the_limit_is_one_of_what_a_device_gives_and_not_of_what_it_is_asked_for() {
    let (device, tier) = (Pieces(HostDevice::new(1000)), Tier::new("a device", 300));
    let bytes = |batch: u64| tier.pin(&device, key(batch), || Ok(vec![batch as u8; 65]));
    let in_use = bytes(0).unwrap();
    bytes(1).unwrap();
    bytes(2).unwrap();
    assert_eq!([0, 1, 2].map(|batch| tier.contains(&key(batch))), [true, false, true]);
    let figures = tier.figures();
    assert_eq!(
        (in_use.bytes(), figures.copied_bytes, figures.bytes_used),
        (65, 3 * 65, 2 * 128)
    );
    let others = bytes(2).unwrap();
    let full = bytes(3).unwrap_err();
    assert!(
        matches!(
            full,
            DeviceError::OverBudget {
                needed_bytes: 128,
                in_use_bytes: 256,
                ..
            }
        ),
        "{full}"
    );
    drop((in_use, others));
    tier.retain(|_| false);
    assert_eq!(tier.figures().bytes_used, 0);
}

#[test]
fn tiers_that_share_a_budget_leave_each_other_what_they_have() {
    let (device, budget) = (HostDevice::new(1000), DeviceBudget::default());
    let tier = |bytes_max| Tier::sharing("a device", bytes_max, budget.clone());
    let bytes = |tier: &Tier, batch: u64| tier.pin(&device, key(batch), || Ok(vec![batch as u8; 100]));
    let [first, second] = [300, 400].map(tier);
    let in_use = bytes(&first, 0).unwrap();
    bytes(&first, 1).unwrap();
    bytes(&second, 2).unwrap();
    assert!(!first.has_room(1) && second.has_room(100) && !second.has_room(101));
    assert_eq!([first.left_bytes(), second.left_bytes()], [200, 200]);
    // Each pushes out what is its own, until there is nothing.
    bytes(&first, 3).unwrap();
    assert_eq!([0, 1, 3].map(|batch| first.contains(&key(batch))), [true, false, true]);
    let others = [bytes(&second, 2).unwrap(), bytes(&second, 4).unwrap()];
    let full = bytes(&second, 5).unwrap_err();
    assert!(
        matches!(
            full,
            DeviceError::OverBudget {
                bytes_max: 400,
                in_use_bytes: 400,
                ..
            }
        ),
        "{full}"
    );
    // What comes back is what nobody has any more.
    drop(first);
    assert_eq!(budget.taken_bytes(), 300);
    drop(in_use);
    bytes(&second, 5).unwrap();
    drop((second, others));
    assert_eq!((budget.taken_bytes(), device.bytes_used()), (0, 0));
}

#[test]
fn what_does_not_fit_at_all_pushes_nothing_out() {
    let (device, tier) = (HostDevice::new(1000), Tier::new("a device", 300));
    pin(&tier, &device, 0).unwrap();
    let too_large = tier.pin(&device, key(1), || Ok(vec![0; 301]));
    assert!(matches!(
        too_large,
        Err(DeviceError::OverBudget { needed_bytes: 301, .. })
    ));
    let in_use = tier.pin(&device, key(2), || Ok(vec![0; 200])).unwrap();
    let too_large = tier.pin(&device, key(1), || Ok(vec![0; 150]));
    assert!(matches!(
        too_large,
        Err(DeviceError::OverBudget { in_use_bytes: 200, .. })
    ));
    drop(in_use);
    assert!(tier.contains(&key(0)) && tier.figures().evictions == 0);
}

#[test]
fn a_device_that_others_use_too_makes_room_or_says_how_much_was_asked() {
    let (device, tier) = (HostDevice::new(250), Tier::new("a device", 1000));
    let bytes = |batch: u64| tier.pin(&device, key(batch), || Ok(vec![batch as u8; 100]));
    bytes(0).unwrap();
    bytes(1).unwrap();
    let _others = device.allocate(40).unwrap();
    let in_use = bytes(2).unwrap();
    assert_eq!([0, 1, 2].map(|batch| tier.contains(&key(batch))), [false, true, true]);
    let _more = bytes(1).unwrap();
    let error = bytes(3).unwrap_err();
    assert!(
        matches!(
            &error,
            DeviceError::OutOfMemory {
                needed_bytes: 100,
                free_bytes: Some(10),
                ..
            }
        ),
        "{error}"
    );
    assert!(error.to_string().contains("no 100 bytes"), "{error}");
    assert_eq!((in_use.as_bytes(), tier.figures().refusals), (&[2; 100][..], 2));
    drop(in_use);
    bytes(3).unwrap();
}

#[test]
fn a_failure_keeps_nothing_and_takes_no_room() {
    let (device, tier) = (HostDevice::new(1000), Tier::new("a device", 100));
    let refused = crate::StorageError::corrupt("a block", "a test says so");
    let failed = tier.pin(&device, key(0), || Err::<Vec<u8>, _>(refused));
    assert!(matches!(
        failed,
        Err(DeviceError::Source(crate::StorageError::Corrupt { .. }))
    ));
    device.on_allocate(0, DeviceFault::Fail);
    device.on_copy(0, DeviceFault::Fail);
    for _ in 0..2 {
        let failed = tier.pin(&device, key(0), || Ok([0; 100]));
        assert!(matches!(failed, Err(DeviceError::Failed { .. })));
        assert!(!tier.contains(&key(0)) && device.bytes_used() == 0);
    }
    let panics = std::panic::AssertUnwindSafe(|| tier.pin(&device, key(0), || -> crate::Result<Vec<u8>> { panic!() }));
    assert!(std::panic::catch_unwind(panics).is_err());
    tier.pin(&device, key(0), || Ok([0; 100])).unwrap();
}

#[test]
fn workers_that_want_one_batch_copy_it_once() {
    let (device, tier) = (HostDevice::new(1000), Tier::new("a device", 1000));
    let (pause, gate) = Pause::new();
    device.on_copy(0, DeviceFault::Pause(pause));
    let asked = AtomicU64::new(0);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..4)
            .map(|_| {
                let device = device.clone();
                scope.spawn(|| {
                    let handle = Handle(device, PhantomData);
                    let source = || {
                        asked.fetch_add(1, SeqCst);
                        Ok(bytes_of(7))
                    };
                    tier.pin(&handle, key(7), source).unwrap()
                })
            })
            .collect();
        gate.wait_until_reached();
        gate.open();
        let pins: Vec<_> = workers.into_iter().map(|worker| worker.join().unwrap()).collect();
        assert!(pins.iter().all(|pin| pin.as_bytes() == bytes_of(7)));
    });
    let figures = tier.figures();
    assert_eq!((asked.into_inner(), device.copies_count()), (1, 1));
    assert_eq!((figures.hits, figures.avoided_bytes), (3, 3 * bytes_of(7).len() as u64));
}

#[test]
fn many_workers_share_a_small_budget() {
    let (device, tier) = (HostDevice::new(1_000), Tier::new("a device", 1_000));
    std::thread::scope(|scope| {
        for worker in 0..6_u64 {
            let (device, tier) = (device.clone(), &tier);
            scope.spawn(move || {
                let handle = Handle(device, PhantomData);
                let mut in_use = Vec::new();
                for round in 0..400_u64 {
                    // Five at a time for each of six workers is more than the budget, so some are refused.
                    let batch = (round * (worker + 3)) % 31;
                    match tier.pin(&handle, key(batch), || Ok(bytes_of(batch))) {
                        Ok(pin) => in_use.push((batch, pin)),
                        Err(error) => assert!(matches!(error, DeviceError::OverBudget { .. }), "{error}"),
                    }
                    assert!(in_use.iter().all(|(batch, pin)| pin.as_bytes() == bytes_of(*batch)));
                    in_use.truncate(5 - (round % 5) as usize);
                }
            });
        }
    });
    let figures = tier.figures();
    assert!(device.bytes_used_most() <= 1_000 && figures.evictions > 0);
    assert_eq!(
        (figures.bytes_used, figures.copies),
        (device.bytes_used(), device.copies_count())
    );
    assert_eq!(
        figures.refusals, 0,
        "the budget was kept to, so the device never had to refuse"
    );
    tier.retain(|_| false);
    assert_eq!((device.bytes_used(), tier.figures().bytes_used), (0, 0));
}

#[test]
fn the_filter_holds_what_is_here_and_forgets_what_has_gone() {
    let (device, tier) = (HostDevice::new(1 << 20), Tier::new("a device", 1 << 20));
    (0..5_000).for_each(|batch| drop(tier.pin(&device, key(batch), || Ok([1])).unwrap()));
    let bloom = tier.bloom();
    assert!((0..5_000).all(|batch| bloom.may_contain(&key(batch).digest())));
    let wrong = (5_000..25_000)
        .filter(|batch| bloom.may_contain(&key(*batch).digest()))
        .count();
    assert!(
        wrong <= 200,
        "{wrong} of 20,000 absent keys, where one in a hundred is allowed"
    );
    let is_first = |key: &DeviceKey| matches!(key, DeviceKey::Batch { batch: 0, .. });
    let in_use = tier.pin(&device, key(1), || Ok([1])).unwrap();
    tier.retain(is_first);
    assert_eq!(tier.figures().bytes_used, 2, "what is in use stays");
    drop(in_use);
    tier.retain(is_first);
    let bloom = tier.bloom();
    assert!(bloom.may_contain(&key(0).digest()) && !bloom.may_contain(&key(1).digest()));
}

#[test]
fn keys_of_different_batches_differ() {
    let block = |dataset, partition| BlockId { dataset, partition };
    let keys = [(0, 0, 1), (0, 1, 0), (1, 0, 0)].map(|(dataset, partition, batch)| DeviceKey::Batch {
        block: block(dataset, partition),
        batch,
    });
    let digests: std::collections::BTreeSet<_> = keys.iter().map(DeviceKey::digest).collect();
    assert_eq!(digests.len(), 3);
    assert_eq!(DeviceKey::Content([7; 32]).digest(), [7; 32]);
}
