//! Layers with rates of their own. What they come to is compared with PyTorch's in `tests/pytorch`.

use std::collections::BTreeMap;
use std::sync::Arc;

use distdl_dl::{Adam, Dense, Input, Loss, NeuralNetwork, TrainingOptions};
use distdl_engine::{Config, Context};

use super::{bits, samples};

/// Two layers of two tensors each.
fn network() -> NeuralNetwork {
    let network = NeuralNetwork::new(Input(6)).hidden(Dense::tanh(5));
    network.output(Dense::linear(3), Loss::SoftmaxCrossEntropy).unwrap()
}

fn train(layer_rates: BTreeMap<usize, f32>) -> distdl_dl::Result<Vec<f32>> {
    let context = Context::new(Config::default()).unwrap();
    let data = context.parallelize(samples().split(2).unwrap(), 2);
    let options = TrainingOptions {
        batch: 41,
        optimizer: Arc::new(Adam::default()),
        layer_rates,
        ..TrainingOptions::default()
    };
    let mut training = network().train(&data, options)?;
    training.iterate(1, |_| ())?;
    Ok(training.parameters().to_vec())
}

#[test]
fn a_layer_moves_by_its_factor_and_the_others_as_ever() {
    let (begin, last) = (
        network().initialize(0).unwrap(),
        network().parameter_layout().entries()[2].range.start,
    );
    let (all, some) = (train(BTreeMap::new()).unwrap(), train([(1, 0.25)].into()).unwrap());
    assert_eq!(bits(&all[..last]), bits(&some[..last]));
    for ((begin, all), some) in begin.iter().zip(&all).zip(&some).skip(last) {
        let (whole, part) = (all - begin, some - begin);
        assert!(whole != 0.0 && (part - 0.25 * whole).abs() < 1e-6, "{whole} {part}");
    }
    let by_one = train([(0, 1.0), (1, 1.0)].into()).unwrap();
    assert_eq!(bits(&by_one), bits(&all));
}

#[test]
fn a_rate_of_no_layer_or_that_is_none_is_refused() {
    for (rates, says) in [
        (
            [(2, 0.5)],
            "layer_rates names layer 2, which has no parameters or is not there; those that have some are {0, 1}",
        ),
        (
            [(0, 0.0)],
            "layer_rates multiplies the rate of layer 0 with 0; give a number above 0",
        ),
        ([(1, -0.5)], "of layer 1 with -0.5"),
        ([(1, f32::NAN)], "of layer 1 with NaN"),
    ] {
        let refused = train(rates.into()).unwrap_err().to_string();
        assert!(refused.contains(says), "{refused}");
    }
}
