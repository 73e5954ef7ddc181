//! Networks layer by layer, and blocks of layers that a shortcut goes round.

use std::sync::Arc;

use super::wiring::Wires;
use super::{NeuralNetwork, WiredLayer};
use crate::error::{Error, Result};
use crate::layer::{Activation, Layer, LayerSpecification, Statistics, Sum};
use crate::layout::{ParameterLayout, ParameterShape};
use crate::loss::Loss;
use crate::scalar::Scalar;
use crate::shape::Shape;

/// A network whose output is still to come.
#[must_use = "a network is made by its output"]
#[derive(Debug)]
pub struct NetworkBuilder<T: Scalar = f32> {
    input: Shape,
    /// Layers of the network before those of this builder: it may be one of a block.
    before: usize,
    layers: Vec<(Box<dyn Layer<T>>, Wires)>,
    error: Option<Error>,
}

impl<T: Scalar> NetworkBuilder<T> {
    pub(super) fn new(input: Shape) -> Self {
        Self {
            input,
            before: 0,
            layers: Vec::new(),
            error: None,
        }
    }

    /// Adds a hidden layer. An error is kept for [`NetworkBuilder::output`].
    pub fn hidden(self, layer: impl LayerSpecification<T>) -> Self {
        let (input, wires) = (self.shape(), Wires::chain(self.layers.len()));
        self.layer(&layer, input, wires)
    }

    /// Adds a residual block: what the layers of `block` make of its inputs, plus the inputs as they are. `block` adds
    /// them to the builder that it is given; they must end in the shape that they began with, which an error, kept for
    /// [`NetworkBuilder::output`], says if they do not. Nothing is applied to the sum: a rectifier, where one is
    /// wanted, is the next layer.
    ///
    /// He, Zhang, Ren and Sun, "Deep Residual Learning for Image Recognition" (2015), equation 1.
    ///
    /// ```
    /// # use distdl_dl::{Activate, Activation, BatchNorm, Conv2d, Dense, Flatten, Image, Loss, NeuralNetwork};
    /// let convolution = |channels| Conv2d::new(channels, 3).with_padding(1);
    /// let relu = Activate(Activation::Relu);
    /// let network = NeuralNetwork::new(Image { channels: 1, height: 8, width: 8 })
    ///     .hidden(convolution(4))
    ///     .residual(|block| {
    ///         let block = block.hidden(BatchNorm::default()).hidden(relu).hidden(convolution(4));
    ///         block.hidden(BatchNorm::default()).hidden(relu).hidden(convolution(4))
    ///     })
    ///     .residual_with(Conv2d::new(8, 1).with_stride(2), |block| {
    ///         block.hidden(convolution(8).with_stride(2)).hidden(relu).hidden(convolution(8))
    ///     })
    ///     .hidden(Flatten)
    ///     .output(Dense::linear(10), Loss::SoftmaxCrossEntropy)?;
    /// assert!(network.to_string().contains("sum of 7 and 1 4x8x8"), "{network}");
    /// # Ok::<(), distdl_dl::Error>(())
    /// ```
    pub fn residual(self, block: impl FnOnce(Self) -> Self) -> Self {
        let (shape, begin) = (self.shape(), self.layers.len());
        self.block(block).sum(shape, begin)
    }

    /// As [`residual`](Self::residual), but what is added to the outputs of the block is not its inputs: it is what the
    /// layer `shortcut` makes of them, such as a convolution of 1x1 windows with a stride where the block makes images
    /// smaller (equation 2 of the same paper). It must have outputs of the shape of the block's.
    pub fn residual_with(self, shortcut: impl LayerSpecification<T>, block: impl FnOnce(Self) -> Self) -> Self {
        let (input, begin) = (self.shape(), self.layers.len());
        let builder = self.block(block);
        let (shape, end) = (builder.shape(), builder.layers.len());
        let wires = Wires {
            inputs: begin,
            added: None,
        };
        builder.layer(&shortcut, input, wires).sum(shape, end)
    }

