//! What a factor of the learning rate does, and that it is part of checkpoints.

use distdl_dl::{CheckpointOptions, Plateau, Samples, Schedule, Training, TrainingOptions};
use distdl_engine::Dataset;

use crate::{begin, bits, context, data, options};

/// Epochs with a plateau of the training's own loss, which never gets better by half.
fn on_a_plateau(training: &mut Training, data: &Dataset<Samples>, epochs: u64) -> Vec<bool> {
    let mut plateau = Plateau::new(0.3, 0).with_threshold(0.5);
    let mut lowered = Vec::new();
    while training.epoch() < epochs {
        training.run_epoch(|_| ()).unwrap();
        let loss = training.error(data).unwrap().mean_loss();
        lowered.push(plateau.show(loss, training).unwrap());
    }
    lowered
}

#[test]
fn a_lowered_rate_is_that_of_fewer_and_is_gone_on_with() {
    let trained = |rate, factor| {
        let context = context(1);
        let constant = TrainingOptions {
            schedule: Some(Schedule::Constant(rate)),
            ..options(None)
        };
        let mut training = begin(&context, constant).unwrap();
        assert_eq!(training.rate_factor(), 1.0);
        training.set_rate_factor(factor).unwrap();
        training.iterate(9, |_| ()).unwrap();
        bits(&training.parameters())
    };
    assert_eq!(trained(0.5, 0.25), trained(0.125, 1.0));
    assert_ne!(trained(0.5, 0.25), trained(0.5, 1.0));
}

#[test]
fn a_plateaus_factor_comes_back_from_a_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let context = context(2);
    let data = data(&context);
    let with = |checkpoint| begin(&context, options(checkpoint)).unwrap();
    let mut whole = with(None);
    assert_eq!(on_a_plateau(&mut whole, &data, 4), [false, true, true, true]);
    assert!((whole.rate_factor() - 0.027).abs() < 1e-6, "{}", whole.rate_factor());

    let at_end = || Some(CheckpointOptions::new(folder.path().to_str().unwrap()));
    let mut first = with(at_end());
    on_a_plateau(&mut first, &data, 2);
    let (factor, step) = (first.rate_factor(), first.step());
    drop(first);
    let mut second = with(at_end());
    // The checkpoint of this step was written before the plateau was, and once more behind it.
    assert_eq!(
        (second.rate_factor().to_bits(), second.step()),
        (factor.to_bits(), step)
    );
    assert!(factor < 1.0);
    // The rate was lowered behind each epoch: so by hand here, as the counts begin anew.
    for epoch in [3, 4] {
        second.run_epoch(|_| ()).unwrap();
        assert_eq!(second.epoch(), epoch);
        let lowered = second.rate_factor() * 0.3;
        second.set_rate_factor(lowered).unwrap();
    }
    let distance = whole.parameters().into_iter().zip(second.parameters());
    let distance = distance.map(|(left, right)| (left - right).abs()).fold(0.0, f32::max);
    assert!(distance < 1e-6, "{distance}");
}

/// The least is that of both together.
#[test]
fn a_plateau_lowers_what_the_schedule_has_come_to_and_not_below_its_least() {
    let context = context(1);
    let mut training = begin(&context, options(None)).unwrap();
    training.iterate(20, |_| ()).unwrap();
    assert!((training.learning_rate() - 0.3 * 0.7 * 0.7).abs() < 1e-6);
    let mut plateau = Plateau::new(0.1, 0).with_rate_min(0.1);
    let lowered = [1.0; 3].map(|value| plateau.show(value, &mut training).unwrap());
    assert_eq!(lowered, [false, true, false]);
    assert!((training.learning_rate() - 0.1).abs() < 1e-6);
}

#[test]
fn rates_that_cannot_be_are_refused() {
    let context = context(1);
    let mut training = begin(&context, options(None)).unwrap();
    for factor in [-0.5, f32::NAN, f32::INFINITY] {
        let error = training.set_rate_factor(factor).unwrap_err();
        assert!(matches!(error, distdl_dl::Error::Options(_)), "{error:?}");
        let message = error.to_string();
        assert!(message.contains(&format!("multiplied with {factor}")), "{message}");
    }
    for factor in [1.0, -0.1, f32::NAN] {
        let message = Plateau::new(factor, 0)
            .show(1.0, &mut training)
            .unwrap_err()
            .to_string();
        assert!(message.contains("from 0 to below 1"), "{message}");
    }
    for threshold in [f64::NAN, f64::INFINITY] {
        let mut plateau = Plateau::new(0.5, 0).with_threshold(threshold);
        let message = plateau.show(1.0, &mut training).unwrap_err().to_string();
        assert!(message.contains(&format!("a threshold of {threshold}")), "{message}");
    }
    assert_eq!(training.rate_factor(), 1.0);
}
