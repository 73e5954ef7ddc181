//! Anything that may happen, in any order, against a plain list of what is here, the least recently used first.
use proptest::prelude::*;

use super::*;

const BYTES_MAX: u64 = 400;

#[derive(Debug, Clone)]
enum Event {
    Pin {
        batch: u64,
        hold: bool,
    },
    /// One of those who hold something no longer does.
    Release {
        holder: usize,
    },
    Retain {
        modulus: u64,
    },
    Poison {
        how: u8,
    },
    RefuseAllocation,
    FailCopy,
    FailSource,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        12 => (0..12_u64, any::<bool>()).prop_map(|(batch, hold)| Event::Pin { batch, hold }),
        4 => any::<usize>().prop_map(|holder| Event::Release { holder }),
        1 => (1..4_u64).prop_map(|modulus| Event::Retain { modulus }),
        2 => (0..3_u8).prop_map(|how| Event::Poison { how }),
        2 => Just(Event::RefuseAllocation),
        1 => Just(Event::FailCopy),
        1 => Just(Event::FailSource),
    ]
}

/// What is to happen at the next copy.
#[derive(Default)]
struct Awaited {
    refusal: bool,
    failed_copy: bool,
    failed_source: bool,
}

struct Model {
    device: HostDevice,
    tier: Tier,
    /// An old state of the filter.
    old_filter: Bloom,
    here: Vec<u64>,
    held: Vec<(u64, DevicePin<HostBuffer>)>,
    awaited: Awaited,
    copied_bytes: u64,
    evictions: u64,
}

fn length(batch: u64) -> u64 {
    bytes_of(batch).len() as u64
}

impl Model {
    fn new() -> Self {
        let tier = Tier::new("a device", BYTES_MAX);
        Self {
            device: HostDevice::new(BYTES_MAX),
            old_filter: tier.bloom(),
            tier,
            here: Vec::new(),
            held: Vec::new(),
            awaited: Awaited::default(),
            copied_bytes: 0,
            evictions: 0,
        }
    }

    fn is_held(&self, batch: u64) -> bool {
        self.held.iter().any(|(held, _)| *held == batch)
    }

    fn evict(&mut self) -> bool {
        let victim = self.here.iter().position(|batch| !self.is_held(*batch));
        self.evictions += u64::from(victim.is_some());
        victim.map(|at| self.here.remove(at)).is_some()
    }

    /// Whether a pin of a batch is to be had, by plain means.
    fn expect(&mut self, batch: u64) -> bool {
        if let Some(at) = self.here.iter().position(|here| *here == batch) {
            self.here.remove(at);
            self.here.push(batch);
            return true;
        }
        if std::mem::take(&mut self.awaited.failed_source) {
            return false;
        }
        let held: u64 = self
            .here
            .iter()
            .filter(|batch| self.is_held(**batch))
            .map(|batch| length(*batch))
            .sum();
        if held + length(batch) > BYTES_MAX {
            return false;
        }
        while self.here.iter().map(|batch| length(*batch)).sum::<u64>() + length(batch) > BYTES_MAX {
            assert!(self.evict());
        }
        if std::mem::take(&mut self.awaited.refusal) && !self.evict() {
            return false;
        }
        if std::mem::take(&mut self.awaited.failed_copy) {
            return false;
        }
        self.here.push(batch);
        self.copied_bytes += length(batch);
        true
    }

    fn pin(&mut self, batch: u64, hold: bool) {
        let fails = self.awaited.failed_source;
        let got = self.tier.pin(&self.device, key(batch), || match fails {
            true => Err(crate::StorageError::corrupt("a block", "a test says so")),
            false => Ok(bytes_of(batch)),
        });
        assert_eq!(got.is_ok(), self.expect(batch), "batch {batch}: {got:?}");
        if let Some(pin) = got.ok().filter(|_| hold) {
            self.held.push((batch, pin));
        }
    }

    fn poison(&mut self, how: u8) {
        let others = Bloom::of([key(100), key(3)].map(|key| key.digest()).iter(), 0.01);
        self.tier.set_bloom(match how {
            0 => Bloom::all_ones(),
            1 => others,
            _ => self.old_filter.clone(),
        });
    }

    fn apply(&mut self, event: Event) {
        match event {
            Event::Pin { batch, hold } => self.pin(batch, hold),
            Event::Release { holder } if !self.held.is_empty() => drop(self.held.remove(holder % self.held.len())),
            Event::Release { .. } => {}
            Event::Retain { modulus } => {
                self.tier
                    .retain(|key| matches!(key, DeviceKey::Batch { batch, .. } if batch % modulus == 0));
                let held: Vec<u64> = self.held.iter().map(|(batch, _)| *batch).collect();
                self.here.retain(|batch| batch % modulus == 0 || held.contains(batch));
            }
            Event::Poison { how } => self.poison(how),
            Event::RefuseAllocation => {
                self.device.on_allocate(0, DeviceFault::OutOfMemory);
                self.awaited.refusal = true;
            }
            Event::FailCopy => {
                self.device.on_copy(0, DeviceFault::Fail);
                self.awaited.failed_copy = true;
            }
            Event::FailSource => self.awaited.failed_source = true,
        }
        self.check();
    }

    fn check(&self) {
        let figures = self.tier.figures();
        let bytes: u64 = self.here.iter().map(|batch| length(*batch)).sum();
        assert_eq!((figures.bytes_used, self.device.bytes_used()), (bytes, bytes));
        assert_eq!(
            (figures.copied_bytes, figures.evictions),
            (self.copied_bytes, self.evictions)
        );
        assert!(self.device.bytes_used_most() <= BYTES_MAX);
        assert!(self.held.iter().all(|(batch, pin)| pin.as_bytes() == bytes_of(*batch)));
    }
}

proptest! {
    #[test]
    fn agrees_with_a_list_whatever_the_filter_says(events in prop::collection::vec(event(), 1..120)) {
        let mut model = Model::new();
        events.into_iter().for_each(|event| model.apply(event));
    }
}