    /// Adds the output layer and the loss. Errors if a layer does not fit what comes before it, or the loss not the
    /// output.
    pub fn output(self, layer: impl LayerSpecification<T>, loss: Loss) -> Result<NeuralNetwork<T>> {
        let NetworkBuilder {
            input, layers, error, ..
        } = self.hidden(layer);
        if let Some(error) = error {
            return Err(error);
        }
        if let Some((last, _)) = layers.last() {
            loss.check_last(last_function(&layers), last.output_length())?;
        }
        let mut layout = ParameterLayout::default();
        let place = |(index, (layer, wires)): (usize, (Box<dyn Layer<T>>, Wires))| {
            let range = layout.append(index, &layer.parameter_shapes());
            WiredLayer {
                layer: layer.into(),
                wires,
                range,
                is_frozen: false,
            }
        };
        let layers = layers.into_iter().enumerate().map(place).collect();
        Ok(NeuralNetwork::of(input, layers, Arc::new(layout), loss))
    }

    /// What the next layer would be given.
    fn shape(&self) -> Shape {
        self.layers.last().map_or(self.input, |(layer, _)| layer.output_shape())
    }

    /// Adds a layer for inputs of a shape, unless there is an error already.
    fn layer(mut self, layer: &impl LayerSpecification<T>, input: Shape, wires: Wires) -> Self {
        if self.error.is_none() {
            let index = self.before + self.layers.len();
            let built = layer.build(index, input);
            match built.and_then(|layer| check(index, input, &*layer).map(|()| layer)) {
                Ok(layer) => self.layers.push((layer, wires)),
                Err(error) => self.error = Some(error),
            }
        }
        self
    }

    /// Adds the layers of a block.
    fn block(mut self, block: impl FnOnce(Self) -> Self) -> Self {
        let (input, begin) = (self.shape(), self.layers.len());
        let before = self.before + begin;
        let inner = block(Self {
            before,
            ..Self::new(input)
        });
        let refusal = |expected: &str, got: &str| Error::Shape {
            layer: before,
            kind: "block".into(),
            expected: expected.into(),
            got: got.into(),
        };
        let error = if inner.before != before || inner.input != input {
            let expected = "layers added to the builder that it is given";
            Some(refusal(expected, "another builder"))
        } else if inner.layers.is_empty() {
            inner.error.or_else(|| Some(refusal("a layer at least", "none")))
        } else {
            inner.error
        };
        let layers = inner.layers.into_iter();
        self.layers
            .extend(layers.map(|(layer, wires)| (layer, wires.behind(begin))));
        self.error = self.error.or(error);
        self
    }

    /// Adds rows of a shape, which `added` layers have made, to those of the last layer.
    fn sum(self, shape: Shape, added: usize) -> Self {
        let (input, inputs) = (self.shape(), self.layers.len());
        let added = Some(added);
        self.layer(&Sum { with: shape }, input, Wires { inputs, added })
    }
}

/// The function that is applied last, also where layers behind it hand its outputs on when the network is evaluated.
fn last_function<T: Scalar>(layers: &[(Box<dyn Layer<T>>, Wires)]) -> Activation {
    let last = layers.iter().rev().find(|(layer, _)| !layer.is_identity());
    last.map_or(Activation::Identity, |(layer, _)| layer.activation())
}

/// A layer of the user's own may be other than it should be.
fn check<T: Scalar>(index: usize, input: Shape, layer: &dyn Layer<T>) -> Result<()> {
    let wrong = |expected: String, got: String| {
        let (layer, kind) = (index, layer.kind().into());
        Err(Error::Shape {
            layer,
            kind,
            expected,
            got,
        })
    };
    if layer.input_length() != input.length() {
        let expected = format!("`input_length` to be that of what comes before it, {}", input.length());
        return wrong(expected, layer.input_length().to_string());
    }
    let shapes = layer.parameter_shapes();
    let count: usize = shapes.iter().map(ParameterShape::length).sum();
    if let Some(Statistics { range, momentum }) = layer.statistics() {
        if range.start > range.end || range.end > count {
            let expected = format!("`statistics` that lie within its {count} parameters");
            return wrong(expected, format!("the range {}..{}", range.start, range.end));
        }
        if !(0.0..=1.0).contains(&momentum) {
            return wrong("`statistics` of a momentum from 0 to 1".into(), momentum.to_string());
        }
    }
    let mut names: Vec<&str> = shapes.iter().map(|shape| shape.name).collect();
    names.sort_unstable();
    match names.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => wrong("tensors of different names".into(), format!("two named `{}`", pair[0])),
        None => Ok(()),
    }
}
