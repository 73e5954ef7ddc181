//! Layers beyond what their gradients say: shapes that do not fit, chance, running statistics, and the same bits
//! however training is done.

use std::sync::Arc;

use distdl_dl::{
    Activate, Activation, Adam, AvgPool2d, BatchNorm, CheckpointOptions, Conv2d, Dense, Draw, Dropout, Features,
    Flatten, Gelu, Image, Initialization, Input, LayerNorm, LayerSpecification, Loss, MaxPool2d, NeuralNetwork,
    SampleTargets, Samples, Targets, TrainingOptions,
};
use distdl_engine::cluster::chaos::Chaos;
use distdl_engine::testing::TestCluster;
use distdl_engine::{Context, Placement};

use crate::{bits, context, failed};

const IMAGE: Image = Image {
    channels: 2,
    height: 6,
    width: 5,
};

/// Every kind of layer.
fn network() -> NeuralNetwork {
    NeuralNetwork::new(IMAGE)
        .hidden(Conv2d::new(3, 3).with_padding(1))
        .hidden(BatchNorm::default())
        .hidden(Activate(Activation::Relu))
        .hidden(MaxPool2d::new(2).with_stride(1))
        .residual_with(Conv2d::new(2, 1), |block| {
            let block = block.hidden(Conv2d::new(2, 3).with_padding(1));
            block.residual(|inner| inner.hidden(BatchNorm::default()).hidden(Activate(Activation::Tanh)))
        })
        .hidden(AvgPool2d::new(2))
        .hidden(Flatten)
        .hidden(Dropout::new(0.25))
        .hidden(Dense::linear(7))
        .hidden(Dense::tanh(6).with_connections(|input, output| input != output))
        .hidden(LayerNorm::default())
        .hidden(Gelu)
        .output(Dense::linear(3), Loss::SoftmaxCrossEntropy)
        .unwrap()
}

const FEATURES: usize = 60;

fn samples(count: usize) -> Samples {
    let features =
        (0..count * FEATURES).map(|index| ((index / FEATURES * 13 + index % FEATURES * 7) % 23) as f32 / 11.0);
    let labels = (0..count as u32).map(|sample| sample * 5 % 7 % 3);
    Samples::new(
        FEATURES,
        Features::F32(features.collect()),
        SampleTargets::Labels(labels.collect()),
    )
    .unwrap()
}

fn refusal(input: Image, layer: impl LayerSpecification<f32>) -> String {
    let builder = NeuralNetwork::new(input).hidden(Conv2d::new(3, 1)).hidden(layer);
    builder.output(Dense::linear(2), Loss::L1).unwrap_err().to_string()
}

