//! Layers: what they compute, and its gradients.

#[cfg(feature = "gpu")]
mod on_gpu;

mod activate;
mod batch_norm;
mod convolution;
mod dense;
mod dropout;
mod embedding;
mod flatten;
mod layer_norm;
mod masked;
mod pool;
mod sum;

pub use crate::kernels::activation::Activation;
pub use activate::{Activate, Gelu};
pub use batch_norm::BatchNorm;
pub use convolution::Conv2d;
pub use dense::Dense;
pub use dropout::Dropout;
pub use embedding::Embedding;
pub use flatten::Flatten;
pub use layer_norm::LayerNorm;
pub use masked::Masked;
#[cfg(feature = "gpu")]
pub use on_gpu::{GpuBackward, GpuForward, GpuLayer};
pub use pool::{AvgPool2d, MaxPool2d};
pub(crate) use sum::Sum;

use crate::error::{Error, Result, check_length};
use crate::layout::ParameterShape;
use crate::rng::{Purpose, Stream};
use crate::scalar::Scalar;
use crate::shape::{Image, Shape};
use std::fmt::Debug;
use std::ops::Range;

/// A layer that knows its input, and computes on rows: one row a sample.
///
/// It holds no parameters and no buffers: it reads its slice of the one flat parameter vector, and writes its gradient
/// to the same slice of the one flat gradient vector. `forward` and `backward` allocate nothing. Any number of rows is
/// allowed. What they are to write they write whole: with debug assertions it is NaN before, else whatever was there.
///
/// Its `Debug` words stand in checkpoints, training goes on only from those with the same words, and processes that
/// train, evaluate or predict together compare them: equal words are to mean equal outputs for equal parameters. So
/// they name every option that changes what it computes, and are the same from run to run and in all processes: no
/// addresses, no order of a `HashMap`.
///
/// ```
/// use distdl_dl::{
///     Backward, Dense, Forward, Input, Layer, LayerSpecification, Loss, Mode, NeuralNetwork, ParameterShape, Result,
///     Scalar, Shape,
/// };
///
/// /// Multiplies each element with a factor that is learnt, and adds noise of a normal distribution while it learns.
/// #[derive(Debug)]
/// struct Noisy {
///     deviation: f64,
/// }
///
/// #[derive(Debug)]
/// struct NoisyLayer {
///     layer: usize,
///     shape: Shape,
///     deviation: f64,
/// }
///
/// impl<T: Scalar> LayerSpecification<T> for Noisy {
///     fn build(&self, layer: usize, input: Shape) -> Result<Box<dyn Layer<T>>> {
///         Ok(Box::new(NoisyLayer { layer, shape: input, deviation: self.deviation }))
///     }
/// }
///
/// impl<T: Scalar> Layer<T> for NoisyLayer {
///     fn kind(&self) -> &'static str {
///         "noisy"
///     }
///
///     fn input_length(&self) -> usize {
///         self.shape.length()
///     }
///
///     fn output_shape(&self) -> Shape {
///         self.shape
///     }
///
///     fn parameter_shapes(&self) -> Vec<ParameterShape> {
///         vec![ParameterShape::new("factor", vec![self.shape.length()])]
///     }
///
///     fn initialize(&self, _seed: u64, _layer: u64, parameters: &mut [T]) -> Result<()> {
///         parameters.fill(T::ONE);
///         Ok(())
///     }
///
///     fn forward(&self, pass: Forward<'_, T>) -> Result<()> {
///         let inputs = pass.inputs.iter().zip(pass.parameters.iter().cycle());
///         pass.outputs.iter_mut().zip(inputs).for_each(|(output, (input, factor))| *output = *input * *factor);
///         if let Mode::Training(draw) = pass.mode {
///             // A normal number takes four words.
///             let mut stream = draw.stream(self.layer, 4 * self.shape.length() as u64);
///             for output in pass.outputs {
///                 *output += T::from_f64(self.deviation * stream.next_normal());
///             }
///         }
///         Ok(())
///     }
///
///     fn backward(&self, pass: Backward<'_, T>) -> Result<()> {
///         let length = self.shape.length();
///         pass.gradient.fill(T::ZERO);
///         for (place, (output_gradient, input)) in pass.output_gradient.iter().zip(pass.inputs).enumerate() {
///             pass.gradient[place % length] += *output_gradient * *input;
///         }
///         let by_outputs = pass.output_gradient.iter().zip(pass.parameters.iter().cycle());
///         for (by_input, (by_output, factor)) in pass.input_gradient.into_iter().flatten().zip(by_outputs) {
///             *by_input = *by_output * *factor;
///         }
///         Ok(())
///     }
/// }
///
/// let network = NeuralNetwork::new(Input(2)).hidden(Noisy { deviation: 0.1 });
/// let network = network.output(Dense::linear(1), Loss::MeanSquaredError)?;
/// assert_eq!(network.parameter_layout().entries()[0].name, "layers.0.factor");
/// # let (parameters, targets) = (network.initialize(1)?, distdl_dl::Targets::Values(&[1.0]));
/// # let (mut workspace, mut gradient) = (network.workspace(1), vec![0.0; network.parameter_count()]);
/// # let losses = [0, 0, 1].map(|step| {
/// #     workspace.set_draw(distdl_dl::Draw { step, ..Default::default() });
/// #     let report = network.gradient(&parameters, &[0.5, 2.0], targets, 1, &mut workspace, &mut gradient);
/// #     report.map_or(f64::NAN, |report| report.loss_sum)
/// # });
/// # let [first, again, other] = losses;
/// # assert!(first == again && first != other, "{first} {again} {other}");
/// # Ok::<(), distdl_dl::Error>(())
/// ```
pub trait Layer<T: Scalar>: Debug + Send + Sync {
    /// What kind of layer it is, in lower case, for messages.
    fn kind(&self) -> &'static str;

