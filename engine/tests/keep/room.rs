//! What finds no room in memory is told of, once for each dataset.

use std::fmt::{Debug, Write};
use std::sync::{Arc, Mutex};

use distdl_engine::{Config, Context};
use tracing::field::{Field, Visit};

use crate::PARTITIONS;

/// Takes down what all threads are told.
#[derive(Clone, Default)]
struct Warnings(Arc<Mutex<Vec<String>>>);

struct Message<'a>(&'a mut String);

impl Visit for Message<'_> {
    fn record_debug(&mut self, _: &Field, value: &dyn Debug) {
        write!(self.0, "{value:?}").unwrap();
    }
}

impl tracing::Subscriber for Warnings {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        let mut message = String::new();
        event.record(&mut Message(&mut message));
        self.0.lock().unwrap().push(message);
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

#[test]
fn a_dataset_that_memory_has_no_room_for_is_told_of_once() {
    let warnings = Warnings::default();
    tracing::subscriber::set_global_default(warnings.clone()).unwrap();
    let config = Config::default().with_threads(2).with_memory_bytes_max(64 << 10);
    let context = Context::new(config).unwrap();
    // Of a partition there are 200 kB.
    let large = context.range(0..100_000, PARTITIONS).map(|x| x).cache();
    let small = context.range(0..100, PARTITIONS).map(|x| x).cache();
    for dataset in [large.set_name("too large"), small.set_name("small")] {
        assert_eq!(dataset.count().unwrap(), dataset.count().unwrap());
    }
    assert_eq!(large.partitions_computed(), 2 * PARTITIONS as u64, "all of it twice");
    let warnings = warnings.0.lock().unwrap();
    // Other tests of this process may be told of something, too.
    let told: Vec<&String> = warnings.iter().filter(|told| told.contains("too large")).collect();
    let [told] = told[..] else { panic!("{told:?}") };
    for words in [
        "195.31 KiB in memory",
        "computed again",
        "`memory`, which is 64.00 KiB",
        "Level::MemoryAndDisk",
    ] {
        assert!(told.contains(words), "{told}");
    }
    assert!(!warnings.iter().any(|told| told.contains("\"small\"")));
}
