//! Initial values of parameters.

use crate::rng::Stream;
use crate::scalar::Scalar;
use serde::{Deserialize, Serialize};

/// How the weights of a layer begin. All are uniform, which takes no function whose bits depend on a C library.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Initialization {
    /// Limit sqrt(6 / (fan_in + fan_out)): Glorot and Bengio, "Understanding the difficulty of training deep
    /// feedforward neural networks", 2010, equation 16.
    GlorotUniform,
    /// Limit sqrt(6 / fan_in): He et al., "Delving deep into rectifiers", 2015, equation 10 (variance 2 / fan_in).
    HeUniform,
    /// Limit sqrt(1 / fan_in), for weights and biases alike: what PyTorch begins linear and convolutional layers with.
    FanInUniform,
    /// A limit of one's own.
    Uniform {
        /// Values lie in [-limit, limit).
        limit: f32,
    },
}

impl Initialization {
    /// The bound of the absolute values, for a layer with this many inputs and outputs per unit.
    pub fn limit(self, fan_in: usize, fan_out: usize) -> f32 {
        match self {
            Initialization::GlorotUniform => (6.0 / (fan_in + fan_out) as f32).sqrt(),
            Initialization::HeUniform => (6.0 / fan_in as f32).sqrt(),
            Initialization::FanInUniform => (1.0 / fan_in as f32).sqrt(),
            Initialization::Uniform { limit } => limit,
        }
    }

    /// Fills `values` from the beginning of `stream`; value n depends only on the stream's key and n.
    pub fn fill<T: Scalar>(self, fan_in: usize, fan_out: usize, mut stream: Stream, values: &mut [T]) {
        let limit = self.limit(fan_in, fan_out);
        for value in values {
            *value = T::from_f32(stream.next_symmetric() * limit);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Purpose;

    fn values(initialization: Initialization, fan_in: usize, fan_out: usize) -> Vec<f32> {
        let mut values = vec![0.0; 200_000];
        initialization.fill(
            fan_in,
            fan_out,
            Stream::new(1, Purpose::InitialValues, [0, 0]),
            &mut values,
        );
        values
    }

    #[test]
    fn mean_and_variance_are_those_of_the_papers() {
        for (initialization, expected) in [
            (Initialization::GlorotUniform, 2.0 / (784.0 + 256.0)),
            (Initialization::HeUniform, 2.0 / 784.0),
            (Initialization::FanInUniform, 1.0 / (3.0 * 784.0)),
            (Initialization::Uniform { limit: 0.3 }, 0.03),
        ] {
            let values = values(initialization, 784, 256);
            let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / values.len() as f64;
            let variance = values.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / values.len() as f64;
            let limit = initialization.limit(784, 256);
            assert!(
                mean.abs() < 0.01 * f64::sqrt(expected),
                "{initialization:?}: mean {mean}"
            );
            assert!(
                (variance / expected - 1.0).abs() < 0.01,
                "{initialization:?}: variance {variance}"
            );
            assert!(values.iter().all(|v| v.abs() <= limit));
        }
    }
}
