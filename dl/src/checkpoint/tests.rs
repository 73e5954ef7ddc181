//! What a checkpoint holds, and when one is due.
#![allow(clippy::unwrap_used, clippy::expect_used)]
use super::*;
use crate::{Features, NeuralNetwork, SampleTargets, Samples};
use distdl_engine::Config;
use std::collections::BTreeSet;

fn identity() -> TrainingIdentity {
    TrainingIdentity {
        network: vec!["a".to_owned(), "b".to_owned()],
        optimizer: "Sgd".to_owned(),
        schedule: "Constant(0.1)".to_owned(),
        staleness: "Synchronous".to_owned(),
        compression: "None".to_owned(),
        batch: 8,
        micro_batch: None,
        augmentation: "None".to_owned(),
        lanes: 2,
        seed: u64::MAX,
        initial: None,
        lane_samples: vec![20, 21],
        data: "0123456789abcdef".to_owned(),
    }
}

fn checkpoints(every_steps: u64, at_end: bool, resume: Resume) -> Checkpoints {
    let options = CheckpointOptions {
        every_steps,
        at_end,
        resume,
        ..CheckpointOptions::new("memory://run")
    };
    Checkpoints::new(options, identity(), "")
}

#[test]
fn every_difference_is_named() {
    type Change = fn(&mut TrainingIdentity);
    let changes: [(Change, &str); 10] = [
        (
            |identity| identity.network[1] = "c".to_owned(),
            "part 1 of the network: c there, b here",
        ),
        (
            |identity| identity.network.truncate(1),
            "part 1 of the network: nothing there, b here",
        ),
        (
            |identity| identity.optimizer = "Adam".to_owned(),
            "optimizer: Adam there, Sgd here",
        ),
        (|identity| identity.batch = 9, "batch: 9 there, 8 here"),
        (
            |identity| identity.micro_batch = Some(2),
            "micro_batch: Some(2) there, None here",
        ),
        (
            |identity| identity.augmentation = "other".to_owned(),
            "augmentation: other there, None here",
        ),
        (|identity| identity.lanes = 3, "lanes: 3 there, 2 here"),
        (|identity| identity.seed = 7, "seed: 7 there"),
        (
            |identity| identity.lane_samples[0] = 1,
            "samples of each lane: [1, 21] there, [20, 21] here",
        ),
        (
            |identity| identity.data = "f".repeat(64),
            "ffffffffffff there, 0123456789ab here",
        ),
    ];
    for (change, words) in changes {
        let mut there = identity();
        change(&mut there);
        let differences = identity().differences(&there);
        assert_eq!(differences.len(), 1, "{differences:?}");
        assert!(differences[0].contains(words), "{differences:?}");
    }
    assert!(identity().differences(&identity()).is_empty());
}

#[test]
fn a_fact_that_is_not_there_is_none_that_may_be_guessed() {
    let description = Description {
        format: FORMAT,
        step: 3,
        epoch: 1,
        state_slots: 0,
        state_begin: 0,
        rate_factor: 1.0,
        best: None,
        training: identity(),
        kernels: kernels(Level::best(), ""),
    };
    let mut json = serde_json::to_value(&description).unwrap();
    let parse = |json: serde_json::Value| Description::parse(json.to_string().as_bytes());
    assert_eq!(parse(json.clone()), Ok(description));
    for missing in [
        "/rate_factor",
        "/training/staleness",
        "/training/compression",
        "/training/augmentation",
    ] {
        let (within, name) = missing.rsplit_once('/').unwrap();
        let mut json = json.clone();
        let within = json.pointer_mut(within).unwrap();
        within.as_object_mut().unwrap().remove(name).unwrap();
        let problem = parse(json).unwrap_err();
        assert!(problem.contains(&format!("missing field `{name}`")), "{problem}");
    }
    json["best"] = serde_json::to_value(BestModels::new(1)).unwrap();
    assert!(parse(json.clone()).is_ok());
    for within in ["", "/training", "/best"] {
        let mut json = json.clone();
        let fields = json.pointer_mut(within).unwrap().as_object_mut().unwrap();
        fields.insert("warmth".to_owned(), 7.into());
        let problem = parse(json).unwrap_err();
        assert!(problem.contains("unknown field `warmth`"), "{problem}");
    }
}

#[test]
fn one_is_due_at_multiples_and_at_the_end() {
    let every = checkpoints(5, true, Resume::Auto);
    assert_eq!([0, 4, 5, 12].map(|step| every.next_after(step)), [5, 5, 10, 15]);
    assert_eq!(
        [0, 4, 5, 12].map(|step| every.is_due(step, false)),
        [false, false, true, false]
    );
    assert!(every.is_due(12, true) && !checkpoints(5, false, Resume::Auto).is_due(12, true));
    let never = checkpoints(0, false, Resume::Auto);
    assert_eq!((never.next_after(7), never.is_due(7, true)), (u64::MAX, false));
    assert_eq!(every.next_after(u64::MAX), u64::MAX);
}

