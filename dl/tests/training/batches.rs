//! How a lane makes its batches: in pieces whose gradients are summed, and of pictures that are changed by chance.

use distdl_dl::{
    Augmentation, Backward, BatchNorm, CheckpointOptions, Conv2d, Dense, Dropout, Embedding, Error, Features, Flatten,
    Forward, Image, Layer, LayerSpecification, Loss, NeuralNetwork, SampleTargets, Samples, Shape, TrainingOptions,
};
use distdl_engine::cluster::chaos::Chaos;
use distdl_engine::testing::TestCluster;
use distdl_engine::{Config, Context};

use crate::{bits, context, failed};

const IMAGE: Image = Image {
    channels: 1,
    height: 6,
    width: 5,
};

fn network() -> NeuralNetwork {
    NeuralNetwork::new(IMAGE)
        .hidden(Conv2d::new(2, 3))
        .hidden(Flatten)
        .hidden(Dropout::new(0.3))
        .output(Dense::linear(3), Loss::SoftmaxCrossEntropy)
        .unwrap()
}

fn samples() -> Samples {
    let bytes = (0..41 * 30)
        .map(|index| (index / 30 * 13 + index % 30 * 7) as u8)
        .collect();
    let labels = (0..41).map(|sample| sample * 5 % 7 % 3).collect();
    let features = Features::U8 {
        bytes,
        scale: 1.0 / 255.0,
    };
    Samples::new(30, features, SampleTargets::Labels(labels)).unwrap()
}

fn options() -> TrainingOptions {
    TrainingOptions {
        batch: 22,
        lanes: 2,
        lane_gradient_norm_max: Some(0.4),
        ..TrainingOptions::default()
    }
}

fn in_pieces(rows: usize) -> TrainingOptions {
    TrainingOptions {
        micro_batch: Some(rows),
        ..options()
    }
}

/// The parameters after 9 steps, of which not all have the same number of rows.
fn train_with(network: &NeuralNetwork, threads: usize, options: TrainingOptions) -> Vec<f32> {
    let context = context(threads);
    let data = context.parallelize(samples().split(4).unwrap(), 4);
    let mut training = network.train(&data, options).unwrap();
    training.iterate(9, |_| ()).unwrap();
    training.parameters()
}

fn train(threads: usize, options: TrainingOptions) -> Vec<f32> {
    train_with(&network(), threads, options)
}

/// The largest difference of two parameters.
fn distance(left: &[f32], right: &[f32]) -> f32 {
    left.iter()
        .zip(right)
        .map(|(left, right)| (left - right).abs())
        .fold(0.0, f32::max)
}

fn refusal(network: &NeuralNetwork, options: TrainingOptions) -> String {
    let context = Context::new(Config::default()).unwrap();
    let data = context.parallelize(samples().split(4).unwrap(), 4);
    network.train(&data, options).unwrap_err().to_string()
}

#[test]
fn pieces_have_the_gradient_of_the_whole_share() {
    let whole = train(1, options());
    assert!(
        distance(&whole, &network().initialize(0).unwrap()) > 0.01,
        "nothing was learnt"
    );
    for rows in [1, 4, 10] {
        let pieces = train(1, in_pieces(rows));
        assert!(
            distance(&pieces, &whole) < 1e-5,
            "{rows}: {}",
            distance(&pieces, &whole)
        );
        assert_eq!(bits(&train(3, in_pieces(rows))), bits(&pieces), "{rows} over threads");
    }
    assert_eq!(bits(&train(2, in_pieces(11))), bits(&whole), "a share is one piece");
    assert_eq!(bits(&train(2, in_pieces(usize::MAX))), bits(&whole));
}

#[test]
fn statistics_of_batch_norm_are_those_of_a_piece() {
    let network = NeuralNetwork::new(IMAGE)
        .hidden(BatchNorm::default())
        .output(Dense::linear(3), Loss::SoftmaxCrossEntropy)
        .unwrap();
    let (whole, pieces) = (
        train_with(&network, 1, options()),
        train_with(&network, 1, in_pieces(4)),
    );
    assert!(distance(&pieces, &whole) > 1e-3);
    assert_eq!(bits(&train_with(&network, 2, in_pieces(4))), bits(&pieces));
}

