//! A neural network: input, hidden layers, output and loss, as a pure function of one flat parameter vector.

mod wiring;

mod builder;
mod frozen;
mod workspace;

#[cfg(feature = "gpu")]
mod gpu;

pub use self::workspace::Workspace;
use crate::error::{Error, Result, check_length};
use crate::kernels::sums::add;
use crate::layer::{Backward, Dense, Draw, Forward, Layer, Mode, Statistics};
use crate::layout::ParameterLayout;
use crate::loss::{Loss, Targets};
use crate::metrics::BatchReport;
use crate::scalar::Scalar;
use crate::shape::{Input, Shape};
pub use builder::NetworkBuilder;
#[cfg(feature = "gpu")]
pub(crate) use gpu::{GpuWorkspace, PassRows, TALLY, WorkspaceShape};
use std::fmt::{Display, Formatter};
use std::iter;
use std::ops::Range;
use std::sync::Arc;
use wiring::{GradientBuffers, Wires};

/// A network that is ready to compute. It is cheap to clone, holds no parameters, and is the same in every process that
/// built it from the same words.
///
/// A model is asked for four things, as in the paper "DistDL: a distributed deep learning service schema with GPU
/// accelerating" (2015): its *topology*, which is this type; to *iterate*, which [`train`](Self::train) begins and
/// [`Training::iterate`](crate::Training::iterate) does; and, of parameters over a dataset, for their
/// [`error`](Self::error) and for what they [`predict`](Self::predict). [`error_batch`](Self::error_batch) and
/// [`predict_batch`](Self::predict_batch) are the same of one batch, in a workspace of one's own.
///
/// ```
/// use distdl_dl::{Dense, Input, Loss, NeuralNetwork};
///
/// let network = NeuralNetwork::new(Input(784))
///     .hidden(Dense::relu(256))
///     .hidden(Dense::relu(128))
///     .output(Dense::linear(10), Loss::SoftmaxCrossEntropy)?;
/// assert_eq!(network.parameter_count(), 784 * 256 + 256 + 256 * 128 + 128 + 128 * 10 + 10);
/// # Ok::<(), distdl_dl::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct NeuralNetwork<T: Scalar = f32> {
    input: Shape,
    layers: Arc<[WiredLayer<T>]>,
    layout: Arc<ParameterLayout>,
    loss: Loss,
    /// Of the backward pass; they follow from the layers.
    buffers: Arc<GradientBuffers>,
}

/// A layer, what it reads, and where its parameters lie in the flat vector.
#[derive(Clone, Debug)]
struct WiredLayer<T> {
    layer: Arc<dyn Layer<T>>,
    wires: Wires,
    range: Range<usize>,
    /// Whether its parameters stay as they are.
    is_frozen: bool,
}

impl NeuralNetwork {
    /// Begins a network in `f32`, whose rows are an [`Input`] or an [`Image`](crate::Image).
    // A builder is what this type is made by; `Self` comes from `output`.
    #[expect(
        clippy::new_ret_no_self,
        reason = "reads as it is meant: a new network, begun at its input"
    )]
    pub fn new(input: impl Into<Shape>) -> NetworkBuilder {
        NeuralNetwork::with_element(input)
    }

    /// A dense classifier: hidden layers of the given widths with relu, `classes` logits, softmax cross-entropy. Errors
    /// if a width is 0.
    pub fn dense(input_length: usize, hidden: &[usize], classes: usize) -> Result<Self> {
        let builder = hidden.iter().fold(Self::new(Input(input_length)), |builder, width| {
            builder.hidden(Dense::relu(*width))
        });
        builder.output(Dense::linear(classes), Loss::SoftmaxCrossEntropy)
    }
}

impl<T: Scalar> WiredLayer<T> {
    /// What of its parameters no gradient changes, by place in the flat vector: running statistics, or all of a frozen
    /// layer as such that never move.
    fn not_learnt(&self) -> Option<Statistics> {
        if self.is_frozen {
            return Some(Statistics {
                range: self.range.clone(),
                momentum: 0.0,
            });
        }
        let Statistics { range, momentum } = self.layer.statistics()?;
        Some(Statistics {
            range: self.range.start + range.start..self.range.start + range.end,
            momentum,
        })
    }
}

