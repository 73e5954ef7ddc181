//! A training that goes on from a checkpoint ends with the bits of one that was never disturbed.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod best;
#[path = "../common/mod.rs"]
mod common;
mod parameters;
mod rates;
mod shared;

use std::fs;
use std::path::{Path, PathBuf};

use distdl_dl::{
    BatchReport, CheckpointOptions, Features, NeuralNetwork, Resume, SampleTargets, Samples, Schedule, StepResult,
    Training, TrainingOptions,
};
use distdl_engine::cluster::chaos::Chaos;
use distdl_engine::cluster::events::{ClusterEvent, Happening};
use distdl_engine::testing::TestCluster;
use distdl_engine::{Context, Dataset};
use distdl_storage::Commits;
use distdl_storage::remote::Stores;
use proptest::prelude::*;

use common::{bits, context, failed};

const FEATURES: usize = 6;

fn samples(range: std::ops::Range<usize>) -> Samples {
    let features = range
        .clone()
        .flat_map(|sample| (0..FEATURES).map(move |index| ((sample * 7 + index * 3) % 11) as f32));
    let labels = range.map(|sample| (sample * 5 % 7 % 3) as u32);
    Samples::new(
        FEATURES,
        Features::F32(features.map(|value| value / 11.0).collect()),
        SampleTargets::Labels(labels.collect()),
    )
    .unwrap()
}

fn data(context: &Context) -> Dataset<Samples> {
    context.parallelize(samples(0..41).split(4).unwrap(), 4)
}

fn network() -> NeuralNetwork {
    NeuralNetwork::dense(FEATURES, &[5], 3).unwrap()
}

fn options(checkpoint: Option<CheckpointOptions>) -> TrainingOptions {
    TrainingOptions {
        batch: 6,
        lanes: 2,
        schedule: Some(Schedule::StepDecay {
            initial: 0.3,
            factor: 0.7,
            steps: 10,
        }),
        seed: Some(5),
        checkpoint,
        ..TrainingOptions::default()
    }
}

fn begin(context: &Context, options: TrainingOptions) -> distdl_dl::Result<Training> {
    network().train(&data(context), options)
}

/// Checkpoints in a folder, every 4 steps.
fn every_4(folder: &Path) -> CheckpointOptions {
    CheckpointOptions {
        every_steps: 4,
        at_end: false,
        ..CheckpointOptions::new(folder.to_str().unwrap())
    }
}

/// Steps with their reports, and the final parameters, of a training that nothing disturbs.
fn undisturbed(steps: u64) -> (Vec<StepResult>, Vec<f32>) {
    let context = context(1);
    let mut training = begin(&context, options(None)).unwrap();
    let mut seen = Vec::new();
    training.iterate(steps, |step| seen.push(*step)).unwrap();
    (seen, training.parameters())
}

/// Runs up to `step` from the newest checkpoint, and is gone.
fn run_to(step: u64, options: TrainingOptions) -> (Vec<StepResult>, Vec<f32>) {
    let context = context(2);
    let mut training = begin(&context, options).unwrap();
    let mut seen = Vec::new();
    let from = training.step();
    training
        .iterate(step.saturating_sub(from), |step| seen.push(*step))
        .unwrap();
    (seen, training.parameters())
}

