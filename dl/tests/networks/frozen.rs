//! Frozen layers: what is left of a gradient, and of a training.

use std::sync::Arc;

use distdl_dl::{
    AdamW, BatchNorm, CheckpointOptions, Compression, Dense, Dropout, Features, Input, Lamb, Loss, NeuralNetwork,
    Optimizer, SampleTargets, Samples, Schedule, Sgd, Targets, TopK, TrainingOptions,
};
use distdl_engine::cluster::chaos::Chaos;
use distdl_engine::testing::TestCluster;
use distdl_engine::{Config, Context, Placement};

use crate::{bits, context, failed};

const FEATURES: usize = 4;
const SAMPLES: usize = 60;
const WIDTH: usize = 6;

fn tail(builder: distdl_dl::NetworkBuilder) -> NeuralNetwork {
    let builder = builder.hidden(Dense::tanh(5)).hidden(BatchNorm::default());
    builder.output(Dense::linear(3), Loss::SoftmaxCrossEntropy).unwrap()
}

/// Four layers to freeze, three to learn.
fn whole() -> NeuralNetwork {
    let builder = NeuralNetwork::new(Input(FEATURES))
        .hidden(Dense::relu(7))
        .hidden(BatchNorm::default())
        .hidden(Dropout::new(0.5))
        .hidden(Dense::tanh(WIDTH));
    tail(builder)
}

fn head() -> NeuralNetwork {
    NeuralNetwork::new(Input(FEATURES))
        .hidden(Dense::relu(7))
        .hidden(BatchNorm::default())
        .hidden(Dropout::new(0.5))
        .output(Dense::tanh(WIDTH), Loss::MeanSquaredError)
        .unwrap()
}

fn features() -> Vec<f32> {
    (0..SAMPLES * FEATURES)
        .map(|index| (index * 7 % 23) as f32 / 11.0 - 1.0)
        .collect()
}

fn samples(length: usize, features: Vec<f32>) -> Samples {
    let labels = (0..SAMPLES as u32).map(|sample| sample * 5 % 7 % 3).collect();
    Samples::new(length, Features::F32(features), SampleTargets::Labels(labels)).unwrap()
}

/// Of the whole network, also running statistics that are none of the data, and a negative zero.
fn parameters() -> Vec<f32> {
    let mut parameters: Vec<f32> = whole().initialize(3).unwrap();
    let running = whole().statistics()[0].range.clone();
    running
        .clone()
        .for_each(|index| parameters[index] = 0.5 + (index - running.start) as f32 / 8.0);
    parameters[0] = -0.0;
    parameters
}

fn options(optimizer: impl Optimizer + 'static, parameters: &[f32]) -> TrainingOptions {
    TrainingOptions {
        batch: 16,
        lanes: 2,
        schedule: Some(Schedule::Constant(0.02)),
        optimizer: Arc::new(optimizer),
        seed: Some(9),
        initial_parameters: Some(parameters.into()),
        ..TrainingOptions::default()
    }
}

fn train(context: &Context, network: &NeuralNetwork, samples: &Samples, options: TrainingOptions) -> Vec<f32> {
    let data = context.parallelize(samples.split(4).unwrap(), 4);
    let mut training = network.train(&data, options).unwrap();
    training.iterate(9, |_| ()).unwrap();
    training.parameters()
}

/// A network of which the first layers are frozen learns what one learns that is given their outputs: with the same
/// bits, so what is frozen is in no norm, decay or state.
#[test]
fn frozen_first_layers_are_features_for_the_others() {
    let (whole, head, parameters) = (whole(), head(), parameters());
    let count = head.parameter_count();
    let mut workspace = head.workspace(SAMPLES);
    let outputs = head
        .predict_batch(&parameters[..count], &features(), SAMPLES, &mut workspace)
        .unwrap();
    let seen = samples(WIDTH, outputs.to_vec());
    let frozen = whole.with_frozen(0..4).unwrap();
    assert!(frozen.is_frozen(3) && !frozen.is_frozen(4) && !whole.is_frozen(0));
    let tail = tail(NeuralNetwork::new(Input(WIDTH)));
    let context = context(2);
    let plain = || options(Sgd::with_momentum(0.9), &[]);
    let cases = [
        plain(),
        options(AdamW::default(), &[]),
        TrainingOptions {
            gradient_norm_max: Some(0.1),
            ..options(Lamb::default(), &[])
        },
        TrainingOptions {
            lane_gradient_norm_max: Some(0.1),
            micro_batch: Some(3),
            ..plain()
        },
        TrainingOptions {
            compression: Compression::TopK(TopK {
                share: 0.2,
                ..TopK::default()
            }),
            ..plain()
        },
    ];
    for (case, options) in cases.into_iter().enumerate() {
        let from = |parameters: &[f32]| TrainingOptions {
            initial_parameters: Some(parameters.into()),
            ..options.clone()
        };
        let of_whole = train(&context, &frozen, &samples(FEATURES, features()), from(&parameters));
        let of_tail = train(&context, &tail, &seen, from(&parameters[count..]));
        assert_eq!(bits(&of_whole[..count]), bits(&parameters[..count]), "case {case}");
        assert_eq!(bits(&of_whole[count..]), bits(&of_tail), "case {case}");
        assert_ne!(of_tail, parameters[count..], "case {case}");
    }
}

