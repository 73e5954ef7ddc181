//! Training that goes on with changed data.

use distdl_dl::{
    BatchId, CheckpointOptions, Dense, Error, Features, Input, Loss, NeuralNetwork, SampleTargets, Samples, Schedule,
    Training, TrainingOptions, shuffle,
};
use distdl_engine::{Context, Dataset};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::context;

const LANES: usize = 2;

fn block(rows: &[u8]) -> Samples {
    let features = Features::U8 {
        bytes: rows.iter().flat_map(|row| [*row, 255 - row]).collect(),
        scale: 1.0 / 255.0,
    };
    let labels = rows.iter().map(|row| u32::from(*row % 3)).collect();
    Samples::new(2, features, SampleTargets::Labels(labels)).unwrap()
}

/// Partitions of samples; partition `p` belongs to lane `p % 2`.
fn data(context: &Context, partitions: &[Vec<u8>]) -> Dataset<Samples> {
    let blocks: Vec<Samples> = partitions.iter().map(|rows| block(rows)).collect();
    context.parallelize(blocks, partitions.len()).cache()
}

fn begun(data: &Dataset<Samples>) -> Training {
    let options = TrainingOptions {
        batch: 10,
        lanes: LANES,
        seed: Some(3),
        ..TrainingOptions::default()
    };
    let network = NeuralNetwork::dense(2, &[4], 3).unwrap();
    network.train(data, options).unwrap()
}

fn rows(first: u8, count: u8) -> Vec<u8> {
    (first..first + count).collect()
}

#[test]
fn the_same_data_changes_nothing() {
    let (context, partitions) = (context(2), [rows(0, 20), rows(50, 20), rows(100, 11)]);
    let (mut plain, mut changed) = (begun(&data(&context, &partitions)), begun(&data(&context, &partitions)));
    plain.run_epoch(|_| ()).unwrap();
    plain.run_epoch(|_| ()).unwrap();
    changed.run_epoch(|_| ()).unwrap();
    let change = changed.change_data(&data(&context, &partitions)).unwrap();
    // 31 and 20 samples of two lanes, 10 a step: the last one has a single sample.
    assert_eq!((change.epoch, change.batches, change.changed), (1, 6 + 5, vec![]));
    changed.run_epoch(|_| ()).unwrap();
    assert_eq!(changed.parameters_hash(), plain.parameters_hash());
    assert_eq!((changed.epoch(), changed.step()), (2, 12));
}

#[test]
fn a_sample_that_is_another_changes_the_batch_that_holds_it() {
    let (context, mut partitions) = (context(2), [rows(0, 20), rows(50, 20)]);
    let mut training = begun(&data(&context, &partitions));
    // Two steps into an epoch: the rest of it is left out.
    training.iterate(2, |_| ()).unwrap();
    for (epoch, index) in [(1, 7), (1, 3)] {
        partitions[1][index] = 200 + index as u8;
        let change = training.change_data(&data(&context, &partitions)).unwrap();
        let order = shuffle(3, epoch, 1, 20);
        let place = order.iter().position(|place| *place as usize == index).unwrap();
        let expected = BatchId {
            lane: 1,
            step_of_epoch: place as u64 / 5,
        };
        assert_eq!(
            (change.epoch, change.batches, change.changed),
            (epoch, 8, vec![expected])
        );
    }
    assert_eq!((training.epoch(), training.step()), (1, 2));
    training.run_epoch(|_| ()).unwrap();
    assert_eq!((training.epoch(), training.step()), (2, 6));
}

