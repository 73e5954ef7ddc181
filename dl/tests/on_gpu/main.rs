//! Training on a GPU: what it computes is what the CPU computes, up to rounding; with the same bits however lanes are
//! shared out and whatever dies; and where the GPU is lost.
//!
//! The GPUs are on paper, or with `DISTDL_TEST_GPU=real` those of the machine, of which less can be asked.
#![cfg(all(target_os = "linux", feature = "gpu"))]
#![allow(unsafe_code)] // tells and asks the GPU on paper
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod gpu;

use std::sync::Arc;

use distdl_dl::layer::{Backward, Forward};
use distdl_dl::layout::ParameterShape;
use distdl_dl::{
    Activate, Activation, Adagrad, Adam, AdamW, AvgPool2d, BatchNorm, Conv2d, Dense, Dropout, Embedding, Features,
    Flatten, Gelu, Image, Input, Layer, LayerNorm, LayerSpecification, Loss, MaxPool2d, NeuralNetwork, Optimizer,
    RmsProp, SampleTargets, Samples, Schedule, Sgd, Shape, Training, TrainingOptions,
};
use distdl_engine::cluster::chaos::Chaos;
use distdl_engine::config::GpuUse;
use distdl_engine::testing::TestCluster;
use distdl_engine::{Config, Context, EngineError, Placement};

use gpu::TestGpu;

const IMAGE: Image = Image {
    channels: 2,
    height: 6,
    width: 5,
};
const FEATURES: usize = 60;
const SAMPLES: usize = 41;
const STEPS: u64 = 9;

fn features() -> impl Iterator<Item = usize> {
    (0..SAMPLES * FEATURES).map(|index| (index / FEATURES * 13 + index % FEATURES * 7) % 23)
}

fn labels() -> SampleTargets {
    SampleTargets::Labels((0..SAMPLES as u32).map(|sample| sample * 5 % 7 % 3).collect())
}

fn samples() -> Samples {
    let features = features().map(|feature| feature as f32 / 11.0).collect();
    Samples::new(FEATURES, Features::F32(features), labels()).unwrap()
}

/// The same as bytes.
fn bytes() -> Samples {
    let bytes = features().map(|feature| feature as u8).collect();
    let scale = 1.0 / 11.0;
    Samples::new(FEATURES, Features::U8 { bytes, scale }, labels()).unwrap()
}

fn values() -> Samples {
    let features = features().map(|feature| feature as f32 / 11.0).collect();
    let values = (0..SAMPLES * 3).map(|index| (index * 7 % 11) as f32 / 11.0).collect();
    Samples::new(
        FEATURES,
        Features::F32(features),
        SampleTargets::Values { length: 3, values },
    )
    .unwrap()
}

/// Every kind of layer that has kernels for GPUs, and some activations.
fn network() -> NeuralNetwork {
    NeuralNetwork::new(IMAGE)
        .hidden(Conv2d::new(3, 3).with_padding(1).with_activation(Activation::LeakyRelu))
        .hidden(BatchNorm::default())
        .hidden(Activate(Activation::Relu))
        .hidden(MaxPool2d::new(2).with_stride(1))
        .hidden(AvgPool2d::new(2))
        .hidden(Conv2d::new(4, 2))
        .hidden(Flatten)
        .hidden(Dense::tanh(7))
        .hidden(LayerNorm::default())
        .hidden(Gelu)
        .hidden(Dropout::new(0.3))
        .hidden(Dense::softmax(5).with_connections(|input, output| (input + output) % 3 != 0))
        .hidden(Dense::sigmoid(6))
        .output(Dense::linear(3), Loss::SoftmaxCrossEntropy)
        .unwrap()
}

fn small(loss: Loss) -> NeuralNetwork {
    let builder = NeuralNetwork::new(IMAGE).hidden(Dense::relu(9));
    builder.output(Dense::linear(3), loss).unwrap()
}

/// Features that are indices below 23, and an embedding of them.
fn indices() -> Samples {
    let bytes = features().map(|feature| feature as u8).collect();
    Samples::new(FEATURES, Features::U8 { bytes, scale: 1.0 }, labels()).unwrap()
}

fn embedding(vectors: usize) -> NeuralNetwork {
    let builder = NeuralNetwork::new(Input(FEATURES)).hidden(Embedding::new(vectors, 3));
    builder.output(Dense::linear(3), Loss::SoftmaxCrossEntropy).unwrap()
}

