//! Two trainings that write into one folder.

use std::fs;
use std::path::Path;

use distdl_dl::{CheckpointOptions, Resume, Schedule, TrainingOptions};

use crate::common::{bits, context};
use crate::{begin, commits, every_4, newest_files, options, refusal, undisturbed};

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
                refused.contains("another training writes there, too: commit 0, which has come")
                    && refused.contains("schedule: ")
                    && refused.contains("give each training a folder of its own; `network.save`"),
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
    let refused = this.iterate(4, |_| ()).unwrap_err().to_string();
    assert!(
        refused.contains("commit 1, which has come") && refused.contains("; `Resume::Step` goes on"),
        "{refused}"
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

/// A commit that is removed makes an older one the newest, which had been there all the time.
#[test]
fn a_removed_checkpoint_does_not_make_those_before_it_another_trainings_news() {
    let (folder, context) = (tempfile::tempdir().unwrap(), context(1));
    let options = two(folder.path(), Resume::Never);
    let [_, mut this] = options.map(|options| {
        let mut training = begin(&context, options).unwrap();
        training.iterate(4, |_| ()).unwrap();
        training
    });
    let [manifest, _] = newest_files(folder.path());
    assert!(manifest.ends_with("manifest-0000000001.json"));
    fs::remove_file(manifest).unwrap();
    this.iterate(4, |_| ()).unwrap();
    assert_eq!(commits(folder.path()).numbers().unwrap(), [0, 1]);
}

/// Whosever it is, it goes on from nothing.
#[test]
fn a_damaged_or_unreadable_checkpoint_of_another_training_stops_no_save() {
    for damage in [
        |manifest: &Path, _: &Path| fs::write(manifest, "{").unwrap(),
        |_: &Path, parameters: &Path| fs::write(parameters, "").unwrap(),
        |_: &Path, parameters: &Path| {
            fs::remove_file(parameters).unwrap();
            fs::create_dir(parameters).unwrap();
        },
    ] {
        let (folder, context) = (tempfile::tempdir().unwrap(), context(1));
        let [mut this, mut other] = two(folder.path(), Resume::Auto).map(|options| begin(&context, options).unwrap());
        other.iterate(4, |_| ()).unwrap();
        let [manifest, parameters] = newest_files(folder.path());
        damage(&manifest, &parameters);
        this.iterate(9, |_| ()).unwrap();
        assert_eq!(commits(folder.path()).numbers().unwrap().last(), Some(&2));
        let [same, _] = two(folder.path(), Resume::Required);
        assert_eq!(begin(&context, same).unwrap().step(), 8);
    }
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
