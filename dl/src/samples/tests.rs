//! Blocks of samples: what is refused, stored, cut and chosen.
#![allow(clippy::unwrap_used, clippy::expect_used)]
use super::*;
use proptest::prelude::*;

fn bytes(count: usize) -> Samples {
    let features = Features::U8 {
        bytes: (0..count * 3).map(|i| i as u8).collect(),
        scale: 0.5,
    };
    Samples::new(3, features, SampleTargets::Labels((0..count as u32).collect())).unwrap()
}

fn values(count: usize) -> Samples {
    let features = Features::F32((0..count * 2).map(|i| i as f32).collect());
    let targets = SampleTargets::Values {
        length: 4,
        values: (0..count * 4).map(|i| -(i as f32)).collect(),
    };
    Samples::new(2, features, targets).unwrap()
}

fn without_targets(count: usize) -> Samples {
    Samples::new(2, values(count).features().clone(), SampleTargets::None).unwrap()
}

#[test]
fn contradictions_are_refused() {
    let labels = |count| SampleTargets::Labels(vec![0; count]);
    let cases = [
        (Samples::new(0, Features::F32(vec![]), labels(0)), "at least 1"),
        (
            Samples::new(3, Features::F32(vec![0.0; 4]), labels(1)),
            "4 elements are not whole rows of 3",
        ),
        (
            Samples::new(2, Features::F32(vec![0.0; 4]), labels(3)),
            "2 rows of features but 3 of targets",
        ),
        (
            Samples::new(
                2,
                Features::F32(vec![0.0; 4]),
                SampleTargets::Values {
                    length: 0,
                    values: vec![],
                },
            ),
            "target values: a row",
        ),
    ];
    for (result, words) in cases {
        let message = result.unwrap_err().to_string();
        assert!(message.contains(words), "{message}");
    }
}

#[test]
fn a_clone_shares_what_it_has_until_one_of_both_is_added_to() {
    let samples = Samples::from_labelled_rows([([0.5, 1.0], 3), ([2.0, 0.0], 1)]).unwrap();
    let mut clone = samples.clone();
    assert!(std::ptr::eq(samples.features(), clone.features()) && std::ptr::eq(samples.targets(), clone.targets()));
    assert!(clone.append(&samples));
    assert_eq!((samples.len(), clone.len()), (2, 4));
}

#[test]
#[allow(clippy::reversed_empty_ranges)]
fn a_slice_beyond_the_end_is_refused() {
    assert!(bytes(3).slice(1..4).is_err());
    assert!(bytes(3).slice(2..1).is_err());
    assert!(bytes(3).slice(3..3).unwrap().is_empty());
    assert!(bytes(3).split(0).is_err());
}

#[test]
fn a_filter_keeps_features_and_targets_together() {
    for samples in [bytes(5), values(5), without_targets(5)] {
        let kept = samples.filter(|index| [1, 4].contains(&index));
        assert_eq!(kept.slice(0..1).unwrap(), samples.slice(1..2).unwrap());
        assert_eq!(kept.slice(1..2).unwrap(), samples.slice(4..5).unwrap());
        assert_eq!(kept.len(), 2);
        assert_eq!(samples.filter(|_| true), samples);
        assert!(samples.filter(|_| false).is_empty());
    }
}

#[test]
fn rows_become_samples_and_one_of_another_length_is_named() {
    let labelled = Samples::from_labelled_rows([(vec![1.0, 2.0], 7), (vec![3.0, 4.0], 5)]).unwrap();
    let features = || Features::F32(vec![1.0, 2.0, 3.0, 4.0]);
    let expected = Samples::new(2, features(), SampleTargets::Labels(vec![7, 5])).unwrap();
    assert_eq!(labelled, expected);
    let valued = Samples::from_valued_rows([([1.0, 2.0], [0.5]), ([3.0, 4.0], [0.25])]).unwrap();
    let targets = SampleTargets::Values {
        length: 1,
        values: vec![0.5, 0.25],
    };
    assert_eq!(valued, Samples::new(2, features(), targets).unwrap());
    let bare = Samples::from_rows([[1.0, 2.0], [3.0, 4.0]]).unwrap();
    assert_eq!(bare, Samples::new(2, features(), SampleTargets::None).unwrap());
    let message = Samples::from_rows([vec![1.0], vec![]]).unwrap_err().to_string();
    assert!(message.contains("row 1 has 0 features"), "{message}");
    // In all they are whole rows of two.
    let uneven = [vec![1.0, 2.0], vec![3.0], vec![4.0, 5.0, 6.0]].map(|row| (row, 0));
    let message = Samples::from_labelled_rows(uneven).unwrap_err().to_string();
    assert!(
        message.contains("row 1 has 1 features, and the first one has 2"),
        "{message}"
    );
    let uneven = [([1.0], vec![1.0]), ([2.0], vec![])];
    let message = Samples::from_valued_rows(uneven).unwrap_err().to_string();
    assert!(message.contains("row 1 has 0 outputs"), "{message}");
    let none: [(Vec<f32>, u32); 0] = [];
    assert!(
        Samples::from_labelled_rows(none)
            .unwrap_err()
            .to_string()
            .contains("no rows")
    );
}