/// One row has no variance: a training of nothing else would never measure, and say nothing.
#[test]
fn batch_norm_that_would_never_measure_is_refused() {
    let of_rows = NeuralNetwork::new(IMAGE)
        .hidden(Flatten)
        .hidden(BatchNorm::default())
        .output(Dense::linear(3), Loss::SoftmaxCrossEntropy)
        .unwrap();
    let of_pixels = NeuralNetwork::new(IMAGE)
        .hidden(BatchNorm::default())
        .output(Dense::linear(3), Loss::SoftmaxCrossEntropy)
        .unwrap();
    let one_a_lane = TrainingOptions {
        batch: 4,
        lanes: 4,
        ..options()
    };
    for (options, says) in [
        (in_pieces(1), "`micro_batch` is 1"),
        (one_a_lane.clone(), "over 4 `lanes`"),
    ] {
        let error = refusal(&of_rows, options.clone());
        assert!(
            error.contains("layer 1 (batch_norm)") && error.contains(says),
            "{error}"
        );
        train_with(&of_pixels, 1, options.clone());
        train_with(&network(), 1, options.clone());
        train_with(&of_rows.with_frozen(0..2).unwrap(), 1, options);
    }
    // Some lane has two rows in each step, if not each.
    let batch = 5;
    train_with(&of_rows, 1, TrainingOptions { batch, ..one_a_lane });
}

/// Rows of any length, of which nothing is ever computed here.
#[derive(Debug, Clone, Copy)]
struct Stretched {
    inputs: usize,
    outputs: usize,
}

impl LayerSpecification<f32> for Stretched {
    fn build(&self, _: usize, input: Shape) -> distdl_dl::Result<Box<dyn Layer<f32>>> {
        let inputs = input.length();
        Ok(Box::new(Self { inputs, ..*self }))
    }
}

impl Layer<f32> for Stretched {
    fn kind(&self) -> &'static str {
        "stretched"
    }

    fn input_length(&self) -> usize {
        self.inputs
    }

    fn output_shape(&self) -> Shape {
        Shape::Row(self.outputs)
    }

    fn forward(&self, _: Forward<'_, f32>) -> distdl_dl::Result<()> {
        panic!("there is no memory for its outputs")
    }

    fn backward(&self, _: Backward<'_, f32>) -> distdl_dl::Result<()> {
        panic!("there is no memory for its outputs")
    }
}

#[test]
fn a_share_that_memory_has_no_room_for_is_an_error_and_no_abort() {
    let stretched = |outputs| Stretched { inputs: 0, outputs };
    // More than addresses reach.
    let network = NeuralNetwork::new(IMAGE)
        .hidden(Dense::linear(2))
        .hidden(stretched(1 << 52))
        .output(stretched(3), Loss::SoftmaxCrossEntropy)
        .unwrap();
    let context = Context::new(Config::default()).unwrap();
    let data = context.parallelize(samples().split(4).unwrap(), 4);
    for (options, says) in [
        (options(), "set `micro_batch`, which is none"),
        (in_pieces(7), "lower `micro_batch`, which is 7"),
    ] {
        let mut training = network.train(&data, options).unwrap();
        let error = training.iterate(1, |_| ()).unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, Error::Memory(_)), "{text}");
        assert!(text.contains("lane ") && text.contains(says), "{text}");
    }
}

#[test]
fn pieces_of_no_samples_are_refused() {
    let message = refusal(&network(), in_pieces(0));
    assert!(message.contains("micro_batch is 0"), "{message}");
}

fn augmented(augmentation: Augmentation) -> TrainingOptions {
    TrainingOptions {
        augmentation: Some(augmentation),
        ..options()
    }
}

const ALL: Augmentation = Augmentation {
    shift: 1,
    rotate_degrees: 15.0,
    flip: true,
};

#[test]
fn augmentation_has_the_same_bits_whoever_computes() {
    let (plain, changed) = (train(1, options()), train(1, augmented(ALL)));
    assert!(distance(&plain, &changed) > 1e-3);
    for threads in 2..=4 {
        assert_eq!(
            bits(&train(threads, augmented(ALL))),
            bits(&changed),
            "{threads} threads"
        );
    }
    assert_eq!(bits(&train(2, augmented(Augmentation::default()))), bits(&plain));
    let in_pieces = TrainingOptions {
        micro_batch: Some(3),
        ..augmented(ALL)
    };
    let distance = distance(&train(2, in_pieces), &changed);
    assert!(distance < 1e-5, "{distance}");
}

