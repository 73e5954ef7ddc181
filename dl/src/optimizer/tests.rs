#![allow(clippy::unwrap_used)]
use super::*;

#[test]
fn sgd_goes_against_the_gradient() {
    let mut after = [f32::NAN; 3];
    let mut shard = ShardValues::new(&[1.0, 2.0, -3.0], &mut after);
    let sgd = Sgd::default();
    sgd.apply(0, 1.0, 0.5, &[2.0, 0.0, -4.0], &mut shard).unwrap();
    assert_eq!(after, [0.0, 2.0, -1.0]);
}

#[test]
fn a_gradient_parameters_or_state_of_another_length_are_refused() {
    let mut after = [1.0; 3];
    let mut shard = ShardValues::new(&[1.0; 3], &mut after);
    let sgd = Sgd::default();
    assert!(sgd.apply(0, 0.5, 1.0, &[1.0; 2], &mut shard).is_err());
    assert!(Adam::default().apply(0, 0.5, 1.0, &[1.0; 3], &mut shard).is_err());
    let mut shard = ShardValues::new(&[1.0; 2], &mut after);
    assert!(sgd.apply(0, 0.5, 1.0, &[1.0; 3], &mut shard).is_err());
    assert_eq!(after, [1.0; 3]);
}

#[test]
fn options_without_sense_are_refused_with_words() {
    let betas = |first, second| Adam {
        betas: (first, second),
        ..Adam::default()
    };
    let wrong: [(Box<dyn Optimizer>, &str); 10] = [
        (
            Box::new(Lamb {
                betas: (0.9, 1.0),
                ..Lamb::default()
            }),
            "betas lie in [0, 1)",
        ),
        (Box::new(Sgd::with_momentum(-0.1)), "may be negative"),
        (Box::new(Sgd::with_nesterov(0.0)), "Nesterov's momentum takes"),
        (
            Box::new(Sgd {
                dampening: 0.1,
                ..Sgd::with_nesterov(0.9)
            }),
            "no dampening",
        ),
        (Box::new(betas(1.0, 0.9)), "betas lie in [0, 1)"),
        (Box::new(betas(0.9, f64::NAN)), "betas: (0.9, NaN)"),
        (
            Box::new(AdamW {
                weight_decay: f64::INFINITY,
                ..AdamW::default()
            }),
            "infinite",
        ),
        (
            Box::new(AdamW {
                eps: -1.0,
                ..AdamW::default()
            }),
            "may be negative",
        ),
        (
            Box::new(RmsProp {
                alpha: 1.5,
                ..RmsProp::default()
            }),
            "alpha lies in",
        ),
        (
            Box::new(Adagrad {
                lr_decay: -1.0,
                ..Adagrad::default()
            }),
            "may be negative",
        ),
    ];
    for (optimizer, words) in wrong {
        let message = optimizer.check().unwrap_err().to_string();
        assert!(message.contains(words), "{message}");
    }
    let right: [&dyn Optimizer; 7] = [
        &Lamb::default(),
        &Sgd::default(),
        &Sgd::with_nesterov(0.9),
        &Adam::default(),
        &AdamW::default(),
        &RmsProp::default(),
        &Adagrad::default(),
    ];
    right.iter().for_each(|optimizer| optimizer.check().unwrap());
}
