//! Training step by step against PyTorch: `reference.py` writes what it makes of the same weights and samples.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod cases;

use std::collections::BTreeMap;
use std::path::Path;

use distdl::Schedule;
use serde::Deserialize;

use cases::{Case, all, images, initial, lenet};

#[derive(Deserialize)]
struct Reference {
    cases: BTreeMap<String, Losses>,
    schedules: BTreeMap<String, Vec<f64>>,
    predictions: Vec<f64>,
}

#[derive(Deserialize)]
struct Losses {
    losses: Vec<f64>,
    evaluated: f64,
}

fn folder() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/pytorch"))
}

fn reference() -> Reference {
    let text = std::fs::read_to_string(folder().join("reference.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// The most that a loss may be off.
const TOLERANCE: f64 = 1e-4;

#[test]
fn fifty_steps_have_pytorchs_losses() {
    let mut reference = reference().cases;
    for Case {
        name,
        network,
        data,
        options,
    } in all()
    {
        let expected = reference.remove(name).unwrap();
        let context = distdl::Context::new(distdl::Config::default()).unwrap();
        let lanes = options.lanes;
        let data = context.parallelize(data.split(lanes).unwrap(), lanes);
        let mut training = network.train(&data, options).unwrap();
        training.set_parameters(initial(&network)).unwrap();
        let mut losses = Vec::new();
        training
            .iterate(expected.losses.len() as u64, |step| {
                losses.push(step.report.mean_loss())
            })
            .unwrap();
        for (step, (got, expected)) in losses.iter().zip(&expected.losses).enumerate() {
            assert!(
                (got - expected).abs() < TOLERANCE,
                "{name} step {step}: {got}, PyTorch has {expected}"
            );
        }
        let (first, last) = (losses[0], losses[losses.len() - 1]);
        assert!(last < first - 0.01, "{name}: nothing was learnt");
        let evaluated = training.error(&data).unwrap().mean_loss();
        let wanted = expected.evaluated;
        assert!(
            (evaluated - wanted).abs() < TOLERANCE,
            "{name} in evaluation: {evaluated}, PyTorch has {wanted}"
        );
    }
    assert!(reference.is_empty(), "not compared: {:?}", reference.keys());
}

#[test]
fn schedules_have_pytorchs_rates() {
    let exponential = Schedule::Exponential {
        initial: 0.4,
        factor: 0.9,
    };
    let schedules = [
        (
            "step",
            Schedule::StepDecay {
                initial: 0.4,
                factor: 0.5,
                steps: 7,
            },
        ),
        (
            "multi_step",
            Schedule::MultiStep {
                initial: 0.4,
                factor: 0.3,
                milestones: vec![4, 11, 12],
            },
        ),
        ("exponential", exponential.clone()),
        (
            "cosine",
            Schedule::Cosine {
                initial: 0.4,
                minimum: 0.01,
                steps: 30,
            },
        ),
        (
            "points",
            Schedule::Points(vec![(3, 0.04), (8, 0.4), (20, 0.1), (21, 0.02)]),
        ),
        (
            "warm_up",
            Schedule::WarmUp {
                start_factor: 0.1,
                steps: 6,
                then: Box::new(exponential),
            },
        ),
    ];
    let mut reference = reference().schedules;
    for (name, schedule) in schedules {
        for (step, expected) in reference.remove(name).unwrap().into_iter().enumerate() {
            let got = f64::from(schedule.learning_rate(step as u64));
            assert!(
                (got - expected).abs() < 1e-6,
                "{name} step {step}: {got}, PyTorch has {expected}"
            );
        }
    }
    assert!(reference.is_empty(), "not compared: {:?}", reference.keys());
}

#[test]
fn a_model_that_pytorch_has_written_predicts_the_same_and_is_written_as_there() {
    let (network, path) = (lenet(), folder().join("lenet.safetensors"));
    let parameters = network.load(&path).unwrap();
    let images = images();
    let mut workspace = network.workspace(images.len() / network.input_length());
    let rows = workspace.rows_max();
    let outputs = network
        .predict_batch(&parameters, &images, rows, &mut workspace)
        .unwrap();
    let expected = reference().predictions;
    assert_eq!(outputs.len(), expected.len());
    for (got, expected) in outputs.iter().zip(expected) {
        assert!(
            (f64::from(*got) - expected).abs() < TOLERANCE,
            "{got}, PyTorch has {expected}"
        );
    }
    // What we write has the same tensors under the same names, so PyTorch loads it.
    let folder = tempfile::tempdir().unwrap();
    let own = folder.path().join("own.safetensors");
    network.save(&own, &parameters).unwrap();
    let [theirs, ours] = [&path, &own].map(|path| std::fs::read(path).unwrap());
    let [theirs, ours] = [&theirs, &ours].map(|bytes| safetensors::SafeTensors::deserialize(bytes).unwrap());
    assert_eq!(theirs.len(), ours.len());
    for (name, theirs) in theirs.tensors() {
        assert_eq!(theirs, ours.tensor(&name).unwrap(), "{name}");
    }
}
