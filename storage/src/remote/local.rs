//! Plain files, by the operating system's own calls: no runtime, no copy.

use std::fs::{DirEntry, File, Metadata};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use glob::Pattern;
use walkdir::WalkDir;

use super::pattern::{MATCHING, has_wildcard, hidden};
use crate::durable;
use crate::object::{Object, ObjectError, remedy};

type Result<T> = std::result::Result<T, ObjectError>;

/// More than what a file system counts times of changes in: kernels set a clock for it up to every 10 ms, and some
/// write it down in whole seconds, FAT in two.
const TICK: Duration = Duration::from_millis(20);
const TICK_OF_SECONDS: Duration = Duration::from_secs(2);

/// How often a file is looked at again that is written to all the time.
const SETTLING_MAX: usize = 3;

pub(super) fn failed(path: &Path, action: &'static str, error: &io::Error) -> ObjectError {
    let url = path.display().to_string();
    match error.kind() {
        ErrorKind::NotFound => ObjectError::NotFound { url },
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => ObjectError::NoPermission { url, action },
        ErrorKind::IsADirectory => ObjectError::NotAFile { url, found: "a folder" },
        ErrorKind::AlreadyExists | ErrorKind::DirectoryNotEmpty => ObjectError::AlreadyExists { url },
        _ => ObjectError::Io {
            url,
            action,
            message: error.to_string(),
            remedy: remedy(error),
        },
    }
}

/// The files that `pattern` names: a file, a folder's files, or what its wildcards match.
pub(super) fn list(pattern: &str) -> Result<Vec<Object>> {
    let pattern = &spelled(pattern);
    let path = Path::new(pattern);
    match path.metadata() {
        Ok(metadata) if metadata.is_dir() => folder(path),
        Ok(metadata) => Ok(vec![listed(path, metadata, || self::metadata(path))?]),
        Err(error) if absent(&error) && has_wildcard(pattern) => matches(pattern),
        Err(error) if absent(&error) && !path.is_symlink() => Err(ObjectError::NotFound { url: pattern.clone() }),
        Err(error) => Err(unfollowed(path, &error)),
    }
}

/// A path or pattern without the parts that say nothing, so that a file has one name however it is found: `./a//./b/`
/// is `a/b/`.
pub(super) fn spelled(pattern: &str) -> String {
    let parts = pattern.split('/').filter(|part| !matches!(*part, "" | "."));
    let parts = parts.collect::<Vec<&str>>().join("/");
    let begin = if pattern.starts_with('/') { "/" } else { "" };
    match (begin, parts.is_empty()) {
        ("", true) => ".".to_owned(),
        (_, true) => begin.to_owned(),
        (_, false) if pattern.ends_with('/') || pattern.ends_with("/.") => format!("{begin}{parts}/"),
        (_, false) => format!("{begin}{parts}"),
    }
}

fn matches(pattern: &str) -> Result<Vec<Object>> {
    let mut objects = Vec::new();
    for path in paths(pattern)? {
        let path = path?;
        if hidden(&path.to_string_lossy(), pattern) {
            continue;
        }
        let metadata = metadata(&path)?;
        match metadata.is_dir() {
            true => objects.extend(folder(&path)?),
            false => objects.push(listed(&path, metadata, || self::metadata(&path))?),
        }
    }
    Ok(objects)
}

/// The paths that `pattern` matches. `glob` would find them too, but it follows links that lead back to where it comes
/// from, round and round, finds nothing hidden by any pattern, and panics at names that are not UTF-8.
fn paths(pattern: &str) -> Result<Box<dyn Iterator<Item = Result<PathBuf>>>> {
    match pattern.split('/').any(|part| part == "**") {
        true => below(pattern),
        false => Ok(Box::new(level_by_level(pattern)?.into_iter().map(Ok))),
    }
}

fn compiled(pattern: &str) -> Result<Pattern> {
    Pattern::new(pattern).map_err(|error| ObjectError::invalid_name(pattern, error))
}

/// The paths that a pattern without a part `**` matches. With a slash at its end it is of folders.
fn level_by_level(pattern: &str) -> Result<Vec<PathBuf>> {
    compiled(pattern)?;
    let mut found = vec![PathBuf::from(if pattern.starts_with('/') { "/" } else { "" })];
    for part in pattern.split('/').filter(|part| !part.is_empty()) {
        let folders = std::mem::take(&mut found).into_iter();
        for folder in folders.map(only_folder).filter_map(Result::transpose) {
            let folder = folder?;
            match has_wildcard(part) {
                true => children(&folder, part, &mut found)?,
                false => found.extend(there(folder.join(part))?),
            }
        }
    }
    match pattern.ends_with('/') {
        true => found
            .into_iter()
            .map(only_folder)
            .filter_map(Result::transpose)
            .collect(),
        false => Ok(found),
    }
}

