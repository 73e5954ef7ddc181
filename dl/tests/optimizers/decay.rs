//! Decay of weights alone, against plain loops over f64 that go tensor by tensor: two groups of parameters.

use std::sync::Arc;

use distdl_dl::{
    AdamW, Decay, Dense, Features, Flatten, Image, Lamb, LayerNorm, Loss, NeuralNetwork, Optimizer, Scalar, Schedule,
    Sgd, Targets, TrainingOptions,
};
use distdl_engine::{Config, Context, Placement, ShardValues};

use crate::samples;

/// A tensor in f64: (update from 0, decay, gradient, parameters, state).
type Reference = fn(f64, f64, &[f64], &mut [f64], &mut [[f64; 2]]);

const RATE: f64 = 0.05;
const DECAY: f64 = 0.4;

/// As `torch.optim.SGD` has it.
fn sgd(n: f64, decay: f64, gradient: &[f64], parameters: &mut [f64], state: &mut [[f64; 2]]) {
    for ((g, p), s) in gradient.iter().zip(parameters).zip(state) {
        let g = g + decay * *p;
        s[0] = if n == 0.0 { g } else { 0.9 * s[0] + g };
        *p -= RATE * s[0];
    }
}

/// The direction of Adam for a parameter.
fn adam(n: f64, g: f64, s: &mut [f64; 2]) -> f64 {
    *s = [0.9 * s[0] + 0.1 * g, 0.999 * s[1] + 0.001 * g * g];
    let (mean, square) = (
        s[0] / (1.0 - 0.9f64.powf(n + 1.0)),
        s[1] / (1.0 - 0.999f64.powf(n + 1.0)),
    );
    mean / (square.sqrt() + 1e-2)
}

/// As `torch.optim.AdamW` has it.
fn adam_w(n: f64, decay: f64, gradient: &[f64], parameters: &mut [f64], state: &mut [[f64; 2]]) {
    for ((g, p), s) in gradient.iter().zip(parameters).zip(state) {
        *p = *p * (1.0 - RATE * decay) - RATE * adam(n, *g, s);
    }
}

/// As its paper has it: what decays is part of the direction, and of its norm.
fn lamb(n: f64, decay: f64, gradient: &[f64], parameters: &mut [f64], state: &mut [[f64; 2]]) {
    let directions: Vec<f64> = (gradient.iter().zip(&*parameters).zip(state))
        .map(|((g, p), s)| adam(n, *g, s) + decay * p)
        .collect();
    let norm = |values: &[f64]| values.iter().map(|value| value * value).sum::<f64>().sqrt();
    let norms = (norm(parameters), norm(&directions));
    let ratio = if norms.0 > 0.0 && norms.1 > 0.0 {
        norms.0 / norms.1
    } else {
        1.0
    };
    for (p, direction) in parameters.iter_mut().zip(directions) {
        *p -= RATE * ratio * direction;
    }
}

/// With a normalisation whose scale and shift have as many sides as an image.
fn network<T: Scalar>() -> NeuralNetwork<T> {
    let image = Image {
        channels: 1,
        height: 2,
        width: 3,
    };
    let builder = NeuralNetwork::with_element(image)
        .hidden(LayerNorm::default())
        .hidden(Flatten);
    let builder = builder.hidden(Dense::tanh(5));
    builder.output(Dense::linear(3), Loss::SoftmaxCrossEntropy).unwrap()
}

/// The parameters after 30 steps of all samples by two groups, of which one decays.
fn expected(reference: Reference, begin: &[f32], decaying: &[&str]) -> Vec<f64> {
    let (network, samples) = (network::<f64>(), samples());
    let Features::F32(features) = samples.features() else {
        panic!("other features")
    };
    let inputs: Vec<f64> = features.iter().map(|feature| f64::from(*feature)).collect();
    let distdl_dl::SampleTargets::Labels(labels) = samples.targets() else {
        panic!("no labels")
    };
    let (rows, mut workspace) = (labels.len(), network.workspace(labels.len()));
    let mut parameters: Vec<f64> = begin.iter().map(|value| f64::from(*value)).collect();
    let (mut gradient, mut state) = (vec![0.0; begin.len()], vec![[0.0; 2]; begin.len()]);
    for n in 0..30 {
        let targets = Targets::Labels(labels);
        network
            .gradient(&parameters, &inputs, targets, rows, &mut workspace, &mut gradient)
            .unwrap();
        gradient.iter_mut().for_each(|value| *value /= rows as f64);
        for tensor in network.parameter_layout().entries() {
            let (range, decays) = (tensor.range.clone(), decaying.contains(&&*tensor.name));
            let decay = if decays { DECAY } else { 0.0 };
            let (gradient, state) = (&gradient[range.clone()], &mut state[range.clone()]);
            reference(n.into(), decay, gradient, &mut parameters[range], state);
        }
    }
    parameters
}

