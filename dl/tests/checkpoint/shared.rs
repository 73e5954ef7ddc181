//! Two trainings that write into one folder.

use std::path::Path;

use distdl_dl::{CheckpointOptions, Resume, Schedule, TrainingOptions};

use crate::common::{bits, context};
use crate::{begin, every_4, options, refusal, undisturbed};

/// This training, and another one, which write into the same folder.
fn two(folder: &Path, resume: Resume) -> [TrainingOptions; 2] {
    let this = options(Some(CheckpointOptions {
        resume,
        ..every_4(folder)
    }));
    let other = TrainingOptions {
        schedule: Some(Schedule::Constant(0.2)),
        ..this.clone()
    };
    [this, other]
}

#[test]
fn of_two_trainings_that_begin_in_one_empty_folder_the_second_to_write_is_refused() {
    let (folder, context) = (tempfile::tempdir().unwrap(), context(1));
    let [mut this, mut other] = two(folder.path(), Resume::Auto).map(|options| begin(&context, options).unwrap());
    this.iterate(4, |_| ()).unwrap();
    for steps in [4, 1] {
        let refused = other.iterate(steps, |_| ()).map_err(|error| error.to_string());
        match (steps, refused) {
            (4, Err(refused)) => assert!(
                refused.contains("another training writes there, too: commit 0 came from it")
                    && refused.contains("schedule: ")
                    && refused.contains("give each training a folder of its own"),
                "{refused}"
            ),
            // None is due there.
            (_, refused) => assert!(refused.is_ok(), "{refused:?}"),
        }
    }
    assert!(other.iterate(3, |_| ()).is_err(), "nor is it later");
    this.iterate(5, |_| ()).unwrap();
    assert_eq!(bits(&this.parameters()), bits(&undisturbed(9).1));
}

#[test]
fn what_lies_there_between_those_of_another_training_is_gone_on_from_by_its_step() {
    let (folder, context) = (tempfile::tempdir().unwrap(), context(1));
    let options = two(folder.path(), Resume::Never);
    let [mut this, mut other] = options.map(|options| {
        let mut training = begin(&context, options).unwrap();
        training.iterate(4, |_| ()).unwrap();
        training
    });
    assert!(
        this.iterate(4, |_| ())
            .unwrap_err()
            .to_string()
            .contains("commit 1 came")
    );
    other.iterate(4, |_| ()).unwrap();
    let [newest, _] = two(folder.path(), Resume::Auto);
    assert!(refusal(newest).contains("commit 2 is of another training"));
    let [of_step, _] = two(folder.path(), Resume::Step(4));
    let mut resumed = begin(&context, of_step).unwrap();
    assert_eq!(resumed.resumed().map(|resumed| resumed.commit), Some(0));
    resumed.iterate(5, |_| ()).unwrap();
    assert_eq!(bits(&resumed.parameters()), bits(&undisturbed(9).1));
    let [of_other, _] = two(folder.path(), Resume::Step(12));
    assert!(refusal(of_other).contains("there is none of step 12"));
}

/// As after a restart, while the program that was thought to have ended still runs.
#[test]
fn the_same_training_may_write_there_twice() {
    let (folder, context) = (tempfile::tempdir().unwrap(), context(1));
    let [this, _] = two(folder.path(), Resume::Auto);
    let [mut one, mut two] = [this.clone(), this].map(|options| begin(&context, options).unwrap());
    for _ in 0..2 {
        one.iterate(4, |_| ()).unwrap();
        two.iterate(4, |_| ()).unwrap();
    }
}