#[test]
fn state_of_the_optimizer_comes_back_and_its_absence_is_an_error() {
    let context = Context::new(Config::default()).unwrap();
    let network = NeuralNetwork::dense(3, &[2], 2).unwrap();
    let layout = network.parameter_layout();
    let values = network.initialize(3).unwrap();
    let parameters = Parameters::with_state(values.clone(), 2).unwrap();
    let state = |slot: usize| {
        (0..values.len())
            .map(|index| (10 * slot + index) as f32)
            .collect::<Vec<f32>>()
    };
    (0..2).for_each(|slot| parameters.install_state(0, slot, 0, &state(slot)).unwrap());
    let contents = CheckpointContents {
        step: 30,
        epoch: 4,
        state_begin: 1,
        rate_factor: 0.1,
        best: None,
        layout: layout.clone(),
        parameters: Arc::new(parameters),
    };
    checkpoints(5, true, Resume::Auto).save(&context, contents).unwrap();
    let loaded = checkpoints(5, true, Resume::Required)
        .load(&context, layout, 2)
        .unwrap()
        .unwrap();
    let latest = loaded.parameters.latest();
    assert_eq!((loaded.step, loaded.state_begin, &latest[..]), (30, 1, &values[..]));
    assert_eq!(loaded.rate_factor, 0.1);
    assert_eq!(
        (latest.state(0).unwrap(), latest.state(1).unwrap()),
        (&state(0)[..], &state(1)[..])
    );
    let error = checkpoints(5, true, Resume::Auto)
        .load(&context, layout, 1)
        .err()
        .unwrap()
        .to_string();
    assert!(
        error.contains("kept 2 values for every parameter, this one keeps 1"),
        "{error}"
    );
}

#[test]
fn what_is_no_checkpoint_of_this_format_is_refused() {
    let context = Context::new(Config::default()).unwrap();
    let commits = Commits::open(context.stores(), "memory://run").unwrap();
    let network = NeuralNetwork::dense(3, &[2], 2).unwrap();
    for (text, words) in [
        (
            &br#"{"format":2}"#[..],
            "it is of format 2, this program knows 3; write",
        ),
        (b"{}", "training.json cannot be read"),
        (br#"{"format":3}"#, "training.json cannot be read: missing field"),
    ] {
        let blobs = BTreeMap::from([(TRAINING.to_owned(), Bytes::from_static(text))]);
        commits.begin(&blobs).unwrap().publish().unwrap();
        let mut checkpoints = checkpoints(5, true, Resume::Auto);
        let error = checkpoints.load(&context, network.parameter_layout(), 0).err().unwrap();
        assert!(error.to_string().contains(words), "{error}");
    }
    commits.begin(&BTreeMap::new()).unwrap().publish().unwrap();
    let error = checkpoints(5, true, Resume::Auto)
        .load(&context, network.parameter_layout(), 0)
        .err()
        .unwrap();
    assert!(error.to_string().contains("it has no training.json"), "{error}");
}

#[test]
fn words_for_resuming() {
    for (text, resume) in [
        ("auto", Resume::Auto),
        ("never", Resume::Never),
        ("required", Resume::Required),
        ("step:12", Resume::Step(12)),
    ] {
        assert_eq!(text.parse(), Ok(resume));
    }
    for text in ["", "step:", "step:-1", "AUTO"] {
        let error = text.parse::<Resume>().unwrap_err();
        assert_eq!(error.text, text);
        let allowed = "use `auto`, `never`, `required` or `step:N`";
        assert!(error.to_string().ends_with(allowed), "{error}");
    }
}

#[test]
fn processors_whose_products_have_the_same_bits_are_called_the_same() {
    let words: BTreeSet<String> = Level::available().map(|level| kernels(level, "")).collect();
    let levels = if cfg!(target_arch = "x86_64") {
        Level::available().count().min(2)
    } else {
        1
    };
    assert_eq!(words.len(), levels, "{words:?}");
}

#[test]
fn another_version_is_told_and_no_reason_not_to_go_on() {
    let context = Context::new(Config::default()).unwrap();
    let network = NeuralNetwork::dense(3, &[2], 2).unwrap();
    let contents = CheckpointContents {
        step: 30,
        epoch: 4,
        state_begin: 1,
        rate_factor: 1.0,
        best: None,
        layout: network.parameter_layout().clone(),
        parameters: Arc::new(Parameters::new(network.initialize(3).unwrap())),
    };
    let mut writer = checkpoints(5, true, Resume::Auto);
    let own = env!("CARGO_PKG_VERSION");
    writer.kernels = writer.kernels.replace(own, "0.0.1");
    writer.save(&context, contents).unwrap();
    let mut reader = checkpoints(5, true, Resume::Required);
    reader.load(&context, network.parameter_layout(), 0).unwrap().unwrap();
    let remarks = &reader.resumed().unwrap().remarks;
    assert!(
        remarks.len() == 1 && remarks[0].contains("DistDL 0.0.1") && remarks[0].contains(&format!("DistDL {own}")),
        "{remarks:?}"
    );
}

/// A training goes on with the data that it began with, or not at all.
#[test]
fn samples_of_another_shape_kind_or_scale_have_another_hash() {
    let bytes = |scale| Features::U8 {
        bytes: vec![0, 0, 128, 63, 0, 0, 0, 64],
        scale,
    };
    let labels = |count| SampleTargets::Labels(vec![0; count]);
    let values = |length, count: usize| SampleTargets::Values {
        length,
        values: vec![0.0; count],
    };
    let all = [
        (8, bytes(1.0), labels(1)),
        (8, bytes(0.5), labels(1)),
        (4, bytes(1.0), labels(2)),
        (2, Features::F32(vec![1.0, 2.0]), labels(1)),
        (1, Features::F32(vec![1.0, 2.0]), labels(2)),
        (1, Features::F32(vec![1.0, 2.0]), values(1, 2)),
        (1, Features::F32(vec![1.0, 2.0]), values(2, 4)),
        (1, Features::F32(vec![1.0, 2.0]), SampleTargets::None),
    ];
    let hash = |(length, features, targets): (usize, Features, SampleTargets)| {
        let mut hasher = blake3::Hasher::new();
        hash_samples(&mut hasher, &Samples::new(length, features, targets).unwrap());
        hasher.finalize().to_hex().to_string()
    };
    let count = all.len();
    assert_eq!(all.into_iter().map(hash).collect::<BTreeSet<_>>().len(), count);
}
