//! What is found in a folder of checkpoints: the one to go on from, and those of other trainings.

use bytes::Bytes;
use distdl_storage::remote::ObjectError;
use distdl_storage::{Commit, Commits, StorageError};
use serde::{Deserialize, Serialize};

use super::{Description, Resume, TRAINING, TrainingIdentity, blob};

/// What the process that looked for a checkpoint tells the others.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Found {
    pub(super) commit: Option<(u64, Vec<(String, Bytes)>)>,
    pub(super) passed_over: Vec<String>,
    /// Steps of which there are checkpoints, where one was asked for.
    pub(super) steps: Vec<u64>,
    /// The last number that is taken, by whatever it is.
    pub(super) last: Option<u64>,
}

impl Found {
    fn take(&mut self, commit: Commit) {
        self.commit = Some((commit.number, commit.blobs.into_iter().collect()));
        self.passed_over = commit.passed_over;
    }
}

/// Looks for the checkpoint that is to be gone on from. Of a step that is asked for it may be another training's only if
/// there is none of this one.
pub(super) fn find(commits: &Commits, resume: Resume, identity: &TrainingIdentity) -> Result<Found, StorageError> {
    let numbers = commits.numbers()?;
    let mut found = Found {
        last: numbers.last().copied(),
        ..Found::default()
    };
    let step = match resume {
        Resume::Step(step) => step,
        Resume::Never => return Ok(found),
        Resume::Auto | Resume::Required => {
            commits.latest()?.into_iter().for_each(|commit| found.take(commit));
            return Ok(found);
        }
    };
    let mut of_another = None;
    for number in numbers.into_iter().rev() {
        let commit = match commits.read(number) {
            Ok(commit) => commit,
            Err(error @ StorageError::Damaged { .. }) => {
                found.passed_over.push(error.to_string());
                continue;
            }
            Err(error) => return Err(error),
        };
        match description(&commit) {
            Ok(there) if there.step != step => found.steps.push(there.step),
            Ok(there) if there.training != *identity => _ = of_another.get_or_insert(commit),
            Ok(_) => {
                found.take(commit);
                return Ok(found);
            }
            Err(reason) => found.passed_over.push(format!("commit {number}: {reason}")),
        }
    }
    of_another.into_iter().for_each(|commit| found.take(commit));
    Ok(found)
}

/// How the training of a commit differs from one of this identity; nothing where the commit is damaged, or does not
/// tell, which a training that writes its own need not mind.
pub(super) fn differences_of(
    commits: &Commits,
    number: u64,
    identity: &TrainingIdentity,
) -> Result<Vec<String>, StorageError> {
    let there = match commits.read(number) {
        Ok(commit) => description(&commit),
        Err(
            error @ (StorageError::Damaged { .. }
            | StorageError::NoSuchCommit { .. }
            | StorageError::Object(ObjectError::NotAFile { .. })),
        ) => Err(error.to_string()),
        // The next look would be at a number of this training: the other's checkpoints would go without a word.
        Err(error) => return Err(error),
    };
    Ok(there.map_or_else(
        |reason| {
            let url = commits.url();
            tracing::warn!(number, url, "it is not known of which training a commit is: {reason}");
            Vec::new()
        },
        |there| identity.differences(&there.training),
    ))
}

fn description(commit: &Commit) -> Result<Description, String> {
    blob(&commit.blobs, TRAINING).and_then(Description::parse)
}
