//! Memory and disk have limits, which hold; beyond them is an error that says what to do.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use distdl_engine::{Config, Context, EngineError};
use proptest::prelude::*;
use serde::{Deserialize, Serialize, Serializer};

use crate::oracle::{cases, context};

const MEMORY: u64 = 1 << 20;
const RECORDS: u64 = 200_000;

/// Records of 16 bytes, three times as many as memory holds.
fn pairs(context: &Context, keys: u64) -> distdl_engine::Dataset<(u64, u64)> {
    context
        .range(0..RECORDS, 8)
        .map(move |i| (i.wrapping_mul(0x9E37_79B9_7F4A_7C15) % keys, i))
}

/// Notes the most memory that was reserved while records came by.
fn watch(
    context: &Context,
    most: &Arc<AtomicU64>,
) -> impl Fn((u64, u64)) -> (u64, u64) + Send + Sync + 'static + use<> {
    let (most, context) = (Arc::clone(most), context.clone());
    move |record| {
        most.fetch_max(context.store().reserved_bytes(), Ordering::Relaxed);
        record
    }
}

/// All records by key, from two vectors of a hash that nobody else uses.
fn digest(records: impl IntoIterator<Item = (u64, u64)>) -> u64 {
    let spread = |(key, value): (u64, u64)| (key ^ value.rotate_left(32)).wrapping_mul(0xD6E8_FEB8_6659_FD93);
    records.into_iter().map(spread).fold(0, u64::wrapping_add)
}

#[test]
fn a_sort_keeps_to_the_limit() {
    let context = context(MEMORY, 2, 256);
    let most = Arc::default();
    let sorted = pairs(&context, u64::MAX).map(watch(&context, &most)).sort_by_key();
    let sorted = sorted.map(watch(&context, &most)).collect().unwrap();
    assert!(sorted.is_sorted_by_key(|(key, _)| *key));
    let all = (0..RECORDS).map(|i| (i.wrapping_mul(0x9E37_79B9_7F4A_7C15) % u64::MAX, i));
    assert_eq!((sorted.len() as u64, digest(sorted)), (RECORDS, digest(all)));
    let most = most.load(Ordering::Relaxed);
    assert!(most > MEMORY / 4 && most <= MEMORY, "{most} of {MEMORY}");
    assert!(
        context.metrics().spilled_bytes() > RECORDS * 8,
        "{}",
        context.metrics().spilled_bytes()
    );
    assert_eq!(
        (context.store().reserved_bytes(), context.store().disk_bytes_used()),
        (0, 0)
    );
}

#[test]
fn parcels_that_find_no_room_wait_on_disk_in_their_order() {
    let context = context(MEMORY, 2, 256);
    let dealt = context.range(0..RECORDS, 8).repartition(8);
    let mut numbers = dealt.collect().unwrap();
    assert!(context.metrics().spilled_bytes() >= RECORDS * 8 - MEMORY / 2);
    let expected = (0..8).flat_map(|bucket: u64| {
        let sources = (0..8).map(|source: u64| source * RECORDS / 8..(source + 1) * RECORDS / 8);
        sources.enumerate().flat_map(move |(source, records)| {
            let skipped = (bucket + 8 - source as u64) % 8;
            records.skip(skipped as usize).step_by(8)
        })
    });
    assert!(expected.eq(numbers.iter().copied()));
    numbers.sort_unstable();
    assert!(numbers.into_iter().eq(0..RECORDS));
}

#[test]
fn a_reduce_to_more_keys_than_memory_holds_keeps_to_the_limit() {
    let context = context(MEMORY, 2, 256);
    let most = Arc::default();
    let keys = RECORDS / 2;
    let sums = pairs(&context, keys)
        .map(watch(&context, &most))
        .reduce_by_key(u64::wrapping_add);
    let sums = sums.map(watch(&context, &most)).collect().unwrap();
    let mut expected = std::collections::HashMap::<u64, u64>::new();
    for i in 0..RECORDS {
        *expected
            .entry(i.wrapping_mul(0x9E37_79B9_7F4A_7C15) % keys)
            .or_default() += i;
    }
    assert_eq!((sums.len(), digest(sums)), (expected.len(), digest(expected)));
    let most = most.load(Ordering::Relaxed);
    assert!(most > MEMORY / 4 && most <= MEMORY, "{most} of {MEMORY}");
    assert!(context.metrics().spilled_bytes() > 0);
}

