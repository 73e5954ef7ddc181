//! Lanes on GPUs, step by step.

use distdl_dl::kernels::programs::ReductionSplit;
use distdl_dl::{
    Conv2d, Dense, Features, Flatten, Image, Loss, NeuralNetwork, SampleTargets, Samples, TrainingOptions,
};
use distdl_engine::cluster::chaos::Chaos;
use distdl_engine::config::GpuUse;
use distdl_engine::testing::TestCluster;
use distdl_engine::{Config, Context, EngineError, Placement};

use crate::fixtures::{
    FEATURES, SAMPLES, STEPS, assert_close, begin, bytes, changes, convolutions_of_all_sizes, embedding, frozen,
    indices, many, network, on_the_cpu, on_the_gpu, options, samples, signs, small, sums, train_for, values, weighted,
    without_bias,
};
use crate::gpu::{MEMORY_BYTES, TestGpu};

#[test]
fn training_comes_to_what_it_comes_to_on_the_cpu() {
    let Some(gpu) = TestGpu::take() else { return };
    let micro = TrainingOptions {
        micro_batch: Some(3),
        ..options()
    };
    // The channels of `sums()` and its columns.
    assert!(
        ReductionSplit::of_channels(8 * SAMPLES, 2, 30).count > 1
            && ReductionSplit::of_columns(8 * SAMPLES, 60).count > 1
    );
    let in_one_lane = TrainingOptions {
        batch: 8 * SAMPLES,
        lanes: 1,
        ..options()
    };
    let of_all = TrainingOptions {
        batch: SAMPLES,
        lanes: 1,
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
        ("frozen", frozen(), samples(), options()),
        ("without biases", without_bias(), samples(), options()),
        ("bytes", small(Loss::SoftmaxCrossEntropy), bytes(), options()),
        ("pieces", small(Loss::SoftmaxCrossEntropy), bytes(), micro.clone()),
        ("indices", embedding(23), indices(), options()),
        ("many rows", sums(), many(), in_one_lane),
        ("convolutions", convolutions_of_all_sizes(), samples(), options()),
        // Four groups of nine images, and one of what is left.
        ("groups of images", convolutions_of_all_sizes(), samples(), of_all),
    ];
    let changed = TrainingOptions {
        augmentation: Some(changes()),
        ..micro.clone()
    };
    cases.push(("changed pictures", small(Loss::SoftmaxCrossEntropy), bytes(), changed));
    for loss in [weighted(0.0), weighted(0.2)] {
        cases.push((loss.name(), small(loss.clone()), bytes(), options()));
        cases.push((loss.name(), small(loss), samples(), micro.clone()));
    }
    for loss in &all_losses {
        cases.push((loss.name(), small(loss.clone()), samples(), options()));
        let targets = if *loss == Loss::Hinge { signs() } else { values() };
        cases.push((loss.name(), small(loss.clone()), targets, options()));
    }
    for (what, network, samples, options) in cases {
        let expected = on_the_cpu(&network, &samples, options.clone());
        let got = on_the_gpu(gpu.config(), &network, &samples, options);
        assert_close(what, &expected, &got, 2e-4);
        assert_ne!(expected.parameters, network.initialize(0).unwrap());
    }
    gpu.assert_nothing_is_left();
}

