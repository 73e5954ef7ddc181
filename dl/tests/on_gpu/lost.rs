//! GPUs that are lost, or full; and that nothing is left there.

use distdl_dl::{Dense, Loss, NeuralNetwork, TrainingOptions};
use distdl_engine::Context;
use distdl_engine::config::GpuUse;

use crate::fixtures::{
    IMAGE, STEPS, assert_close, begin, bytes, network, on_the_cpu, on_the_gpu, options, samples, small, train_for,
};
use crate::gpu::TestGpu;

#[test]
fn a_lost_gpu_is_an_error_where_it_must_compute_and_else_the_cpu_goes_on() {
    let Some(gpu) = TestGpu::take_emulated() else { return };
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
        error.contains("Emulated GPU: could not") && error.contains("ILLEGAL_ADDRESS"),
        "{error}"
    );
    // The steps before it count.
    let step = training.step();
    assert!((1..STEPS).contains(&step), "{step}");
    let error = training.iterate(1, |_| ()).unwrap_err().to_string();
    assert!(error.contains("every Emulated GPU of this process is lost"), "{error}");
}

#[test]
fn a_gpu_that_is_left_takes_over_and_that_does_not_show() {
    let Some(gpu) = TestGpu::take_emulated() else { return };
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

/// What a lost GPU has summed up of a step is lost with it: all pieces of the step are the next one's.
#[test]
fn a_gpu_that_is_lost_between_pieces_leaves_all_of_its_step() {
    let Some(gpu) = TestGpu::take_emulated() else { return };
    let options = TrainingOptions {
        micro_batch: Some(2),
        lanes: 1,
        ..options()
    };
    for memory_bytes in [0, 1 << 20] {
        let (network, samples) = (small(Loss::SoftmaxCrossEntropy), bytes());
        let expected = on_the_cpu(&network, &samples, options.clone());
        for launches in [0, 1, 15, 31, 40] {
            let config = gpu
                .config()
                .with_gpu(GpuUse::Auto)
                .with_gpu_memory_bytes_max(memory_bytes);
            let context = Context::new(config).unwrap();
            let mut training = begin(&context, &network, &samples, options.clone()).unwrap();
            // In the first step, so that the CPU computes all.
            gpu.lose_after([launches; 2]);
            assert_eq!(train_for(STEPS, &mut training).unwrap(), expected, "{launches}");
            assert_eq!(training.gpu_figures().unwrap().lost, 2);
            gpu.lose_after([-1; 2]);
        }
    }
    gpu.assert_nothing_is_left();
}

#[test]
fn a_hundred_jobs_leave_nothing_on_a_gpu() {
    let Some(gpu) = TestGpu::take_emulated() else { return };
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
                .set_parameters(vec![f32::MAX; network.parameter_count()])
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
    let Some(gpu) = TestGpu::take_emulated() else { return };
    let builder = NeuralNetwork::new(IMAGE).hidden(Dense::relu(300_000));
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

    // Parameters and gradient fit, but for the sum of pieces there is no room.
    let builder = NeuralNetwork::new(IMAGE).hidden(Dense::relu(200_000));
    let large = builder.output(Dense::linear(3), Loss::SoftmaxCrossEntropy).unwrap();
    for (micro_batch, passes) in [(None, 1), (Some(1), 0)] {
        let options = TrainingOptions {
            batch: 2,
            lanes: 1,
            micro_batch,
            ..options()
        };
        let context = Context::new(gpu.config().with_gpu(GpuUse::Auto)).unwrap();
        let mut training = begin(&context, &large, &samples(), options).unwrap();
        training.iterate(1, |_| ()).unwrap();
        let figures = training.gpu_figures().unwrap();
        assert_eq!((figures.passes, figures.lost), (passes, 0), "{micro_batch:?}");
    }
}

#[test]
fn a_host_that_cannot_pin_memory_is_no_lost_gpu() {
    let Some(gpu) = TestGpu::take_emulated() else { return };
    let network = small(Loss::SoftmaxCrossEntropy);
    let expected = on_the_cpu(&network, &samples(), options());
    // Resident steps on one GPU want more pieces than lanes by themselves.
    for (lanes, pieces) in [(3, 0), (3, 4), (1, 0), (1, 9)] {
        let options = TrainingOptions { lanes, ..options() };
        let context = Context::new(gpu.config().with_gpu(GpuUse::Auto)).unwrap();
        let mut training = begin(&context, &network, &samples(), options.clone()).unwrap();
        gpu.pin_at_most(pieces);
        let trained = train_for(STEPS, &mut training).unwrap();
        if lanes == 3 {
            assert_close("by lanes", &expected, &trained, 2e-4);
        }
        assert_eq!(
            training.gpu_figures().unwrap().lost,
            0,
            "{lanes} lanes, {pieces} pieces"
        );

        let context = Context::new(gpu.config()).unwrap();
        let mut training = begin(&context, &network, &samples(), options).unwrap();
        gpu.pin_at_most(0);
        let error = training.iterate(STEPS, |_| ()).unwrap_err().to_string();
        assert!(
            error.contains("could not pin") && error.contains("of the host's memory"),
            "{error}"
        );
        gpu.pin_at_most(-1);
    }
    gpu.assert_nothing_is_left();
}
