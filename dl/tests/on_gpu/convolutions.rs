//! Convolutions that are left to cuDNN.

use distdl_dl::{Activation, Conv2d, Dense, Flatten, Loss, MaxPool2d, NeuralNetwork, TrainingOptions};
use distdl_engine::config::GpuUse;
use distdl_engine::{Config, Context};

use crate::fixtures::{
    IMAGE, STEPS, Trained, assert_close, begin, bytes, network, on_the_cpu, on_the_gpu, options, samples, train_for,
    without_bias,
};
use crate::gpu::{TestGpu, skipped};

/// A configuration that demands cuDNN. `None`, and says so, where it is missing.
fn with_cudnn(gpu: &TestGpu) -> Option<Config> {
    let config = gpu.config().with_cudnn(true);
    if let (true, Err(error)) = (gpu.is_real(), Context::new(config.clone())) {
        skipped(&format!("convolutions of cuDNN: {error}"));
        return None;
    }
    Some(config)
}

/// Convolutions whose weights begin anywhere. Emulated, there are no gradients by filters for a stride of 3; filters of
/// 5 pixels are refused when they are to be computed, and those of 4 want more room than there is.
fn convolutions() -> NeuralNetwork {
    NeuralNetwork::new(IMAGE)
        .hidden(Conv2d::new(3, 3).with_padding(1).with_activation(Activation::Relu))
        .hidden(Conv2d::new(3, 5).with_padding(2))
        .hidden(Conv2d::new(2, 4).with_padding(2))
        .hidden(Conv2d::new(5, (2, 3)).with_stride((3, 2)).with_padding(1))
        .hidden(
            Conv2d::new(4, 2)
                .with_stride(2)
                .with_padding(2)
                .with_activation(Activation::Tanh),
        )
        .hidden(MaxPool2d::new(2))
        .hidden(Flatten)
        .output(Dense::linear(3), Loss::SoftmaxCrossEntropy)
        .unwrap()
}

/// Of these, what cuDNN computes in an emulated pass: for the first, which has no gradient by its inputs, the fourth
/// and the fifth.
const OF_A_PASS: u64 = 2 + 2 + 3;

#[test]
fn convolutions_of_cudnn_come_to_what_they_come_to_on_the_cpu() {
    let Some(gpu) = TestGpu::take() else { return };
    let Some(config) = with_cudnn(&gpu) else { return };
    let train = |config: Config, network: &NeuralNetwork, options: &TrainingOptions| {
        let context = Context::new(config).unwrap();
        let mut training = begin(&context, network, &samples(), options.clone()).unwrap();
        let trained = train_for(STEPS, &mut training).unwrap();
        (trained, training.gpu_figures().unwrap())
    };
    let micro = TrainingOptions {
        micro_batch: Some(3),
        ..options()
    };
    for (what, network, options) in [
        ("all layers", network(), options()),
        ("without biases", without_bias(), options()),
        ("strides", convolutions(), options()),
        ("pieces of a batch", convolutions(), micro),
    ] {
        let expected = on_the_cpu(&network, &samples(), options.clone());
        let (got, figures) = train(config.clone(), &network, &options);
        assert_close(what, &expected, &got, 2e-4);
        assert_ne!(expected.parameters, network.initialize(0).unwrap());
        assert!(figures.cudnn_convolutions >= 2 * figures.passes, "{what}: {figures:?}");
        if matches!(what, "strides" | "pieces of a batch") && !gpu.is_real() {
            assert_eq!(figures.cudnn_convolutions, OF_A_PASS * figures.passes, "{what}");
        }
        let (on_two, _): (Trained, _) = train(config.clone().with_threads(2), &network, &options);
        assert_eq!(on_two, got, "{what}: two threads");

        let (_, figures) = train(gpu.config(), &network, &options);
        assert_eq!(figures.cudnn_convolutions, 0, "nobody wants it");
    }
    gpu.assert_nothing_is_left();
}

#[test]
fn convolutions_of_cudnn_are_the_same_in_resident_steps() {
    let Some(gpu) = TestGpu::take() else { return };
    let Some(config) = with_cudnn(&gpu) else { return };
    let (network, options) = (convolutions(), TrainingOptions { lanes: 1, ..options() });
    // Samples that come by are not there from step to step.
    let expected = on_the_gpu(
        config.clone().with_gpu_memory_bytes_max(0),
        &network,
        &bytes(),
        options.clone(),
    );
    let context = Context::new(config).unwrap();
    let mut training = begin(&context, &network, &bytes(), options).unwrap();
    assert_eq!(train_for(STEPS, &mut training).unwrap(), expected);
    let figures = training.gpu_figures().unwrap();
    assert!(
        figures.graph_steps > 0 && figures.graph_fallback.is_none(),
        "{figures:?}"
    );
    assert!(
        gpu.is_real() || figures.cudnn_convolutions == OF_A_PASS * figures.passes,
        "{figures:?}"
    );
    drop((training, context));
    gpu.assert_nothing_is_left();
}

#[test]
fn a_gpu_that_is_left_takes_over_with_its_cudnn_and_evaluates() {
    let Some(gpu) = TestGpu::take_emulated() else { return };
    let (config, network) = (gpu.config().with_cudnn(true), convolutions());
    let expected = on_the_gpu(config.clone(), &network, &samples(), options());
    for launches in [[-1, 0], [60, -1]] {
        let context = Context::new(config.clone()).unwrap();
        let mut training = begin(&context, &network, &samples(), options()).unwrap();
        gpu.lose_after(launches);
        assert_eq!(train_for(STEPS, &mut training).unwrap(), expected, "{launches:?}");
        assert_eq!(training.gpu_figures().unwrap().lost, 1);
        gpu.lose_after([-1; 2]);
    }
    let losses = [config, gpu.config().with_gpu(GpuUse::Off)].map(|config| {
        let context = Context::new(config).unwrap();
        let data = context.parallelize(samples().split(3).unwrap(), 3);
        network.error(&data, &expected.parameters).unwrap().loss_sum
    });
    assert!((losses[0] - losses[1]).abs() < 1e-3, "{losses:?}");
    gpu.assert_nothing_is_left();
}