fn commits(folder: &Path) -> Commits {
    Commits::open(&Stores::new(), folder.to_str().unwrap()).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn deaths_do_not_show(
        deaths in prop::collection::vec(0..30u64, 0..4),
        every_steps in 0..9u64,
        at_end in any::<bool>(),
        keep in 1..3usize,
    ) {
        let folder = tempfile::tempdir().unwrap();
        let (expected, parameters) = undisturbed(30);
        let checkpoint = CheckpointOptions {
            every_steps,
            at_end,
            keep,
            ..CheckpointOptions::new(folder.path().to_str().unwrap())
        };
        let mut furthest = 0;
        for death in deaths {
            let (seen, _) = run_to(death, options(Some(checkpoint.clone())));
            let from = seen.first().map_or(furthest, |step| step.step);
            if at_end || every_steps > 0 {
                let lost = furthest - from.min(furthest);
                prop_assert!(at_end && lost == 0 || !at_end && lost < every_steps, "{lost} of {furthest}");
            }
            prop_assert_eq!(&seen[..], &expected[from as usize..][..seen.len()]);
            furthest = furthest.max(death);
        }
        let (seen, last) = run_to(30, options(Some(checkpoint)));
        prop_assert_eq!(&seen[..], &expected[30 - seen.len()..]);
        prop_assert_eq!(bits(&last), bits(&parameters));
        prop_assert!(commits(folder.path()).numbers().unwrap().len() <= keep);
    }

    #[test]
    fn losses_do_not_show_in_a_cluster_that_writes_checkpoints(
        processes in 1..4u32,
        kills in prop::collection::vec((0..4u32, 0..4u64, 0..2u32), 0..4),
        threads in 1..3usize,
    ) {
        let point = |at: u64, kind: u32| if kind == 0 { format!("checkpoint:{at}") } else { format!("step:{}", 7 * at) };
        let kills: Vec<String> = kills
            .iter()
            .map(|(slot, at, kind)| format!("kill=worker:{}@{}", slot % processes, point(*at, *kind)))
            .collect();
        in_a_cluster(TestCluster { threads, ..TestCluster::new(processes) }, &kills.join(","))?;
    }
}

/// A cluster trains under faults; one process goes on from what it has left. Returns how many processes were lost.
fn in_a_cluster(cluster: TestCluster, chaos: &str) -> Result<usize, TestCaseError> {
    let folder = tempfile::tempdir().unwrap();
    let (expected, parameters) = undisturbed(18);
    let checkpoint = CheckpointOptions {
        keep: 9,
        ..every_4(folder.path())
    };
    let program = {
        let checkpoint = checkpoint.clone();
        move |context: &Context| {
            let mut training = begin(context, options(Some(checkpoint.clone()))).map_err(failed)?;
            assert!(training.resumed().is_none(), "the answer is that of the first time");
            let mut seen = Vec::new();
            for _ in 0..2 {
                training.iterate(9, |step| seen.push(*step)).map_err(failed)?;
            }
            Ok((seen, training.parameters()))
        }
    };
    let run = cluster.with_chaos(Chaos::parse(chaos).unwrap()).run(program);
    let run = run.map_err(|error| TestCaseError::fail(format!("{error} under {chaos}")))?;
    prop_assert!(!run.results.is_empty());
    for (seen, last) in &run.results {
        prop_assert_eq!(seen, &expected, "{}", chaos);
        prop_assert_eq!(bits(last), bits(&parameters), "{}", chaos);
    }
    prop_assert_eq!(commits(folder.path()).numbers().unwrap(), [0, 1, 2, 3], "each once");
    let latest = commits(folder.path()).latest().unwrap().unwrap();
    prop_assert!(latest.passed_over.is_empty());
    let (seen, last) = run_to(18, options(Some(checkpoint)));
    prop_assert_eq!(&seen[..], &expected[16..]);
    prop_assert_eq!(bits(&last), bits(&parameters));
    let lost = |event: &&ClusterEvent| matches!(event.what, Happening::Lost { .. });
    Ok(run.events.iter().filter(lost).count())
}

#[test]
fn a_writer_that_dies_between_blobs_and_manifest_is_replaced() {
    for at in 0..4 {
        let lost = (0..3)
            .map(|slot| in_a_cluster(TestCluster::new(3), &format!("kill=worker:{slot}@checkpoint:{at}")).unwrap());
        assert!(lost.sum::<usize>() > 0, "somebody writes");
    }
    let all = "kill=worker:0@checkpoint:1,kill=worker:1@checkpoint:1,kill=worker:2@checkpoint:1";
    in_a_cluster(TestCluster::new(3), all).unwrap();
}

