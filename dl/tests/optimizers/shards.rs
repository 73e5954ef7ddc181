//! Into how many shards the parameters are cut shows in no bit.

use std::sync::Arc;

use distdl_dl::{
    BatchNorm, Dense, Features, Input, Loss, NeuralNetwork, Optimizer, SampleTargets, Samples, Schedule,
    TrainingOptions,
};
use distdl_engine::{Config, Context, Placement};

use crate::lamb::some_lamb;
use crate::{bits, options, samples};

#[test]
fn many_parameters_are_applied_by_more_threads_than_lanes_to_the_same_bits() {
    const WIDTH: usize = 1500;
    let network = NeuralNetwork::new(Input(WIDTH)).hidden(Dense::tanh(WIDTH));
    let network = network.output(Dense::linear(3), Loss::SoftmaxCrossEntropy).unwrap();
    let trained = |threads: usize, placement: Option<Placement>| {
        let context = Context::new(Config::default().with_threads(threads)).unwrap();
        let features = (0..4 * WIDTH).map(|index| (index * 7 % 23) as f32 / 11.0 - 1.0);
        let labels = SampleTargets::Labels(vec![0, 1, 2, 1]);
        let samples = Samples::new(WIDTH, Features::F32(features.collect()), labels).unwrap();
        let options = TrainingOptions {
            batch: 2,
            lanes: 1,
            optimizer: Arc::new(some_lamb()),
            gradient_norm_max: Some(0.3),
            schedule: Some(Schedule::Constant(0.01)),
            placement,
            ..TrainingOptions::default()
        };
        let mut training = network.train(&context.parallelize([samples], 1), options).unwrap();
        training.iterate(3, |_| ()).unwrap();
        bits(&training.parameters())
    };
    let one = Placement {
        lanes: vec![0],
        shards: vec![0],
    };
    let expected = trained(1, Some(one));
    for threads in 1..=3 {
        assert!(trained(threads, None) == expected, "{threads} threads");
    }
}

#[test]
fn running_statistics_lie_in_any_shard_beside_tensors_that_are_measured() {
    let network = NeuralNetwork::new(Input(6))
        .hidden(Dense::linear(5))
        .hidden(BatchNorm::default())
        .hidden(Dense::linear(4))
        .output(Dense::linear(3), Loss::SoftmaxCrossEntropy)
        .unwrap();
    let trained = |shards: usize| {
        let context = Context::new(Config::default()).unwrap();
        let data = context.parallelize(samples().split(4).unwrap(), 4);
        let options = TrainingOptions {
            placement: Some(Placement {
                lanes: vec![0; 4],
                shards: vec![0; shards],
            }),
            lane_gradient_norm_max: None,
            gradient_norm_max: Some(0.3),
            batch: 12,
            ..options(&(Arc::new(some_lamb()) as Arc<dyn Optimizer>))
        };
        let mut training = network.train(&data, options).unwrap();
        training.iterate(6, |_| ()).unwrap();
        bits(&training.parameters())
    };
    let expected = trained(1);
    for shards in [2, 3, 4, 5, 7, 11, 30, 90] {
        assert_eq!(trained(shards), expected, "{shards} shards");
    }
}
