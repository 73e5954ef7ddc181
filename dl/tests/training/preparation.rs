//! Samples are prepared as datasets: normalised, one-hot, split, shuffled; with the same bits however they lie.

use distdl_dl::{Features, Normalization, PrepareSamples, SampleTargets, Samples};
use distdl_engine::testing::TestCluster;
use distdl_engine::{Config, Context, Dataset};

use crate::context;

/// Two features without a pattern; the label is the number of the sample.
fn samples(count: u32) -> Samples {
    let feature = |at: u32| ((at * at * 37 % 1009) as f32 / 7.0 - 50.0) * if at.is_multiple_of(2) { 1.0 } else { 1e-3 };
    let features = (0..2 * count).map(feature).collect();
    Samples::new(2, Features::F32(features), SampleTargets::Labels((0..count).collect())).unwrap()
}

fn data(context: &Context, blocks: usize, partitions: usize) -> Dataset<Samples> {
    context.parallelize(samples(300).split(blocks).unwrap(), partitions)
}

fn numbers(features: &Features) -> Vec<f32> {
    match features {
        Features::U8 { bytes, scale } => bytes.iter().map(|byte| f32::from(*byte) * scale).collect(),
        Features::F32(values) => values.clone(),
    }
}

/// Mean and deviation of a feature, in f64.
fn moments(values: impl Iterator<Item = f32> + Clone) -> (f64, f64) {
    let count = values.clone().count() as f64;
    let mean = values.clone().map(f64::from).sum::<f64>() / count;
    let squares = values.map(|value| (f64::from(value) - mean).powi(2));
    (mean, (squares.sum::<f64>() / count).sqrt())
}

#[test]
fn a_fit_has_the_moments_of_the_data_and_the_same_bits_however_it_lies() {
    let fitted = Normalization::fit(&data(&context(1), 4, 4)).unwrap();
    let values = numbers(samples(300).features());
    for feature in 0..2 {
        let (mean, deviation) = moments(values.iter().copied().skip(feature).step_by(2));
        let (got_mean, got_deviation) = (
            f64::from(fitted.mean()[feature]),
            f64::from(fitted.deviation()[feature]),
        );
        assert!((got_mean - mean).abs() < 1e-6 * deviation, "{got_mean} but {mean}");
        assert!(
            (got_deviation / deviation - 1.0).abs() < 1e-5,
            "{got_deviation} but {deviation}"
        );
    }
    for (threads, blocks, partitions) in [(2, 7, 3), (3, 300, 5), (2, 1, 2)] {
        let again = Normalization::fit(&data(&context(threads), blocks, partitions)).unwrap();
        assert_eq!(again, fitted);
    }
}

#[test]
fn a_small_feature_keeps_its_digits_beside_a_large_one() {
    let features = (0..100u8).flat_map(|row| [1e9 + f32::from(row) * 1e6, f32::from(row) * 1e-5]);
    let samples = Samples::new(
        2,
        Features::F32(features.collect()),
        SampleTargets::Labels(vec![0; 100]),
    );
    let fitted = Normalization::fit(&context(1).parallelize([samples.unwrap()], 1)).unwrap();
    let expected = f64::from(fitted.deviation()[1]) / 28.866_07e-5;
    assert!((expected - 1.0).abs() < 1e-4, "{fitted:?}");
}

#[test]
fn a_feature_near_the_least_numbers_keeps_its_digits() {
    let features = (0..100u8).map(|row| f32::from(row) * 1e-38).collect();
    let samples = Samples::new(1, Features::F32(features), SampleTargets::Labels(vec![0; 100]));
    let fitted = Normalization::fit(&context(1).parallelize([samples.unwrap()], 1)).unwrap();
    let expected = f64::from(fitted.deviation()[0]) / 28.866_07e-38;
    assert!((expected - 1.0).abs() < 1e-4, "{fitted:?}");
}

