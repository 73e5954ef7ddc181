//! Training in f32 against plain loops over f64.

use distdl_dl::{Dense, Input, Loss, NeuralNetwork, Optimizer, Sgd, Targets};
use distdl_engine::ShardValues;

use crate::gradients::numbers;

/// A fully connected network with one hidden layer, written with nothing but loops over f64.
struct Reference {
    sizes: [usize; 3],
    parameters: Vec<f64>,
}

impl Reference {
    fn weight(&self, layer: usize, from: usize, to: usize) -> usize {
        let [a, b, c] = self.sizes;
        if layer == 0 {
            from * b + to
        } else {
            a * b + b + from * c + to
        }
    }

    fn bias(&self, layer: usize, to: usize) -> usize {
        let [a, b, c] = self.sizes;
        if layer == 0 { a * b + to } else { a * b + b + b * c + to }
    }

    /// One step of descent along the mean gradient of relu, softmax and cross-entropy; gives the mean loss before it.
    fn step(&mut self, rate: f64, inputs: &[f64], labels: &[u32]) -> f64 {
        let [a, b, c] = self.sizes;
        let mut gradient = vec![0.0; self.parameters.len()];
        let mut loss = 0.0;
        for (x, &label) in inputs.chunks(a).zip(labels) {
            let p = |index: usize| self.parameters[index];
            let sum = |layer, from: &[f64], to| {
                let products = from.iter().enumerate().map(|(i, v)| v * p(self.weight(layer, i, to)));
                products.sum::<f64>() + p(self.bias(layer, to))
            };
            let hidden: Vec<f64> = (0..b).map(|j| sum(0, x, j).max(0.0)).collect();
            let exponentials: Vec<f64> = (0..c).map(|k| sum(1, &hidden, k).exp()).collect();
            let total: f64 = exponentials.iter().sum();
            loss -= (exponentials[label as usize] / total).ln();
            let delta: Vec<f64> = (0..c)
                .map(|k| exponentials[k] / total - f64::from(k == label as usize))
                .collect();
            for k in 0..c {
                gradient[self.bias(1, k)] += delta[k];
                (0..b).for_each(|j| gradient[self.weight(1, j, k)] += hidden[j] * delta[k]);
            }
            for j in (0..b).filter(|&j| hidden[j] > 0.0) {
                let back: f64 = (0..c).map(|k| delta[k] * p(self.weight(1, j, k))).sum();
                gradient[self.bias(0, j)] += back;
                (0..a).for_each(|i| gradient[self.weight(0, i, j)] += x[i] * back);
            }
        }
        self.parameters
            .iter_mut()
            .zip(&gradient)
            .for_each(|(p, g)| *p -= rate * g / labels.len() as f64);
        loss / labels.len() as f64
    }
}

#[test]
fn ten_steps_in_f32_follow_a_plain_reference_in_f64() {
    let (rows, sizes) = (16, [9, 20, 5]);
    let network = NeuralNetwork::new(Input(9))
        .hidden(Dense::relu(20))
        .output(Dense::linear(5), Loss::SoftmaxCrossEntropy)
        .unwrap();
    let mut parameters = network.initialize(5).unwrap();
    let mut reference = Reference {
        sizes,
        parameters: parameters.iter().map(|&p| p.into()).collect(),
    };
    let (mut workspace, mut gradient) = (network.workspace(rows), vec![0.0; parameters.len()]);
    let mut after = gradient.clone();
    let mut losses = Vec::new();
    for step in 0..10 {
        let inputs: Vec<f32> = numbers(step % 3, rows * 9);
        let labels: Vec<u32> = (0..rows as u32).map(|row| (row * 7 + step as u32 % 3) % 5).collect();
        let report = network
            .gradient(
                &parameters,
                &inputs,
                Targets::Labels(&labels),
                rows,
                &mut workspace,
                &mut gradient,
            )
            .unwrap();
        let mut shard = ShardValues::new(&parameters, &mut after);
        let sgd = Sgd::default();
        sgd.apply(step, 0.5, 1.0 / rows as f32, &gradient, &mut shard).unwrap();
        std::mem::swap(&mut parameters, &mut after);

        let wide: Vec<f64> = inputs.iter().map(|&x| x.into()).collect();
        let expected = reference.step(0.5, &wide, &labels);
        assert!(
            (report.mean_loss() - expected).abs() < 1e-4,
            "step {step}: loss {} but {expected}",
            report.mean_loss()
        );
        for (index, (&got, expected)) in parameters.iter().zip(&reference.parameters).enumerate() {
            assert!(
                (f64::from(got) - expected).abs() < 1e-4,
                "step {step} parameter {index}: {got} but {expected}"
            );
        }
        losses.push(expected);
    }
    assert!(losses[9] < losses[0] * 0.9, "nothing was learnt: {losses:?}");
}
