//! What cannot be computed on a GPU.

use distdl_dl::{
    Backward, Dense, Features, Forward, Input, Layer, LayerSpecification, Loss, LossFunction, NeuralNetwork,
    ParameterShape, SampleTargets, Samples, Scalar, Shape, Target,
};
use distdl_engine::Context;
use distdl_engine::config::GpuUse;

use crate::fixtures::{FEATURES, begin, embedding, indices, options, samples, small};
use crate::gpu::TestGpu;

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

/// A loss of a user: nothing is ever missing.
#[derive(Debug)]
struct Content;

impl LossFunction for Content {
    fn name(&self) -> &'static str {
        "content"
    }
    fn check_targets(&self, _: Option<usize>, _: usize) -> distdl_dl::Result<()> {
        Ok(())
    }
    fn gradient<T: Scalar>(&self, _: &[T], _: Target<'_, T>, gradient: &mut [T]) -> distdl_dl::Result<f64> {
        gradient.fill(T::ZERO);
        Ok(0.0)
    }
}

#[test]
fn what_cannot_be_computed_there_is_said() {
    let Some(gpu) = TestGpu::take() else { return };
    let builder = NeuralNetwork::new(Input(FEATURES)).hidden(Own);
    let layer = builder.output(Dense::linear(3), Loss::SoftmaxCrossEntropy).unwrap();
    for (network, says) in [
        (layer, "layer 0 (own) has no kernels for GPUs"),
        (
            small(Loss::own(Content)),
            "the loss content is the program's own and has no kernels for GPUs",
        ),
    ] {
        let parameters = network.initialize(0).unwrap();
        let context = Context::new(gpu.config()).unwrap();
        let data = context.parallelize(vec![samples()], 1);
        for error in [
            begin(&context, &network, &samples(), options()).unwrap_err(),
            network.error(&data, &parameters).unwrap_err(),
        ] {
            let error = error.to_string();
            assert!(error.contains(says) && error.contains("`auto`"), "{error}");
        }
        let context = Context::new(gpu.config().with_gpu(GpuUse::Auto)).unwrap();
        let mut training = begin(&context, &network, &samples(), options()).unwrap();
        training.iterate(1, |_| ()).unwrap();
        assert_eq!(training.gpu_figures(), None);
    }

    let features = Features::F32(vec![0.5; 12 * FEATURES]);
    let wrong = Samples::new(FEATURES, features, SampleTargets::Labels(vec![3; 12])).unwrap();
    for memory_bytes in [0, 1 << 20] {
        let context = Context::new(gpu.config().with_gpu_memory_bytes_max(memory_bytes)).unwrap();
        let network = small(Loss::SoftmaxCrossEntropy);
        let data = context.parallelize(vec![wrong.clone()], 1);
        let parameters = network.initialize(0).unwrap();
        let error = network.error(&data, &parameters).unwrap_err().to_string();
        assert!(error.contains("sample 0 of partition 0 has the label 3"), "{error}");
        for samples in [indices(), samples()] {
            let error = begin(&context, &embedding(20), &samples, options())
                .unwrap_err()
                .to_string();
            assert!(error.contains("is no index of an embedding of 20 vectors"), "{error}");
        }
    }
}