    /// Elements of an input row.
    fn input_length(&self) -> usize;

    /// What an output row is.
    fn output_shape(&self) -> Shape;

    /// Elements of an output row.
    fn output_length(&self) -> usize {
        self.output_shape().length()
    }

    /// The tensors it wants, in the order in which they lie in its slice.
    fn parameter_shapes(&self) -> Vec<ParameterShape> {
        Vec::new()
    }

    /// Writes initial values, a function of (seed, layer, index) only. A layer without parameters has none to write.
    fn initialize(&self, _seed: u64, _layer: u64, parameters: &mut [T]) -> Result<()> {
        check_length(
            "the parameters of a layer that has no `initialize`",
            0,
            parameters.len(),
        )
    }

    /// The function applied last.
    fn activation(&self) -> Activation {
        Activation::Identity
    }

    /// Whether its outputs are its inputs when the network is evaluated. Behind such layers a loss looks for the
    /// [function applied last](Self::activation) in those before them. Default: they are not.
    fn is_identity(&self) -> bool {
        false
    }

    /// Which of its parameters are running statistics of the data, if any are.
    fn statistics(&self) -> Option<Statistics> {
        None
    }

    /// Whether it finds its [statistics](Self::statistics) in a single row, too. A training all of whose passes would
    /// be of one row is refused where one that learns does not. Default: it does.
    fn measures_one_row(&self) -> bool {
        true
    }

    /// Whether a tensor of those that it [wants](Self::parameter_shapes) is a weight that inputs are multiplied with,
    /// which decay is meant for ([`Decay::Weights`](crate::Decay::Weights)), and no bias, scale or shift. Default:
    /// those of two sides or more.
    fn is_weight(&self, tensor: &ParameterShape) -> bool {
        tensor.shape.len() > 1
    }

    /// Whether most of its gradient is 0 in most steps, as where a few of many rows are looked up: then only the rest
    /// is sent.
    fn has_sparse_gradient(&self) -> bool {
        false
    }

    /// Whether its inputs stand for something by their value, as indices do, so that it refuses some. Pictures before
    /// it are then not augmented, which would make others of them.
    fn takes_indices(&self) -> bool {
        false
    }

    /// Errors if it cannot take some input of whole rows. Where it is the first layer it is asked of all samples before
    /// they are learnt from or evaluated, so that a training says which one it is, and before they are sent to a GPU
    /// and changed there: a layer that refuses some is one that [takes indices](Self::takes_indices). Default: it takes
    /// any.
    fn check_inputs(&self, _inputs: &mut dyn Iterator<Item = T>) -> Result<()> {
        Ok(())
    }

    /// Elements that a pass needs beside its inputs and outputs, however many rows there are.
    fn scratch_length(&self) -> usize {
        0
    }

    /// What it computes on a GPU in `f32`, if it can. A network whose layers all can is trained there.
    #[cfg(feature = "gpu")]
    fn on_gpu(&self) -> Option<&dyn GpuLayer> {
        None
    }

    /// Writes the outputs from the inputs. Errors if a length does not match.
    fn forward(&self, pass: Forward<'_, T>) -> Result<()>;

    /// Writes the gradients of a loss from that by the outputs. Errors if a length does not match.
    fn backward(&self, pass: Backward<'_, T>) -> Result<()>;
}

/// Parameters that no gradient changes. Where the gradient would lie, a layer writes what it has found in its rows,
/// times the number of rows; a step moves the parameter from what it is towards the mean of that over all rows of the
/// step, by `momentum` of the way.
#[derive(Clone, Debug, PartialEq)]
pub struct Statistics {
    /// Where they lie among the layer's parameters.
    pub range: Range<usize>,
    /// The share of the new value, 0 to 1.
    pub momentum: f64,
}

/// Which step of training a pass is part of: what random numbers are keyed by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Draw {
    /// The seed of the training.
    pub seed: u64,
    /// The step.
    pub step: u64,
    /// The lane whose rows are computed.
    pub lane: u64,
    /// Place of the first row among those that the lane takes in the step; not 0 where they are computed in
    /// micro-batches.
    pub first_row: u64,
}

impl Draw {
    /// Random numbers for the pass of a layer of one's own, the one of this index, each row of which takes so many
    /// 32-bit words, one after the other. They follow from step, lane, layer and row, so a backward pass draws what the
    /// forward pass drew, and micro-batches what the whole share of a lane would; no layer meets those of another one.
    ///
    /// ```
    /// let draw = distdl_dl::Draw { seed: 7, step: 12, ..Default::default() };
    /// let mut stream = draw.stream(3, 4); // for one normal number a row
    /// let [_, second_row] = [stream.next_normal(), stream.next_normal()];
    /// let micro_batch = distdl_dl::Draw { first_row: 1, ..draw };
    /// assert_eq!(micro_batch.stream(3, 4).next_normal(), second_row);
    /// assert_ne!(micro_batch.stream(2, 4).next_normal(), second_row, "of another layer");
    /// ```
    pub fn stream(&self, layer: usize, words_of_row: u64) -> Stream {
        let mut stream = Stream::new(self.seed, Purpose::OwnLayer, self.ids(layer as u64));
        stream.seek(self.first_row.wrapping_mul(words_of_row));
        stream
    }