#[test]
fn what_is_transformed_has_mean_0_and_deviation_1() {
    let context = context(2);
    let bytes = (0..200u32).map(|at| (at * at % 251) as u8).collect();
    let features = Features::U8 { bytes, scale: 1e20 };
    let bytes = Samples::new(2, features, SampleTargets::Labels(vec![0; 100])).unwrap();
    let tiny = Features::F32((0..200).map(|at| (at % 17) as f32 * 1e-30).collect());
    let tiny = Samples::new(2, tiny, SampleTargets::Labels(vec![0; 100])).unwrap();
    for samples in [samples(300), bytes, tiny] {
        let data = context.parallelize(samples.split(3).unwrap(), 3);
        let normal = Normalization::fit(&data).unwrap().transform(&data).collect().unwrap();
        let values: Vec<f32> = normal.iter().flat_map(|samples| numbers(samples.features())).collect();
        for feature in 0..2 {
            let (mean, deviation) = moments(values.iter().copied().skip(feature).step_by(2));
            assert!(
                mean.abs() < 1e-4 && (deviation - 1.0).abs() < 1e-4,
                "{mean} {deviation}"
            );
        }
    }
}

#[test]
fn what_has_no_moments_is_refused() {
    let context = context(1);
    let refusal = |blocks: Vec<Samples>| {
        let error = Normalization::fit(&context.parallelize(blocks, 2)).unwrap_err();
        error.to_string()
    };
    let wide = Samples::new(3, Features::F32(vec![0.0; 3]), SampleTargets::Labels(vec![0])).unwrap();
    assert!(refusal(vec![samples(2), wide.clone()]).contains("features; give all"));
    assert!(refusal(vec![samples(0)]).contains("no samples to normalise by"));
    let odd = Features::F32(vec![0.0, 1.0, 2.0, f32::NAN]);
    let odd = Samples::new(2, odd, SampleTargets::Labels(vec![0, 0])).unwrap();
    assert!(refusal(vec![samples(2), odd]).contains("row 1 of partition 1 has NaN as feature 1"));
    let fitted = Normalization::fit(&data(&context, 2, 2)).unwrap();
    let error = fitted.transform(&context.parallelize([wide], 1)).collect().unwrap_err();
    assert!(error.to_string().contains("got 3 elements, expected 2"), "{error}");
}

#[test]
fn a_label_without_a_place_ends_the_action_and_is_named() {
    let context = context(2);
    let data = data(&context, 3, 3);
    let one_hot = data.one_hot(300).collect().unwrap();
    let SampleTargets::Values { length: 300, values } = one_hot[1].targets() else {
        panic!("no values of 300 classes");
    };
    let ones: Vec<usize> = (0..values.len()).filter(|at| values[*at] == 1.0).collect();
    assert_eq!(ones, (0..100).map(|row| row * 300 + 100 + row).collect::<Vec<_>>());
    assert_eq!(values.iter().sum::<f32>(), 100.0);
    let message = data.one_hot(250).collect().unwrap_err().to_string();
    assert!(message.contains("partition 2: samples: row 50: label 250"), "{message}");
    assert!(
        message.contains("preparation.rs"),
        "the place in the program: {message}"
    );
}

fn labels(data: &Dataset<Samples>) -> Vec<u32> {
    let blocks = data.collect().unwrap();
    let labels = |samples: &Samples| match samples.targets() {
        SampleTargets::Labels(labels) => labels.clone(),
        SampleTargets::Values { .. } | SampleTargets::None => panic!("no labels"),
    };
    blocks.iter().flat_map(labels).collect()
}

#[test]
fn a_split_deals_every_sample_once_by_its_weight_and_seed() {
    let context = context(2);
    let split = |threads: usize, blocks: usize, seed| {
        let context = self::context(threads);
        let data = context.parallelize(samples(300).split(blocks).unwrap(), 2);
        let parts = data.split_samples(&[3.0, 1.0, 2.0], seed).unwrap();
        parts.iter().map(labels).collect::<Vec<_>>()
    };
    let parts = split(1, 2, 5);
    let mut all = parts.concat();
    all.sort_unstable();
    assert_eq!(all, (0..300).collect::<Vec<_>>());
    for (part, expected) in parts.iter().zip([150, 50, 100]) {
        assert!(
            part.len().abs_diff(expected) < 30,
            "{} but about {expected}",
            part.len()
        );
    }
    // Cut into other blocks, of which each partition has half.
    assert_eq!(split(3, 20, 5), parts);
    assert_ne!(split(1, 2, 6), parts);
    let data = data(&context, 2, 2);
    for weights in [
        &[][..],
        &[1.0, 0.0],
        &[1.0, -1.0],
        &[f64::NAN],
        &[f64::INFINITY],
        &[f64::MAX, f64::MAX],
    ] {
        assert!(data.split_samples(weights, 1).is_err(), "{weights:?}");
    }
}

