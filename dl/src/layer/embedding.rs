//! Vectors that are looked up by their index.

#[cfg(feature = "gpu")]
mod cuda;

use std::ops::Range;

use super::{Backward, Forward, Layer, LayerSpecification, mismatch, not_empty};
use crate::error::{Error, Result, check_length};
use crate::layout::ParameterShape;
use crate::rng::{Purpose, Stream};
use crate::scalar::Scalar;
use crate::shape::Shape;

const KIND: &str = "embedding";

/// The most vectors: up to here `f32` has every whole number.
const EMBEDDINGS_MAX: usize = 1 << 24;

/// Replaces each feature, a whole number, by the vector of that index: rows of n indices become rows of n x `dim`
/// numbers, as `torch.nn.Embedding` and a flattening behind it. It must be the first layer. Indices are features as
/// they are ([`Features::F32`](crate::Features)), or bytes with a scale of 1.
///
/// The vectors are its `weight`, `num_embeddings` x `dim`, and begin with values from the normal distribution N(0, 1),
/// as PyTorch's. Its gradient is as long as it is, and 0 for vectors that none of a lane's samples looks up: those are
/// not sent, where processes exchange over links. New parameters are sent whole, so a table of many vectors costs half
/// as much to exchange as a dense layer of that size.
///
/// ```
/// # use distdl_dl::{Embedding, Input, Loss, NeuralNetwork};
/// let network = NeuralNetwork::new(Input(2)).output(Embedding::new(3, 2), Loss::MeanSquaredError)?;
/// let vectors = [0.0, 0.1, 1.0, 1.1, 2.0, 2.1]; // its parameters
/// let mut workspace = network.workspace(1);
/// assert_eq!(network.predict_batch(&vectors, &[2.0, 0.0], 1, &mut workspace)?, [2.0, 2.1, 0.0, 0.1]);
/// assert!(network.predict_batch(&vectors, &[3.0, 0.0], 1, &mut workspace).is_err(), "there is no vector 3");
/// # Ok::<(), distdl_dl::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Embedding {
    num_embeddings: usize,
    dim: usize,
}

impl Embedding {
    /// A table of `num_embeddings` vectors, up to 2^24, of `dim` numbers each.
    pub fn new(num_embeddings: usize, dim: usize) -> Self {
        Self { num_embeddings, dim }
    }
}

impl<T: Scalar> LayerSpecification<T> for Embedding {
    fn build(&self, layer: usize, input: Shape) -> Result<Box<dyn Layer<T>>> {
        let Embedding { num_embeddings, dim } = *self;
        let refuse = |expected: &str, got: String| Err(mismatch(layer, KIND, expected, got));
        if layer > 0 {
            return refuse(
                "to be the first layer, as indices have no gradient",
                format!("place {layer}"),
            );
        }
        if !(1..=EMBEDDINGS_MAX).contains(&num_embeddings) || dim == 0 {
            return refuse(
                "1 to 2^24 vectors of at least 1 number",
                format!("{num_embeddings} of {dim}"),
            );
        }
        let indices = not_empty(layer, KIND, input)?.length();
        let lengths = (num_embeddings.checked_mul(dim), indices.checked_mul(dim));
        let (Some(_), Some(_)) = lengths else {
            let got = format!("{num_embeddings} vectors of {dim}, for {indices} indices");
            return refuse("a weight and outputs that fit in memory", got);
        };
        Ok(Box::new(EmbeddingLayer {
            num_embeddings,
            dim,
            indices,
        }))
    }
}

/// An [`Embedding`] that knows how many indices a row has. Its slice holds the weight.
#[derive(Clone, Copy, Debug)]
struct EmbeddingLayer {
    num_embeddings: usize,
    dim: usize,
    indices: usize,
}

impl EmbeddingLayer {
    fn check<T>(&self, weight: &[T], inputs: &[T], outputs: &[T]) -> Result<()> {
        check_length("the embedding's weight", self.num_embeddings * self.dim, weight.len())?;
        check_length("the outputs of an embedding", inputs.len() * self.dim, outputs.len())
    }

    /// Where the vector of an input lies in the weight; the input is number `place` of all rows.
    fn vector<T: Scalar>(&self, place: usize, input: T) -> Result<Range<usize>> {
        let value = input.to_f64();
        if value >= 0.0 && value < self.num_embeddings as f64 && value.fract() == 0.0 {
            let begin = value as usize * self.dim;
            return Ok(begin..begin + self.dim);
        }
        Err(Error::Index {
            row: place / self.indices,
            feature: place % self.indices,
            value,
            num_embeddings: self.num_embeddings,
        })
    }
}

impl<T: Scalar> Layer<T> for EmbeddingLayer {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn input_length(&self) -> usize {
        self.indices
    }

    fn output_shape(&self) -> Shape {
        Shape::Row(self.indices * self.dim)
    }

    fn has_sparse_gradient(&self) -> bool {
        true
    }

    fn takes_indices(&self) -> bool {
        true
    }

    fn check_inputs(&self, inputs: &mut dyn Iterator<Item = T>) -> Result<()> {
        let mut inputs = inputs.enumerate();
        inputs.try_for_each(|(place, input)| self.vector(place, input).map(drop))
    }

    #[cfg(feature = "gpu")]
    fn on_gpu(&self) -> Option<&dyn super::GpuLayer> {
        Some(self)
    }

    fn parameter_shapes(&self) -> Vec<ParameterShape> {
        vec![ParameterShape::new("weight", vec![self.num_embeddings, self.dim])]
    }

    fn initialize(&self, seed: u64, layer: u64, parameters: &mut [T]) -> Result<()> {
        check_length(
            "the embedding's weight",
            self.num_embeddings * self.dim,
            parameters.len(),
        )?;
        let mut stream = Stream::new(seed, Purpose::InitialValues, [layer, 0]);
        parameters
            .iter_mut()
            .for_each(|value| *value = T::from_f64(stream.next_normal()));
        Ok(())
    }

    fn forward(&self, pass: Forward<'_, T>) -> Result<()> {
        self.check(pass.parameters, pass.inputs, pass.outputs)?;
        let outputs = pass.outputs.chunks_exact_mut(self.dim);
        for (place, (output, input)) in outputs.zip(pass.inputs).enumerate() {
            output.copy_from_slice(&pass.parameters[self.vector(place, *input)?]);
        }
        Ok(())
    }

    fn backward(&self, pass: Backward<'_, T>) -> Result<()> {
        self.check(pass.gradient, pass.inputs, pass.output_gradient)?;
        pass.gradient.fill(T::ZERO);
        let output_gradients = pass.output_gradient.chunks_exact(self.dim);
        for (place, (output_gradient, input)) in output_gradients.zip(pass.inputs).enumerate() {
            let sums = &mut pass.gradient[self.vector(place, *input)?];
            sums.iter_mut()
                .zip(output_gradient)
                .for_each(|(sum, value)| *sum += *value);
        }
        // An index cannot be moved a little: nothing follows from that.
        if let Some(input_gradient) = pass.input_gradient {
            input_gradient.fill(T::ZERO);
        }
        Ok(())
    }
}
