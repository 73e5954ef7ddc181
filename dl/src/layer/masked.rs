//! The partially connected layer: a dense one of which only some connections exist.

#[cfg(feature = "gpu")]
mod cuda;

use std::fmt::{self, Debug, Formatter};
use std::sync::Arc;

use super::{Activation, Backward, Dense, Forward, Layer, LayerSpecification, mismatch};
use crate::error::{Result, check_length};
use crate::initialization::Initialization;
use crate::layout::ParameterShape;
use crate::scalar::Scalar;
use crate::shape::Shape;

const KIND: &str = "masked dense";

/// A [`Dense`] layer of which only some connections exist; [`Dense::with_connections`] makes it.
#[derive(Clone)]
pub struct Masked {
    dense: Dense,
    connects: Arc<dyn Fn(usize, usize) -> bool + Send + Sync>,
}

impl Dense {
    /// Connects an input with an output where `connects(input, output)`, both counted from 0. The weight of what is not
    /// connected begins at 0 and counts as 0 whatever it is, and its gradient is 0. The limits of other initial values
    /// follow from the inputs that an output is connected with, and the outputs that an input is.
    ///
    /// ```
    /// # use distdl_dl::{Dense, Input, Loss, NeuralNetwork};
    /// let each_its_own = Dense::linear(2).with_connections(|input, output| input == output);
    /// let network = NeuralNetwork::new(Input(2)).output(each_its_own, Loss::MeanSquaredError)?;
    /// assert_eq!(network.parameter_count(), 4 + 2, "also of what is not connected");
    /// let mut workspace = network.workspace(1);
    /// assert_eq!(network.predict_batch(&[1.0; 6], &[3.0, 5.0], 1, &mut workspace)?, [3.0 + 1.0, 5.0 + 1.0]);
    /// # Ok::<(), distdl_dl::Error>(())
    /// ```
    #[must_use]
    pub fn with_connections(self, connects: impl Fn(usize, usize) -> bool + Send + Sync + 'static) -> Masked {
        Masked {
            dense: self,
            connects: Arc::new(connects),
        }
    }
}

impl Debug for Masked {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("Masked").field(&self.dense).finish()
    }
}

impl<T: Scalar> LayerSpecification<T> for Masked {
    fn build(&self, layer: usize, input: Shape) -> Result<Box<dyn Layer<T>>> {
        let dense: Box<dyn Layer<T>> = self.dense.build(layer, input)?;
        let (inputs, outputs) = (dense.input_length(), dense.output_length());
        let all = (0..inputs).flat_map(|input| (0..outputs).map(move |output| (input, output)));
        let connected: Vec<bool> = all.map(|(input, output)| (self.connects)(input, output)).collect();
        if !connected.contains(&true) {
            let expected = "a connection at least";
            return Err(mismatch(layer, KIND, expected, format!("none of {inputs} x {outputs}")));
        }
        Ok(Box::new(MaskedLayer {
            dense,
            initialization: self.dense.initialization(),
            connected,
        }))
    }
}

/// A [`Masked`] that knows its inputs. Its slice is that of the dense layer.
struct MaskedLayer<T> {
    dense: Box<dyn Layer<T>>,
    /// That of the dense layer.
    initialization: Initialization,
    /// For each weight whether it exists.
    connected: Vec<bool>,
}

impl<T: Scalar> Debug for MaskedLayer<T> {
    /// Tells masks apart: a checkpoint of one is none of another.
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        let mut mask = blake3::Hasher::new();
        self.connected.iter().for_each(|connected| {
            mask.update(&[u8::from(*connected)]);
        });
        formatter
            .debug_struct("MaskedLayer")
            .field("dense", &self.dense)
            .field("mask", &mask.finalize().to_hex().as_str())
            .finish()
    }
}