/// Whatever lies there before, as buffers are used again.
#[test]
fn below_the_first_layer_that_learns_a_gradient_is_0() {
    let network = whole().with_frozen(0..4).unwrap();
    let count = head().parameter_count();
    let mut gradient = vec![f32::NAN; network.parameter_count()];
    let mut workspace = network.workspace(SAMPLES);
    let labels = vec![1; SAMPLES];
    network
        .gradient(
            &parameters(),
            &features(),
            Targets::Labels(&labels),
            SAMPLES,
            &mut workspace,
            &mut gradient,
        )
        .unwrap();
    assert!(gradient[..count].iter().all(|value| value.to_bits() == 0));
    assert!(gradient[count..].iter().all(|value| value.is_finite()));
}

/// Threads, placements and deaths of processes; by sockets, over which zeros are not sent.
#[test]
fn threads_and_deaths_do_not_show() {
    let network = whole().with_frozen([0, 1, 3, 5]).unwrap();
    let (all, parameters) = (samples(FEATURES, features()), parameters());
    let options = || options(AdamW::default(), &parameters);
    let expected = train(&context(1), &network, &all, options());
    for threads in [2, 3] {
        let placed = TrainingOptions {
            placement: Some(Placement {
                lanes: (0..2).map(|lane| (lane + 1) % threads).collect(),
                shards: (0..1 + threads).map(|shard| shard % threads).collect(),
            }),
            ..options()
        };
        assert_eq!(
            bits(&train(&context(threads), &network, &all, placed)),
            bits(&expected),
            "{threads} threads"
        );
    }
    for (kill, at) in [(1, 3), (0, 6)] {
        let chaos = Chaos::parse(&format!("kill=worker:{kill}@step:{at}")).unwrap();
        let cluster = TestCluster {
            shared_memory: false,
            ..TestCluster::new(3).with_chaos(chaos)
        };
        let (network, all, parameters) = (network.clone(), all.clone(), parameters.clone());
        let run = cluster.run(move |context| {
            let options = self::options(AdamW::default(), &parameters);
            let data = context.parallelize(all.split(4).map_err(failed)?, 4);
            let mut training = network.train(&data, options).map_err(failed)?;
            training.iterate(9, |_| ()).map_err(failed)?;
            Ok(bits(&training.parameters()))
        });
        let run = run.unwrap();
        assert!(!run.results.is_empty());
        run.results
            .iter()
            .for_each(|last| assert_eq!(last, &bits(&expected), "{kill} dies at {at}"));
    }
}

#[test]
fn a_checkpoint_is_gone_on_from_with_the_same_layers_frozen() {
    let context = Context::new(Config::default()).unwrap();
    let data = context.parallelize(samples(FEATURES, features()).split(2).unwrap(), 2);
    let options = || TrainingOptions {
        checkpoint: Some(CheckpointOptions::new("memory://frozen")),
        ..options(Sgd::default(), &parameters())
    };
    let frozen = whole().with_frozen([1]).unwrap();
    let mut training = frozen.train(&data, options()).unwrap();
    training.iterate(2, |_| ()).unwrap();
    assert_eq!(frozen.train(&data, options()).unwrap().step(), 2);
    let message = whole().train(&data, options()).unwrap_err().to_string();
    assert!(
        message.contains("part 1 of the network") && message.contains(", frozen there"),
        "{message}"
    );
    assert_eq!(
        whole().load_checkpoint(&context, "memory://frozen").unwrap(),
        training.parameters()
    );
}

#[test]
fn what_cannot_be_frozen_is_refused() {
    let message = whole().with_frozen([7]).unwrap_err().to_string();
    assert!(
        message.contains("layer 7 is to be frozen, and the network has 7"),
        "{message}"
    );
    let message = whole().with_frozen([0, 1, 3, 4, 5, 6]).unwrap_err().to_string();
    assert!(message.contains("nothing to train"), "{message}");
}
