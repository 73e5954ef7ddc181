#![allow(clippy::unwrap_used, clippy::expect_used)]
use std::collections::BTreeSet;

use proptest::prelude::*;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use super::*;

fn random(bytes: usize, seed: u64) -> Vec<u8> {
    let mut random = vec![0; bytes];
    ChaCha8Rng::seed_from_u64(seed).fill_bytes(&mut random);
    random
}

fn list(bytes: &[u8]) -> ChunkList {
    let object = Object {
        url: "s3://bucket/x".into(),
        bytes: bytes.len() as u64,
        version: Some("1".into()),
    };
    ChunkList {
        segment: Version::of(&object).unwrap().segment(0),
        chunks: cut(bytes, 0),
    }
}

#[test]
fn a_cut_or_changed_list_is_not_believed() {
    let list = list(&random(1 << 20, 1));
    let bytes = encode(&list).unwrap();
    assert_eq!(ChunkList::decode(&bytes), Some(list));
    for length in 0..bytes.len() {
        assert_eq!(ChunkList::decode(&bytes[..length]), None, "cut at {length}");
    }
    for byte in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[byte] ^= 0x10;
        assert_eq!(ChunkList::decode(&changed), None, "changed at {byte}");
    }
}

#[test]
fn a_list_with_a_hole_is_not_believed() {
    let mut list = list(&random(2 << 20, 2));
    list.chunks.remove(1);
    assert_eq!(ChunkList::decode(&encode(&list).unwrap()), None);
}

#[test]
fn what_is_put_in_the_middle_changes_the_chunks_around_it_only() {
    let before = random(4 << 20, 3);
    let after = [&before[..1 << 20], b"put in between", &before[1 << 20..]].concat();
    let digests = |bytes: &[u8]| cut(bytes, 0).iter().map(|chunk| chunk.digest).collect::<BTreeSet<_>>();
    let (before, after) = (digests(&before), digests(&after));
    assert!(
        after.difference(&before).count() <= 3,
        "{} of {}",
        after.difference(&before).count(),
        after.len()
    );
}

#[test]
fn objects_without_a_version_have_no_name_here() {
    let object = Object {
        url: "x".into(),
        bytes: 1,
        version: None,
    };
    assert_eq!(Version::of(&object), None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn chunks_lie_end_to_end_and_have_their_digests(length in 0..3_000_000_usize, seed in any::<u64>()) {
        let bytes = random(length, seed);
        let chunks = cut(&bytes, 7);
        let mut end = 7;
        for chunk in &chunks {
            prop_assert_eq!(chunk.offset, end);
            prop_assert!(chunk.length <= CHUNK_BYTES_MAX);
            prop_assert!(chunk.is(&bytes[(chunk.offset - 7) as usize..][..chunk.length as usize]));
            end = chunk.range().end;
        }
        prop_assert_eq!(end, 7 + length as u64);
        prop_assert!(chunks.iter().rev().skip(1).all(|chunk| chunk.length >= CHUNK_BYTES_MIN));
    }
}