#[test]
fn a_key_with_half_of_the_data_is_reduced_in_the_memory_of_one() {
    let context = context(MEMORY / 8, 2, 256);
    let hot = |(key, i): (u64, u64)| if i % 2 == 0 { (0, 1) } else { (key, 1) };
    let counts = pairs(&context, u64::MAX).map(hot).reduce_by_key(u64::wrapping_add);
    let counts = counts.collect().unwrap();
    assert_eq!(counts.iter().find(|(key, _)| *key == 0), Some(&(0, RECORDS / 2)));
    assert_eq!(counts.iter().map(|(_, count)| count).sum::<u64>(), RECORDS);
}

#[test]
fn a_key_that_memory_cannot_hold_is_an_error_that_names_operator_site_and_remedy() {
    let context = context(MEMORY, 2, 256);
    let one = pairs(&context, 1);
    let line = line!() + 1;
    let grouped = one.group_by_key();
    let few = context.parallelize([(0, 1), (0, 2)], 1);
    let joined = one.join(&few);
    for (error, operator) in [(grouped.count(), "group_by_key"), (joined.count(), "join")] {
        let error = error.unwrap_err();
        let EngineError::KeyTooLarge {
            key_bytes,
            memory_bytes_max,
            ..
        } = &error
        else {
            panic!("{error}")
        };
        assert!(*key_bytes > MEMORY / 4 && *memory_bytes_max == MEMORY, "{error}");
        let text = error.to_string();
        assert!(
            text.contains(&format!("`{operator}`")) && text.contains("limits.rs:"),
            "{text}"
        );
        assert!(
            operator == "join" || text.contains(&format!("limits.rs:{line}")),
            "{text}"
        );
        let held = (context.store().reserved_bytes(), context.store().disk_bytes_used());
        assert_eq!(held, (0, 0));
    }
    assert_eq!(one.count().unwrap(), RECORDS, "the context is usable afterwards");
}

/// How often a [`Counted`] was serialised, be it to disk or to measure it.
static SERIALISED: AtomicU64 = AtomicU64::new(0);

#[derive(Clone, PartialEq, Debug, Deserialize)]
struct Counted(u64);

impl Serialize for Counted {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        SERIALISED.fetch_add(1, Ordering::Relaxed);
        self.0.serialize(serializer)
    }
}

#[test]
fn a_table_that_gets_no_room_is_not_measured_for_every_record() {
    let context = context(MEMORY, 1, 256);
    let mut others = context.store().reservation();
    // All that there is; a task may take what it is granted all the same.
    assert!(others.grow(MEMORY));
    let records = 40_000;
    let keyed = context.range(0..records, 1).map(|i| (i % 500, Counted(i)));
    let lengths = keyed.group_by_key_into(1).map_values(|values| values.len() as u64);
    assert_eq!(lengths.values().collect().unwrap(), [records / 500; 500]);
    let each = SERIALISED.load(Ordering::Relaxed) / records;
    assert!(each < 20, "each record was serialised {each} times");
}

#[test]
fn pairs_of_a_hot_key_are_made_as_they_are_read() {
    let context = context(MEMORY, 1, 1024);
    let left = context.range(0..2_000, 1).map(|i| (0, i));
    let right = context.range(0..2_000, 1).map(|i| (0, i));
    let longest = left.join(&right).run_partitions(|_, records| Ok(records.count()));
    assert_eq!(longest.unwrap(), [4_000_000]);
}

proptest! {
    #![proptest_config(cases(24))]

    #[test]
    fn a_full_disk_is_an_error_that_leaves_nothing(disk_bytes_max in 0..2_000_000u64, memory_bytes_max in 0..400_000u64) {
        let config = Config::default().with_threads(2).with_memory_bytes_max(memory_bytes_max);
        let context = Context::new(config.with_disk_bytes_max(disk_bytes_max)).unwrap();
        let pairs = context.range(0..60_000, 4).map(|i| (i.wrapping_mul(0x9E37_79B9_7F4A_7C15), i));
        let wide = [pairs.sort_by_key().count(), pairs.reduce_by_key(|left, _| left).count(), pairs.join(&pairs).count()];
        for count in wide {
            match count {
                Ok(count) => prop_assert_eq!(count, 60_000),
                Err(error @ (EngineError::NoRoom { .. } | EngineError::Storage(_))) => {
                    prop_assert!(disk_bytes_max < 2_000_000 && error.to_string().contains("disk"), "{}", error);
                }
                Err(error) => prop_assert!(false, "{}", error),
            }
            prop_assert_eq!((context.store().reserved_bytes(), context.store().disk_bytes_used()), (0, 0));
        }
        prop_assert_eq!(context.range(0..10, 2).count().unwrap(), 10);
    }
}