/// A path in a folder if there is something, which may be a link that leads nowhere.
fn there(path: PathBuf) -> Result<Option<PathBuf>> {
    match path.symlink_metadata() {
        Ok(_) => Ok(Some(path)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed(&path, "look at it", &error)),
    }
}

/// A path if it is of a folder. The empty one is of the working directory.
fn only_folder(path: PathBuf) -> Result<Option<PathBuf>> {
    if path.as_os_str().is_empty() {
        return Ok(Some(path));
    }
    match path.metadata() {
        Ok(metadata) => Ok(metadata.is_dir().then_some(path)),
        // It concerns nobody who does not mean it.
        Err(error) if leads_nowhere(&error, &path) => Ok(None),
        Err(error) => Err(failed(&path, "look at it", &error)),
    }
}

/// Appends the paths in `folder` whose names match `part`.
fn children(folder: &Path, part: &str, found: &mut Vec<PathBuf>) -> Result<()> {
    let pattern = compiled(part)?;
    let here = if folder.as_os_str().is_empty() {
        Path::new(".")
    } else {
        folder
    };
    let fail = |error: io::Error| failed(here, "list it", &error);
    for entry in here.read_dir().map_err(fail)? {
        let name = entry.map_err(fail)?.file_name();
        let text = name.to_string_lossy();
        if pattern.matches_with(&text, MATCHING) && !hidden(&text, part) {
            found.push(folder.join(&name));
        }
    }
    Ok(())
}

/// The same for a pattern with a part `**`. With a slash at its end it is of folders.
fn below(pattern: &str) -> Result<Box<dyn Iterator<Item = Result<PathBuf>>>> {
    let spelled = pattern.trim_end_matches('/').to_owned();
    let (whole, only_folders) = (compiled(&spelled)?, spelled.len() < pattern.len());
    let plain = spelled.split_inclusive('/').take_while(|part| !has_wildcard(part));
    let mut begin: String = plain.collect();
    // Each level of folders until any number of them may come.
    let levels = spelled[begin.len()..].split('/').take_while(|part| *part != "**");
    let levels = levels.map(compiled).collect::<Result<Vec<Pattern>>>()?;
    let above = if begin.is_empty() { "./" } else { "" };
    if begin.is_empty() {
        ".".clone_into(&mut begin);
    }
    let may_lead = Rc::new(move |depth: usize, path: &Path| {
        let (Some(level), Some(name)) = (depth.checked_sub(1), path.file_name()) else {
            return true;
        };
        let name = name.to_string_lossy();
        let fits = levels
            .get(level)
            .is_none_or(|level| level.matches_with(&name, MATCHING));
        fits && !hidden(&name, &spelled)
    });
    let leads = Rc::clone(&may_lead);
    let entries = WalkDir::new(begin).follow_links(true).into_iter();
    let entries = entries.filter_entry(move |entry| leads(entry.depth(), entry.path()));
    let paths = entries.filter_map(move |entry| match entry {
        Ok(entry) => {
            let is_folder = entry.file_type().is_dir();
            let path = entry.into_path();
            let path = path.strip_prefix(above).map(Path::to_owned).unwrap_or(path);
            // Where it begins in the working directory, that is not among what it finds.
            let is_found = !path.as_os_str().is_empty() && whole.matches_with(&path.to_string_lossy(), MATCHING);
            (is_found && (is_folder || !only_folders)).then_some(Ok(path))
        }
        Err(error) => {
            let path = error.path().unwrap_or(Path::new("")).to_owned();
            let concerns = match error.depth() {
                0 => error.io_error().is_none_or(|error| !absent(error)),
                // A link that leads nowhere is no folder, and concerns nobody who does not mean it.
                depth => {
                    may_lead(depth, &path)
                        && (!error.io_error().is_some_and(|error| leads_nowhere(error, &path))
                            || whole.matches_with(&path.to_string_lossy(), MATCHING))
                }
            };
            let is_circle = error.loop_ancestor().is_some();
            (concerns && !is_circle).then(|| {
                Err(metadata(&path)
                    .err()
                    .unwrap_or_else(|| failed(&path, "list it", &error.into())))
            })
        }
    });
    Ok(Box::new(paths))
}

/// Whether it is for its own sake that a path cannot be followed, and not for want of a permission.
fn leads_nowhere(error: &io::Error, path: &Path) -> bool {
    error.kind() == ErrorKind::NotFound || path.is_symlink() && error.kind() != ErrorKind::PermissionDenied
}

