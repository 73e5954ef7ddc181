//! The best models are part of checkpoints.

use std::fs;

use distdl_dl::{BestModels, CheckpointOptions, Resume, Training};
use distdl_engine::cluster::chaos::Chaos;
use distdl_engine::cluster::events::{ClusterEvent, Happening};
use distdl_engine::testing::TestCluster;

use crate::{begin, commits, context, options};

/// What the model of each epoch is judged by: that of the second is the best.
const VALUES: [f64; 5] = [3.0, 1.0, 2.0, f64::NAN, 1.5];

fn anew() -> BestModels {
    BestModels::new(2).with_patience(4)
}

fn show(training: &mut Training, best: &mut BestModels, epochs: usize) {
    while best.is_due(training) || training.epoch() < epochs as u64 {
        if !best.is_due(training) {
            training.run_epoch(|_| ()).unwrap();
        }
        best.show(VALUES[training.epoch() as usize - 1], training).unwrap();
    }
}

#[test]
fn the_best_of_before_stays_the_best_when_a_program_is_started_again() {
    let context = context(2);
    let (mut undisturbed, mut expected) = (begin(&context, options(None)).unwrap(), anew());
    show(&mut undisturbed, &mut expected, VALUES.len());
    assert_eq!(expected.models()[0].step, 2 * undisturbed.steps_per_epoch());
    for stop in 0..VALUES.len() {
        let folder = tempfile::tempdir().unwrap();
        let begin = || {
            let checkpoint = CheckpointOptions {
                // What is kept of the best is no other checkpoint.
                keep: 1,
                ..CheckpointOptions::new(folder.path().to_str().unwrap())
            };
            let training = begin(&context, options(Some(checkpoint))).unwrap();
            let best = anew().resumed(&training);
            (training, best)
        };
        let (mut training, mut best) = begin();
        assert_eq!(best, anew());
        show(&mut training, &mut best, stop);
        drop(training);
        let (mut training, mut gone_on) = begin();
        assert_eq!((training.epoch(), &gone_on), (stop as u64, &best));
        let one = BestModels::new(1).resumed(&training);
        assert_eq!(one.models(), &best.models()[..stop.min(1)]);
        show(&mut training, &mut gone_on, VALUES.len());
        assert_eq!(gone_on, expected, "stopped behind epoch {stop}");
        assert_eq!(training.parameters(), undisturbed.parameters());
    }
}

#[test]
fn a_stop_between_an_epoch_and_what_it_shows_leaves_out_nothing() {
    let context = context(2);
    let (mut undisturbed, mut expected) = (begin(&context, options(None)).unwrap(), anew());
    assert!(!expected.is_due(&undisturbed), "no epoch has ended");
    show(&mut undisturbed, &mut expected, VALUES.len());
    let epoch = undisturbed.steps_per_epoch();
    for stop in 0..VALUES.len() {
        // Within an epoch nothing is due that would not have been.
        for (steps, is_due) in [(epoch, true), (epoch - 3, false)] {
            let folder = tempfile::tempdir().unwrap();
            let begin = || {
                let checkpoint = CheckpointOptions::new(folder.path().to_str().unwrap());
                let training = begin(&context, options(Some(checkpoint))).unwrap();
                let best = anew().resumed(&training);
                (training, best)
            };
            let (mut training, mut best) = begin();
            show(&mut training, &mut best, stop);
            training.iterate(steps, |_| ()).unwrap();
            drop((training, best));
            let (mut training, mut best) = begin();
            assert_eq!(best.is_due(&training), is_due, "{steps} steps behind epoch {stop}");
            show(&mut training, &mut best, VALUES.len());
            assert_eq!(best, expected, "{steps} steps behind epoch {stop}");
            assert_eq!(training.parameters(), undisturbed.parameters());
        }
    }
}

#[test]
fn what_could_not_be_written_was_not_shown() {
    let place = tempfile::tempdir().unwrap();
    let [folder, elsewhere] = ["there", "elsewhere"].map(|name| place.path().join(name));
    let context = context(1);
    let begin = || {
        let checkpoint = CheckpointOptions::new(folder.to_str().unwrap());
        begin(&context, options(Some(checkpoint))).unwrap()
    };
    let (mut training, mut best) = (begin(), anew());
    show(&mut training, &mut best, 1);
    training.run_epoch(|_| ()).unwrap();
    let before = best.clone();
    fs::rename(&folder, &elsewhere).unwrap();
    fs::write(&folder, b"a file where a folder is expected").unwrap();
    best.show(VALUES[1], &mut training).unwrap_err();
    assert_eq!(best, before);
    assert!(best.is_due(&training));
    fs::remove_file(&folder).unwrap();
    fs::rename(&elsewhere, &folder).unwrap();
    // Nor does a checkpoint that is written for something else hold it.
    training.set_rate_factor(0.5).unwrap();
    assert_eq!(anew().resumed(&begin()), before);
    training.set_rate_factor(1.0).unwrap();
    show(&mut training, &mut best, 3);
    let mut expected = anew();
    show(&mut super::begin(&context, options(None)).unwrap(), &mut expected, 3);
    assert_eq!(best, expected, "a second try counts once");
    assert_eq!(anew().resumed(&begin()), expected);
}