/// Where backward passes keep gradients by outputs, if layers are views where it is said.
fn gradient_buffers<T>(layers: &[WiredLayer<T>], is_view: impl Fn(usize) -> bool) -> GradientBuffers {
    let wires: Vec<Wires> = layers.iter().map(|wired| wired.wires).collect();
    let is_learnt = |index: usize| !layers[index].is_frozen && !layers[index].range.is_empty();
    GradientBuffers::new(&wires, is_view, is_learnt)
}

impl<T: Scalar> NeuralNetwork<T> {
    /// Of layers that fit each other and the loss.
    fn of(input: Shape, layers: Arc<[WiredLayer<T>]>, layout: Arc<ParameterLayout>, loss: Loss) -> Self {
        let buffers = Arc::new(gradient_buffers(&layers, |_| false));
        Self {
            input,
            layers,
            layout,
            loss,
            buffers,
        }
    }

    /// Begins a network whose element type follows from its use.
    pub fn with_element(input: impl Into<Shape>) -> NetworkBuilder<T> {
        NetworkBuilder::new(input.into())
    }

    /// Elements of an input row.
    pub fn input_length(&self) -> usize {
        self.input.length()
    }

    /// What an input row is.
    pub fn input_shape(&self) -> Shape {
        self.input
    }

    /// Elements of an output row; the number of classes where targets are labels.
    pub fn output_length(&self) -> usize {
        self.layers
            .last()
            .map_or(self.input.length(), |wired| wired.layer.output_length())
    }

    /// Elements of a row's inputs and of all layers' outputs for it.
    pub(crate) fn row_length(&self) -> usize {
        let outputs = self.layers.iter().map(|wired| wired.layer.output_length());
        outputs.fold(self.input.length(), usize::saturating_add)
    }

    /// The loss.
    pub fn loss(&self) -> &Loss {
        &self.loss
    }

    /// What it computes, in words: layer by layer, then the loss. Equal words give equal outputs for equal parameters.
    pub(crate) fn words(&self) -> Vec<String> {
        let layers = self.layers.iter().enumerate().map(|(index, wired)| {
            let (wires, frozen) = (wired.wires.words(index), frozen::words(wired.is_frozen));
            format!("{:?}{wires}{frozen}", wired.layer)
        });
        layers.chain([format!("{:?}", self.loss)]).collect()
    }

    /// Length of the flat parameter vector.
    pub fn parameter_count(&self) -> usize {
        self.layout.parameter_count()
    }

    /// Names, shapes and places of all tensors.
    pub fn parameter_layout(&self) -> &ParameterLayout {
        &self.layout
    }

    /// Which of the parameters are running statistics that training moves, in ascending order.
    pub fn statistics(&self) -> Vec<Statistics> {
        let learning = self.layers.iter().filter(|wired| !wired.is_frozen);
        learning.filter_map(WiredLayer::not_learnt).collect()
    }

    /// Of each tensor of the layout, in order, whether it is a weight and no bias, scale or shift.
    pub(crate) fn are_weights(&self) -> Vec<bool> {
        let of_layer = |wired: &WiredLayer<T>| {
            let tensors = wired.layer.parameter_shapes().into_iter();
            tensors.map(|tensor| wired.layer.is_weight(&tensor)).collect::<Vec<_>>()
        };
        self.layers.iter().flat_map(of_layer).collect()
    }

    /// Of each tensor, in the order of the layout, the layer that it belongs to, by index.
    pub(crate) fn layers_of_tensors(&self) -> Vec<usize> {
        let layers = self.layers.iter().enumerate();
        let tensors = layers.map(|(index, wired)| iter::repeat_n(index, wired.layer.parameter_shapes().len()));
        tensors.flatten().collect()
    }

    /// Whether the gradient of any layer is mostly or all 0, as those of embeddings and frozen layers are.
    pub(crate) fn has_sparse_gradient(&self) -> bool {
        let is_sparse =
            |wired: &WiredLayer<T>| (wired.is_frozen && !wired.range.is_empty()) || wired.layer.has_sparse_gradient();
        self.layers.iter().any(is_sparse)
    }