#[test]
fn a_cluster_goes_on_from_what_another_number_of_processes_has_left() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = every_4(folder.path());
    run_to(10, options(Some(checkpoint.clone())));
    let (expected, parameters) = undisturbed(18);
    for (processes, from) in [(3, 8), (2, 16), (1, 16)] {
        let checkpoint = checkpoint.clone();
        let run = TestCluster::new(processes).with_chaos(Chaos::parse("kill=worker:0@step:13").unwrap());
        let run = run.run(move |context| {
            let mut training = begin(context, options(Some(checkpoint.clone()))).map_err(failed)?;
            let mut seen = Vec::new();
            training
                .iterate(18 - training.step(), |step| seen.push(*step))
                .map_err(failed)?;
            Ok((
                seen,
                training.parameters(),
                training.resumed().map(|resumed| resumed.step),
            ))
        });
        for (seen, last, resumed) in run.unwrap().results {
            assert_eq!((&seen[..], resumed), (&expected[from..], Some(from as u64)));
            assert_eq!(bits(&last), bits(&parameters));
        }
    }
}

/// Why a training does not begin.
fn refusal(options: TrainingOptions) -> String {
    let context = context(1);
    begin(&context, options).unwrap_err().to_string()
}

#[test]
fn a_checkpoint_of_another_training_is_refused_with_words() {
    let folder = tempfile::tempdir().unwrap();
    let same = options(Some(every_4(folder.path())));
    run_to(4, same.clone());
    let cases: [(TrainingOptions, &str); 4] = [
        (
            TrainingOptions {
                lanes: 3,
                ..same.clone()
            },
            "lanes: 2 there, 3 here",
        ),
        (
            TrainingOptions {
                seed: Some(6),
                ..same.clone()
            },
            "seed: 5 there, 6 here",
        ),
        (
            TrainingOptions {
                batch: 7,
                ..same.clone()
            },
            "batch: 6 there, 7 here",
        ),
        (
            TrainingOptions {
                schedule: Some(Schedule::Constant(0.3)),
                ..same.clone()
            },
            "Constant(0.3) here",
        ),
    ];
    for (options, words) in cases {
        let message = refusal(options);
        assert!(
            message.contains(words) && message.contains("begin anew with `Resume::Never`"),
            "{message}"
        );
        assert!(message.contains(folder.path().to_str().unwrap()), "{message}");
    }
    let context = context(1);
    let wider = NeuralNetwork::dense(FEATURES, &[9], 3).unwrap();
    let error = wider.train(&data(&context), same.clone()).unwrap_err().to_string();
    assert!(
        error.contains("part 0 of the network") && error.contains("outputs: 9"),
        "{error}"
    );
    let other = context.parallelize(samples(1..42).split(4).unwrap(), 4);
    let error = network().train(&other, same.clone()).unwrap_err().to_string();
    assert!(error.contains("hash of the data"), "{error}");
    assert_eq!(begin(&context, same).unwrap().step(), 4);
}

/// The newest manifest, and the blob of its parameters.
fn newest_files(folder: &Path) -> [PathBuf; 2] {
    let number = *commits(folder).numbers().unwrap().last().unwrap();
    let manifest = folder.join(format!("manifest-{number:010}.json"));
    let text = fs::read_to_string(&manifest).unwrap();
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    let hash = &value["manifest"]["blobs"]["parameters.safetensors"]["blake3"];
    [manifest, folder.join(format!("blob-{}", hash.as_str().unwrap()))]
}

#[test]
fn a_damaged_checkpoint_is_passed_over() {
    for which in 0..2 {
        let folder = tempfile::tempdir().unwrap();
        let same = options(Some(every_4(folder.path())));
        run_to(12, same.clone());
        let path = &newest_files(folder.path())[which];
        let mut bytes = fs::read(path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(path, bytes).unwrap();
        let context = context(1);
        let mut training = begin(&context, same.clone()).unwrap();
        let resumed = training.resumed().unwrap().clone();
        assert_eq!((training.step(), resumed.step, resumed.commit), (8, 8, 1));
        let name = path.file_name().unwrap().to_str().unwrap();
        assert!(resumed.remarks[0].contains(name), "{:?}", resumed.remarks);
        training.iterate(6, |_| ()).unwrap();
        assert_eq!(bits(&training.parameters()), bits(&undisturbed(14).1));
        // What was damaged was written again.
        assert_eq!(begin(&context, same).unwrap().step(), 12);
    }
}

/// Also where another one is asked for.
#[test]
fn a_damaged_checkpoint_does_not_hide_the_one_of_the_step_that_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let of_step = |step| {
        options(Some(CheckpointOptions {
            resume: Resume::Step(step),
            ..every_4(folder.path())
        }))
    };
    run_to(12, options(Some(every_4(folder.path()))));
    let path = &newest_files(folder.path())[0];
    let mut bytes = fs::read(path).unwrap();
    bytes[0] ^= 1;
    fs::write(path, bytes).unwrap();
    assert_eq!(begin(&context(1), of_step(4)).unwrap().step(), 4);
    let message = refusal(of_step(12));
    assert!(
        message.contains("there is none of step 12, only of [8, 4]"),
        "{message}"
    );
}