/// Whether nothing is there: a file on the way is no folder, and so holds nothing, as in a store.
fn absent(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

/// What a listed path leads to.
fn metadata(path: &Path) -> Result<Metadata> {
    path.metadata().map_err(|error| unfollowed(path, &error))
}

fn unfollowed(path: &Path, error: &io::Error) -> ObjectError {
    match path.read_link() {
        Ok(target) if leads_nowhere(error, path) => ObjectError::BrokenLink {
            url: path.display().to_string(),
            target: target.display().to_string(),
        },
        _ => failed(path, "look at it", error),
    }
}

fn folder(path: &Path) -> Result<Vec<Object>> {
    let mut objects = Vec::new();
    for entry in path.read_dir().map_err(|error| failed(path, "list it", &error))? {
        let entry = entry.map_err(|error| failed(path, "list it", &error))?;
        if hidden(&entry.file_name().to_string_lossy(), "") {
            continue;
        }
        let path = entry.path();
        let path = path.strip_prefix(".").unwrap_or(&path);
        let metadata = entry_metadata(&entry, path)?;
        if metadata.is_file() {
            objects.push(listed(path, metadata, || entry_metadata(&entry, path))?);
        }
    }
    Ok(objects)
}

/// What an entry of a folder, whose path is `path`, leads to. Its path may lead into another folder meanwhile, which
/// has replaced this one: with the metadata of this one, who reads it learns that it has changed.
pub(super) fn entry_metadata(entry: &DirEntry, path: &Path) -> Result<Metadata> {
    match entry.metadata() {
        Ok(metadata) if metadata.is_symlink() => self::metadata(path),
        Ok(metadata) => Ok(metadata),
        Err(error) => Err(failed(path, "look at it", &error)),
    }
}

/// A file as it is listed. One that says that it is empty, and is not, would be read as if it were.
fn listed(path: &Path, metadata: Metadata, again: impl Fn() -> Result<Metadata>) -> Result<Object> {
    let listed = object(path, &settled(metadata, again))?;
    if listed.bytes > 0 || !holds_bytes(path) {
        return Ok(listed);
    }
    // It may have been written to meanwhile.
    let again = || self::metadata(path);
    let now = object(path, &settled(again()?, again))?;
    if now.bytes > 0 {
        return Ok(now);
    }
    let remedy = "its length is 0, and yet it holds bytes, as files of /proc do; copy it, and read the copy";
    Err(ObjectError::unsupported(&now.url, remedy))
}

/// What a file is once its next change shows: one in the same tick of the clock as the last would leave it the same
/// time, and if it leaves the same length too, who comes later would take what is kept of the old contents for the new.
/// A file that is gone by then is as it was: who reads it learns that.
fn settled(mut metadata: Metadata, again: impl Fn() -> Result<Metadata>) -> Metadata {
    for _ in 0..SETTLING_MAX {
        let changed = metadata.modified().ok().filter(|_| metadata.is_file());
        let Some(left) = changed.and_then(|changed| until_settled(changed, SystemTime::now())) else {
            break;
        };
        std::thread::sleep(left);
        match again() {
            Ok(now) if now.is_file() => metadata = now,
            _ => break,
        }
    }
    metadata
}

/// How long it takes until a change would show; `None` if one does now. A time far ahead was set by somebody, and a
/// change would set another.
fn until_settled(changed: SystemTime, now: SystemTime) -> Option<Duration> {
    let since = changed.duration_since(UNIX_EPOCH).unwrap_or_default();
    let tick = match since.subsec_nanos() {
        0 => TICK_OF_SECONDS,
        _ => TICK,
    };
    let left = changed.checked_add(tick)?.duration_since(now).ok()?;
    (!left.is_zero() && left <= 2 * tick).then_some(left)
}

/// Whether something can be read of a file. One that cannot be opened is left to who reads it.
fn holds_bytes(path: &Path) -> bool {
    let mut options = File::options();
    options.read(true);
    // Some files of the kernel hold up who reads them until there is something.
    std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, rustix::fs::OFlags::NONBLOCK.bits() as i32);
    match options.open(path).and_then(|mut file| file.read(&mut [0])) {
        Ok(bytes) => bytes > 0,
        Err(error) => error.kind() == ErrorKind::WouldBlock,
    }
}