#[test]
fn labels_become_values_and_one_without_a_place_is_named() {
    let one_hot = bytes(3).one_hot(4).unwrap();
    assert_eq!(one_hot.features(), bytes(3).features());
    let expected = SampleTargets::Values {
        length: 4,
        values: vec![1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0],
    };
    assert_eq!(one_hot.targets(), &expected);
    let message = bytes(3).one_hot(2).unwrap_err().to_string();
    assert!(
        message.contains("row 2: label 2 has no place among 2 classes"),
        "{message}"
    );
    assert!(bytes(0).one_hot(0).is_err());
    for (samples, words) in [(values(1), "values already"), (without_targets(1), "no targets")] {
        let message = samples.one_hot(4).unwrap_err().to_string();
        assert!(message.contains(words), "{message}");
    }
}

/// Caches and checkpoints of datasets hold them.
#[test]
fn what_was_stored_is_read_as_what_it_was() {
    let one = |targets| Samples::new(1, Features::F32(vec![1.0]), targets).unwrap();
    let valued = SampleTargets::Values {
        length: 1,
        values: vec![2.0],
    };
    let features = [1, 1, 4, 0, 0, 128, 63];
    for (samples, stored) in [
        (one(SampleTargets::Labels(vec![7])), &[0, 4, 7, 0, 0, 0][..]),
        (one(valued), &[1, 1, 4, 0, 0, 0, 64]),
        (one(SampleTargets::None), &[2]),
    ] {
        let stored = [&features[..], stored].concat();
        assert_eq!(postcard::to_stdvec(&samples).unwrap(), stored);
        assert_eq!(postcard::from_bytes::<Samples>(&stored).unwrap(), samples);
    }
}

#[test]
fn bytes_of_another_make_are_an_error_and_no_panic() {
    let whole = postcard::to_stdvec(&values(5)).unwrap();
    for length in 0..whole.len() {
        assert!(
            postcard::from_bytes::<Samples>(&whole[..length]).is_err(),
            "cut at {length}"
        );
    }
    for position in 0..whole.len() {
        let mut flipped = whole.clone();
        flipped[position] ^= 0x81;
        let _ = postcard::from_bytes::<Samples>(&flipped);
    }
    let mut contradiction = postcard::to_stdvec(&bytes(2)).unwrap();
    contradiction[0] = 6;
    assert!(postcard::from_bytes::<Samples>(&contradiction).is_err());
}

#[test]
fn features_are_stored_as_plain_bytes() {
    assert!(postcard::to_stdvec(&bytes(1000)).unwrap().len() < 3000 + 4000 + 20);
}

proptest! {
    #[test]
    fn what_is_stored_comes_back(count in 0usize..40) {
        for samples in [bytes(count), values(count)] {
            let stored = postcard::to_stdvec(&samples).unwrap();
            prop_assert_eq!(&postcard::from_bytes::<Samples>(&stored).unwrap(), &samples);
        }
    }

    #[test]
    fn parts_are_the_whole_in_order(count in 0usize..40, parts in 1usize..9) {
        for samples in [bytes(count), values(count)] {
            let split = samples.split(parts).unwrap();
            prop_assert_eq!(split.len(), parts);
            let mut start = 0;
            for part in &split {
                prop_assert!(part.len() == count / parts || part.len() == count / parts + 1);
                prop_assert_eq!(part, &samples.slice(start..start + part.len()).unwrap());
                start += part.len();
            }
            prop_assert_eq!(start, count);
        }
    }
}

#[test]
fn blocks_are_put_together_in_order_if_all_are_of_one_kind() {
    for samples in [bytes(7), values(5)] {
        assert_eq!(Samples::concat(samples.split(3).unwrap()).unwrap(), samples);
        let (empty, twice) = (
            samples.slice(0..0).unwrap(),
            Samples::concat([&samples, &samples]).unwrap(),
        );
        assert_eq!(twice.split(2).unwrap(), [samples.clone(), samples.clone()]);
        assert_eq!(Samples::concat([&empty, &samples, &empty]).unwrap(), samples);
    }
    let refused = |blocks: &[&Samples]| Samples::concat(blocks.iter().copied()).unwrap_err().to_string();
    assert!(refused(&[]).contains("give at least one block"));
    let (bytes, values) = (bytes(2), values(2));
    let labels = || SampleTargets::Labels(vec![0, 1]);
    let scaled = |scale| {
        let bytes = vec![0; 6];
        Samples::new(3, Features::U8 { bytes, scale }, labels()).unwrap()
    };
    let labelled = Samples::new(2, Features::F32(vec![0.0; 4]), labels()).unwrap();
    let others =
        "2 features and not 3 features, features in f32 and not bytes times 0.5, 4 target values and not labels";
    for (blocks, words) in [
        (
            [&bytes, &bytes, &values],
            format!("block 2 (from 0) has {others} as the first one"),
        ),
        (
            [&bytes, &scaled(0.25), &bytes],
            "block 1 (from 0) has bytes times 0.25 and not bytes times 0.5 as".to_owned(),
        ),
        (
            [&values, &values, &labelled],
            "block 2 (from 0) has labels and not 4 target values as".to_owned(),
        ),
        (
            [&labelled, &values, &bytes],
            "block 1 (from 0) has 4 target values and not labels as".to_owned(),
        ),
    ] {
        let message = refused(&blocks);
        assert!(message.contains(&words), "{message}");
    }
}
