//! Evaluation and predictions on a GPU.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use distdl_dl::{Features, Loss, NeuralNetwork, SampleTargets, Samples, Training, TrainingOptions};
use distdl_engine::config::{GpuUse, Precision};
use distdl_engine::{Config, Context, Determinacy};

use crate::fixtures::{
    FEATURES, SAMPLES, begin, bytes, embedding, indices, network, options, samples, small, weighted,
};
use crate::gpu::TestGpu;

/// Loss, hits, outputs, and how many samples of each class are taken for each.
type Evaluated = (f64, Option<u64>, Vec<f32>, String);

/// What evaluation comes to.
fn evaluated(context: &Context, network: &NeuralNetwork, samples: &Samples) -> distdl_dl::Result<Evaluated> {
    let parameters = network.initialize(5)?;
    let data = context.parallelize(samples.split(3)?, 3);
    let report = network.error(&data, &parameters)?;
    let outputs = network.predict(&data, &parameters)?.collect()?;
    let confusion = format!("{:?}", network.confusion(&data, &parameters)?);
    Ok((report.loss_sum, report.correct, outputs.concat(), confusion))
}

/// What that of a training with the same parameters comes to, when samples that have room are there already.
fn evaluated_again(context: &Context, network: &NeuralNetwork, samples: &Samples) -> distdl_dl::Result<Evaluated> {
    let data = context.parallelize(samples.split(3)?, 3);
    let options = TrainingOptions {
        initial_parameters: Some(network.initialize(5)?.into()),
        ..options()
    };
    let training = network.train(&data, options)?;
    training.predict(&data)?.collect()?;
    let report = training.error(&data)?;
    let outputs = training.predict(&data)?.collect()?;
    let confusion = format!("{:?}", training.confusion(&data)?);
    Ok((report.loss_sum, report.correct, outputs.concat(), confusion))
}

