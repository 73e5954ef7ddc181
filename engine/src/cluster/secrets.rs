//! What tells the processes of one cluster from all others.

use std::fmt;
use std::io::Read;
use std::path::Path;

use rand_core::{OsRng, TryRngCore};
use serde::{Deserialize, Serialize};

/// Fewest bytes of a secret that people choose.
const SECRET_BYTES_MIN: usize = 16;

/// Most bytes of a file with a secret.
const SECRET_BYTES_MAX: usize = 4096;

const CLUSTER_CONTEXT: &str = "DistDL 2026-11 name of a cluster, from the secret of its token file";
const TOKEN_CONTEXT: &str = "DistDL 2026-11 token of a cluster, from the secret of its token file";

/// Why there are no secrets.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SecretError {
    /// The file cannot be read.
    #[error("cannot read the token file {file}: {message}; name one that this user may read")]
    File {
        /// The file, or the standard input stream.
        file: String,
        /// The system's words.
        message: String,
    },
    /// The secret is too short or too long.
    #[error(
        "the token file {file} has {bytes} bytes, a secret has from 16 to 4096; make one with `head -c 32 /dev/urandom | base64 > token`"
    )]
    Length {
        /// The file, or the standard input stream.
        file: String,
        /// Its bytes, without white space around them; at most one more than may be.
        bytes: usize,
    },
    /// The system has no random numbers.
    #[error("the system gives no random numbers: {message}")]
    Random {
        /// The system's words.
        message: String,
    },
}

/// The name of a cluster, and what its processes show each other to be let in.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Secrets {
    /// Tells clusters apart; not secret.
    pub cluster: [u8; 16],
    /// Secret.
    pub token: [u8; 32],
}

impl fmt::Debug for Secrets {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cluster = u128::from_be_bytes(self.cluster);
        write!(formatter, "Secrets {{ cluster: {cluster:032x}, .. }}")
    }
}

impl Secrets {
    /// New ones, for a cluster whose processes are all started by one.
    ///
    /// # Errors
    /// [`SecretError::Random`].
    pub fn random() -> Result<Self, SecretError> {
        random_secret().map(|secret| Self::derived_from(secret.as_bytes()))
    }

    /// Those that follow from a secret that people gave to several hosts. All with the same secret are one cluster.
    pub fn derived_from(secret: &[u8]) -> Self {
        let mut cluster = [0; 16];
        cluster.copy_from_slice(&blake3::derive_key(CLUSTER_CONTEXT, secret)[..16]);
        let token = blake3::derive_key(TOKEN_CONTEXT, secret);
        Self { cluster, token }
    }

    /// Those of a token file; `-` is the standard input stream. White space around the secret does not count.
    ///
    /// # Errors
    /// [`SecretError::File`], [`SecretError::Length`].
    pub fn from_file(path: &Path) -> Result<Self, SecretError> {
        read_secret(path).map(|secret| Self::derived_from(&secret))
    }

    /// Those of a cluster on one host that nobody else can reach, started by hand without a token file.
    pub fn of_loopback() -> Self {
        Self::derived_from(b"")
    }
}

/// A secret as people may write it to a token file: 256 bits from the system, in hexadecimal.
///
/// # Errors
/// [`SecretError::Random`].
pub fn random_secret() -> Result<String, SecretError> {
    let mut bytes = [0; 32];
    OsRng.try_fill_bytes(&mut bytes).map_err(|error| SecretError::Random {
        message: error.to_string(),
    })?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The bytes of a token file, checked; `-` is the standard input stream.
///
/// # Errors
/// As [`Secrets::from_file`].
pub fn read_secret(path: &Path) -> Result<Vec<u8>, SecretError> {
    let is_standard_input = path == Path::new("-");
    let file = if is_standard_input {
        "on standard input".to_owned()
    } else {
        path.display().to_string()
    };
    let mut secret = Vec::new();
    let limit = SECRET_BYTES_MAX as u64 + 2;
    let outcome = if is_standard_input {
        std::io::stdin().take(limit).read_to_end(&mut secret)
    } else {
        std::fs::File::open(path).and_then(|file| file.take(limit).read_to_end(&mut secret))
    };
    match outcome {
        Err(error) => Err(SecretError::File {
            file,
            message: error.to_string(),
        }),
        Ok(_) => match secret.trim_ascii() {
            trimmed if (SECRET_BYTES_MIN..=SECRET_BYTES_MAX).contains(&trimmed.len()) => Ok(trimmed.to_vec()),
            trimmed => Err(SecretError::Length {
                file,
                bytes: trimmed.len(),
            }),
        },
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use super::*;

    #[test]
    fn a_secret_gives_the_same_everywhere_and_another_gives_others() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        std::fs::write(&path, "sixteen letters!\n").unwrap();
        let secrets = Secrets::from_file(&path).unwrap();
        assert_eq!(secrets, Secrets::derived_from(b"sixteen letters!"));
        assert_ne!(secrets.token, Secrets::derived_from(b"sixteen letters?").token);
        assert_ne!(secrets.token[..16], secrets.cluster);
        assert_ne!(Secrets::random().unwrap(), Secrets::random().unwrap());
    }

    #[test]
    fn files_that_are_no_secret_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let error = |text: &str| {
            std::fs::write(&path, text).unwrap();
            Secrets::from_file(&path).unwrap_err().to_string()
        };
        assert!(error("fifteen letters\n").contains("has 15 bytes"));
        assert!(error(&"x".repeat(SECRET_BYTES_MAX + 1)).contains("has 4097 bytes"));
        let missing = Secrets::from_file(&folder.path().join("missing"))
            .unwrap_err()
            .to_string();
        assert!(missing.contains("missing") && missing.contains("may read"), "{missing}");
    }

    #[test]
    fn logs_do_not_show_the_token() {
        let shown = format!(
            "{:?}",
            Secrets {
                cluster: [1; 16],
                token: [222; 32]
            }
        );
        assert!(
            shown.contains("0101") && !shown.contains("222") && !shown.contains("dede"),
            "{shown}"
        );
    }
}
