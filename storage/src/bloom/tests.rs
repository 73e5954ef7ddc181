#![allow(clippy::unwrap_used, clippy::expect_used)]
use proptest::prelude::*;

use super::*;

/// Digests that differ from each other and look random.
fn key(number: u64) -> Digest {
    let mut key = [0; 32];
    for (part, bytes) in key.chunks_exact_mut(8).enumerate() {
        let mixed = (number + 1)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .rotate_left(17 * part as u32 + 5);
        bytes.copy_from_slice(&(mixed ^ mixed >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9).to_le_bytes());
    }
    key
}

/// Keys that the large test inserts. With ten million:
/// `DISTDL_BLOOM_KEYS=10000000 cargo test -p distdl-storage bloom -- --nocapture`
fn keys_count() -> u64 {
    let wanted = std::env::var("DISTDL_BLOOM_KEYS").ok();
    wanted.map_or(2_000_000, |wanted| wanted.parse().unwrap())
}

fn measured_rate(bloom: &Bloom, inserted: u64, asked: u64) -> f64 {
    let absent = inserted..inserted + asked;
    absent.filter(|number| bloom.may_contain(&key(*number))).count() as f64 / asked as f64
}

#[test]
fn no_key_of_millions_is_said_to_be_absent_and_the_rate_holds() {
    let keys = keys_count();
    let mut bloom = Bloom::new(keys as usize, 0.01);
    (0..keys).for_each(|number| bloom.insert(&key(number)));
    assert!((0..keys).all(|number| bloom.may_contain(&key(number))));
    let rate = measured_rate(&bloom, keys, 200_000);
    println!("{keys} keys: {rate} false positives where at most 0.01 are allowed");
    assert!(rate <= 0.01, "{rate}");
}

#[test]
fn a_filter_that_has_to_grow_holds_to_its_rate() {
    let mut bloom = Bloom::new(1_000, 0.01);
    (0..30_000).for_each(|number| bloom.insert(&key(number)));
    assert!((0..30_000).all(|number| bloom.may_contain(&key(number))));
    assert!(!bloom.says_maybe_to_all);
    let rate = measured_rate(&bloom, 30_000, 100_000);
    assert!(rate <= 0.01, "{rate}");
}

#[test]
fn beyond_its_limit_it_says_maybe_to_everything() {
    let mut bloom = Bloom::new(10, 0.001);
    (0..1_000).for_each(|number| bloom.insert(&key(number)));
    assert!((0..2_000).all(|number| bloom.may_contain(&key(number))));
    let copy = Bloom::from_snapshot(&bloom.snapshot().unwrap()).unwrap();
    assert!(copy.may_contain(&key(5_000)));
}

#[test]
fn an_empty_filter_says_that_all_is_absent() {
    let bloom = Bloom::of([].iter(), 0.01);
    assert!((0..1_000).all(|number| !bloom.may_contain(&key(number))));
    assert_eq!(Bloom::from_snapshot(&bloom.snapshot().unwrap()).unwrap(), bloom);
}

fn sealed(body: &[u8]) -> Vec<u8> {
    [body, blake3::hash(body).as_bytes()].concat()
}

#[test]
fn a_cut_or_changed_snapshot_is_an_error() {
    let snapshot = Bloom::of([key(1), key(2)].iter(), 0.01).snapshot().unwrap();
    for length in 0..snapshot.len() {
        assert!(Bloom::from_snapshot(&snapshot[..length]).is_err(), "cut at {length}");
    }
    for byte in 0..snapshot.len() {
        let mut changed = snapshot.clone();
        changed[byte] ^= 1;
        assert!(Bloom::from_snapshot(&changed).is_err(), "changed at {byte}");
    }
}

proptest! {
    /// Whoever can compute a checksum may send anything.
    #[test]
    fn hostile_snapshots_with_a_right_checksum_do_no_harm(
        cut in 0..200_usize, changes in prop::collection::vec((0..200_usize, any::<u8>()), 0..6), asked in any::<u64>(),
    ) {
        let snapshot = Bloom::of([key(1), key(2), key(3)].iter(), 0.1).snapshot().unwrap();
        let mut body = snapshot[..snapshot.len() - CHECKSUM_BYTES].to_vec();
        body.truncate(body.len() - cut % 8);
        for (at, byte) in changes {
            let at = at % body.len();
            body[at] = byte;
        }
        if let Ok(mut bloom) = Bloom::from_snapshot(&sealed(&body)) {
            bloom.may_contain(&key(asked));
            bloom.insert(&key(asked));
            prop_assert!(bloom.may_contain(&key(asked)));
        }
    }

    #[test]
    fn a_snapshot_gives_the_same_answers(numbers in prop::collection::vec(any::<u64>(), 0..300), asked in any::<u64>()) {
        let keys: Vec<Digest> = numbers.iter().copied().map(key).collect();
        let bloom = Bloom::of(keys.iter(), 0.05);
        let copy = Bloom::from_snapshot(&bloom.snapshot().unwrap()).unwrap();
        prop_assert!(keys.iter().all(|key| copy.may_contain(key)));
        prop_assert_eq!(copy.may_contain(&key(asked)), bloom.may_contain(&key(asked)));
    }
}
