//! Numbers about datasets, at their edges.

use distdl::EngineError;
use distdl::engine::testing::TestCluster;

use crate::common::{context, small_batches};

#[test]
fn a_small_spread_around_a_large_mean_keeps_its_digits() {
    let context = context(2);
    let stats = context.range(0..1000, 7).map(|x| 1e9 + (x % 2) as f64).stats().unwrap();
    assert_eq!((stats.mean(), stats.min(), stats.max()), (1e9 + 0.5, 1e9, 1e9 + 1.0));
    assert!((stats.variance() - 0.25).abs() < 1e-9, "{stats:?}");
}

#[test]
fn statistics_have_the_same_bits_on_any_threads_and_processes() {
    let bits = |context: &distdl::Context| {
        let stats = context.range(0..5000, 11).map(|x| 1.0 / (1.0 + x as f32)).stats()?;
        Ok::<_, EngineError>([stats.mean(), stats.variance(), stats.sum()].map(f64::to_bits))
    };
    let expected = bits(&small_batches(1, 3)).unwrap();
    for threads in 2..=3 {
        assert_eq!(bits(&context(threads)).unwrap(), expected);
    }
    let run = TestCluster::new(3).run(move |context| bits(context)).unwrap();
    assert_eq!(run.results, [expected; 3]);
}

#[test]
fn what_is_not_a_number_shows() {
    let context = context(1);
    let numbers = context.parallelize([1.0, f64::NAN, 3.0, 0.5], 2);
    let stats = numbers.stats().unwrap();
    assert_eq!(stats.count(), 4);
    assert!(
        [stats.mean(), stats.variance(), stats.min(), stats.max()]
            .iter()
            .all(|x| x.is_nan())
    );
    assert!(matches!(numbers.histogram(3), Err(EngineError::Invalid { .. })));
    assert_eq!(numbers.histogram_between(&[0.0, 1.0, 3.0]).unwrap().counts, [1, 2]);
    let endless = context.parallelize([1.0, f64::INFINITY], 1);
    assert!(matches!(endless.histogram(3), Err(EngineError::Invalid { .. })));
}

#[test]
fn arguments_that_make_no_sense_are_refused() {
    let context = context(1);
    let numbers = context.range(0..9, 3).map(|x| x as f64);
    let refused = |result: Result<(), EngineError>| assert!(matches!(result, Err(EngineError::Invalid { .. })));
    refused(numbers.histogram(0).map(drop));
    for edges in [&[][..], &[1.0], &[1.0, 0.0], &[0.0, 1.0, 1.0], &[0.0, f64::NAN]] {
        refused(numbers.histogram_between(edges).map(drop));
    }
    let words = context.range(0..9, 3);
    for deviation in [0.0, 0.002, 0.3, 1.0, f64::NAN] {
        refused(words.count_approx_distinct(deviation).map(drop));
    }
    let pairs = words.map(|x| (x, x));
    for fraction in [-0.1, 1.1, f64::NAN] {
        refused(pairs.sample_by_key([(1, fraction)].into(), 0).map(drop));
    }
    let nothing = numbers.filter(|_| false);
    assert!(matches!(nothing.histogram(2), Err(EngineError::Empty { .. })));
    let drawn = nothing.take_sample_with_replacement(1, 0);
    assert!(matches!(drawn, Err(EngineError::Empty { .. })));
}

#[test]
fn different_records_are_counted_to_within_the_deviation() {
    for threads in 1..=2 {
        let context = context(threads);
        let words = context.range(0..60_000, 7).map(|x| format!("word {}", x % 20_000));
        let counts = [0.01, 0.05, 0.26].map(|deviation| {
            let count = words.count_approx_distinct(deviation).unwrap();
            let error = (count as f64 / 20_000.0 - 1.0).abs();
            assert!(error < 4.0 * deviation, "{count} to within {deviation}");
            count
        });
        // The answer depends on nothing but the records.
        let again = words.repartition(3).count_approx_distinct(0.05).unwrap();
        assert_eq!(again, counts[1]);
        assert_eq!(words.filter(|_| false).count_approx_distinct(0.05).unwrap(), 0);
        assert_eq!(context.range(0..1, 1).count_approx_distinct(0.05).unwrap(), 1);
    }
}

#[test]
fn what_one_seed_draws_for_one_operator_says_nothing_of_another() {
    let context = context(2);
    let numbers = context.range(0..10_000, 4);
    let first = numbers.random_split(&[0.5, 0.5], 7).unwrap()[0].collect().unwrap();
    let pairs = numbers.map(|number| (0, number));
    let by_key = pairs.sample_by_key([(0, 0.1)].into(), 7).unwrap().values();
    for drawn in [
        numbers.sample(0.1, 7).unwrap().collect().unwrap(),
        by_key.collect().unwrap(),
        numbers.take_sample(1000, 7).unwrap(),
        numbers.take_sample_with_replacement(1000, 7).unwrap(),
    ] {
        let both = drawn
            .iter()
            .filter(|number| first.binary_search(number).is_ok())
            .count();
        // About 500 are expected, with a standard deviation of 16; it was all or none.
        assert!((400..600).contains(&both), "{both} of {}", drawn.len());
    }
}

#[test]
fn samples_are_even() {
    let context = context(2);
    let numbers = context.range(0..100, 7);
    let mut drawn = [[0u32; 100]; 2];
    for seed in 0..400 {
        for (drawn, sample) in drawn.iter_mut().zip([
            numbers.take_sample(10, seed).unwrap(),
            numbers.take_sample_with_replacement(10, seed).unwrap(),
        ]) {
            sample.into_iter().for_each(|x| drawn[x as usize] += 1);
        }
    }
    // 40 are expected of each, with a standard deviation of 6.
    for count in drawn.as_flattened() {
        assert!((10..=75).contains(count), "{drawn:?}");
    }
}
