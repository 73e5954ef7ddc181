//! What can be wrong with a configuration.

use std::borrow::Cow;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Result of reading a configuration.
pub type Result<T, E = ConfigError> = std::result::Result<T, E>;

/// Why a configuration cannot be used. Each names the place and how to mend it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[non_exhaustive]
pub enum ConfigError {
    /// A key that does not exist.
    #[error("{origin}: there is no such key{}; known keys are {known}", suggested(.suggestion))]
    UnknownKey {
        /// The file and key, or the variable.
        origin: String,
        /// The nearest key, written as its place wants it.
        suggestion: Option<String>,
        /// All keys.
        known: String,
    },
    /// A value that its key does not take.
    #[error("{origin}: `{value}` is not usable; give {allowed}")]
    Value {
        /// The file and key, the variable, or the flag.
        origin: String,
        /// The value as given.
        value: String,
        /// What the key takes.
        allowed: Cow<'static, str>,
    },
    /// A configuration file that cannot be read.
    #[error("cannot read the configuration file {}: {message}; {remedy}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The system's words.
        message: String,
        /// How to mend it.
        remedy: Cow<'static, str>,
    },
    /// A configuration file that is not TOML.
    #[error("the configuration file {} is not TOML: {message}; lines look like `threads = 4` and `memory = \"2GiB\"`", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        message: String,
    },
    /// Settings that do not go together.
    #[error("{what}; {remedy}")]
    Together {
        /// Which, with their values.
        what: String,
        /// How to mend it.
        remedy: Cow<'static, str>,
    },
}

impl ConfigError {
    pub(super) fn together(what: impl Into<String>, remedy: &'static str) -> Self {
        Self::Together {
            what: what.into(),
            remedy: remedy.into(),
        }
    }
}

fn suggested(suggestion: &Option<String>) -> String {
    suggestion
        .as_ref()
        .map(|key| format!(", did you mean `{key}`?"))
        .unwrap_or_default()
}