#[test]
fn evaluation_comes_to_what_it_comes_to_on_the_cpu() {
    let Some(gpu) = TestGpu::take_emulated() else { return };
    let cpu = Context::new(Config::default().with_threads(1).with_gpu(GpuUse::Off)).unwrap();
    for network in [network(), small(Loss::SoftmaxCrossEntropy), small(weighted(0.1))] {
        gpu.lose_after([-1; 2]);
        let expected = evaluated(&cpu, &network, &samples()).unwrap();
        let assert_close = |got: &Evaluated| {
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
        assert_eq!(evaluated_again(&context, &network, &samples()).unwrap(), there);
        // With the bits of the one that is left, or on the CPU, or not at all.
        for evaluated in [evaluated, evaluated_again] {
            for launches in [[7, -1], [-1, 31]] {
                gpu.lose_after(launches);
                assert_eq!(evaluated(&context, &network, &samples()).unwrap(), there);
            }
            for launches in [0, 7, 12] {
                gpu.lose_after([launches; 2]);
                let error = evaluated(&context, &network, &samples()).unwrap_err().to_string();
                assert!(
                    error.contains("ILLEGAL_ADDRESS") || error.contains("every Emulated GPU of this process is lost"),
                    "{error}"
                );
                gpu.lose_after([launches; 2]);
                let context = Context::new(gpu.config().with_gpu(GpuUse::Auto)).unwrap();
                assert_close(&evaluated(&context, &network, &samples()).unwrap());
            }
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
fn parameters_go_there_once_for_all_partitions() {
    let Some(gpu) = TestGpu::take_emulated() else { return };
    let network = small(Loss::SoftmaxCrossEntropy);
    // All partitions have the same GPU, and one thread.
    gpu.lose_after([0, -1]);
    let context = Context::new(gpu.config()).unwrap();
    let data = context.parallelize(samples().split(4).unwrap(), 4);
    let mut parameters = network.initialize(5).unwrap();
    let predictions = network.predict(&data, &parameters).unwrap();
    let first = predictions.collect().unwrap();
    let parameter_bytes = 4 * network.parameter_count() as i64;
    let sample_bytes = (4 * FEATURES * SAMPLES) as i64;
    let sent = || gpu.sent_bytes();
    let before = sent();
    assert_eq!(predictions.collect().unwrap(), first);
    assert_eq!(sent() - before, sample_bytes, "they were there");

    let mut training = network.train(&data, options()).unwrap();
    for change in [0.0, 0.5] {
        parameters[3] += change;
        training.set_parameters(parameters.clone()).unwrap();
        training.error(&data).unwrap();
        let before = sent();
        let report = training.error(&data).unwrap();
        // Samples that a training evaluates are there, too; which of them rows are is said.
        assert_eq!(sent() - before, parameter_bytes + 4 * SAMPLES as i64);
        // Those of before were not taken for these.
        let expected = network.error(&data, &parameters).unwrap();
        assert_eq!(report, expected);
    }
    drop((training, predictions, data, context));
    gpu.lose_after([-1; 2]);
    gpu.assert_nothing_is_left();
}

/// Of a training and what it evaluates: first what is trained on, which stays, then what was there first, as long as it
/// is evaluated as often as what has no room.
#[test]
fn samples_that_are_evaluated_again_are_there_while_there_is_room() {
    let Some(gpu) = TestGpu::take_emulated() else { return };
    // All partitions have the same GPU.
    gpu.lose_after([0, -1]);
    let of_training = (SAMPLES * (FEATURES + 4)) as u64;
    let of_test = (4 * SAMPLES * (FEATURES + 1)) as u64;
    // Memory there comes in pieces.
    let room_of = |samples: usize, feature_bytes: usize| {
        let parts = [samples * FEATURES * feature_bytes, samples * 4];
        parts
            .iter()
            .map(|bytes| bytes.next_multiple_of(512) as u64)
            .sum::<u64>()
    };
    // Of three lanes, and of three blocks.
    let room_of_training = room_of(21, 1) + 2 * room_of(10, 1);
    let room_of_test = 2 * room_of(14, 4) + room_of(13, 4);
    // Which is evaluated, and whether its samples are copied to stay there, or are there.
    let (comes, stays, passes) = ((1, 0), (0, 1), (0, 0));
    let for_none = [(0, passes), (0, passes), (1, passes), (0, passes)];
    let for_two = [(0, comes), (1, comes), (0, stays), (1, stays), (1, stays), (0, stays)];
    let in_turn = [
        (0, comes),
        (1, passes),
        (0, stays),
        (1, passes),
        (0, stays),
        (1, passes),
    ];
    // Nothing of the other came between: it takes its place.
    let alone = [(1, comes), (1, stays), (0, passes), (0, comes), (1, passes), (0, stays)];
    let for_one = [in_turn, alone].concat();
    let rooms = [
        (Loss::SoftmaxCrossEntropy, 0, &for_none[..]),
        (weighted(0.1), room_of_test + 1000, &for_one),
        (Loss::SoftmaxCrossEntropy, 2 * room_of_test, &for_two),
    ];
    let [by_error, by_predictions] = [false, true].map(|by| rooms.clone().map(|room| (room, by)));
    for ((loss, room, evaluations), by_predictions) in by_error.into_iter().chain(by_predictions) {
        let network = small(loss);
        let context = Context::new(gpu.config().with_gpu_memory_bytes_max(room_of_training + room)).unwrap();
        let tests = [(); 2].map(|()| context.parallelize(samples().split(3).unwrap(), 3));
        let mut training = begin(&context, &network, &bytes(), options()).unwrap();
        training.run_epoch(|_| ()).unwrap();
        assert_eq!(training.gpu_figures().unwrap().sample_bytes, of_training);
        let expected = network.error(&tests[0], &training.parameters()).unwrap();
        let outputs = network.predict(&tests[0], &training.parameters()).unwrap();
        let outputs = outputs.collect().unwrap();
        let predictions = tests.each_ref().map(|test| training.predict(test).unwrap());
        for (index, (test, (copies, avoided))) in evaluations.iter().enumerate() {
            let before = training.gpu_figures().unwrap();
            match by_predictions {
                true => assert_eq!(predictions[*test].collect().unwrap(), outputs),
                false => assert_eq!(training.error(&tests[*test]).unwrap(), expected),
            }
            let figures = training.gpu_figures().unwrap().since(&before);
            assert_eq!(
                (figures.sample_bytes, figures.sample_bytes_avoided),
                (copies * of_test, avoided * of_test),
                "room for {room}: evaluation {index}, by predictions: {by_predictions}"
            );
        }
        // What is trained on was not given up.
        let before = training.gpu_figures().unwrap();
        training.run_epoch(|_| ()).unwrap();
        let figures = training.gpu_figures().unwrap().since(&before);
        assert_eq!((figures.sample_bytes, figures.sample_bytes_avoided), (0, of_training));
        drop((training, tests, predictions, context));
    }
    gpu.lose_after([-1; 2]);
    gpu.assert_nothing_is_left();
}

/// Whatever of a training evaluates them, and with the bits of samples that are sent.
#[test]
fn samples_that_are_predicted_again_are_not_copied_again() {
    let Some(gpu) = TestGpu::take_emulated() else { return };
    // All partitions have the same GPU.
    gpu.lose_after([0, -1]);
    for (loss, samples, feature_bytes, constant_bytes) in [
        (Loss::SoftmaxCrossEntropy, samples(), 4, 0),
        // A workspace begins with weights of three classes.
        (weighted(0.1), bytes(), 1, 12),
    ] {
        let network = small(loss);
        let parameter_bytes = 4 * network.parameter_count();
        // Where rows are is said.
        let (places, targets) = (4 * SAMPLES, 4 * SAMPLES);
        let (rows, rows_there) = (4 * SAMPLES * FEATURES, SAMPLES * FEATURES * feature_bytes + targets);
        // Predictions, the same again, others, a confusion and a loss: what of rows is copied, and whether parameters
        // are.
        let there = [rows_there + places, places, places, places, places];
        let sent_each_time = [rows, rows, rows, rows, rows + targets];
        for (room, of_rows) in [(1 << 20, there), (0, sent_each_time)] {
            let parameters = [constant_bytes + parameter_bytes, 0]
                .into_iter()
                .chain([parameter_bytes; 3]);
            let expected: Vec<usize> = of_rows.iter().zip(parameters).map(|(rows, more)| rows + more).collect();
            let context = Context::new(gpu.config().with_gpu_memory_bytes_max(room)).unwrap();
            // One partition has two blocks.
            let data = context.parallelize(samples.split(3).unwrap(), 2);
            let training = network.train(&data, TrainingOptions { lanes: 2, ..options() }).unwrap();
            let parameters = training.parameters();
            let outputs = network.predict(&data, &parameters).unwrap().collect().unwrap();
            let confusion = network.confusion(&data, &parameters).unwrap();
            let report = network.error(&data, &parameters).unwrap();
            let predictions = training.predict(&data).unwrap();
            let evaluations: [&dyn Fn(); 5] = [
                &|| assert_eq!(predictions.collect().unwrap(), outputs),
                &|| assert_eq!(predictions.collect().unwrap(), outputs),
                &|| assert_eq!(training.predict(&data).unwrap().collect().unwrap(), outputs),
                &|| assert_eq!(training.confusion(&data).unwrap(), confusion),
                &|| assert_eq!(training.error(&data).unwrap(), report),
            ];
            let sent = evaluations.map(|evaluate| {
                let before = gpu.sent_bytes();
                evaluate();
                (gpu.sent_bytes() - before) as usize
            });
            assert_eq!(sent.to_vec(), expected, "room for {room}");
        }
    }
    gpu.lose_after([-1; 2]);
    gpu.assert_nothing_is_left();
}

/// Who predicts does not ask for labels; who asks for them finds them wrong there, too.
#[test]
fn samples_of_no_class_are_predicted_and_their_labels_are_no_classes() {
    let Some(gpu) = TestGpu::take_emulated() else { return };
    let network = small(Loss::SoftmaxCrossEntropy);
    let context = Context::new(gpu.config()).unwrap();
    let data = context.parallelize(samples().split(3).unwrap(), 3);
    let training = network.train(&data, options()).unwrap();
    let expected = training.predict(&data).unwrap().collect().unwrap();
    let labels = SampleTargets::Labels(vec![3; SAMPLES]);
    let unknown = Samples::new(FEATURES, samples().features().clone(), labels).unwrap();
    let unknown = context.parallelize(unknown.split(3).unwrap(), 3);
    for _ in 0..2 {
        assert_eq!(training.predict(&unknown).unwrap().collect().unwrap(), expected);
        let error = training.error(&unknown).unwrap_err().to_string();
        assert!(error.contains("label 3"), "{error}");
        let error = training.confusion(&unknown).unwrap_err().to_string();
        assert!(error.contains("label 3"), "{error}");
    }
    assert_eq!(training.gpu_figures().unwrap().lost, 0);
}

/// What is on the GPU is of an earlier computation, and rows would be taken for those of this one.
#[test]
fn samples_that_are_not_the_same_twice_do_not_stay() {
    let Some(gpu) = TestGpu::take_emulated() else { return };
    let network = small(Loss::SoftmaxCrossEntropy);
    let context = Context::new(gpu.config()).unwrap();
    let training = begin(&context, &network, &bytes(), options()).unwrap();
    for determinacy in [Determinacy::Unordered, Determinacy::Indeterminate] {
        let blocks = context.parallelize(samples().split(3).unwrap(), 3);
        let data = blocks.map(|block| block).with_determinacy(determinacy);
        let before = training.gpu_figures().unwrap();
        assert_eq!(training.error(&data).unwrap(), training.error(&data).unwrap());
        training.confusion(&data).unwrap();
        let figures = training.gpu_figures().unwrap().since(&before);
        assert_eq!((figures.sample_bytes, figures.sample_bytes_avoided), (0, 0));
    }
    drop((training, context));
    gpu.assert_nothing_is_left();
}

/// The blocks behind it would be there in its place.
#[test]
fn a_block_that_cannot_be_evaluated_cannot_be_a_second_time() {
    let Some(gpu) = TestGpu::take_emulated() else { return };
    let context = Context::new(gpu.config()).unwrap();
    let training = begin(&context, &embedding(23), &indices(), options()).unwrap();
    let block = |first: f32| {
        let features = std::iter::once(first).chain((1..5 * FEATURES).map(|feature| (feature % 23) as f32));
        let labels = SampleTargets::Labels(vec![0; 5]);
        Samples::new(FEATURES, Features::F32(features.collect()), labels).unwrap()
    };
    let data = context.parallelize([23.0, 1.0, 2.0].map(block).to_vec(), 1);
    let predictions = training.predict(&data).unwrap();
    for _ in 0..2 {
        let error = predictions.collect().unwrap_err().to_string();
        assert!(error.contains("is no index of an embedding"), "{error}");
        let error = training.error(&data).unwrap_err().to_string();
        assert!(error.contains("is no index of an embedding"), "{error}");
    }
    assert_eq!(training.gpu_figures().unwrap().lost, 0);
}

#[test]
fn samples_without_targets_are_predicted_as_those_with_labels() {
    let Some(gpu) = TestGpu::take_emulated() else { return };
    let network = small(Loss::SoftmaxCrossEntropy);
    let context = Context::new(gpu.config()).unwrap();
    for labelled in [samples(), bytes()] {
        let bare = Samples::new(FEATURES, labelled.features().clone(), SampleTargets::None).unwrap();
        let [expected, got] = [labelled, bare].map(|samples| {
            let training = begin(&context, &network, &bytes(), options()).unwrap();
            let data = context.parallelize(samples.split(3).unwrap(), 3);
            // Sent, and then taken from what has stayed there.
            let sent = network
                .predict(&data, &training.parameters())
                .unwrap()
                .collect()
                .unwrap();
            training.predict(&data).unwrap().collect().unwrap();
            let before = training.gpu_figures().unwrap();
            assert_eq!(training.predict(&data).unwrap().collect().unwrap(), sent);
            let figures = training.gpu_figures().unwrap().since(&before);
            assert!(figures.sample_bytes_avoided > 0 && figures.sample_bytes == 0);
            sent
        });
        assert_eq!(got, expected);
    }
    drop(context);
    gpu.assert_nothing_is_left();
}

#[test]
fn what_is_remembered_of_one_device_or_precision_is_not_taken_for_that_of_another() {
    let Some(gpu) = TestGpu::take_emulated() else { return };
    let network = small(Loss::SoftmaxCrossEntropy);
    let computed = |wanted: GpuUse, precision: Precision| {
        let config = gpu.config().with_gpu(wanted).with_precision(precision);
        let context = Context::new(config).unwrap();
        let data = context.parallelize(samples().split(3).unwrap(), 3);
        let predictions = network.predict(&data, &network.initialize(5).unwrap()).unwrap();
        let remembered = predictions.memoize("predictions on devices", 1).unwrap();
        remembered.collect().unwrap();
        remembered.partitions_computed()
    };
    for computed_first in [3, 0] {
        for precision in [Precision::F32, Precision::Tf32, Precision::Bf16] {
            assert_eq!(computed(GpuUse::On, precision), computed_first, "{precision:?}");
        }
        assert_eq!(computed(GpuUse::Off, Precision::Bf16), computed_first, "the CPU");
        // No precision of GPUs shows there.
        assert_eq!(computed(GpuUse::Off, Precision::F32), 0);
    }
    gpu.assert_nothing_is_left();
}

#[test]
fn predictions_outlive_their_training_but_not_what_it_has_there() {
    let Some(gpu) = TestGpu::take_emulated() else { return };
    let context = Context::new(gpu.config()).unwrap();
    let mut training = begin(&context, &small(Loss::SoftmaxCrossEntropy), &bytes(), options()).unwrap();
    training.run_epoch(|_| ()).unwrap();
    let data = context.parallelize(samples().split(3).unwrap(), 3);
    let predictions = training.predict(&data).unwrap();
    let expected = predictions.collect().unwrap();
    assert!(gpu.bytes() > 0);
    drop(training);
    assert_eq!(gpu.bytes(), 0);
    // Nor does anything come to stay there.
    for _ in 0..2 {
        let before = gpu.sent_bytes();
        assert_eq!(predictions.collect().unwrap(), expected);
        assert!(gpu.sent_bytes() - before >= (4 * SAMPLES * FEATURES) as i64);
    }
    assert!(gpu.bytes() > 0, "that was the CPU");
    drop((predictions, data, context));
    gpu.assert_nothing_is_left();
}

/// Nor does what comes to stay there while the training ends.
#[test]
fn predictions_that_run_when_their_training_ends_leave_nothing_of_it() {
    let Some(gpu) = TestGpu::take_emulated() else { return };
    let network = small(Loss::SoftmaxCrossEntropy);
    let left = [0, 1 << 20].map(|room| {
        // One block after the other.
        let config = gpu.config().with_batch_records(1).with_gpu_memory_bytes_max(room);
        let context = Context::new(config).unwrap();
        let ending: Arc<Mutex<Option<Training>>> = Arc::default();
        let (other, blocks) = (Arc::clone(&ending), context.parallelize(samples().split(3).unwrap(), 1));
        let count = AtomicUsize::new(0);
        let data = blocks.map(move |block| {
            // The first two are there then.
            if count.fetch_add(1, Ordering::SeqCst) == 2 {
                drop(other.lock().unwrap().take());
            }
            block
        });
        let training = begin(&context, &network, &bytes(), options()).unwrap();
        let predictions = training.predict(&data).unwrap();
        *ending.lock().unwrap() = Some(training);
        predictions.collect().unwrap();
        assert!(ending.lock().unwrap().is_none());
        gpu.bytes()
    });
    assert!(left[0] > 0, "a workspace stays");
    assert_eq!(left[1], left[0]);
    gpu.assert_nothing_is_left();
}

#[test]
fn a_training_evaluates_where_it_trains() {
    let Some(gpu) = TestGpu::take_emulated() else { return };
    let network = small(Loss::SoftmaxCrossEntropy);
    let context = Context::new(gpu.config()).unwrap();
    let data = context.parallelize(bytes().split(3).unwrap(), 3);
    let mut training = network.train(&data, options()).unwrap();
    training.run_epoch(|_| ()).unwrap();
    let before = gpu.allocations();
    let report = training.error(&data).unwrap();
    let (allocations, parameters) = (gpu.allocations(), training.parameters());
    assert!(allocations > before, "that was the CPU");
    // What is there is used again.
    assert_eq!(training.error(&data).unwrap(), report);
    assert_eq!(gpu.allocations(), allocations);
    drop(data);
    let cpu = Context::new(Config::default().with_gpu(GpuUse::Off)).unwrap();
    let data = cpu.parallelize(vec![bytes()], 1);
    let expected = network.error(&data, &parameters).unwrap();
    assert!((expected.loss_sum - report.loss_sum).abs() < 1e-3);
    assert_eq!((expected.correct, expected.samples), (report.correct, report.samples));
    drop((training, context));
    gpu.assert_nothing_is_left();
}