    /// The first layer, by index and kind, whose inputs are indices, as those of an embedding; `None` if there is none.
    pub(crate) fn takes_indices(&self) -> Option<(usize, &'static str)> {
        let mut layers = self.layers.iter().enumerate();
        let (index, wired) = layers.find(|(_, wired)| wired.layer.takes_indices())?;
        Some((index, wired.layer.kind()))
    }

    /// The first layer that learns, by index and kind, and needs several rows for its statistics, if there is one.
    pub(crate) fn measures_several_rows(&self) -> Option<(usize, &'static str)> {
        let mut layers = self.layers.iter().enumerate();
        let (index, wired) = layers.find(|(_, wired)| !wired.is_frozen && !wired.layer.measures_one_row())?;
        Some((index, wired.layer.kind()))
    }

    /// Errors if the first layer cannot take some input of whole rows.
    pub(crate) fn check_inputs(&self, inputs: &mut dyn Iterator<Item = T>) -> Result<()> {
        let mut first = self.layers.iter().take(1);
        first.try_for_each(|first| first.layer.check_inputs(inputs))
    }

    /// Initial parameters: value n of a tensor depends only on (seed, layer, tensor, n). Errors if they are more than
    /// memory has.
    pub fn initialize(&self, seed: u64) -> Result<Vec<T>> {
        let (mut parameters, count) = (Vec::new(), self.parameter_count());
        parameters.try_reserve_exact(count).map_err(|_| {
            let bytes = count as u128 * size_of::<T>() as u128;
            Error::Memory(format!(
                "the network has {count} parameters, and there is no memory for their {bytes} bytes; make its layers smaller"
            ))
        })?;
        parameters.resize(count, T::ZERO);
        for (index, wired) in self.layers.iter().enumerate() {
            wired
                .layer
                .initialize(seed, index as u64, &mut parameters[wired.range.clone()])?;
        }
        Ok(parameters)
    }

    /// All buffers for up to `rows_max` rows. This is the only place where a pass's memory is allocated, but for the
    /// first [`add_gradient`](Self::add_gradient).
    pub fn workspace(&self, rows_max: usize) -> Workspace<T> {
        let scratch = self.layers.iter().map(|wired| wired.layer.scratch_length()).max();
        let (widest, scratch) = (self.widest(), scratch.unwrap_or(0));
        let buffer = |length: usize| vec![T::ZERO; rows_max * length];
        Workspace {
            rows_max,
            outputs: self
                .layers
                .iter()
                .map(|wired| buffer(wired.layer.output_length()))
                .collect(),
            gradients: (0..self.buffers.count()).map(|_| buffer(widest)).collect(),
            scratch: vec![T::ZERO; scratch],
            micro_batch_gradient: Vec::new(),
            draw: Draw::default(),
        }
    }

    /// Writes to `gradient` the sum over rows of the gradient of each row's loss by the parameters, and reports the
    /// losses.
    ///
    /// `inputs` is rows x input length; `parameters` and `gradient` are flat vectors of [`Self::parameter_count`]
    /// elements. What layers do by chance is keyed by the workspace's [draw](Workspace::set_draw): set another one for
    /// each step, or it is the same in all. Where the network has [statistics](Self::statistics), `gradient` holds what
    /// was found in the rows, times their number; it is 0 where layers are [frozen](Self::with_frozen). Errors if a
    /// length does not match, the workspace is too small, or a label is out of range. A loss that is not finite is no
    /// error here: it is in the report.
    pub fn gradient(
        &self,
        parameters: &[T],
        inputs: &[T],
        targets: Targets<'_, T>,
        rows: usize,
        workspace: &mut Workspace<T>,
        gradient: &mut [T],
    ) -> Result<BatchReport> {
        let batch = (inputs, targets, rows);
        self.gradient_from_end(parameters, batch, workspace, gradient, &mut |_, _| ())
    }