#[test]
fn a_layer_that_does_not_fit_is_named_with_what_it_expected_and_got() {
    let behind_a_row = NeuralNetwork::new(IMAGE)
        .hidden(Flatten)
        .output(MaxPool2d::new(2), Loss::L1);
    let message = behind_a_row.unwrap_err().to_string();
    let words = "layer 1 (max_pool_2d): expected an image";
    assert!(
        message.contains(words) && message.contains("got 60 elements"),
        "{message}"
    );
    let cases = [
        (refusal(IMAGE, Conv2d::new(3, 7)), "layer 1 (conv_2d): expected windows"),
        (refusal(IMAGE, Conv2d::new(3, 7)), "images of at least 7 x 7"),
        (
            refusal(IMAGE, Conv2d::new(3, 7)),
            "got 3x6x5 with a padding of 0, 3 outputs",
        ),
        (refusal(IMAGE, Conv2d::new(3, (2, 7))), "images of at least 2 x 7"),
        (
            refusal(IMAGE, Conv2d::new(3, (9, 1)).with_padding((1, 4))),
            "got 3x6x5 with a padding of (1, 4)",
        ),
        (
            refusal(IMAGE, MaxPool2d::new((7, 1)).with_stride((1, 2))),
            "images of at least 7 x 1, got 3x6x5 with a stride of (1, 2)",
        ),
        (refusal(IMAGE, Conv2d::new(0, 1)), "0 outputs"),
        (refusal(IMAGE, Conv2d::new(1, 1).with_stride(0)), "strides"),
        (refusal(IMAGE, Conv2d::new(usize::MAX, 1)), "fit in memory"),
        (
            refusal(IMAGE, Conv2d::new(3, 1).with_activation(Activation::Softmax)),
            "got softmax",
        ),
        (refusal(IMAGE, MaxPool2d::new(6)), "got 3x6x5 with a stride of 6"),
        (refusal(IMAGE, AvgPool2d::new(0)), "layer 1 (avg_pool_2d)"),
        (
            refusal(IMAGE, Dropout::new(1.0)),
            "expected a probability in [0, 1), got 1",
        ),
        (refusal(IMAGE, Dropout::new(f64::NAN)), "got NaN"),
        (refusal(IMAGE, LayerNorm { eps: 0.0 }), "expected an eps above 0, got 0"),
        (
            refusal(
                IMAGE,
                BatchNorm {
                    momentum: 1.5,
                    ..BatchNorm::default()
                },
            ),
            "momentum in [0, 1], got 1.5",
        ),
        (
            refusal(IMAGE, Dense::relu(4).with_inputs(7)),
            "expected 7 inputs, got 90",
        ),
        (
            refusal(IMAGE, Dense::relu(4).with_connections(|_, _| false)),
            "layer 1 (masked dense): expected a connection at least, got none of 90 x 4",
        ),
        (refusal(Image { height: 0, ..IMAGE }, Flatten), "layer 0 (conv_2d)"),
    ];
    for (message, words) in cases {
        assert!(message.contains(words), "{words}: {message}");
    }
    let sigmoid = NeuralNetwork::new(Input(2)).output(Dense::sigmoid(1), Loss::BinaryCrossEntropyWithLogits);
    assert!(sigmoid.unwrap_err().to_string().contains("applied twice"));
    assert_eq!(
        network().to_string(),
        "2x6x5 -> conv_2d 3x6x5 identity -> batch_norm 3x6x5 identity -> activate 3x6x5 relu -> max_pool_2d 3x5x4 \
         identity -> conv_2d 2x5x4 identity -> batch_norm 2x5x4 identity -> activate 2x5x4 tanh -> sum of 7 and 5 2x5x4 \
         identity -> conv_2d of 4 2x5x4 identity -> sum of 9 and 8 2x5x4 identity -> \
         avg_pool_2d 2x2x2 identity -> flatten 8 identity -> dropout 8 identity -> dense 7 identity -> \
         masked dense 6 tanh -> layer_norm 6 identity -> gelu 6 identity -> dense 3 identity, softmax_cross_entropy"
    );
}

#[test]
fn what_is_not_connected_stays_0_and_counts_as_0() {
    let connects = |input: usize, output: usize| input % 2 == output;
    let network =
        NeuralNetwork::new(Input(4)).output(Dense::linear(2).with_connections(connects), Loss::MeanSquaredError);
    let network = network.unwrap();
    let mut parameters: Vec<f32> = network.initialize(3).unwrap();
    let is_absent = |index: &usize| *index < 8 && !connects(index / 2, index % 2);
    assert!((0..8).all(|index| is_absent(&index) == (parameters[index] == 0.0)));
    let (inputs, values) = ([1.0, 2.0, 3.0, 4.0], [0.5, -0.5]);
    let mut workspace = network.workspace(1);
    let outputs = network
        .predict_batch(&parameters, &inputs, 1, &mut workspace)
        .unwrap()
        .to_vec();
    for (output, got) in outputs.iter().enumerate() {
        let inputs = inputs.iter().enumerate().filter(|(input, _)| input % 2 == output);
        let expected: f32 = inputs
            .map(|(input, value)| value * parameters[input * 2 + output])
            .sum();
        assert!((got - expected).abs() < 1e-6, "{got} is not {expected}");
    }
    (0..8).filter(is_absent).for_each(|index| parameters[index] = f32::NAN);
    assert_eq!(
        network.predict_batch(&parameters, &inputs, 1, &mut workspace).unwrap(),
        outputs
    );
    let mut gradient = vec![f32::NAN; 10];
    network
        .gradient(
            &parameters,
            &inputs,
            Targets::Values(&values),
            1,
            &mut workspace,
            &mut gradient,
        )
        .unwrap();
    assert!(
        (0..8).all(|index| is_absent(&index) == (gradient[index] == 0.0)),
        "{gradient:?}"
    );
}

