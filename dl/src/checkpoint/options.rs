//! What a training is told of its checkpoints.

use std::str::FromStr;

use crate::error::{Error, Result};

/// Where and when a training writes checkpoints.
///
/// A checkpoint is a commit of [`distdl_storage::Commits`] with the blobs `training.json` (where the training stood,
/// and all that its results follow from), `parameters.safetensors`, `state.<slot>.safetensors` and, where best models
/// are kept, `best.<rank>.safetensors`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckpointOptions {
    /// A folder, which need not exist yet, or a URL such as `s3://bucket/folder` where that feature is there;
    /// `memory://` for tests. All processes of a cluster must see the same. It belongs to one training: others have
    /// folders of their own.
    pub url: String,
    /// One is written behind every step whose number is a multiple of this; 0 for none. Default 500.
    pub every_steps: u64,
    /// One is written at the end of each run ([`Training::iterate`](crate::Training::iterate) or
    /// [`run_epoch`](crate::Training::run_epoch)) as well. Default true.
    pub at_end: bool,
    /// How many are kept, each of another step; older ones are removed, and so is one of a step for which another is
    /// written, as by [`BestModels::show`](crate::BestModels::show). Default 3.
    pub keep: usize,
    /// Whether to go on from one. Default [`Resume::Auto`].
    pub resume: Resume,
}

impl CheckpointOptions {
    /// Checkpoints in a folder, with what is usual.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            every_steps: 500,
            at_end: true,
            keep: 3,
            resume: Resume::Auto,
        }
    }

    pub(crate) fn check(&self) -> Result<()> {
        match self.keep {
            0 => Err(self.error("none of them is to be kept".to_owned(), "keep at least 1")),
            _ => Ok(()),
        }
    }

    pub(super) fn error(&self, problem: String, remedy: &'static str) -> Error {
        Error::Checkpoint {
            url: self.url.clone(),
            problem,
            remedy: remedy.into(),
        }
    }
}

/// Whether a training goes on from a checkpoint.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Resume {
    /// From the newest one that is whole, if there is any.
    #[default]
    Auto,
    /// It begins anew. Checkpoints that are there are removed as new ones come.
    Never,
    /// From the newest one that is whole; without any it is an error.
    Required,
    /// From the one that was written before this step was run; without it it is an error.
    Step(u64),
}

/// What a text says that is no [`Resume`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` does not say whether to go on; use `auto`, `never`, `required` or `step:N`")]
#[non_exhaustive]
pub struct ParseResumeError {
    /// The text.
    pub text: String,
}

impl FromStr for Resume {
    type Err = ParseResumeError;

    /// Reads `auto`, `never`, `required` or `step:N`.
    fn from_str(text: &str) -> Result<Self, ParseResumeError> {
        let step = |text: &str| text.strip_prefix("step:")?.parse().ok();
        match text {
            "auto" => Ok(Self::Auto),
            "never" => Ok(Self::Never),
            "required" => Ok(Self::Required),
            _ => step(text)
                .map(Self::Step)
                .ok_or_else(|| ParseResumeError { text: text.to_owned() }),
        }
    }
}