/// The columns of all images together would take more than the room that there is for them on an emulated GPU: the
/// pieces are those that dl/src/layer/convolution/products.rs tests.
#[test]
fn a_convolution_in_pieces_comes_to_what_it_comes_to_on_the_cpu() {
    let Some(gpu) = TestGpu::take() else { return };
    const { assert!(MEMORY_BYTES == 128 << 20) };
    let of_convolutions = |side: usize, convolutions: &[Conv2d]| {
        let image = Image {
            channels: 1,
            height: side,
            width: side,
        };
        let mut network = NeuralNetwork::new(image);
        for convolution in convolutions {
            network = network.hidden(*convolution);
        }
        let network = network.hidden(Flatten);
        network.output(Dense::linear(2), Loss::SoftmaxCrossEntropy).unwrap()
    };
    for (images, side, network) in [
        // Three pieces of 25 images, in groups of two and one, and one of a single image, which is less than a group.
        (76, 32, of_convolutions(32, &[Conv2d::new(1, 8)])),
        // Three pieces of an image, whose products are added up, and gradients by inputs.
        (3, 56, of_convolutions(56, &[Conv2d::new(1, 1), Conv2d::new(1, 24)])),
    ] {
        let features = (0..images * side * side).map(|index| (index * 31 % 17) as f32 / 170.0);
        let labels = (0..images as u32).map(|image| image % 2).collect();
        let (features, labels) = (Features::F32(features.collect()), SampleTargets::Labels(labels));
        let samples = Samples::new(side * side, features, labels).unwrap();
        let options = TrainingOptions {
            batch: images,
            lanes: 1,
            ..options()
        };
        let mut trained = [gpu.config(), Config::default().with_gpu(GpuUse::Off)].map(|config| {
            let context = Context::new(config.with_threads(1)).unwrap();
            let mut training = begin(&context, &network, &samples, options.clone()).unwrap();
            train_for(2, &mut training).unwrap()
        });
        let [got, expected] = &mut trained;
        assert_close(&format!("{images} images"), expected, got, 2e-4);
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
    let Some(gpu) = TestGpu::take_emulated() else { return };
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

/// The gradients of pieces are summed there: once for each step parameters go there, and the sum comes back.
#[test]
fn pieces_come_back_as_one() {
    let Some(gpu) = TestGpu::take_emulated() else { return };
    let network = small(Loss::SoftmaxCrossEntropy);
    let options = TrainingOptions {
        micro_batch: Some(5),
        lanes: 1,
        // No resident steps.
        placement: Some(Placement {
            lanes: vec![0],
            shards: vec![0],
        }),
        ..options()
    };
    for memory_bytes in [0, 1 << 20] {
        let context = Context::new(gpu.config().with_threads(1).with_gpu_memory_bytes_max(memory_bytes)).unwrap();
        let mut training = begin(&context, &network, &bytes(), options.clone()).unwrap();
        training.run_epoch(|_| ()).unwrap();
        let (first, allocations) = (training.gpu_figures().unwrap(), gpu.allocations());
        training.run_epoch(|_| ()).unwrap();
        let second = training.gpu_figures().unwrap();
        let (steps, passes) = (training.steps_per_epoch(), second.passes - first.passes);
        // Of 12, 12, 12 and 5 samples.
        assert_eq!((steps, passes, gpu.allocations()), (4, 3 * 3 + 1, allocations));
        let parameter_bytes = 4 * network.parameter_count() as u64;
        assert_eq!(
            second.from_gpu_bytes - first.from_gpu_bytes,
            steps * parameter_bytes + 16 * passes
        );
        // Samples, or their places.
        let sample_words = if memory_bytes == 0 { FEATURES + 1 } else { 1 };
        assert_eq!(
            second.to_gpu_bytes - first.to_gpu_bytes,
            steps * parameter_bytes + (4 * sample_words * SAMPLES) as u64
        );
    }
    gpu.assert_nothing_is_left();
}

#[test]
fn samples_without_room_there_come_by_and_do_not_show() {
    let Some(gpu) = TestGpu::take() else { return };
    let (network, samples) = (small(Loss::SoftmaxCrossEntropy), bytes());
    let expected = on_the_gpu(gpu.config(), &network, &samples, options());
    let context = Context::new(gpu.config().with_gpu_memory_bytes_max(500)).unwrap();
    let mut training = begin(&context, &network, &samples, options()).unwrap();
    assert_eq!(train_for(STEPS, &mut training).unwrap(), expected);
    let figures = training.gpu_figures().unwrap();
    assert_eq!(figures.sample_bytes, 0);
    let feature_bytes = 4 * FEATURES as u64 * STEPS;
    assert!(figures.to_gpu_bytes > 12 * feature_bytes * 2 / 3, "{figures:?}");
}

/// Samples that do not stay there are gathered and sent while the GPU computes the step before.
#[test]
fn the_next_step_is_sent_while_one_is_computed() {
    let Some(gpu) = TestGpu::take_emulated() else { return };
    let network = small(Loss::SoftmaxCrossEntropy);
    let options = TrainingOptions { lanes: 1, ..options() };
    let context = Context::new(gpu.config().with_gpu_memory_bytes_max(500)).unwrap();
    let mut training = begin(&context, &network, &bytes(), options).unwrap();
    let (parameter_bytes, row_bytes) = (4 * network.parameter_count(), 4 * (FEATURES + 1));
    let mut before = 0;
    // Of 12, 12, 12 and 5 rows: behind the last of an epoch nothing is sent.
    for (steps, rows) in [
        (1, 12 + 12),
        (1, 12 + 12),
        (1, 12 + 5),
        (1, 5),
        (4, SAMPLES),
        (2, 12 + 12 + 12),
    ] {
        train_for(steps, &mut training).unwrap();
        let sent = training.gpu_figures().unwrap().to_gpu_bytes;
        let expected = steps as usize * parameter_bytes + rows * row_bytes;
        assert_eq!(sent - before, expected as u64, "{steps} steps");
        before = sent;
    }
    drop((training, context));
    gpu.assert_nothing_is_left();
}

/// Room in which copies go ahead is what lanes leave.
#[test]
fn copies_ahead_take_no_room_from_another_lane() {
    let Some(gpu) = TestGpu::take_emulated() else { return };
    let network = small(Loss::SoftmaxCrossEntropy);
    // By single steps.
    let options = TrainingOptions {
        placement: Some(Placement {
            lanes: vec![0; 3],
            shards: vec![0],
        }),
        ..options()
    };
    let trained = |memory_bytes| {
        let context = Context::new(gpu.config().with_gpu_memory_bytes_max(memory_bytes)).unwrap();
        let mut training = begin(&context, &network, &bytes(), options.clone()).unwrap();
        let before = gpu.bytes();
        let trained = train_for(STEPS, &mut training).unwrap();
        assert_eq!(training.gpu_figures().unwrap().lost, 0);
        (trained, gpu.bytes() - before)
    };
    let first = gpu.take_memory_but(0, 0);
    // Nothing goes ahead where all samples stay.
    let (expected, with_samples) = trained(1 << 20);
    let needed = with_samples as usize - SAMPLES * (FEATURES + 4);
    let row_bytes = 4 * (FEATURES + 1);
    // For none, for one lane of 4 rows, and for all.
    for ahead in [0, 4 * row_bytes, 12 * row_bytes] {
        let second = gpu.take_memory_but(1, needed + ahead);
        let (got, taken) = trained(0);
        assert_eq!(got, expected, "{ahead}");
        assert_eq!(taken as usize, needed + ahead);
        drop(second);
    }
    drop(first);
    gpu.assert_nothing_is_left();
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
