//! Running statistics of a layer of the user's own.

use std::ops::Range;

use distdl_dl::{
    Backward, Dense, Forward, Input, Layer, LayerSpecification, Loss, NeuralNetwork, ParameterShape, Result, Shape,
    Statistics,
};

/// A layer of three parameters that says where its running statistics lie, and how far a step moves them.
#[derive(Clone, Debug)]
struct Own(Statistics);

impl LayerSpecification<f32> for Own {
    fn build(&self, _: usize, _: Shape) -> Result<Box<dyn Layer<f32>>> {
        Ok(Box::new(self.clone()))
    }
}

impl Layer<f32> for Own {
    fn kind(&self) -> &'static str {
        "own"
    }
    fn input_length(&self) -> usize {
        2
    }
    fn output_shape(&self) -> Shape {
        Shape::Row(2)
    }
    fn parameter_shapes(&self) -> Vec<ParameterShape> {
        vec![
            ParameterShape::new("scale", vec![2]),
            ParameterShape::new("mean", vec![1]),
        ]
    }
    fn statistics(&self) -> Option<Statistics> {
        Some(self.0.clone())
    }
    fn forward(&self, _: Forward<'_, f32>) -> Result<()> {
        Ok(())
    }
    fn backward(&self, _: Backward<'_, f32>) -> Result<()> {
        Ok(())
    }
}

fn built(range: Range<usize>, momentum: f64) -> Result<NeuralNetwork> {
    let builder = NeuralNetwork::new(Input(2)).hidden(Own(Statistics { range, momentum }));
    builder.output(Dense::linear(2), Loss::SoftmaxCrossEntropy)
}

/// Weights of the next layer would be taken for statistics.
#[test]
fn statistics_that_are_no_parameters_of_their_layer_are_refused() {
    built(2..3, 0.0).unwrap();
    built(0..3, 1.0).unwrap();
    #[expect(
        clippy::reversed_empty_ranges,
        reason = "a range that ends before it begins is one of those refused"
    )]
    let ranges = [2..4, 4..4, 2..1];
    for range in ranges {
        let says = format!(
            "layer 0 (own): expected `statistics` that lie within its 3 parameters, got the range {}..{}",
            range.start, range.end
        );
        assert_eq!(built(range, 0.1).unwrap_err().to_string(), says);
    }
    for momentum in [f64::NAN, -0.1, 1.1] {
        let says = format!("layer 0 (own): expected `statistics` of a momentum from 0 to 1, got {momentum}");
        assert_eq!(built(2..3, momentum).unwrap_err().to_string(), says);
    }
}