/// Each of 50 units has 10 of 100 inputs, and each input 5 units.
#[test]
fn initial_values_have_the_limits_of_what_is_connected() {
    let connects = |input: usize, output: usize| input % 10 == output % 10;
    let initial = |dense: Dense| {
        let builder = NeuralNetwork::new(Input(100)).hidden(dense.with_connections(connects));
        let network = builder.output(Dense::linear(1), Loss::L1).unwrap();
        let parameters: Vec<f32> = network.initialize(3).unwrap();
        parameters[..100 * 50 + 50].to_vec()
    };
    let by_fan_in = Dense::tanh(50).with_initialization(Initialization::FanInUniform);
    let given = Dense::tanh(50).with_initialization(Initialization::Uniform { limit: 0.3 });
    for (dense, limit, of_bias) in [
        (Dense::relu(50), 6.0 / 10.0, 0.0),
        (Dense::tanh(50), 6.0 / (10.0 + 5.0), 0.0),
        (by_fan_in, 1.0 / 10.0, 1.0 / 10.0),
        (given, 0.09, 0.0),
    ] {
        let values = initial(dense);
        let largest = |values: &[f32]| values.iter().fold(0.0, |largest: f32, value| largest.max(value.abs()));
        for (values, limit) in [(&values[..100 * 50], limit), (&values[100 * 50..], of_bias)] {
            let (got, limit) = (largest(values), f32::sqrt(limit));
            assert!(got <= limit && got >= 0.9 * limit, "{got} for {limit}: {dense:?}");
        }
    }
}

/// The gradient by the weight of an output that sees 400 ones through a dropout layer: what the layer let through,
/// summed over `rows` rows.
fn let_through(draw: Draw, rows: usize, probability: f64) -> Vec<f32> {
    let network = NeuralNetwork::new(Input(400))
        .hidden(Dropout::new(probability))
        .output(Dense::linear(1), Loss::L1)
        .unwrap();
    let mut workspace = network.workspace(rows);
    workspace.set_draw(draw);
    let (parameters, mut gradient) = (vec![0.0; 401], vec![f32::NAN; 401]);
    let (inputs, values) = (vec![1.0; rows * 400], vec![-1.0; rows]);
    network
        .gradient(
            &parameters,
            &inputs,
            Targets::Values(&values),
            rows,
            &mut workspace,
            &mut gradient,
        )
        .unwrap();
    gradient[..400].to_vec()
}

#[test]
fn dropout_leaves_out_its_share_by_seed_step_lane_and_row() {
    let draw = Draw {
        seed: 1,
        step: 2,
        lane: 3,
        first_row: 0,
    };
    let base = let_through(draw, 1, 0.25);
    assert!(base.iter().all(|value| *value == 0.0 || *value == 1.0 / 0.75));
    let out = base.iter().filter(|value| **value == 0.0).count();
    assert!((60..140).contains(&out), "{out} of 400");
    assert_eq!(let_through(draw, 1, 0.25), base);
    assert_eq!(let_through(draw, 1, 0.0), vec![1.0; 400]);
    for other in [
        Draw { seed: 2, ..draw },
        Draw { step: 3, ..draw },
        Draw { lane: 4, ..draw },
    ] {
        assert_ne!(let_through(other, 1, 0.25), base);
    }
    let second: Vec<f32> = let_through(draw, 2, 0.25)
        .iter()
        .zip(&base)
        .map(|(both, first)| both - first)
        .collect();
    assert_ne!(second, base, "rows are drawn apart");
    let alone = let_through(Draw { first_row: 1, ..draw }, 1, 0.25);
    assert_eq!(
        alone, second,
        "a row is drawn alike whichever rows are computed with it"
    );
}