fn options() -> TrainingOptions {
    TrainingOptions {
        batch: 12,
        lanes: 3,
        schedule: Schedule::Constant(0.02),
        // Not Adam: it makes steps of what is 0 but for rounding, as a bias's gradient before a batch normalisation.
        optimizer: Arc::new(Sgd::with_nesterov(0.8)),
        ..TrainingOptions::default()
    }
}

/// What training has come to: the parameters, and the loss and hits of each step.
#[derive(Debug, PartialEq)]
struct Trained {
    parameters: Vec<f32>,
    steps: Vec<(f64, u64, u64)>,
}

fn train_for(steps: u64, training: &mut Training) -> distdl_dl::Result<Trained> {
    let mut seen = Vec::new();
    training.iterate(steps, |step| {
        seen.push((step.report.loss_sum, step.report.correct, step.report.samples));
    })?;
    Ok(Trained {
        parameters: training.parameters(),
        steps: seen,
    })
}

fn begin(
    context: &Context,
    network: &NeuralNetwork,
    samples: &Samples,
    options: TrainingOptions,
) -> distdl_dl::Result<Training> {
    let data = context.parallelize(samples.split(4)?, 4);
    network.train(&data, options)
}

fn on_the_cpu(network: &NeuralNetwork, samples: &Samples, options: TrainingOptions) -> Trained {
    let context = Context::new(Config::default().with_threads(1).with_gpu(GpuUse::Off)).unwrap();
    let mut training = begin(&context, network, samples, options).unwrap();
    assert_eq!(training.gpu_figures(), None);
    train_for(STEPS, &mut training).unwrap()
}

fn on_the_gpu(config: Config, network: &NeuralNetwork, samples: &Samples, options: TrainingOptions) -> Trained {
    let context = Context::new(config).unwrap();
    let mut training = begin(&context, network, samples, options).unwrap();
    let trained = train_for(STEPS, &mut training).unwrap();
    let figures = training.gpu_figures().unwrap();
    assert!(figures.passes >= STEPS && figures.lost == 0, "{figures:?}");
    trained
}

/// Asserts that both have come to the same, up to rounding.
fn assert_close(what: &str, expected: &Trained, got: &Trained, error_max: f32) {
    for (index, (one, other)) in expected.parameters.iter().zip(&got.parameters).enumerate() {
        let error = (one - other).abs();
        assert!(error <= error_max, "{what}: parameter {index} is {other}, not {one}");
    }
    for (step, (one, other)) in expected.steps.iter().zip(&got.steps).enumerate() {
        let error = (one.0 - other.0).abs() / one.2 as f64;
        assert!(
            error <= f64::from(error_max),
            "{what}: step {step}: loss {} for {}",
            other.0,
            one.0
        );
        assert_eq!(
            (one.1, one.2),
            (other.1, other.2),
            "{what}: hits and samples of step {step}"
        );
    }
    assert_eq!(
        (expected.parameters.len(), expected.steps.len()),
        (got.parameters.len(), got.steps.len())
    );
}

#[test]
fn training_comes_to_what_it_comes_to_on_the_cpu() {
    let Some(gpu) = TestGpu::take() else { return };
    let micro = TrainingOptions {
        micro_batch: Some(3),
        ..options()
    };
    let all_losses = [
        Loss::MeanSquaredError,
        Loss::L1,
        Loss::Hinge,
        Loss::BinaryCrossEntropyWithLogits,
    ];
    let mut cases = vec![
        ("all layers", network(), samples(), options()),
        ("bytes", small(Loss::SoftmaxCrossEntropy), bytes(), options()),
        ("pieces", small(Loss::SoftmaxCrossEntropy), bytes(), micro),
        ("indices", embedding(23), indices(), options()),
    ];
    for loss in all_losses {
        cases.push((loss.name(), small(loss), samples(), options()));
        cases.push((loss.name(), small(loss), values(), options()));
    }
    for (what, network, samples, options) in cases {
        let expected = on_the_cpu(&network, &samples, options.clone());
        let got = on_the_gpu(gpu.config(), &network, &samples, options);
        assert_close(what, &expected, &got, 2e-4);
        assert_ne!(expected.parameters, network.initialize(0).unwrap());
    }
    gpu.assert_nothing_is_left();
}

