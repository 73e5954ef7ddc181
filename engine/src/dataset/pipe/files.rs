//! Files that the command of an outside program names: what it writes depends on them.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use distdl_storage::Digest;

/// Of a longer file so many bytes count, and its length. Not the time of its change, which is another on each host.
const BYTES_MAX: u64 = 64 << 20;

/// The words of a command that are paths of files, with digests of what those hold now. A program without a `/` is
/// looked for in `PATH`, and is none; what cannot be read counts by its name alone.
pub(super) fn named(command: &[String]) -> Vec<(String, Digest)> {
    let program = command.iter().take(1).filter(|word| word.contains('/'));
    let words = program.chain(command.iter().skip(1));
    words
        .filter_map(|word| Some((word.clone(), contents(Path::new(word), BYTES_MAX).ok()??)))
        .collect()
}

/// None if it is no regular file of its own: a stream of this process may be one at times.
fn contents(path: &Path, bytes_max: u64) -> io::Result<Option<Digest>> {
    let is_stream = path.starts_with("/dev") || path.starts_with("/proc");
    // Before it is opened: a pipe would wait for who writes to it.
    if is_stream || !path.metadata()?.is_file() {
        return Ok(None);
    }
    let file = File::open(path)?;
    let mut hasher = blake3::Hasher::new();
    hasher.update(&file.metadata()?.len().to_le_bytes());
    hasher.update_reader(file.take(bytes_max))?;
    Ok(Some(*hasher.finalize().as_bytes()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{Config, Context, memo};

    #[test]
    fn a_changed_script_changes_the_keys_of_what_it_writes() {
        let folder = tempfile::tempdir().unwrap();
        let script = folder.path().join("score.sh");
        let (context, path) = (Context::new(Config::default()).unwrap(), script.to_str().unwrap());
        let keys = |program: &str, arguments: &[&str]| {
            let lines = context.range(0..4, 2).pipe(program, arguments);
            memo::digests(&context.lineage(lines.id()), lines.id()).unwrap()
        };
        std::fs::write(&script, "one").unwrap();
        let before = (keys(path, &[]), keys("sh", &[path]));
        assert_eq!((keys(path, &[]), keys("sh", &[path])), before);
        std::fs::write(&script, "two").unwrap();
        assert_ne!(keys(path, &[]), before.0, "a program by its path");
        assert_ne!(keys("sh", &[path]), before.1, "an argument");
    }

    #[test]
    fn only_files_that_are_named_by_their_paths_count() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        std::fs::write(at("words"), "x").unwrap();
        let words = [
            String::from("grep"),
            at("absent"),
            at(""),
            "/dev/null".into(),
            at("words"),
        ];
        assert_eq!(
            named(&words).iter().map(|(word, _)| word).collect::<Vec<_>>(),
            [&words[4]]
        );
        let digest = |bytes_max| contents(Path::new(&words[4]), bytes_max).unwrap();
        assert_eq!(digest(1), digest(2));
        let long = digest(1);
        std::fs::write(at("words"), "xy").unwrap();
        assert_ne!(digest(1), long, "its length counts");
    }
}
