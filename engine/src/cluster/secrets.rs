//! What tells the processes of one cluster from all others.

use std::ffi::OsString;
use std::fmt;
use std::fs::{DirBuilder, Metadata};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

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
    /// The file of the secret that a user's processes share cannot be made.
    #[error(
        "cannot make the token file {file}: {message}; let XDG_RUNTIME_DIR or HOME name a folder of this user, or name a token file: `--token-file FILE` or DISTDL_TOKEN_FILE"
    )]
    Make {
        /// The file.
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
    /// The user has no folder of his own.
    #[error(
        "neither XDG_RUNTIME_DIR nor HOME names a folder for the secret that this user's processes share; name a token file: `--token-file FILE` or DISTDL_TOKEN_FILE"
    )]
    NoFolder,
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

    /// Those of a cluster on one host that other hosts cannot reach, started by hand without a token file. Other users
    /// of the host can reach it: so they follow from a secret that only this user can read, and that the first of his
    /// processes makes.
    ///
    /// # Errors
    /// [`SecretError`] if there is no such folder, or the secret can neither be made nor read.
    pub fn of_user() -> Result<Self, SecretError> {
        let [runtime, home] = ["XDG_RUNTIME_DIR", "HOME"].map(std::env::var_os);
        Self::kept_in(&own_folder(runtime, home).ok_or(SecretError::NoFolder)?)
    }

    fn kept_in(folder: &Path) -> Result<Self, SecretError> {
        let path = folder.join("token");
        if !path.exists() {
            let secret = random_secret()?;
            keep(folder, &path, &secret).map_err(|error| SecretError::Make {
                file: path.display().to_string(),
                message: error.to_string(),
            })?;
        }
        Self::from_file(&path)
    }
}

/// A folder of this user, from the values of the variables that name one. A batch system or `su` may hand on the former
/// of a session that is none here: then it is not there, or another user's.
fn own_folder(runtime: Option<OsString>, home: Option<OsString>) -> Option<PathBuf> {
    let named = |value: Option<OsString>| value.filter(|value| !value.is_empty()).map(PathBuf::from);
    let in_home = named(home).map(|home| home.join(".distdl"));
    let is_own = |metadata: Metadata| metadata.is_dir() && metadata.uid() == rustix::process::geteuid().as_raw();
    let runtime = named(runtime).filter(|runtime| runtime.metadata().is_ok_and(is_own));
    runtime.map(|runtime| runtime.join("distdl")).or(in_home)
}

/// Writes a secret to a file that only this user can read, whole under its name, unless another process was quicker.
fn keep(folder: &Path, path: &Path, secret: &str) -> std::io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    // Such a file is its user's alone.
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(secret.as_bytes())?;
    match file.persist_noclobber(path) {
        Err(error) if error.error.kind() != ErrorKind::AlreadyExists => Err(error.error),
        _ => Ok(()),
    }
}

/// A secret as people may write it to a token file: 256 bits from the system, in hexadecimal.
///
/// # Errors
/// [`SecretError::Random`].
pub(crate) fn random_secret() -> Result<String, SecretError> {
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
pub(crate) fn read_secret(path: &Path) -> Result<Vec<u8>, SecretError> {
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
    fn the_secret_of_a_user_is_made_once_and_is_his_alone() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let own = own_folder(Some(folder.path().into()), None).unwrap();
        let all = std::thread::scope(|scope| {
            let made: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| Secrets::kept_in(&own).unwrap()))
                .collect();
            made.into_iter().map(|made| made.join().unwrap()).collect::<Vec<_>>()
        });
        assert!(all.iter().all(|secrets| *secrets == all[0]));
        assert_ne!(all[0], Secrets::derived_from(b""));
        assert_eq!(std::fs::read_dir(&own).unwrap().count(), 1);
        for (path, mode) in [(own.clone(), 0o700), (own.join("token"), 0o600)] {
            assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, mode, "{path:?}");
        }
        let home = own_folder(Some("".into()), Some("/home/user".into()));
        assert_eq!(home, Some("/home/user/.distdl".into()));
        assert_eq!(own_folder(None, None), None);
    }

    #[test]
    fn a_folder_of_a_session_that_is_not_there_gives_way_to_the_home() {
        let folder = tempfile::tempdir().unwrap();
        let gone = folder.path().join("gone");
        let home = own_folder(Some(gone.clone().into()), Some("/home/user".into()));
        assert_eq!(home, Some("/home/user/.distdl".into()));
        assert_eq!(own_folder(Some(gone.into()), None), None);
    }

    #[test]
    fn a_secret_that_cannot_be_made_is_not_one_that_cannot_be_read() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        let error = Secrets::kept_in(&file.join("distdl")).unwrap_err().to_string();
        assert!(
            error.contains("cannot make the token file") && error.contains("--token-file FILE"),
            "{error}"
        );
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
