//! The best models are part of checkpoints.

use distdl_dl::{BestModels, CheckpointOptions, Training};

use crate::{begin, context, options};

/// What the model of each epoch is judged by: that of the second is the best.
const VALUES: [f64; 5] = [3.0, 1.0, 2.0, f64::NAN, 1.5];

fn anew() -> BestModels {
    BestModels::new(2).with_patience(4)
}

fn show(training: &mut Training, best: &mut BestModels, epochs: usize) {
    for value in &VALUES[training.epoch() as usize..epochs] {
        training.run_epoch(|_| ()).unwrap();
        best.show(*value, training).unwrap();
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