impl<T: Scalar> MaskedLayer<T> {
    /// Sets to 0 what belongs to no connection.
    fn mask(&self, values: &mut [T]) {
        for (value, connected) in values.iter_mut().zip(&self.connected) {
            *value = if *connected { *value } else { T::ZERO };
        }
    }

    /// Makes initial values of the dense layer those of one whose units have as many inputs, and inputs as many units,
    /// as are connected.
    fn narrow(&self, parameters: &mut [T]) {
        let (inputs, outputs) = (self.dense.input_length(), self.dense.output_length());
        let (mut fans_in, mut fans_out) = (vec![0; outputs], vec![0; inputs]);
        for (place, _) in self.connected.iter().enumerate().filter(|(_, connected)| **connected) {
            fans_in[place % outputs] += 1;
            fans_out[place / outputs] += 1;
        }
        let whole = self.initialization.limit(inputs, outputs);
        let narrow = |value: &mut T, fan_in: usize, fan_out: usize| {
            let limit = self.initialization.limit(fan_in.max(1), fan_out.max(1));
            if limit != whole {
                *value *= T::from_f32(limit / whole);
            }
        };
        let (weight, bias) = parameters.split_at_mut(self.connected.len());
        for (place, value) in weight.iter_mut().enumerate() {
            narrow(value, fans_in[place % outputs], fans_out[place / outputs]);
        }
        for (value, fan_in) in bias.iter_mut().zip(fans_in) {
            narrow(value, fan_in, outputs);
        }
    }

    /// The parameters as they count, and what is left of the scratch.
    fn masked<'a>(&self, parameters: &[T], scratch: &'a mut [T]) -> Result<(&'a [T], &'a mut [T])> {
        let wanted = parameters.len();
        check_length("the masked layer's scratch", wanted, scratch.len().min(wanted))?;
        let (masked, rest) = scratch.split_at_mut(wanted);
        masked.copy_from_slice(parameters);
        self.mask(masked);
        Ok((masked, rest))
    }
}

impl<T: Scalar> Layer<T> for MaskedLayer<T> {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn input_length(&self) -> usize {
        self.dense.input_length()
    }

    fn output_shape(&self) -> Shape {
        self.dense.output_shape()
    }

    fn parameter_shapes(&self) -> Vec<ParameterShape> {
        self.dense.parameter_shapes()
    }

    fn is_weight(&self, tensor: &ParameterShape) -> bool {
        self.dense.is_weight(tensor)
    }

    fn initialize(&self, seed: u64, layer: u64, parameters: &mut [T]) -> Result<()> {
        self.dense.initialize(seed, layer, parameters)?;
        self.narrow(parameters);
        self.mask(parameters);
        Ok(())
    }

    fn activation(&self) -> Activation {
        self.dense.activation()
    }

    fn scratch_length(&self) -> usize {
        self.connected.len() + self.dense.output_length() + self.dense.scratch_length()
    }

    #[cfg(feature = "gpu")]
    fn on_gpu(&self) -> Option<&dyn super::GpuLayer> {
        self.dense.on_gpu().map(|_| self as &dyn super::GpuLayer)
    }

    fn forward(&self, pass: Forward<'_, T>) -> Result<()> {
        let (parameters, scratch) = self.masked(pass.parameters, pass.scratch)?;
        self.dense.forward(Forward {
            parameters,
            scratch,
            ..pass
        })
    }

    fn backward(&self, pass: Backward<'_, T>) -> Result<()> {
        let (parameters, scratch) = self.masked(pass.parameters, pass.scratch)?;
        let Backward {
            inputs,
            outputs,
            rows,
            mode,
            output_gradient,
            input_gradient,
            gradient,
            ..
        } = pass;
        self.dense.backward(Backward {
            parameters,
            inputs,
            outputs,
            rows,
            mode,
            scratch,
            output_gradient,
            input_gradient,
            gradient: &mut *gradient,
        })?;
        self.mask(gradient);
        Ok(())
    }
}