    /// As [`gradient`](Self::gradient) of a batch of inputs, targets and rows. Calls `has_end(start,
    /// gradient[start..])` as soon as that suffix is final, so that it can be sent during the backward pass.
    pub(crate) fn gradient_from_end(
        &self,
        parameters: &[T],
        (inputs, targets, rows): (&[T], Targets<'_, T>, usize),
        workspace: &mut Workspace<T>,
        gradient: &mut [T],
        has_end: &mut dyn FnMut(usize, &[T]),
    ) -> Result<BatchReport> {
        check_length("the gradient", self.parameter_count(), gradient.len())?;
        let mode = Mode::Training(workspace.draw);
        let report = self.loss_of(mode, parameters, inputs, targets, rows, workspace)?;
        let Workspace {
            outputs,
            gradients,
            scratch,
            ..
        } = workspace;
        for (index, wired) in self.layers.iter().enumerate().rev() {
            let WiredLayer {
                layer, wires, range, ..
            } = wired;
            if let Some(buffers) = self.buffers.of(index) {
                let (input_length, output_length) = (rows * layer.input_length(), rows * layer.output_length());
                let (output_gradient, input_gradient) = buffers.output_and_input(gradients);
                let input_gradient = input_gradient.map(|gradient| &mut gradient[..input_length]);
                let input_gradient = input_gradient.map(show_unwritten);
                layer.backward(Backward {
                    parameters: &parameters[range.clone()],
                    inputs: rows_of(wires.inputs, input_length, inputs, outputs),
                    outputs: &outputs[index][..output_length],
                    rows,
                    mode: self.mode_of(index, mode),
                    scratch,
                    output_gradient: &mut output_gradient[..output_length],
                    input_gradient,
                    gradient: show_unwritten(&mut gradient[range.clone()]),
                })?;
                buffers.add_up(input_length, gradients)?;
            }
            if wired.is_frozen {
                gradient[range.clone()].fill(T::ZERO);
            }
            if !range.is_empty() {
                has_end(range.start, &gradient[range.start..]);
            }
        }
        Ok(report)
    }

    /// As [`gradient`](Self::gradient), but adds to what `gradient` holds: the rows are a micro-batch of a mini-batch.
    /// Allocates a vector as long as the parameters in the workspace the first time. Where it fails, nothing is added.
    pub fn add_gradient(
        &self,
        parameters: &[T],
        inputs: &[T],
        targets: Targets<'_, T>,
        rows: usize,
        workspace: &mut Workspace<T>,
        gradient: &mut [T],
    ) -> Result<BatchReport> {
        check_length("the gradient", self.parameter_count(), gradient.len())?;
        let mut addend = std::mem::take(&mut workspace.micro_batch_gradient);
        addend.resize(gradient.len(), T::ZERO);
        let report = self.gradient(parameters, inputs, targets, rows, workspace, &mut addend);
        let report = report.and_then(|report| add(&addend, gradient).map(|()| report));
        workspace.micro_batch_gradient = addend;
        report
    }

    /// The outputs for `rows` inputs, rows x output length; probabilities where the loss takes logits. They lie in the
    /// workspace. For a dataset there is [`predict`](NeuralNetwork::predict). Errors if a length does not match or the
    /// workspace is too small.
    pub fn predict_batch<'a>(
        &self,
        parameters: &[T],
        inputs: &[T],
        rows: usize,
        workspace: &'a mut Workspace<T>,
    ) -> Result<&'a [T]> {
        let outputs = self.outputs(parameters, inputs, rows, workspace)?;
        self.loss.prediction(self.output_length(), outputs)?;
        Ok(outputs)
    }

    /// The outputs of the last layer as it gives them, for so many rows.
    pub(crate) fn outputs<'a>(
        &self,
        parameters: &[T],
        inputs: &[T],
        rows: usize,
        workspace: &'a mut Workspace<T>,
    ) -> Result<&'a mut [T]> {
        self.forward(Mode::Evaluation, parameters, inputs, rows, workspace)?;
        Ok(&mut workspace.outputs[self.layers.len() - 1][..rows * self.output_length()])
    }

    /// Loss and hits of `rows` samples, for a dataset of which [`error`](NeuralNetwork::error) asks. Errors as
    /// [`Self::gradient`] does.
    pub fn error_batch(
        &self,
        parameters: &[T],
        inputs: &[T],
        targets: Targets<'_, T>,
        rows: usize,
        workspace: &mut Workspace<T>,
    ) -> Result<BatchReport> {
        self.loss_of(Mode::Evaluation, parameters, inputs, targets, rows, workspace)
    }

    /// Loss and hits, and the gradient by the outputs where the backward pass of the last layer looks for it.
    fn loss_of(
        &self,
        mode: Mode,
        parameters: &[T],
        inputs: &[T],
        targets: Targets<'_, T>,
        rows: usize,
        workspace: &mut Workspace<T>,
    ) -> Result<BatchReport> {
        workspace.check(self, rows)?;
        self.check_targets(targets, rows)?;
        self.forward(mode, parameters, inputs, rows, workspace)?;
        let last = self.layers.len() - 1;
        let length = rows * self.output_length();
        let outputs = &workspace.outputs[last][..length];
        self.loss.gradient(
            outputs,
            targets,
            self.output_length(),
            show_unwritten(&mut workspace.gradients[GradientBuffers::LOSS][..length]),
        )
    }

    fn forward(
        &self,
        mode: Mode,
        parameters: &[T],
        inputs: &[T],
        rows: usize,
        workspace: &mut Workspace<T>,
    ) -> Result<()> {
        check_length("the parameters", self.parameter_count(), parameters.len())?;
        workspace.check(self, rows)?;
        check_length("the inputs", rows.saturating_mul(self.input_length()), inputs.len())?;
        for (index, wired) in self.layers.iter().enumerate() {
            let WiredLayer {
                layer, wires, range, ..
            } = wired;
            let (before, after) = workspace.outputs.split_at_mut(index);
            let outputs = &mut after[0][..rows * layer.output_length()];
            show_unwritten(outputs);
            layer.forward(Forward {
                parameters: &parameters[range.clone()],
                inputs: rows_of(wires.inputs, rows * layer.input_length(), inputs, before),
                rows,
                mode: self.mode_of(index, mode),
                scratch: &mut workspace.scratch,
                outputs: &mut *outputs,
            })?;
            if let Some(added) = wires.added {
                add(rows_of(added, outputs.len(), inputs, before), outputs)?;
            }
        }
        Ok(())
    }

    fn check_targets(&self, targets: Targets<'_, T>, rows: usize) -> Result<()> {
        match targets {
            Targets::Labels(labels) => check_length("the labels", rows, labels.len()),
            // How many values it takes, that one knows.
            Targets::Values(_) if self.loss.as_own().is_some() => Ok(()),
            Targets::Values(values) => check_length("the target values", rows * self.output_length(), values.len()),
        }
    }
}