#[test]
fn a_checkpoint_that_was_shown_takes_the_place_of_the_one_before() {
    let folder = tempfile::tempdir().unwrap();
    let context = context(1);
    let begin = |resume| {
        let checkpoint = CheckpointOptions {
            keep: 2,
            resume,
            ..CheckpointOptions::new(folder.path().to_str().unwrap())
        };
        begin(&context, options(Some(checkpoint))).unwrap()
    };
    let (mut training, mut best) = (begin(Resume::Auto), anew());
    show(&mut training, &mut best, 1);
    let after_one = best.clone();
    show(&mut training, &mut best, 2);
    assert_eq!(commits(folder.path()).numbers().unwrap().len(), 2);
    let epoch = training.steps_per_epoch();
    let newest = begin(Resume::Step(2 * epoch));
    assert_eq!(
        (anew().resumed(&newest), newest.parameters()),
        (best, training.parameters())
    );
    let mut older = begin(Resume::Step(epoch));
    assert_eq!((older.step(), anew().resumed(&older)), (epoch, after_one.clone()));
    // It is the newest of those that are written then.
    let mut again = after_one;
    again.show(9.0, &mut older).unwrap();
    assert_eq!(commits(folder.path()).numbers().unwrap().len(), 2);
    assert_eq!(anew().resumed(&begin(Resume::Auto)), again);
}

#[test]
fn a_least_change_that_no_value_can_have_is_refused() {
    let mut training = begin(&context(1), options(None)).unwrap();
    for change in [f64::NAN, f64::INFINITY] {
        let mut best = anew().with_least_change(change);
        let message = best.show(1.0, &mut training).unwrap_err().to_string();
        assert!(message.contains(&format!("better by {change}")), "{message}");
        assert_eq!(best.shown_at(), None);
    }
}

#[test]
fn what_was_never_shown_anything_begins_anew() {
    let folder = tempfile::tempdir().unwrap();
    let context = context(1);
    let begin = || {
        let checkpoint = CheckpointOptions::new(folder.path().to_str().unwrap());
        begin(&context, options(Some(checkpoint))).unwrap()
    };
    begin().run_epoch(|_| ()).unwrap();
    let training = begin();
    assert_eq!((training.epoch(), anew().resumed(&training)), (1, anew()));
}

#[test]
fn all_processes_have_shown_the_same_whichever_dies_as_a_checkpoint_is_written() {
    const EPOCHS: usize = 3;
    let (mut undisturbed, mut expected) = (begin(&context(2), options(None)).unwrap(), anew());
    show(&mut undisturbed, &mut expected, EPOCHS);
    let mut killed = 0;
    // Two of each epoch: at its end, and with what was shown behind it.
    for (slot, checkpoint) in (0..3).flat_map(|slot| (0..2 * EPOCHS).map(move |checkpoint| (slot, checkpoint))) {
        let folder = tempfile::tempdir().unwrap();
        let chaos = Chaos::parse(&format!("kill=worker:{slot}@checkpoint:{checkpoint}")).unwrap();
        let written = folder.path().to_owned();
        let run = TestCluster::new(3).with_chaos(chaos).run(move |context| {
            let checkpoint = CheckpointOptions {
                keep: 2,
                ..CheckpointOptions::new(written.to_str().unwrap())
            };
            let mut training = begin(context, options(Some(checkpoint))).unwrap();
            let mut best = anew().resumed(&training);
            show(&mut training, &mut best, EPOCHS);
            Ok((best, training.parameters()))
        });
        let run = run.unwrap();
        let is_loss = |event: &ClusterEvent| matches!(event.what, Happening::Lost { .. });
        killed += usize::from(run.events.iter().any(is_loss));
        assert_eq!(run.results.len(), 3);
        for (best, parameters) in run.results {
            assert_eq!(best, expected, "worker {slot} dies at checkpoint {checkpoint}");
            assert_eq!(parameters, undisturbed.parameters());
        }
        assert_eq!(commits(folder.path()).numbers().unwrap().len(), 2);
    }
    assert!(killed > 0, "somebody writes them");
}