#[test]
fn evaluation_knows_neither_chance_nor_the_other_rows() {
    let network = network();
    let mut parameters = network.initialize(1).unwrap();
    for known in network.statistics() {
        parameters[known.range.clone()].fill(0.7);
    }
    let Features::F32(inputs) = samples(9).features().clone() else {
        panic!("other features were made");
    };
    let mut workspace = network.workspace(9);
    let all = network
        .predict_batch(&parameters, &inputs, 9, &mut workspace)
        .unwrap()
        .to_vec();
    workspace.set_draw(Draw {
        seed: 9,
        step: 9,
        lane: 9,
        first_row: 9,
    });
    assert_eq!(
        network.predict_batch(&parameters, &inputs, 9, &mut workspace).unwrap(),
        all
    );
    for (row, expected) in all.chunks(3).enumerate() {
        let own = &inputs[row * FEATURES..][..FEATURES];
        let alone = network.predict_batch(&parameters, own, 1, &mut workspace).unwrap();
        assert!(
            alone
                .iter()
                .zip(expected)
                .all(|(left, right)| (left - right).abs() < 1e-6)
        );
    }
}

fn options(lanes: usize, batch: usize) -> TrainingOptions {
    TrainingOptions {
        batch,
        lanes,
        optimizer: Arc::new(Adam::default()),
        lane_gradient_norm_max: Some(2.0),
        ..TrainingOptions::default()
    }
}

#[test]
fn running_statistics_follow_the_lanes_in_f64() {
    let momentum = 0.3;
    let network = NeuralNetwork::new(Input(FEATURES))
        .hidden(BatchNorm {
            momentum,
            ..BatchNorm::default()
        })
        .output(Dense::linear(3), Loss::SoftmaxCrossEntropy)
        .unwrap();
    let samples = samples(24);
    let Features::F32(features) = samples.features().clone() else {
        panic!("other features were made");
    };
    let context = context(2);
    // Two lanes of 12 samples, all of them in each step.
    let data = context.parallelize(samples.split(2).unwrap(), 2);
    let mut training = network.train(&data, options(2, 24)).unwrap();
    let column = |lane: usize, feature: usize| {
        let rows = features[lane * 12 * FEATURES..][..12 * FEATURES].chunks(FEATURES);
        rows.map(|row| f64::from(row[feature])).collect::<Vec<_>>()
    };
    let found: Vec<[f64; 2]> = (0..FEATURES)
        .map(|feature| {
            let of_lane = [0, 1].map(|lane| {
                let values = column(lane, feature);
                let mean = values.iter().sum::<f64>() / 12.0;
                let squares = values.iter().map(|value| (value - mean).powi(2));
                [mean, squares.sum::<f64>() / 11.0]
            });
            [0, 1].map(|kind| (of_lane[0][kind] + of_lane[1][kind]) / 2.0)
        })
        .collect();
    let mut expected = vec![[0.0, 1.0]; FEATURES];
    for step in 0..5 {
        training.iterate(1, |_| ()).unwrap();
        let parameters = training.parameters();
        for feature in 0..FEATURES {
            for kind in [0, 1] {
                let running = &mut expected[feature][kind];
                *running += momentum * (found[feature][kind] - *running);
                let got = f64::from(parameters[(2 + kind) * FEATURES + feature]);
                assert!(
                    (got - *running).abs() < 1e-5,
                    "step {step} feature {feature}: {got} but {running}"
                );
            }
        }
    }
}

