//! Layers of the user's own behind the function that a network applies last.

use distdl_dl::{
    Backward, Dense, Forward, Input, Layer, LayerSpecification, Loss, NeuralNetwork, Result, Scalar, Shape,
};

/// A layer that says whether its outputs are its inputs, and is called as one that is.
#[derive(Clone, Copy, Debug)]
struct Own {
    is_identity: bool,
}

impl<T: Scalar> LayerSpecification<T> for Own {
    fn build(&self, _: usize, _: Shape) -> Result<Box<dyn Layer<T>>> {
        Ok(Box::new(*self))
    }
}

impl<T: Scalar> Layer<T> for Own {
    fn kind(&self) -> &'static str {
        "flatten"
    }
    fn input_length(&self) -> usize {
        3
    }
    fn output_shape(&self) -> Shape {
        Shape::Row(3)
    }
    fn is_identity(&self) -> bool {
        self.is_identity
    }
    fn forward(&self, _: Forward<'_, T>) -> Result<()> {
        Ok(())
    }
    fn backward(&self, _: Backward<'_, T>) -> Result<()> {
        Ok(())
    }
}

/// Logits may be made of what a softmax gives.
#[test]
fn a_softmax_is_refused_behind_a_layer_that_says_it_is_an_identity_whatever_it_is_called() {
    let built = |is_identity| {
        let builder = NeuralNetwork::<f32>::new(Input(2)).hidden(Dense::softmax(3));
        builder.output(Own { is_identity }, Loss::SoftmaxCrossEntropy)
    };
    built(false).unwrap();
    let refused = built(true).unwrap_err().to_string();
    assert!(refused.contains("applied twice"), "{refused}");
}