#[test]
fn without_a_whole_checkpoint_training_does_not_silently_begin_anew() {
    let folder = tempfile::tempdir().unwrap();
    let same = options(Some(every_4(folder.path())));
    run_to(4, same.clone());
    fs::write(&newest_files(folder.path())[1], b"").unwrap();
    let message = refusal(same);
    assert!(message.contains("none of its 1 commits is whole"), "{message}");
}

#[test]
fn resuming_as_it_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let with = |resume: Resume| {
        options(Some(CheckpointOptions {
            resume,
            ..every_4(folder.path())
        }))
    };
    let message = refusal(with(Resume::Required));
    assert!(message.contains("there are none, and one was required"), "{message}");
    run_to(14, with(Resume::Auto));
    let context = context(1);
    for (resume, step) in [
        (Resume::Auto, 12),
        (Resume::Required, 12),
        (Resume::Step(8), 8),
        (Resume::Step(4), 4),
        (Resume::Never, 0),
    ] {
        let mut training = begin(&context, with(resume)).unwrap();
        assert_eq!(
            (
                training.step(),
                training.resumed().map(|resumed| resumed.step).unwrap_or(0)
            ),
            (step, step)
        );
        assert_eq!(training.epoch(), step / training.steps_per_epoch());
        training.iterate(14 - step, |_| ()).unwrap();
        assert_eq!(bits(&training.parameters()), bits(&undisturbed(14).1));
    }
    let message = refusal(with(Resume::Step(9)));
    assert!(
        message.contains("there is none of step 9, only of [12, 8, 4]"),
        "{message}"
    );
    assert_eq!(
        commits(folder.path()).numbers().unwrap(),
        [5, 6, 7],
        "the newest checkpoint, written again, is the same commit; older ones become the newest"
    );
}

#[test]
fn an_epoch_that_is_gone_on_with_reports_the_steps_that_were_left() {
    let folder = tempfile::tempdir().unwrap();
    let same = options(Some(every_4(folder.path())));
    run_to(6, same.clone());
    let context = context(1);
    let mut training = begin(&context, same).unwrap();
    let total = training.run_epoch(|_| ()).unwrap();
    assert_eq!((training.step(), training.epoch()), (training.steps_per_epoch(), 1));
    let mut expected = BatchReport::default();
    undisturbed(training.step()).0[4..]
        .iter()
        .for_each(|step| expected.merge(&step.report));
    assert_eq!(total, expected);
}

#[test]
fn a_place_that_cannot_be_written_is_an_error_that_names_it() {
    let folder = tempfile::tempdir().unwrap();
    let context = context(1);
    let place = folder.path().join("place");
    let mut training = begin(&context, options(Some(every_4(&place)))).unwrap();
    fs::write(&place, b"a file where a folder is expected").unwrap();
    let error = training.iterate(10, |_| ()).unwrap_err().to_string();
    assert!(error.contains("place"), "{error}");
    assert_eq!(training.step(), 4, "the steps before it are applied");
    fs::remove_file(&place).unwrap();
    training.iterate(6, |_| ()).unwrap();
    assert_eq!(bits(&training.parameters()), bits(&undisturbed(10).1));
    assert_eq!(begin(&context, options(Some(every_4(&place)))).unwrap().step(), 8);
    let none = CheckpointOptions {
        keep: 0,
        ..every_4(&place)
    };
    assert!(refusal(options(Some(none))).contains("keep at least 1"));
}
