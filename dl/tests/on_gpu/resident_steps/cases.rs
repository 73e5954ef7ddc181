//! What is trained in resident steps, and should have the bits of single ones.

use std::sync::Arc;

use distdl_dl::{
    Adagrad, Adam, AdamW, Decay, Lamb, Loss, NeuralNetwork, Optimizer, RmsProp, Samples, Schedule, Sgd, TrainingOptions,
};

use crate::fixtures::{STEPS, bytes, changes, embedding, frozen, indices, network, options, small, wide};

pub(crate) type Case = (NeuralNetwork, Samples, TrainingOptions);

pub(crate) fn all() -> impl Iterator<Item = Case> {
    of_optimizers()
        .chain(of_layers())
        .chain(of_limited_lanes())
        .chain(of_changed_pictures())
        .chain(of_decaying_weights())
        .chain(of_layers_with_rates())
}

/// Options for every optimizer that has kernels for GPUs, with all of its slots.
fn optimizers() -> Vec<Arc<dyn Optimizer>> {
    vec![
        Arc::new(Sgd::default()),
        Arc::new(Sgd::with_nesterov(0.8)),
        Arc::new(Sgd {
            weight_decay: 0.01,
            ..Sgd::default()
        }),
        Arc::new(Adam::default()),
        Arc::new(AdamW {
            amsgrad: true,
            ..AdamW::default()
        }),
        Arc::new(RmsProp {
            momentum: 0.5,
            centered: true,
            ..RmsProp::default()
        }),
        Arc::new(Adagrad::default()),
        Arc::new(Lamb::default()),
    ]
}

fn of_optimizers() -> impl Iterator<Item = Case> {
    let limits = [None, Some(0.05)];
    let all = optimizers().into_iter();
    let all = all.flat_map(move |optimizer| limits.map(|limit| (optimizer.clone(), limit)));
    all.map(|(optimizer, gradient_norm_max)| {
        let options = TrainingOptions {
            optimizer,
            gradient_norm_max,
            schedule: Some(Schedule::Cosine {
                initial: 0.01,
                minimum: 0.001,
                steps: STEPS,
            }),
            ..one()
        };
        (small(Loss::SoftmaxCrossEntropy), bytes(), options)
    })
}

fn of_layers() -> impl Iterator<Item = Case> {
    let all = [one(), options(), pieces(), four(), in_turns(), lamb()].map(|options| (network(), bytes(), options));
    let kept = [one(), lamb()].map(|options| (frozen(), bytes(), options));
    let vectors = [one(), options(), pieces()].map(|options| (embedding(23), indices(), options));
    all.into_iter().chain(kept).chain(vectors)
}

/// The second has more parameters than are summed at a time.
fn of_limited_lanes() -> impl Iterator<Item = Case> {
    let all = [(network(), pieces()), (wide(), in_turns()), (frozen(), lamb())].into_iter();
    all.map(|(network, options)| {
        let options = TrainingOptions {
            lane_gradient_norm_max: Some(0.02),
            ..options
        };
        (network, bytes(), options)
    })
}

fn of_changed_pictures() -> impl Iterator<Item = Case> {
    [in_turns(), pieces()].into_iter().map(|options| {
        let options = TrainingOptions {
            augmentation: Some(changes()),
            ..options
        };
        (small(Loss::SoftmaxCrossEntropy), bytes(), options)
    })
}

fn of_decaying_weights() -> impl Iterator<Item = Case> {
    let optimizers: [Arc<dyn Optimizer>; 2] = [Arc::new(AdamW::default()), Arc::new(Lamb::default())];
    optimizers.into_iter().map(|optimizer| {
        let options = TrainingOptions {
            optimizer,
            decay: Decay::Weights,
            ..options()
        };
        (network(), bytes(), options)
    })
}

fn of_layers_with_rates() -> impl Iterator<Item = Case> {
    let optimizers: [Arc<dyn Optimizer>; 2] = [Arc::new(AdamW::default()), Arc::new(Lamb::default())];
    optimizers.into_iter().map(|optimizer| {
        let options = TrainingOptions {
            optimizer,
            decay: Decay::Weights,
            layer_rates: [(0, 0.25), (1, 3.0)].into(),
            ..options()
        };
        (network(), bytes(), options)
    })
}

fn one() -> TrainingOptions {
    TrainingOptions { lanes: 1, ..options() }
}

fn four() -> TrainingOptions {
    TrainingOptions { lanes: 4, ..options() }
}

fn pieces() -> TrainingOptions {
    TrainingOptions {
        micro_batch: Some(2),
        ..options()
    }
}

/// The lanes' shares differ from step to step.
fn in_turns() -> TrainingOptions {
    TrainingOptions { batch: 10, ..four() }
}

fn lamb() -> TrainingOptions {
    TrainingOptions {
        optimizer: Arc::new(Lamb::default()),
        gradient_norm_max: Some(0.05),
        ..options()
    }
}