#[test]
fn deaths_and_checkpoints_do_not_show_in_pieces_and_pictures() {
    let all = || TrainingOptions {
        micro_batch: Some(3),
        ..augmented(ALL)
    };
    let expected = bits(&train(1, all()));
    for slot in 0..3 {
        let chaos = Chaos::parse(&format!("kill=worker:{slot}@step:{}", 3 + slot)).unwrap();
        let run = TestCluster::new(3).with_chaos(chaos).run(move |context| {
            let blocks = samples().split(4).map_err(failed)?;
            let mut training = network()
                .train(&context.parallelize(blocks, 4), all())
                .map_err(failed)?;
            training.iterate(9, |_| ()).map_err(failed)?;
            Ok(bits(&training.parameters()))
        });
        let results = run.unwrap().results;
        assert!(!results.is_empty());
        results.iter().for_each(|last| assert_eq!(last, &expected));
    }
    let folder = tempfile::tempdir().unwrap();
    let kept = |options| TrainingOptions {
        checkpoint: Some(CheckpointOptions::new(folder.path().to_str().unwrap())),
        ..options
    };
    let context = Context::new(Config::default()).unwrap();
    let data = context.parallelize(samples().split(4).unwrap(), 4);
    for end in [5, 9] {
        let mut training = network().train(&data, kept(all())).unwrap();
        training.iterate(end - training.step(), |_| ()).unwrap();
        assert!(end == 5 || bits(&training.parameters()) == expected);
    }
    let message = refusal(&network(), kept(options()));
    assert!(message.contains("micro_batch: Some(3) there, None here"), "{message}");
    assert!(
        message.contains("augmentation: Some(Augmentation { shift: 1"),
        "{message}"
    );
}

#[test]
fn augmentation_of_rows_is_refused() {
    let message = refusal(&NeuralNetwork::dense(30, &[4], 3).unwrap(), augmented(ALL));
    assert!(
        message.contains("rows of 30 elements; begin it with `Image`"),
        "{message}"
    );
}

#[test]
fn augmentation_of_indices_is_refused() {
    let network = NeuralNetwork::new(IMAGE)
        .hidden(Embedding::new(256, 2))
        .output(Dense::linear(3), Loss::SoftmaxCrossEntropy)
        .unwrap();
    let message = refusal(&network, augmented(ALL));
    assert!(
        message.contains("what layer 0 (embedding) takes for indices"),
        "{message}"
    );
}

/// Pictures of 9 x 9: an upright bar or a lying one, at one place only.
fn bars(count: usize, place: usize) -> Samples {
    let pixel = |sample: usize, pixel: usize| {
        let at = if sample.is_multiple_of(2) { pixel % 9 } else { pixel / 9 };
        if at == place { 1.0 } else { 0.0 }
    };
    let features = (0..count).flat_map(|sample| (0..81).map(move |at| pixel(sample, at)));
    let labels = (0..count as u32).map(|sample| sample % 2);
    let features = Features::F32(features.collect());
    Samples::new(81, features, SampleTargets::Labels(labels.collect())).unwrap()
}

#[test]
fn what_was_learnt_from_moved_pictures_holds_for_pictures_elsewhere() {
    let side = 9;
    let network = NeuralNetwork::new(Image {
        channels: 1,
        height: side,
        width: side,
    })
    .hidden(Dense::relu(16))
    .output(Dense::linear(2), Loss::SoftmaxCrossEntropy)
    .unwrap();
    let context = context(2);
    let data = |place| context.parallelize(bars(20, place).split(2).unwrap(), 2);
    let accuracy_elsewhere = |shift| {
        let options = TrainingOptions {
            batch: 20,
            augmentation: Some(Augmentation {
                shift,
                ..Augmentation::default()
            }),
            ..TrainingOptions::default()
        };
        let mut training = network.train(&data(4), options).unwrap();
        training.iterate(300, |_| ()).unwrap();
        assert_eq!(training.error(&data(4)).unwrap().accuracy(), Some(1.0));
        let hits = [2, 3, 5, 6].map(|place| training.error(&data(place)).unwrap().accuracy().unwrap());
        hits.iter().sum::<f64>() / 4.0
    };
    let (without, with) = (accuracy_elsewhere(0), accuracy_elsewhere(2));
    assert!(with == 1.0 && without < 1.0, "{with} {without}");
}

#[test]
fn how_long_the_samples_of_lanes_are_loaded_is_counted_by_each_process() {
    let train = |context: &Context| -> distdl_engine::Result<()> {
        let data = context.parallelize(samples().split(4).unwrap(), 4);
        let mut training = network().train(&data, options()).map_err(failed)?;
        assert!(context.metrics().loading().is_zero(), "a first look is no part of it");
        for _ in 0..2 {
            let before = context.metrics().loading();
            training.run_epoch(|_| ()).map_err(failed)?;
            assert!(context.metrics().loading() > before);
        }
        Ok(())
    };
    train(&context(2)).unwrap();
    TestCluster::new(2).run(move |context| train(context)).unwrap();
}