fn farthest(left: &[f32], right: &[f64]) -> f64 {
    let apart = left
        .iter()
        .zip(right)
        .map(|(left, right)| (f64::from(*left) - right).abs());
    apart.fold(0.0, f64::max)
}

#[test]
fn weights_decay_and_biases_scales_and_shifts_do_not() {
    let cases: [(Arc<dyn Optimizer>, Reference); 3] = [
        (
            Arc::new(Sgd {
                weight_decay: DECAY,
                ..Sgd::with_momentum(0.9)
            }),
            sgd,
        ),
        (
            Arc::new(AdamW {
                weight_decay: DECAY,
                eps: 1e-2,
                ..AdamW::default()
            }),
            adam_w,
        ),
        (
            Arc::new(Lamb {
                weight_decay: DECAY,
                eps: 1e-2,
                ..Lamb::default()
            }),
            lamb,
        ),
    ];
    let network = network::<f32>();
    let weights = ["layers.2.weight", "layers.3.weight"];
    let all: Vec<&str> = network
        .parameter_layout()
        .entries()
        .iter()
        .map(|entry| &*entry.name)
        .collect();
    assert_eq!(all.len(), 6);
    // Not where nothing would decay, as biases do that begin at 0.
    let begin: Vec<f32> = (0..network.parameter_count())
        .map(|index| (index as f32 * 0.37).sin())
        .collect();
    for (optimizer, reference) in cases {
        let [of_weights, of_all] = [&weights[..], &all].map(|decaying| expected(reference, &begin, decaying));
        // Shards of 11 parameters end within tensors, and between them.
        for (threads, shards) in [(1, 1), (2, 3), (3, 7)] {
            let context = Context::new(Config::default().with_threads(threads)).unwrap();
            let train = |decay| {
                let options = TrainingOptions {
                    batch: 41,
                    lanes: 1,
                    schedule: Some(Schedule::Constant(RATE as f32)),
                    optimizer: Arc::clone(&optimizer),
                    initial_parameters: Some(begin.clone().into()),
                    placement: Some(Placement {
                        lanes: vec![0],
                        shards: (0..shards).map(|shard| shard % threads).collect(),
                    }),
                    decay,
                    ..TrainingOptions::default()
                };
                let data = context.parallelize(vec![samples()], 1);
                let mut training = network.train(&data, options).unwrap();
                training.iterate(30, |_| ()).unwrap();
                training.parameters()
            };
            for (decay, right, wrong) in [
                (Decay::Weights, &of_weights, &of_all),
                (Decay::All, &of_all, &of_weights),
            ] {
                let got = train(decay);
                let (near, far) = (farthest(&got, right), farthest(&got, wrong));
                assert!(
                    near < 2e-5 && far > 0.05,
                    "{optimizer:?} {decay:?} {shards}: {near} {far}"
                );
            }
        }
    }
}

/// SGD of one's own, which may say what it is without decay.
#[derive(Debug)]
struct Own(Option<Sgd>);

impl Optimizer for Own {
    fn apply(
        &self,
        update: u64,
        rate: f32,
        scale: f32,
        sum: &[f32],
        shard: &mut ShardValues<'_>,
    ) -> distdl_dl::Result<()> {
        Sgd::default().apply(update, rate, scale, sum, shard)
    }

    fn without_decay(&self) -> Option<Arc<dyn Optimizer>> {
        self.0.map(|other| Arc::new(other) as Arc<dyn Optimizer>)
    }
}

#[test]
fn an_optimizer_of_ones_own_says_what_it_is_without_decay() {
    let context = Context::new(Config::default()).unwrap();
    let data = context.parallelize(vec![samples()], 1);
    let train = |own, decay| {
        let options = TrainingOptions {
            optimizer: Arc::new(Own(own)),
            lanes: 1,
            batch: 41,
            decay,
            ..TrainingOptions::default()
        };
        let trained = network::<f32>().train(&data, options);
        trained.and_then(|mut training| training.iterate(1, |_| ()))
    };
    train(None, Decay::All).unwrap();
    train(Some(Sgd::default()), Decay::Weights).unwrap();
    let refused = train(None, Decay::Weights).unwrap_err().to_string();
    assert!(
        refused.contains("Own(None) does not say what it is without decay"),
        "{refused}"
    );
    let refused = train(Some(Sgd::with_momentum(0.9)), Decay::Weights)
        .unwrap_err()
        .to_string();
    assert!(
        refused.contains("has (0, 0) slots and measures, and without decay"),
        "{refused}"
    );
}