#[test]
fn threads_deaths_and_another_time_do_not_show() {
    let Some(gpu) = TestGpu::take() else { return };
    let (network, samples) = (network(), samples());
    let expected = on_the_gpu(gpu.config(), &network, &samples, options());
    for threads in [1, 2, 3] {
        let placed = TrainingOptions {
            placement: Some(Placement {
                lanes: (0..3).map(|lane| (lane + 1) % threads).collect(),
                shards: (0..1 + threads).map(|shard| shard % threads).collect(),
            }),
            ..options()
        };
        let config = gpu.config().with_threads(threads);
        assert_eq!(
            on_the_gpu(config, &network, &samples, placed),
            expected,
            "{threads} threads"
        );
    }

    for (kill, at) in [(1, 3), (0, 6)] {
        let chaos = Chaos::parse(&format!("kill=worker:{kill}@step:{at}")).unwrap();
        let cluster = TestCluster {
            caches: vec![gpu.cache()],
            ..TestCluster::new(3).with_chaos(chaos)
        };
        let (network, samples) = (network.clone(), samples.clone());
        let run = cluster.run(move |context| {
            let failed = |error: distdl_dl::Error| EngineError::invalid(error.to_string(), "see above");
            let mut training = begin(context, &network, &samples, options()).map_err(failed)?;
            assert!(training.gpu_figures().is_some(), "{}", context.device());
            train_for(STEPS, &mut training).map_err(failed)
        });
        let results = run.unwrap().results;
        assert!(!results.is_empty());
        for trained in results {
            assert_eq!(trained.parameters, expected.parameters);
        }
    }
    gpu.assert_nothing_is_left();
}

#[test]
fn samples_stay_there_and_a_step_allocates_nothing() {
    let Some(gpu) = TestGpu::take_paper() else { return };
    let (network, samples) = (small(Loss::SoftmaxCrossEntropy), bytes());
    let context = Context::new(gpu.config()).unwrap();
    let mut training = begin(&context, &network, &samples, options()).unwrap();
    training.run_epoch(|_| ()).unwrap();
    let (first, allocations) = (training.gpu_figures().unwrap(), gpu.allocations());
    let sample_bytes = (SAMPLES * (FEATURES + 4)) as u64;
    assert_eq!((first.sample_bytes, first.sample_bytes_avoided), (sample_bytes, 0));
    training.run_epoch(|_| ()).unwrap();
    let second = training.gpu_figures().unwrap();
    assert_eq!(
        (second.sample_bytes, second.sample_bytes_avoided),
        (sample_bytes, sample_bytes)
    );
    assert_eq!(gpu.allocations(), allocations);

    let parameter_bytes = 4 * network.parameter_count() as u64;
    let passes = second.passes - first.passes;
    assert_eq!(passes, first.passes);
    // Each sample's place once, and in each pass parameters there, and gradient, loss and hits back.
    assert_eq!(
        second.to_gpu_bytes - first.to_gpu_bytes,
        passes * parameter_bytes + 4 * SAMPLES as u64
    );
    assert_eq!(
        second.from_gpu_bytes - first.from_gpu_bytes,
        passes * (parameter_bytes + 16)
    );
    drop(training);
    drop(context);
    gpu.assert_nothing_is_left();
}

/// Options for every optimizer that has kernels for GPUs, with all of its slots.
fn optimizers() -> Vec<Arc<dyn Optimizer>> {
    vec![
        Arc::new(Sgd::default()),
        Arc::new(Sgd::with_nesterov(0.8)),
        Arc::new(Sgd {
            weight_decay: 0.01,
            ..Sgd::default()
        }),
        Arc::new(Adam::default()),
        Arc::new(AdamW {
            amsgrad: true,
            ..AdamW::default()
        }),
        Arc::new(RmsProp {
            momentum: 0.5,
            centered: true,
            ..RmsProp::default()
        }),
        Arc::new(Adagrad::default()),
    ]
}

/// As [`on_the_gpu`], with samples that come by, so that nothing stays there from step to step.
fn by_single_steps(gpu: &TestGpu, network: &NeuralNetwork, samples: &Samples, options: TrainingOptions) -> Trained {
    on_the_gpu(gpu.config().with_gpu_memory(0), network, samples, options)
}

/// A training for whose lanes there is one GPU, so that whole steps are taken there.
fn begin_whole(
    gpu: &TestGpu,
    context: &Context,
    (network, samples): (&NeuralNetwork, &Samples),
    options: TrainingOptions,
) -> Training {
    let lanes = options.lanes;
    let mut training = begin(context, network, samples, options).unwrap();
    if lanes > 1 {
        gpu.lose_after([-1, 0]);
        training.iterate(1, |_| ()).unwrap();
        assert_eq!(training.gpu_figures().unwrap().lost, 1);
    }
    training
}