#[test]
fn a_lane_that_grows_changes_and_moves_the_turns_of_others() {
    let (context, mut partitions) = (context(2), [rows(0, 20), rows(50, 20)]);
    let mut training = begun(&data(&context, &partitions));
    partitions[0].extend(rows(30, 15));
    let change = training.change_data(&data(&context, &partitions)).unwrap();
    // 35 and 20 samples, 10 a step: the first lane's are in another order, the second one's are cut elsewhere.
    assert_eq!(
        change.changed.iter().filter(|batch| batch.lane == 0).count(),
        6,
        "{change:?}"
    );
    assert_eq!((change.batches, training.steps_per_epoch()), (6 + 6, 6));
    assert_eq!(training.run_epoch(|_| ()).unwrap().samples, 55);
}

#[test]
fn training_goes_on_from_its_parameters() {
    let (context, before, after) = (context(2), [rows(0, 20), rows(50, 20)], [rows(5, 20), rows(60, 20)]);
    let mut training = begun(&data(&context, &before));
    training.run_epoch(|_| ()).unwrap();
    let parameters = training.parameters();
    training.change_data(&data(&context, &after)).unwrap();
    assert_eq!(training.parameters(), parameters);
    training.run_epoch(|_| ()).unwrap();
    // One that has begun with the later data, at the same place and with the same parameters.
    let mut other = begun(&data(&context, &after));
    other.run_epoch(|_| ()).unwrap();
    other.set_parameters(parameters).unwrap();
    other.run_epoch(|_| ()).unwrap();
    assert_eq!(training.parameters_hash(), other.parameters_hash());
}

#[test]
fn data_that_was_found_finite_is_passed_over_again_only_when_it_has_changed() {
    let (context, blocks) = (context(2), [rows(0, 20), rows(50, 20)].map(|rows| block(&rows)));
    let read = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&read);
    let data = context.parallelize(blocks, 2).map(move |samples| {
        counter.fetch_add(1, Ordering::Relaxed);
        samples.clone()
    });
    let options = TrainingOptions {
        batch: 10,
        schedule: Some(Schedule::Constant(f32::MAX)),
        ..TrainingOptions::default()
    };
    let network = NeuralNetwork::new(Input(2))
        .output(Dense::linear(3), Loss::MeanSquaredError)
        .unwrap();
    let mut training = network.train(&data, options).unwrap();
    let fail = |training: &mut Training| {
        let before = read.load(Ordering::Relaxed);
        let error = training.iterate(9, |_| ()).unwrap_err();
        assert!(matches!(error, Error::NotFinite { input: None, .. }), "{error:?}");
        read.load(Ordering::Relaxed) - before
    };
    // Lanes read it, too.
    assert_eq!([fail(&mut training), fail(&mut training)], [4, 2]);
    training.change_data(&data).unwrap();
    assert_eq!([fail(&mut training), fail(&mut training)], [4, 2]);
}

#[test]
fn what_does_not_fit_is_refused_and_leaves_the_data_it_had() {
    let (context, partitions) = (context(2), [rows(0, 20), rows(50, 20)]);
    let mut training = begun(&data(&context, &partitions));
    let wide = Samples::new(3, Features::F32(vec![0.0; 60]), SampleTargets::Labels(vec![0; 20])).unwrap();
    for wrong in [
        data(&context, &[rows(0, 40)]),
        data(&context, &[rows(0, 4), rows(4, 4)]),
        context.parallelize([wide.clone(), wide], 2),
    ] {
        let error = training.change_data(&wrong).unwrap_err();
        assert!(matches!(error, Error::Data(_)), "{error:?}");
    }
    assert_eq!(training.run_epoch(|_| ()).unwrap().samples, 40);
    assert_eq!(training.step(), 4);
    let kept = TrainingOptions {
        checkpoint: Some(CheckpointOptions::new("memory://change")),
        ..TrainingOptions::default()
    };
    let (all, network) = (data(&context, &partitions), training.network().clone());
    let mut training = network.train(&all, TrainingOptions { batch: 10, ..kept }).unwrap();
    let error = training.change_data(&all).unwrap_err();
    assert!(
        matches!(error, Error::State(_)) && error.to_string().contains("checkpoints"),
        "{error:?}"
    );
}
