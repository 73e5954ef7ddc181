#![allow(clippy::unwrap_used)]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use super::*;
use crate::config::Config;
use crate::context::Context;
use crate::dataset::Dataset;

/// Records of so many bytes, cut into batches.
fn cut(sizes: &[usize], batch_records: usize) -> Vec<Vec<usize>> {
    let mut records = sizes.iter().map(|bytes| vec![0_u8; *bytes]);
    let batches = std::iter::repeat_with(|| next_batch(&mut records, batch_records));
    let batches = batches.take_while(|batch| !batch.is_empty());
    batches.map(|batch| batch.iter().map(Vec::len).collect()).collect()
}

fn lengths(batches: &[Vec<usize>]) -> Vec<usize> {
    batches.iter().map(Vec::len).collect()
}

#[test]
fn small_records_are_cut_by_their_number() {
    assert_eq!(lengths(&cut(&[3; 2500], 1024)), [1024, 1024, 452]);
    assert_eq!(lengths(&cut(&[3; 40], 1)), [1; 40]);
    assert_eq!(cut(&[], 1024), Vec::<Vec<usize>>::new());
}

#[test]
fn records_of_megabytes_are_cut_by_their_bytes_and_none_is_lost() {
    let large = 3 << 20;
    assert_eq!(lengths(&cut(&[large; 8], 1024)), [4, 4], "measured after 1, 2 and 4");
    let sizes: Vec<usize> = (0..200)
        .map(|number| if number % 7 < 5 { 1 } else { 1 << 20 })
        .collect();
    let batches = cut(&sizes, 1024);
    assert_eq!(batches.concat(), sizes);
    assert!(batches.len() > 2, "{:?}", lengths(&batches));
}

#[test]
fn operators_do_not_hold_more_records_than_memory_may_have() {
    let context = Context::new(Config::default()).unwrap();
    let made = Arc::new(AtomicUsize::new(0));
    let picture = |calls: &AtomicUsize| {
        calls.fetch_add(1, Ordering::Relaxed);
        vec![0_u8; 4 << 20]
    };
    let calls = Arc::clone(&made);
    let pictures = context.range(0..1000, 1).map_partitions(move |numbers| {
        let calls = Arc::clone(&calls);
        numbers.map(move |_| picture(&calls))
    });
    assert_eq!(pictures.first().unwrap().len(), 4 << 20);
    let of_partitions = made.swap(0, Ordering::Relaxed);
    assert!((1..=4).contains(&of_partitions), "{of_partitions}");
    for each in [1, 1000] {
        let calls = Arc::clone(&made);
        let pictures = context.range(0..1000, 1).flat_map(move |_| {
            let calls = Arc::clone(&calls);
            (0..each).map(move |_| picture(&calls))
        });
        assert_eq!(pictures.first().unwrap().len(), 4 << 20);
        let of_records = made.swap(0, Ordering::Relaxed);
        assert!((1..=4).contains(&of_records), "{of_records}");
    }
}

#[test]
fn names_become_pictures_a_few_at_a_time() {
    let context = Context::new(Config::default()).unwrap();
    let made = Arc::new(AtomicUsize::new(0));
    let (calls, kept) = (Arc::clone(&made), Arc::new(AtomicUsize::new(0)));
    let largest = Arc::clone(&kept);
    let pictures = context.range(0..1000, 1).map(move |_| {
        calls.fetch_add(1, Ordering::Relaxed);
        vec![0_u8; 1 << 20]
    });
    let calls = Arc::clone(&made);
    let measured = pictures.try_map(move |picture| {
        largest.fetch_max(calls.swap(0, Ordering::Relaxed), Ordering::Relaxed);
        Ok::<_, String>(picture.len())
    });
    assert_eq!(measured.sum().unwrap(), 1000 << 20);
    let together = kept.load(Ordering::Relaxed);
    assert!((2..=8).contains(&together), "{together}");
}

#[test]
fn what_lets_nothing_through_says_nothing_of_what_comes_behind_it() {
    let context = Context::new(Config::default()).unwrap();
    let made = Arc::new(AtomicUsize::new(0));
    let calls = Arc::clone(&made);
    let pictures = context.range(0..1000, 1).filter(|number| *number >= 500).map(move |_| {
        calls.fetch_add(1, Ordering::Relaxed);
        vec![0_u8; 1 << 20]
    });
    assert_eq!(pictures.first().unwrap().len(), 1 << 20);
    let together = made.load(Ordering::Relaxed);
    assert!((1..=32).contains(&together), "{together}");
}

#[test]
fn batches_are_whole_again_once_their_records_are_known_to_be_small() {
    let context = Context::new(Config::default()).unwrap();
    let words = context.range(0..4000, 1).map(|number| number.to_string());
    let (seen, before) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(Vec::new())));
    let (calls, pieces) = (Arc::clone(&seen), Arc::clone(&before));
    let words = words.map(move |word| {
        calls.fetch_add(1, Ordering::Relaxed);
        word
    });
    let checked = words.filter(move |_| {
        let piece = seen.swap(0, Ordering::Relaxed);
        if piece > 0 {
            pieces.lock().unwrap().push(piece);
        }
        true
    });
    assert_eq!(checked.map(|word| word.len()).sum().unwrap(), 10 + 180 + 2700 + 12000);
    assert_eq!(*before.lock().unwrap(), [1, 32, 991, 1024, 1024, 928]);
}

#[test]
fn what_has_ended_is_not_asked_for_more_where_a_batch_is_full() {
    let context = Context::new(Config::default()).unwrap();
    let pictures = context.range(0..2, 1).flat_map(|_| {
        let sizes = [9 << 20, 5 << 20, 0, 7].into_iter();
        // Asked again it would go on behind the 0.
        sizes.map_while(|bytes| (bytes > 0).then(|| vec![0_u8; bytes]))
    });
    let sizes = pictures.map(|picture| picture.len()).collect().unwrap();
    assert_eq!(sizes, [9 << 20, 5 << 20, 9 << 20, 5 << 20]);
}

#[test]
fn large_records_are_not_paired_with_a_thousand_at_once() {
    let context = Context::new(Config::default()).unwrap();
    let made = Arc::new(AtomicUsize::new(0));
    let first_batch = |pictures: Dataset<Vec<u8>>| {
        let calls = Arc::clone(&made);
        let pictures = pictures.map(move |picture| {
            calls.fetch_add(1, Ordering::Relaxed);
            picture
        });
        assert_eq!(pictures.first().unwrap().len(), 1 << 20);
        made.swap(0, Ordering::Relaxed)
    };
    let numbers = context.range(0..1000, 1);
    let picture = context.range(0..1, 1).map(|_| vec![0_u8; 1 << 20]);
    let of_pairs = first_batch(picture.cartesian(&numbers).map(|(picture, _)| picture));
    assert!((1..=16).contains(&of_pairs), "{of_pairs}");
    let (few, many) = (picture.map(|picture| (7, picture)), numbers.map(|number| (7, number)));
    let of_joined = first_batch(many.join(&few).map(|(_, (_, picture))| picture));
    assert!((1..=16).contains(&of_joined), "{of_joined}");
    let albums = context.range(0..64, 1).map(|number| (number, vec![0_u8; 1 << 20]));
    let alone = albums.left_outer_join(&many.filter(|_| false));
    let of_left = first_batch(alone.map(|(_, (picture, _))| picture));
    assert!((1..=16).contains(&of_left), "{of_left}");
}