fn object(path: &Path, metadata: &Metadata) -> Result<Object> {
    let url = path
        .to_str()
        .ok_or_else(|| ObjectError::invalid_name(&path.to_string_lossy(), "it is not UTF-8"))?;
    if !metadata.is_file() {
        let found = if metadata.is_dir() {
            "a folder"
        } else {
            "no regular file"
        };
        return Err(ObjectError::NotAFile {
            url: url.to_owned(),
            found,
        });
    }
    let version = metadata.modified().ok().map(version_of);
    Ok(Object {
        url: url.to_owned(),
        bytes: metadata.len(),
        version,
    })
}

/// The bytes of `range`, or all, of a file that must be as it was listed.
pub(super) fn read(listed: &Object, path: &str, range: Option<Range<u64>>) -> Result<Bytes> {
    let path = Path::new(path);
    let mut file = File::open(path).map_err(|error| failed(path, "read it", &error))?;
    let metadata = file.metadata().map_err(|error| failed(path, "read it", &error))?;
    listed.check_same(&object(path, &metadata)?)?;
    let range = listed.checked_range(range)?;
    let length = usize::try_from(range.end - range.start)
        .map_err(|error| ObjectError::invalid_name(&listed.url, format!("more bytes than memory has: {error}")))?;
    let mut bytes = vec![0; length];
    let read = file
        .seek(SeekFrom::Start(range.start))
        .and_then(|_| file.read_exact(&mut bytes))
        .and_then(|()| file.metadata());
    // It may have been written to meanwhile.
    let metadata = read.map_err(|error| failed(path, "read it", &error))?;
    listed.check_same(&object(path, &metadata)?)?;
    Ok(bytes.into())
}

/// The folder that holds `path`, made if it is not there.
pub(super) fn parent(path: &Path) -> Result<PathBuf> {
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    durable::create_folders(parent).map_err(|error| failed(parent, "create the folder", &error))?;
    Ok(parent.to_owned())
}

/// Writes the whole file or nothing, durably, and makes the folders that lead to it. Replaces what was there.
pub(super) fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    if path.is_dir() {
        return Err(ObjectError::NotAFile {
            url: path.display().to_string(),
            found: "a folder",
        });
    }
    let parent = parent(path)?;
    replace(path, &parent, bytes)?;
    sync_folder(&parent)
}

/// A temporary file beside `path`, in its `parent`, is filled, synced and renamed.
pub(super) fn replace(path: &Path, parent: &Path, bytes: &[u8]) -> Result<()> {
    let fail = |error: &io::Error| failed(path, "write it", error);
    let mut file = temporary(0o666).tempfile_in(parent).map_err(|error| fail(&error))?;
    file.write_all(bytes)
        .and_then(|()| file.as_file().sync_all())
        .map_err(|error| fail(&error))?;
    file.persist(path).map_err(|error| fail(&error.error))?;
    Ok(())
}

/// Makes renames and new names in `path` survive a power cut.
pub(super) fn sync_folder(path: &Path) -> Result<()> {
    durable::sync_folder(path).map_err(|error| failed(path, "sync the folder", &error))
}

/// Hidden names, so that no listing takes an unfinished file for input, and the permissions that the user's mask
/// leaves.
pub(super) fn temporary(mode: u32) -> tempfile::Builder<'static, 'static> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".distdl-").suffix(".unfinished");
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(mode));
    builder
}

/// That of a file which was changed then. Some archives give files times before 1970.
fn version_of(changed: SystemTime) -> String {
    let (sign, since) = match changed.duration_since(UNIX_EPOCH) {
        Ok(since) => ("", since),
        Err(before) => ("-", before.duration()),
    };
    format!("{sign}{}.{:09}", since.as_secs(), since.subsec_nanos())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_shows_once_the_tick_of_the_last_one_is_over() {
        let now = UNIX_EPOCH + Duration::from_millis(1_000_000_300);
        let [second, long] = [300, 3000].map(|millis| now - Duration::from_millis(millis));
        let fine = now - Duration::from_millis(5);
        assert_eq!(until_settled(fine, now), Some(TICK - Duration::from_millis(5)));
        assert_eq!(until_settled(now - TICK, now), None);
        assert_eq!(
            until_settled(second, now),
            Some(TICK_OF_SECONDS - Duration::from_millis(300))
        );
        assert_eq!(until_settled(second - TICK_OF_SECONDS, now), None);
        assert_eq!(until_settled(long, now), None);
        // A clock that is a little ahead, and times that were set by hand.
        assert_eq!(until_settled(now + TICK, now), Some(2 * TICK));
        for far in [Duration::from_secs(60), Duration::from_secs(1 << 40)] {
            assert_eq!(until_settled(now + far, now), None);
        }
        assert_eq!(until_settled(UNIX_EPOCH - Duration::from_secs(1), now), None);
    }
}