#[test]
fn whole_steps_have_the_bits_of_single_ones() {
    let Some(gpu) = TestGpu::take() else { return };
    let all = optimizers().into_iter().map(|optimizer| TrainingOptions {
        optimizer,
        lanes: 1,
        schedule: Schedule::Cosine {
            initial: 0.01,
            minimum: 0.001,
            steps: STEPS,
        },
        ..options()
    });
    let pieces = TrainingOptions {
        micro_batch: Some(2),
        ..options()
    };
    let four = TrainingOptions { lanes: 4, ..options() };
    let one = TrainingOptions { lanes: 1, ..options() };
    let all = all.map(|options| (small(Loss::SoftmaxCrossEntropy), bytes(), options));
    let layers = [one.clone(), options(), pieces.clone(), four].map(|options| (network(), bytes(), options));
    let vectors = [one, options(), pieces].map(|options| (embedding(23), indices(), options));
    for (network, samples, options) in all.chain(layers).chain(vectors) {
        let (what, slots) = (format!("{options:?}"), options.optimizer.state_slots() as u64);
        if !gpu.is_real() {
            gpu.lose_after([-1; 2]);
        } else if options.lanes > 1 {
            // They stay where there is one GPU, which may not be so.
            continue;
        }
        let expected = by_single_steps(&gpu, &network, &samples, options.clone());
        let context = Context::new(gpu.config()).unwrap();
        let mut training = begin_whole(&gpu, &context, (&network, &samples), options);
        let (before, first) = (training.gpu_figures().unwrap(), training.step() as usize);
        let graphs = gpu.graph_launches();
        let mut trained = train_for(3, &mut training).unwrap();
        trained
            .steps
            .extend(train_for(STEPS - 3 - first as u64, &mut training).unwrap().steps);
        assert_eq!(trained.steps, expected.steps[first..], "{what}");
        assert_eq!(training.parameters(), expected.parameters, "{what}");
        let figures = training.gpu_figures().unwrap();
        let passes = figures.passes - before.passes;
        assert!(passes >= STEPS - first as u64, "{figures:?}");
        assert!(
            gpu.is_real() || gpu.graph_launches() > graphs,
            "{what}: steps are asked for thing by thing"
        );
        // Parameters and what is kept of their gradients went there at each of two beginnings, and places of rows in each step.
        let parameter_bytes = 4 * (1 + slots) * network.parameter_count() as u64;
        let to_gpu_bytes = figures.to_gpu_bytes - before.to_gpu_bytes;
        assert!(
            to_gpu_bytes <= 2 * parameter_bytes + 4 * 12 * STEPS,
            "{what}: {figures:?}"
        );
    }
    gpu.assert_nothing_is_left();
}

#[test]
fn parameters_stay_there_for_whole_steps() {
    let Some(gpu) = TestGpu::take_paper() else { return };
    let network = small(Loss::SoftmaxCrossEntropy);
    let context = Context::new(gpu.config()).unwrap();
    let options = TrainingOptions { lanes: 1, ..options() };
    let mut training = begin_whole(&gpu, &context, (&network, &bytes()), options);
    training.run_epoch(|_| ()).unwrap();
    let (first, allocations) = (training.gpu_figures().unwrap(), gpu.allocations());
    training.run_epoch(|_| ()).unwrap();
    let second = training.gpu_figures().unwrap();
    assert_eq!(gpu.allocations(), allocations);
    assert_eq!(second.sample_bytes, first.sample_bytes);
    let passes = second.passes - first.passes;
    assert_eq!(passes, training.steps_per_epoch());
    // Parameters and what is kept of their gradients; each sample's place once.
    let parameter_bytes = 2 * 4 * network.parameter_count() as u64;
    assert_eq!(
        second.to_gpu_bytes - first.to_gpu_bytes,
        parameter_bytes + 4 * SAMPLES as u64
    );
    // They come back once or more often, as time passes.
    let from_gpu_bytes = second.from_gpu_bytes - first.from_gpu_bytes - 16 * passes;
    assert_eq!(from_gpu_bytes % parameter_bytes, 0);
    assert!((1..=passes).contains(&(from_gpu_bytes / parameter_bytes)));
}