/// The samples' numbers, by partition.
fn by_partition(data: &Dataset<Samples>) -> distdl_engine::Result<Vec<Vec<u32>>> {
    data.run_partitions(|_, blocks| {
        let labels = blocks.flat_map(|samples| match samples.targets() {
            SampleTargets::Labels(labels) => labels.clone(),
            SampleTargets::Values { .. } | SampleTargets::None => panic!("no labels"),
        });
        Ok(labels.collect())
    })
}

/// Data that lies in order is mixed over partitions, with the same bits however it is cut and whoever computes.
#[test]
fn a_shuffle_makes_partitions_alike() {
    let shuffle = |context: &Context, blocks, seed| by_partition(&data(context, blocks, 4).shuffle_samples(seed));
    let shuffled = shuffle(&context(1), 4, 5).unwrap();
    assert_eq!(shuffled.len(), 4);
    for partition in &shuffled {
        assert!(partition.len().abs_diff(75) <= 4, "{}", partition.len());
        // 75 lay together before.
        for part in 0..4 {
            let of_part = partition.iter().filter(|sample| **sample / 75 == part).count();
            assert!((18..=19).contains(&of_part), "{of_part} of {part}");
        }
        assert!(partition.is_sorted(), "in order of where they were");
    }
    let mut all = shuffled.concat();
    all.sort_unstable();
    assert_eq!(all, (0..300).collect::<Vec<_>>());
    for (threads, blocks) in [(2, 4), (3, 20), (1, 300)] {
        assert_eq!(
            shuffle(&context(threads), blocks, 5).unwrap(),
            shuffled,
            "{blocks} blocks"
        );
    }
    assert_ne!(shuffle(&context(1), 4, 6).unwrap(), shuffled);
    let run = TestCluster::new(3).run(move |context| shuffle(context, 20, 5));
    let results = run.unwrap().results;
    assert!(
        results.len() == 3 && results.iter().all(|result| *result == shuffled),
        "{results:?}"
    );
}

#[test]
fn what_is_shuffled_lies_in_few_blocks_of_one_shape_each() {
    let context = context(2);
    let values = |count: usize| SampleTargets::Values {
        length: 1,
        values: vec![0.0; count],
    };
    let ones = (0..40).map(|_| Samples::new(1, Features::F32(vec![1.0]), values(1)).unwrap());
    let bytes = |scale| {
        let features = Features::U8 {
            bytes: vec![1; 8],
            scale,
        };
        Samples::new(1, features, values(8)).unwrap()
    };
    let blocks: Vec<Samples> = ones.chain([bytes(0.5), bytes(0.25)]).collect();
    let shuffled = context.parallelize(blocks, 1).shuffle_samples(1);
    let lengths: Vec<usize> = shuffled.collect().unwrap().iter().map(Samples::len).collect();
    assert_eq!(lengths, [40, 8, 8]);
}

#[test]
fn what_is_remembered_of_prepared_samples_is_not_taken_for_that_of_other_numbers() {
    let folder = tempfile::tempdir().unwrap();
    let config = Config::default().with_threads(2).with_cache_folder(folder.path());
    let context = Context::new(config).unwrap();
    let data = data(&context, 4, 4);
    // One line of the program for each, with other numbers.
    let split = |weights: &[f64], seed| {
        let part = data.split_samples(weights, seed).unwrap().remove(0);
        assert_eq!(
            part.memoize("part", 1).unwrap().collect().unwrap(),
            part.collect().unwrap()
        );
    };
    for (weights, seed) in [([3.0, 1.0], 1), ([3.0, 1.0], 2), ([1.0, 3.0], 2)] {
        split(&weights, seed);
    }
    for mean in [1.0, 2.0] {
        let normalization = Normalization::from_parts(vec![mean, 0.0], vec![1.0, mean]).unwrap();
        let transformed = normalization.transform(&data);
        let remembered = transformed.memoize("transformed", 1).unwrap();
        assert_eq!(remembered.collect().unwrap(), transformed.collect().unwrap());
    }
    for seed in [1, 2] {
        let shuffled = data.shuffle_samples(seed);
        let remembered = shuffled.memoize("shuffled", 1).unwrap();
        assert_eq!(remembered.collect().unwrap(), shuffled.collect().unwrap());
    }
    for classes in [300, 400] {
        let one_hot = data.one_hot(classes);
        let remembered = one_hot.memoize("one_hot", 1).unwrap();
        assert_eq!(remembered.collect().unwrap(), one_hot.collect().unwrap());
    }
}