    /// What is drawn for a layer in a step is keyed by. More lanes than 2^40 would share their chances with other
    /// layers, and nothing worse.
    fn ids(&self, layer: u64) -> [u64; 2] {
        [self.step, (layer << 40).wrapping_add(self.lane)]
    }
}

/// What a pass is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// To see what the network has learnt: no chance, and running statistics as they are. Layers that are frozen are
    /// passed so, too, forward and backward.
    Evaluation,
    /// To learn from the rows.
    Training(Draw),
}

/// What a forward pass of one layer reads and writes.
#[derive(Debug)]
pub struct Forward<'a, T> {
    /// The layer's parameters.
    pub parameters: &'a [T],
    /// Rows x input length.
    pub inputs: &'a [T],
    /// Number of rows.
    pub rows: usize,
    /// What the pass is for.
    pub mode: Mode,
    /// At least as many elements as [`Layer::scratch_length`]; they hold whatever was there.
    pub scratch: &'a mut [T],
    /// Rows x output length.
    pub outputs: &'a mut [T],
}

/// What a backward pass of one layer reads and writes.
#[derive(Debug)]
pub struct Backward<'a, T> {
    /// The layer's parameters.
    pub parameters: &'a [T],
    /// The inputs of the forward pass, rows x input length.
    pub inputs: &'a [T],
    /// The outputs of the forward pass, rows x output length.
    pub outputs: &'a [T],
    /// Number of rows.
    pub rows: usize,
    /// What the forward pass was for.
    pub mode: Mode,
    /// As [`Forward::scratch`]; nothing is kept in it from the forward pass.
    pub scratch: &'a mut [T],
    /// The gradient by the outputs, rows x output length; the layer may overwrite it.
    pub output_gradient: &'a mut [T],
    /// Where the gradient by the inputs goes, rows x input length; `None` if nobody wants it.
    pub input_gradient: Option<&'a mut [T]>,
    /// Where the gradient by the parameters goes, summed over rows in ascending order or in an order fixed by the
    /// shapes; overwritten.
    pub gradient: &'a mut [T],
}

/// What a user writes down for a layer, before it is known what comes before it. Its options must show in the `Debug`
/// words of the layer that it makes, by which checkpoints and processes tell networks apart ([`Layer`]).
pub trait LayerSpecification<T: Scalar> {
    /// Makes the layer that comes as number `layer` after rows of shape `input`. Errors if it cannot take them.
    fn build(&self, layer: usize, input: Shape) -> Result<Box<dyn Layer<T>>>;
}

/// The forward pass of a layer whose outputs are its inputs.
fn hand_on<T: Scalar>(pass: Forward<'_, T>) -> Result<()> {
    check_length("the outputs", pass.inputs.len(), pass.outputs.len())?;
    pass.outputs.copy_from_slice(pass.inputs);
    Ok(())
}

/// Its backward pass. The gradient by the outputs stays as it is.
fn hand_back<T: Scalar>(pass: Backward<'_, T>) -> Result<()> {
    if let Some(input_gradient) = pass.input_gradient {
        check_length("the output gradient", input_gradient.len(), pass.output_gradient.len())?;
        input_gradient.copy_from_slice(pass.output_gradient);
    }
    Ok(())
}

/// Why a layer cannot be built.
fn mismatch(layer: usize, kind: &'static str, expected: impl Into<String>, got: impl Into<String>) -> Error {
    Error::Shape {
        layer,
        kind: kind.into(),
        expected: expected.into(),
        got: got.into(),
    }
}

/// The image that a layer is given, or an error if it is none.
fn image(layer: usize, kind: &'static str, input: Shape) -> Result<Image> {
    match input {
        Shape::Image(image) if input.length() > 0 => Ok(image),
        _ => Err(mismatch(
            layer,
            kind,
            "an image (channels x height x width; begin with `Image`, and flatten behind the last layer that takes one)",
            format!("{input} elements"),
        )),
    }
}

/// The shape that a layer is given, or an error if it has no elements.
fn not_empty(layer: usize, kind: &'static str, input: Shape) -> Result<Shape> {
    match input.length() {
        0 => Err(mismatch(layer, kind, "at least 1 element", input.to_string())),
        _ => Ok(input),
    }
}