#[test]
fn whole_steps_before_a_loss_that_is_not_finite_count() {
    let Some(gpu) = TestGpu::take_paper() else { return };
    let builder = NeuralNetwork::new(IMAGE).hidden(Dense::linear(9));
    let network = builder.output(Dense::linear(3), Loss::MeanSquaredError).unwrap();
    for rate in [30.0, 1e6, 1e18] {
        let options = TrainingOptions {
            lanes: 1,
            schedule: Schedule::Constant(rate),
            ..options()
        };
        let outcomes = [0, 1 << 20].map(|memory_bytes| {
            let context = Context::new(gpu.config().with_gpu_memory(memory_bytes)).unwrap();
            let mut training = begin(&context, &network, &values(), options.clone()).unwrap();
            let mut seen = Vec::new();
            let error = training
                .iterate(STEPS, |step| seen.push(step.report.loss_sum))
                .unwrap_err();
            assert!(matches!(error, distdl_dl::Error::NotFinite { .. }), "{error}");
            let parameters: Vec<u32> = training.parameters().iter().map(|value| value.to_bits()).collect();
            (error.to_string(), training.step(), seen, parameters)
        });
        assert_eq!(outcomes[0], outcomes[1], "{rate}");
        assert_eq!(outcomes[0].1, outcomes[0].2.len() as u64);
        assert!(outcomes[0].1 > 0);
    }
}

#[test]
fn whole_steps_that_a_lost_gpu_takes_along_are_taken_again() {
    let Some(gpu) = TestGpu::take_paper() else { return };
    let network = small(Loss::SoftmaxCrossEntropy);
    let options = TrainingOptions { lanes: 1, ..options() };
    let expected = by_single_steps(&gpu, &network, &bytes(), options.clone());
    for launches in [0, 1, 40, 77] {
        gpu.lose_after([-1; 2]);
        let context = Context::new(gpu.config()).unwrap();
        let mut training = begin_whole(&gpu, &context, (&network, &bytes()), options.clone());
        gpu.lose_after([launches, -1]);
        assert_eq!(train_for(STEPS, &mut training).unwrap(), expected, "{launches}");
        assert_eq!(training.gpu_figures().unwrap().lost, 1);

        // Nothing else can compute: that is said, and the steps before count.
        let mut training = begin_whole(&gpu, &context, (&network, &bytes()), options.clone());
        gpu.lose_after([launches, 0]);
        let error = training.iterate(STEPS, |_| ()).unwrap_err().to_string();
        assert!(error.contains("ILLEGAL_ADDRESS"), "{error}");
        let step = training.step();
        let mut training = begin_whole(&gpu, &context, (&network, &bytes()), options.clone());
        gpu.lose_after([-1; 2]);
        assert_eq!(
            train_for(step, &mut training).unwrap().steps,
            expected.steps[..step as usize]
        );
    }
    gpu.lose_after([-1; 2]);
    gpu.assert_nothing_is_left();
}

/// What evaluation comes to: loss, hits, outputs, and how many samples of each class are taken for each.
fn evaluated(
    context: &Context,
    network: &NeuralNetwork,
    samples: &Samples,
) -> distdl_dl::Result<(f64, u64, Vec<f32>, String)> {
    let parameters = network.initialize(5)?;
    let data = context.parallelize(samples.split(3)?, 3);
    let report = network.error(&data, &parameters)?;
    let outputs = network.predict_dataset(&data, &parameters)?;
    let confusion = format!("{:?}", network.confusion(&data, &parameters)?);
    Ok((report.loss_sum, report.correct, outputs.concat(), confusion))
}