/// `784 -> dense 256 relu -> dense 10 identity, softmax_cross_entropy`: the same words for the same topology. A layer
/// that reads other rows than those of the layer before it says which, by the number of the layer that makes them, from
/// 1; 0 is the network's input.
impl<T: Scalar> Display for NeuralNetwork<T> {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}", self.input)?;
        for (index, WiredLayer { layer, wires, .. }) in self.layers.iter().enumerate() {
            write!(
                formatter,
                " -> {}{} {} {}",
                layer.kind(),
                wires.words(index),
                layer.output_shape(),
                layer.activation().name()
            )?;
        }
        write!(formatter, ", {}", self.loss.name())
    }
}

/// In programs with debug assertions makes what a layer, a loss or an optimizer is to write NaN, so that it shows if one
/// of the user's own does not.
pub(crate) fn show_unwritten<T: Scalar>(values: &mut [T]) -> &mut [T] {
    if cfg!(debug_assertions) {
        values.fill(T::from_f64(f64::NAN));
    }
    values
}

/// The first so many elements of the rows that are named so.
fn rows_of<'a, T>(name: usize, length: usize, inputs: &'a [T], outputs: &'a [Vec<T>]) -> &'a [T] {
    name.checked_sub(1).map_or(inputs, |layer| &outputs[layer][..length])
}