#[test]
fn lanes_of_one_row_learn_and_leave_running_statistics_alone() {
    let network = NeuralNetwork::new(Input(FEATURES))
        .hidden(Dense::linear(FEATURES))
        .hidden(BatchNorm::default())
        .output(Dense::linear(3), Loss::SoftmaxCrossEntropy)
        .unwrap();
    let context = context(2);
    let data = context.parallelize(samples(24).split(2).unwrap(), 2);
    // The last step of an epoch has one row for each lane.
    let mut training = network.train(&data, options(2, 22)).unwrap();
    training.iterate(1, |_| ()).unwrap();
    let before = training.parameters();
    training.iterate(1, |step| assert_eq!(step.report.samples, 2)).unwrap();
    let after = training.parameters();
    let dense = FEATURES * FEATURES + FEATURES;
    assert_ne!(
        bits(&after[..dense]),
        bits(&before[..dense]),
        "nothing was learnt below"
    );
    let running = dense + 2 * FEATURES..dense + 4 * FEATURES;
    assert_eq!(after[running.clone()], before[running]);
}

/// Trains 14 steps over four lanes, of which not all have the same rows in each, and gives the bits of the parameters.
fn train(context: &Context, options: TrainingOptions) -> distdl_dl::Result<Vec<u32>> {
    let data = context.parallelize(samples(41).split(4)?, 4);
    let mut training = network().train(&data, options)?;
    training.iterate(14 - training.step(), |_| ())?;
    Ok(bits(&training.parameters()))
}

#[test]
fn threads_shards_and_deaths_do_not_show_for_any_layer() {
    let alone = |threads, options| train(&context(threads), options);
    let expected = alone(1, options(4, 13)).unwrap();
    for threads in 2..=4 {
        // Shards that end within statistics, before them and behind them.
        for shards in [1, 3, 7] {
            let placement = Placement {
                lanes: (0..4).map(|lane| lane % threads).collect(),
                shards: (0..shards).map(|shard| (shard + 1) % threads).collect(),
            };
            let placed = TrainingOptions {
                placement: Some(placement),
                ..options(4, 13)
            };
            assert_eq!(
                alone(threads, placed).unwrap(),
                expected,
                "{threads} threads, {shards} shards"
            );
        }
    }
    for slot in 0..3 {
        let chaos = Chaos::parse(&format!("kill=worker:{slot}@step:{}", 4 + slot)).unwrap();
        let cluster = TestCluster::new(3).with_chaos(chaos);
        let run = cluster
            .run(move |context| train(context, options(4, 13)).map_err(failed))
            .unwrap();
        assert!(!run.results.is_empty());
        run.results.iter().for_each(|last| assert_eq!(last, &expected));
    }
    let folder = tempfile::tempdir().unwrap();
    for _ in 0..2 {
        let checkpoint = CheckpointOptions {
            every_steps: 5,
            at_end: false,
            ..CheckpointOptions::new(folder.path().to_str().unwrap())
        };
        let kept = TrainingOptions {
            checkpoint: Some(checkpoint),
            ..options(4, 13)
        };
        assert_eq!(alone(2, kept).unwrap(), expected);
    }
    assert_ne!(
        alone(
            2,
            TrainingOptions {
                seed: Some(1),
                ..options(4, 13)
            }
        )
        .unwrap(),
        expected
    );
}

#[test]
fn a_model_file_holds_the_parameters_of_all_layers() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let network = network();
    let parameters = network.initialize(3).unwrap();
    network.save(&path, &parameters).unwrap();
    assert_eq!(bits(&network.load(&path).unwrap()), bits(&parameters));
    let shapes = network.parameter_layout().entries().iter();
    let shapes: Vec<String> = shapes
        .map(|entry| format!("{} {:?}", entry.name, entry.shape))
        .collect();
    assert_eq!(
        shapes[..3],
        [
            "layers.0.weight [3, 2, 3, 3]",
            "layers.0.bias [3]",
            "layers.1.weight [3]"
        ]
    );
    assert_eq!(shapes[4..6], ["layers.1.running_mean [3]", "layers.1.running_var [3]"]);
}