#[test]
fn evaluation_comes_to_what_it_comes_to_on_the_cpu() {
    let Some(gpu) = TestGpu::take_paper() else { return };
    let cpu = Context::new(Config::default().with_threads(1).with_gpu(GpuUse::Off)).unwrap();
    for network in [network(), small(Loss::SoftmaxCrossEntropy)] {
        gpu.lose_after([-1; 2]);
        let expected = evaluated(&cpu, &network, &samples()).unwrap();
        let assert_close = |got: &(f64, u64, Vec<f32>, String)| {
            assert!((expected.0 - got.0).abs() < 1e-3, "{} for {}", got.0, expected.0);
            let errors = expected.2.iter().zip(&got.2).map(|(one, other)| (one - other).abs());
            assert!(errors.fold(0.0, f32::max) < 1e-4);
            assert_eq!(
                (expected.1, expected.2.len(), &expected.3),
                (got.1, got.2.len(), &got.3)
            );
        };
        let context = Context::new(gpu.config().with_threads(2)).unwrap();
        let there = evaluated(&context, &network, &samples()).unwrap();
        assert_close(&there);
        assert_ne!(there.2, expected.2, "that was the CPU");
        // With the bits of the one that is left, or on the CPU, or not at all.
        gpu.lose_after([7, -1]);
        assert_eq!(evaluated(&context, &network, &samples()).unwrap(), there);
        for launches in [0, 7, 12] {
            gpu.lose_after([launches; 2]);
            let error = evaluated(&context, &network, &samples()).unwrap_err().to_string();
            assert!(
                error.contains("ILLEGAL_ADDRESS") || error.contains("every Paper GPU of this process is lost"),
                "{error}"
            );
            gpu.lose_after([launches; 2]);
            let context = Context::new(gpu.config().with_gpu(GpuUse::Auto)).unwrap();
            assert_close(&evaluated(&context, &network, &samples()).unwrap());
        }
    }
    gpu.lose_after([-1; 2]);
    let wrong = Samples::new(
        FEATURES,
        Features::F32(vec![0.5; 120]),
        SampleTargets::Labels(vec![3; 2]),
    )
    .unwrap();
    for config in [gpu.config(), Config::default().with_gpu(GpuUse::Off)] {
        let context = Context::new(config).unwrap();
        let error = evaluated(&context, &small(Loss::SoftmaxCrossEntropy), &wrong).unwrap_err();
        assert!(error.to_string().contains("label 3"), "{error}");
    }
    gpu.assert_nothing_is_left();
}

#[test]
fn a_training_evaluates_where_it_trains() {
    let Some(gpu) = TestGpu::take_paper() else { return };
    let network = small(Loss::SoftmaxCrossEntropy);
    let context = Context::new(gpu.config()).unwrap();
    let data = context.parallelize(bytes().split(3).unwrap(), 3);
    let mut training = network.train(&data, options()).unwrap();
    training.run_epoch(|_| ()).unwrap();
    let report = training.error(&data).unwrap();
    let (allocations, parameters) = (gpu.allocations(), training.parameters());
    // What is there is used again.
    assert_eq!(training.error(&data).unwrap(), report);
    assert_eq!(gpu.allocations(), allocations);
    let cpu = Context::new(Config::default().with_gpu(GpuUse::Off)).unwrap();
    let data = cpu.parallelize(vec![bytes()], 1);
    let expected = network.error(&data, &parameters).unwrap();
    assert!((expected.loss_sum - report.loss_sum).abs() < 1e-3);
    assert_eq!((expected.correct, expected.samples), (report.correct, report.samples));
    drop((training, context));
    gpu.assert_nothing_is_left();
}

#[test]
fn samples_without_room_there_come_by_and_do_not_show() {
    let Some(gpu) = TestGpu::take() else { return };
    let (network, samples) = (small(Loss::SoftmaxCrossEntropy), bytes());
    let expected = on_the_gpu(gpu.config(), &network, &samples, options());
    let context = Context::new(gpu.config().with_gpu_memory(500)).unwrap();
    let mut training = begin(&context, &network, &samples, options()).unwrap();
    assert_eq!(train_for(STEPS, &mut training).unwrap(), expected);
    let figures = training.gpu_figures().unwrap();
    assert_eq!(figures.sample_bytes, 0);
    let feature_bytes = 4 * FEATURES as u64 * STEPS;
    assert!(figures.to_gpu_bytes > 12 * feature_bytes * 2 / 3, "{figures:?}");
}

