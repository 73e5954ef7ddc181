//! Steps that are taken whole on one GPU, where parameters stay.

mod cases;

use std::sync::Arc;

use distdl_dl::{
    Activation, Adam, Compression, Conv2d, Dense, Flatten, Lamb, Loss, MaxPool2d, NeuralNetwork, Optimizer, Samples,
    Schedule, Sgd, TopK, Training, TrainingOptions,
};
use distdl_engine::{Config, Context, Placement, Staleness};

use self::cases::Case;
use crate::fixtures::{
    IMAGE, SAMPLES, STEPS, Trained, begin, bytes, changes, on_the_gpu, options, samples, small, train_for, values,
    weighted,
};
use crate::gpu::TestGpu;
use crate::users::changes_at;

/// As [`on_the_gpu`], with samples that come by, so that nothing stays there from step to step.
pub(crate) fn by_single_steps(
    gpu: &TestGpu,
    network: &NeuralNetwork,
    samples: &Samples,
    options: TrainingOptions,
) -> Trained {
    on_the_gpu(gpu.config().with_gpu_memory_bytes_max(0), network, samples, options)
}

/// A training for whose lanes there is one GPU, so that resident steps are taken there.
pub(crate) fn begin_resident(
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
fn resident_steps_have_the_bits_of_single_ones() {
    let Some(gpu) = TestGpu::take() else { return };
    for case in cases::all() {
        if !gpu.is_real() {
            gpu.lose_after([-1; 2]);
        } else if case.2.lanes > 1 {
            // They stay where there is one GPU, which may not be so.
            continue;
        }
        assert_bits_of_single_steps(&gpu, case);
    }
    gpu.assert_nothing_is_left();
}

fn assert_bits_of_single_steps(gpu: &TestGpu, (network, samples, options): Case) {
    let (what, slots) = (format!("{options:?}"), options.optimizer.state_slots() as u64);
    let is_changed = options.augmentation.is_some();
    let expected = by_single_steps(gpu, &network, &samples, options.clone());
    let context = Context::new(gpu.config()).unwrap();
    let mut training = begin_resident(gpu, &context, (&network, &samples), options);
    let (before, first) = (training.gpu_figures().unwrap(), training.step());
    let graphs = gpu.graph_launches();
    let mut trained = train_for(3, &mut training).unwrap();
    let others = train_for(STEPS - 3 - first, &mut training).unwrap();
    trained.steps.extend(others.steps);
    assert_eq!(trained.steps, expected.steps[first as usize..], "{what}");
    assert_eq!(training.parameters(), expected.parameters, "{what}");

    let figures = training.gpu_figures().unwrap();
    let done = figures.clone().since(&before);
    assert!(done.passes >= STEPS - first, "{figures:?}");
    assert!(
        figures.graphs > 0 && done.graph_steps > 0 && figures.graph_fallback.is_none(),
        "{what}: {figures:?}"
    );
    if !gpu.is_real() {
        assert_eq!(gpu.graph_launches() - graphs, done.graph_steps as i64, "{what}");
    }
    // Parameters and what is kept of their gradients went there at each of two beginnings, and places of rows in each
    // step.
    let parameter_bytes = 4 * (1 + slots) * network.parameter_count() as u64;
    let row_bytes = if is_changed { 4 + 32 } else { 4 };
    assert!(
        done.to_gpu_bytes <= 2 * parameter_bytes + row_bytes * 12 * STEPS,
        "{what}: {figures:?}"
    );
}

#[test]
fn weighted_resident_steps_have_the_bits_of_single_ones() {
    let Some(gpu) = TestGpu::take_emulated() else { return };
    let one = TrainingOptions { lanes: 1, ..options() };
    let limited = TrainingOptions {
        optimizer: Arc::new(Lamb::default()),
        gradient_norm_max: Some(0.05),
        lane_gradient_norm_max: Some(0.2),
        micro_batch: Some(5),
        ..one.clone()
    };
    // Some of its steps are of samples that do not count.
    let single = TrainingOptions {
        batch: 1,
        ..limited.clone()
    };
    for options in [one, options(), limited, single] {
        for label_smoothing in [0.0, 0.2] {
            let (what, network) = (
                format!("{options:?}, {label_smoothing}"),
                small(weighted(label_smoothing)),
            );
            gpu.lose_after([-1; 2]);
            let expected = by_single_steps(&gpu, &network, &bytes(), options.clone());
            let context = Context::new(gpu.config()).unwrap();
            let mut training = begin_resident(&gpu, &context, (&network, &bytes()), options.clone());
            let (first, graphs) = (training.step(), gpu.graph_launches());
            let trained = train_for(STEPS - first, &mut training).unwrap();
            assert_eq!(trained.steps, expected.steps[first as usize..], "{what}");
            assert_eq!(training.parameters(), expected.parameters, "{what}");
            assert!(gpu.graph_launches() > graphs, "{what}");
            let figures = training.gpu_figures().unwrap();
            assert_eq!(figures.graph_fallback, None, "{what}");
        }
    }
    gpu.assert_nothing_is_left();
}

#[test]
fn parameters_stay_there_for_resident_steps() {
    let Some(gpu) = TestGpu::take_emulated() else { return };
    let network = small(Loss::SoftmaxCrossEntropy);
    let context = Context::new(gpu.config()).unwrap();
    let options = TrainingOptions { lanes: 1, ..options() };
    let mut training = begin_resident(&gpu, &context, (&network, &bytes()), options);
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
fn resident_steps_before_a_loss_that_is_not_finite_count() {
    let Some(gpu) = TestGpu::take_emulated() else { return };
    let builder = NeuralNetwork::new(IMAGE).hidden(Dense::linear(9));
    let network = builder.output(Dense::linear(3), Loss::MeanSquaredError).unwrap();
    let (options, mut several) = (TrainingOptions { lanes: 1, ..options() }, 0);
    for parameter in [30.0, 1e4, 1e9] {
        let outcomes = [0, 1 << 20].map(|memory_bytes| {
            let graphs = gpu.graph_launches();
            let context = Context::new(gpu.config().with_gpu_memory_bytes_max(memory_bytes)).unwrap();
            let mut training = begin(&context, &network, &values(), options.clone()).unwrap();
            // So that some steps are taken at a time.
            training.iterate(4 * STEPS, |_| ()).unwrap();
            let begin = training.step();
            training
                .set_parameters(vec![parameter; network.parameter_count()])
                .unwrap();
            let mut seen = Vec::new();
            let error = training
                .iterate(STEPS, |step| seen.push(step.report.loss_sum))
                .unwrap_err();
            assert!(matches!(error, distdl_dl::Error::NotFinite { .. }), "{error}");
            assert_eq!(gpu.graph_launches() > graphs, memory_bytes > 0);
            let parameters: Vec<u32> = training.parameters().iter().map(|value| value.to_bits()).collect();
            (error.to_string(), training.step() - begin, seen, parameters)
        });
        assert_eq!(outcomes[0], outcomes[1], "{parameter}");
        assert_eq!(outcomes[0].1, outcomes[0].2.len() as u64);
        several += usize::from(outcomes[0].1 > 1);
    }
    assert!(several > 0, "no steps before one that is not finite");
}

/// The loss is: it is summed in `f64`.
#[test]
fn resident_steps_before_a_measure_that_is_not_finite_count() {
    let Some(gpu) = TestGpu::take_emulated() else { return };
    let builder = NeuralNetwork::new(IMAGE).hidden(Dense::linear(9));
    let network = builder.output(Dense::linear(3), Loss::MeanSquaredError).unwrap();
    let lamb: Arc<dyn Optimizer> = Arc::new(Lamb::default());
    for (optimizer, gradient_norm_max, what) in [
        (
            Arc::new(Sgd::default()) as Arc<dyn Optimizer>,
            Some(1.0),
            "the norm of the gradient",
        ),
        (lamb.clone(), Some(1.0), "the norm of the gradient"),
        (lamb, None, "what the optimizer measures"),
    ] {
        let outcomes = [0, 1 << 20].map(|memory_bytes| {
            let options = TrainingOptions {
                lanes: 1,
                optimizer: optimizer.clone(),
                gradient_norm_max,
                schedule: Some(Schedule::MultiStep {
                    initial: 0.01,
                    factor: 1e15,
                    milestones: vec![4 * STEPS + 4],
                }),
                ..options()
            };
            let graphs = gpu.graph_launches();
            let context = Context::new(gpu.config().with_gpu_memory_bytes_max(memory_bytes)).unwrap();
            let mut training = begin(&context, &network, &values(), options).unwrap();
            // So that some steps are taken at a time.
            training.iterate(4 * STEPS, |_| ()).unwrap();
            let mut seen = Vec::new();
            let error = training
                .iterate(STEPS, |step| seen.push(step.report.loss_sum))
                .unwrap_err();
            assert!(error.to_string().contains(what), "{error}");
            assert_eq!(gpu.graph_launches() > graphs, memory_bytes > 0);
            let parameters: Vec<u32> = training.parameters().iter().map(|value| value.to_bits()).collect();
            (error.to_string(), training.step(), seen, parameters)
        });
        assert_eq!(outcomes[0], outcomes[1], "{optimizer:?}");
        assert!(outcomes[0].1 > 4 * STEPS + 4, "{outcomes:?}");
    }
}

#[test]
fn resident_steps_that_a_lost_gpu_takes_along_are_taken_again() {
    let Some(gpu) = TestGpu::take_emulated() else { return };
    let network = small(Loss::SoftmaxCrossEntropy);
    let options = TrainingOptions { lanes: 1, ..options() };
    let expected = by_single_steps(&gpu, &network, &bytes(), options.clone());
    let before = gpu.launches();
    let whole = on_the_gpu(gpu.config(), &network, &bytes(), options.clone());
    assert_eq!(whole, expected);
    let all = gpu.launches() - before;
    for launches in [0, 1, all / 2, all - 1] {
        gpu.lose_after([-1; 2]);
        let context = Context::new(gpu.config()).unwrap();
        let mut training = begin_resident(&gpu, &context, (&network, &bytes()), options.clone());
        gpu.lose_after([launches, -1]);
        assert_eq!(train_for(STEPS, &mut training).unwrap(), expected, "{launches}");
        assert_eq!(training.gpu_figures().unwrap().lost, 1);

        // Nothing else can compute: that is said, and the steps before count.
        let mut training = begin_resident(&gpu, &context, (&network, &bytes()), options.clone());
        gpu.lose_after([launches, 0]);
        let error = training.iterate(STEPS, |_| ()).unwrap_err().to_string();
        assert!(error.contains("ILLEGAL_ADDRESS"), "{error}");
        let step = training.step();
        let mut training = begin_resident(&gpu, &context, (&network, &bytes()), options.clone());
        gpu.lose_after([-1; 2]);
        assert_eq!(
            train_for(step, &mut training).unwrap().steps,
            expected.steps[..step as usize]
        );
    }
    gpu.lose_after([-1; 2]);
    gpu.assert_nothing_is_left();
}

#[test]
fn resident_steps_go_on_with_samples_of_another_kind() {
    let Some(gpu) = TestGpu::take_emulated() else { return };
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
    let expected = trained(gpu.config().with_gpu_memory_bytes_max(0));
    let graphs = gpu.graph_launches();
    assert_eq!(trained(gpu.config()), expected);
    assert!(gpu.graph_launches() > graphs);
    gpu.assert_nothing_is_left();
}

#[test]
fn options_that_steps_on_the_gpu_do_not_know_are_kept_to() {
    let Some(gpu) = TestGpu::take_emulated() else { return };
    let network = small(Loss::SoftmaxCrossEntropy);
    let with = |change: &dyn Fn(&mut TrainingOptions)| {
        let mut options = TrainingOptions { lanes: 1, ..options() };
        change(&mut options);
        options
    };
    for (are_resident, options) in [
        (true, with(&|_| ())),
        (true, with(&|options| options.optimizer = Arc::new(changes_at(5)))),
        (true, with(&|options| options.micro_batch = Some(5))),
        (true, with(&|options| options.optimizer = Arc::new(Lamb::default()))),
        (true, with(&|options| options.lane_gradient_norm_max = Some(0.01))),
        (true, with(&|options| options.gradient_norm_max = Some(0.01))),
        (false, with(&|options| options.compression = Compression::Bf16)),
        (
            false,
            with(&|options| options.compression = Compression::TopK(TopK::default())),
        ),
        (false, with(&|options| options.staleness = Staleness::FixedLag(1))),
        (true, with(&|options| options.augmentation = Some(changes()))),
        (
            false,
            with(&|options| {
                options.placement = Some(Placement {
                    lanes: vec![0],
                    shards: vec![0],
                });
            }),
        ),
    ] {
        let expected = by_single_steps(&gpu, &network, &bytes(), options.clone());
        let graphs = gpu.graph_launches();
        assert_eq!(
            on_the_gpu(gpu.config(), &network, &bytes(), options.clone()),
            expected,
            "{options:?}"
        );
        assert_eq!(gpu.graph_launches() > graphs, are_resident, "{options:?}");
    }
    gpu.assert_nothing_is_left();
}

/// Small kernels take the time of their launch: each one more in a step would show.
#[test]
fn a_step_has_few_kernels() {
    let Some(gpu) = TestGpu::take_emulated() else { return };
    let dense = NeuralNetwork::new(IMAGE)
        .hidden(Flatten)
        .hidden(Dense::relu(9))
        .hidden(Dense::tanh(7))
        .output(Dense::linear(3), Loss::SoftmaxCrossEntropy)
        .unwrap();
    let images = NeuralNetwork::new(IMAGE)
        .hidden(Conv2d::new(3, 3).with_activation(Activation::Tanh))
        .hidden(MaxPool2d::new(2))
        .hidden(Conv2d::new(4, 1).with_activation(Activation::Tanh))
        .hidden(Flatten)
        .output(Dense::linear(3), Loss::SoftmaxCrossEntropy)
        .unwrap();
    let one = TrainingOptions { lanes: 1, ..options() };
    let adam = TrainingOptions {
        optimizer: Arc::new(Adam::default()),
        ..one.clone()
    };
    let lamb = TrainingOptions {
        optimizer: Arc::new(Lamb::default()),
        ..one.clone()
    };
    let limited = TrainingOptions {
        lane_gradient_norm_max: Some(0.01),
        ..one.clone()
    };
    for (what, network, options, kernels) in [
        // Samples, bias and activation of each layer, loss and its sum, what is before each activation and the sum of
        // that, update.
        ("dense", dense.clone(), one.clone(), 1 + 3 + 2 + 3 + 1),
        ("dense, Adam", dense.clone(), adam, 1 + 3 + 2 + 3 + 1),
        ("dense, LAMB", dense.clone(), lamb, 1 + 3 + 2 + 3 + 6 * 6),
        ("dense, limited", dense, limited, 1 + 3 + 2 + 3 + 3 + 1),
        // Convolutions of windows of few elements are a kernel and their activation forward; backward they write
        // columns twice and images, but for the first one's.
        ("images", images, one, 1 + 2 * 2 + 1 + 1 + 2 + 1 + 4 + 1 + 3 + 1),
    ] {
        gpu.lose_after([-1; 2]);
        let context = Context::new(gpu.config()).unwrap();
        let mut training = begin(&context, &network, &bytes(), options).unwrap();
        train_for(STEPS, &mut training).unwrap();
        let launches = gpu.launches();
        train_for(STEPS, &mut training).unwrap();
        assert_eq!(gpu.launches() - launches, kernels * STEPS as i64, "{what}");
    }
    gpu.assert_nothing_is_left();
}