#[test]
fn a_lost_gpu_is_an_error_where_it_must_compute_and_else_the_cpu_goes_on() {
    let Some(gpu) = TestGpu::take_paper() else { return };
    let (network, samples) = (network(), samples());
    let expected = on_the_cpu(&network, &samples, options());
    for launches in [0, 1, 200, 400] {
        gpu.lose_after([-1; 2]);
        let context = Context::new(gpu.config().with_gpu(GpuUse::Auto)).unwrap();
        let mut training = begin(&context, &network, &samples, options()).unwrap();
        gpu.lose_after([launches; 2]);
        let got = train_for(STEPS, &mut training).unwrap();
        assert_close("a lost GPU", &expected, &got, 2e-4);
        let figures = training.gpu_figures().unwrap();
        assert_eq!((figures.count, figures.lost), (2, 2));
    }

    gpu.lose_after([-1; 2]);
    let context = Context::new(gpu.config()).unwrap();
    let mut training = begin(&context, &network, &samples, options()).unwrap();
    gpu.lose_after([300, 100]);
    let error = training.iterate(STEPS, |_| ()).unwrap_err().to_string();
    assert!(
        error.contains("Paper GPU: could not") && error.contains("ILLEGAL_ADDRESS"),
        "{error}"
    );
    // The steps before it count.
    let step = training.step();
    assert!((1..STEPS).contains(&step), "{step}");
    let error = training.iterate(1, |_| ()).unwrap_err().to_string();
    assert!(error.contains("every Paper GPU of this process is lost"), "{error}");
}

#[test]
fn a_gpu_that_is_left_takes_over_and_that_does_not_show() {
    let Some(gpu) = TestGpu::take_paper() else { return };
    let pieces = TrainingOptions {
        micro_batch: Some(2),
        ..options()
    };
    for options in [options(), pieces] {
        let (network, samples) = (network(), samples());
        let expected = on_the_gpu(gpu.config(), &network, &samples, options.clone());
        for launches in [[-1, 0], [0, -1], [-1, 77], [211, -1]] {
            let context = Context::new(gpu.config()).unwrap();
            let mut training = begin(&context, &network, &samples, options.clone()).unwrap();
            gpu.lose_after(launches);
            let got = train_for(STEPS, &mut training).unwrap();
            assert_eq!(got, expected, "{launches:?}");
            assert_eq!(training.gpu_figures().unwrap().lost, 1);
            gpu.lose_after([-1; 2]);
        }
    }
    gpu.assert_nothing_is_left();
}

/// A layer of a user that has no kernels for GPUs: it passes on what it gets.
#[derive(Debug)]
struct Own;

impl LayerSpecification<f32> for Own {
    fn build(&self, _: usize, _: Shape) -> distdl_dl::Result<Box<dyn Layer<f32>>> {
        Ok(Box::new(Own))
    }
}

impl Layer<f32> for Own {
    fn kind(&self) -> &'static str {
        "own"
    }
    fn input_length(&self) -> usize {
        FEATURES
    }
    fn output_shape(&self) -> Shape {
        Shape::Row(FEATURES)
    }
    fn parameter_shapes(&self) -> Vec<ParameterShape> {
        Vec::new()
    }
    fn initialize(&self, _: u64, _: u64, _: &mut [f32]) -> distdl_dl::Result<()> {
        Ok(())
    }
    fn forward(&self, pass: Forward<'_, f32>) -> distdl_dl::Result<()> {
        pass.outputs.copy_from_slice(pass.inputs);
        Ok(())
    }
    fn backward(&self, pass: Backward<'_, f32>) -> distdl_dl::Result<()> {
        if let Some(gradient) = pass.input_gradient {
            gradient.copy_from_slice(pass.output_gradient);
        }
        Ok(())
    }
}

#[test]
fn what_cannot_be_computed_there_is_said() {
    let Some(gpu) = TestGpu::take() else { return };
    let builder = NeuralNetwork::new(Input(FEATURES)).hidden(Own);
    let network = builder.output(Dense::linear(3), Loss::SoftmaxCrossEntropy).unwrap();
    let context = Context::new(gpu.config()).unwrap();
    let error = begin(&context, &network, &samples(), options())
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("layer 0 (own) has no kernels for GPUs") && error.contains("`auto`"),
        "{error}"
    );
    let context = Context::new(gpu.config().with_gpu(GpuUse::Auto)).unwrap();
    let training = begin(&context, &network, &samples(), options()).unwrap();
    assert_eq!(training.gpu_figures(), None);

    let features = Features::F32(vec![0.5; 12 * FEATURES]);
    let wrong = Samples::new(FEATURES, features, SampleTargets::Labels(vec![3; 12])).unwrap();
    for memory_bytes in [0, 1 << 20] {
        let context = Context::new(gpu.config().with_gpu_memory(memory_bytes)).unwrap();
        let mut training = begin(&context, &small(Loss::SoftmaxCrossEntropy), &wrong, options()).unwrap();
        let error = training.iterate(1, |_| ()).unwrap_err().to_string();
        assert!(error.contains("label 3 is out of range"), "{error}");
        for samples in [indices(), samples()] {
            let mut training = begin(&context, &embedding(20), &samples, options()).unwrap();
            let error = training.iterate(STEPS, |_| ()).unwrap_err().to_string();
            assert!(error.contains("is no index of an embedding of 20 vectors"), "{error}");
        }
    }
}

#[test]
fn a_hundred_jobs_leave_nothing_on_a_gpu() {
    let Some(gpu) = TestGpu::take_paper() else { return };
    let network = small(Loss::SoftmaxCrossEntropy);
    let (samples, options) = (bytes(), options());
    let context = Context::new(gpu.config().with_gpu(GpuUse::Auto)).unwrap();
    let data = context.parallelize(samples.split(3).unwrap(), 3);
    for job in 0..100_u32 {
        gpu.lose_after([-1; 2]);
        let mut training = network.train(&data, options.clone()).unwrap();
        if job % 10 == 3 {
            // In the middle of a step.
            gpu.lose_after([i64::from(job % 7), i64::from(job % 11)]);
        }
        training.iterate(1, |_| ()).unwrap();
        if job % 10 == 7 {
            training
                .set_parameters(vec![f32::NAN; network.parameter_count()])
                .unwrap();
            training.iterate(2, |_| ()).unwrap_err();
        }
        drop(training);
        assert_eq!(gpu.bytes(), 0, "job {job}");
    }
    drop((context, data));
    gpu.assert_nothing_is_left();
}

#[test]
fn a_gpu_with_too_little_memory_is_not_lost() {
    let Some(gpu) = TestGpu::take_paper() else { return };
    let builder = NeuralNetwork::new(IMAGE).hidden(Dense::relu(40_000));
    let large = builder.output(Dense::linear(3), Loss::SoftmaxCrossEntropy).unwrap();
    let context = Context::new(gpu.config().with_gpu(GpuUse::Auto)).unwrap();
    let mut training = begin(&context, &large, &samples(), options()).unwrap();
    training.iterate(1, |_| ()).unwrap();
    let figures = training.gpu_figures().unwrap();
    assert_eq!((figures.passes, figures.lost), (0, 0));
    let context = Context::new(gpu.config()).unwrap();
    let mut training = begin(&context, &large, &samples(), options()).unwrap();
    let error = training.iterate(1, |_| ()).unwrap_err().to_string();
    assert!(error.contains("too little memory for another lane"), "{error}");
    drop(training);
    on_the_gpu(gpu.config(), &network(), &samples(), options());
}

#[test]
fn other_samples_take_the_place_of_those_before() {
    let Some(gpu) = TestGpu::take() else { return };
    let network = small(Loss::MeanSquaredError);
    let trained = |config: Config| {
        let context = Context::new(config).unwrap();
        let mut training = begin(&context, &network, &bytes(), options()).unwrap();
        train_for(STEPS, &mut training).unwrap();
        let data = context.parallelize(values().split(4).unwrap(), 4);
        training.change_data(&data).unwrap();
        (train_for(STEPS, &mut training).unwrap(), training.gpu_figures())
    };
    let (expected, _) = trained(Config::default().with_threads(1).with_gpu(GpuUse::Off));
    let (got, figures) = trained(gpu.config());
    assert_close("other samples", &expected, &got, 2e-4);
    assert_eq!(
        figures.unwrap().sample_bytes,
        (SAMPLES * (FEATURES + 4 + 4 * (FEATURES + 3))) as u64
    );
    gpu.assert_nothing_is_left();
}

#[test]
fn whole_steps_go_on_with_samples_of_another_kind() {
    let Some(gpu) = TestGpu::take_paper() else { return };
    let network = small(Loss::SoftmaxCrossEntropy);
    let options = TrainingOptions { lanes: 1, ..options() };
    let trained = |config: Config| {
        let context = Context::new(config).unwrap();
        let mut training = begin(&context, &network, &bytes(), options.clone()).unwrap();
        for samples in [samples(), bytes()] {
            train_for(STEPS, &mut training).unwrap();
            let data = context.parallelize(samples.split(4).unwrap(), 4);
            training.change_data(&data).unwrap();
        }
        let trained = train_for(STEPS, &mut training).unwrap();
        assert_eq!(training.gpu_figures().unwrap().lost, 0);
        trained
    };
    let expected = trained(gpu.config().with_gpu_memory(0));
    assert_eq!(trained(gpu.config()), expected);
    gpu.assert_nothing_is_left();
}
