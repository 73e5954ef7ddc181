//! What processes that share a folder have added to it, so that each learns of it without looking through the folder.
//!
//! A file of entries of one length, which is appended to until it is full. The first one is drawn and stands for no
//! file: by it each process knows whether the journal is still the one that it has read. Losing it, or some of it,
//! costs fetches and nothing else.

use std::fs::{self, File};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::bloom::Digest;

const ENTRY_BYTES: usize = 40;

/// Longest journal, in bytes. One that has reached it starts anew, and whoever had not read it to its end looks through
/// the folder.
const JOURNAL_BYTES_MAX: u64 = 64 << 20;

/// Longest file that an entry stands for, in bytes. What counts too much is counted anew before anything is evicted.
const ENTRY_FILE_BYTES_MAX: u64 = 1 << 40;

/// What a journal begins with.
type Header = [u8; ENTRY_BYTES];

#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    /// Of the journal that has been read, if there was one.
    header: Option<Header>,
    /// How far it has been read, in bytes.
    position: u64,
}

/// What others have added.
#[derive(Debug, Default)]
pub(super) struct News {
    pub(super) keys: Vec<Digest>,
    pub(super) bytes: u64,
    /// Whether there was more, which can no longer be read.
    pub(super) incomplete: bool,
}

impl Journal {
    /// From its present end on.
    pub(super) fn at_end(path: &Path) -> Self {
        // In this order: a journal that starts anew between is known by its header.
        let found = File::open(path).and_then(|mut file| Ok((header(&mut file)?, file.metadata()?.len())));
        let (header, bytes) = found.unwrap_or_default();
        Self {
            path: path.to_owned(),
            header,
            position: header.map_or(0, |_| whole(bytes)),
        }
    }

    /// Starts it anew. Nobody else may be using the folder.
    pub(super) fn clear(path: &Path) {
        // If it stays, it is read to its end and no more.
        let _ = fs::remove_file(path);
    }

    /// What was added since the last call.
    pub(super) fn news(&mut self) -> News {
        // What cannot be read now is read later.
        self.read().unwrap_or_default()
    }

    fn read(&mut self) -> io::Result<News> {
        let mut file = File::open(&self.path)?;
        let Some(header) = header(&mut file)? else {
            return Ok(News::default());
        };
        // Another one, by a process that found the folder gone or was alone in it, or the old one was full.
        let is_other = self.header != Some(header);
        let position = if is_other { ENTRY_BYTES as u64 } else { self.position };
        file.seek(SeekFrom::Start(position))?;
        let mut bytes = Vec::new();
        file.take(JOURNAL_BYTES_MAX).read_to_end(&mut bytes)?;
        let (entries, _) = bytes.as_chunks::<ENTRY_BYTES>();
        let mut news = News {
            incomplete: is_other && self.header.is_some(),
            ..News::default()
        };
        self.header = Some(header);
        self.position = position + (entries.len() * ENTRY_BYTES) as u64;
        for entry in entries {
            let Some((key, length)) = entry.split_first_chunk::<32>() else {
                continue;
            };
            // Whatever stands there, it must not count for more than a file can hold.
            let length = length
                .try_into()
                .map_or(0, u64::from_le_bytes)
                .min(ENTRY_FILE_BYTES_MAX);
            news.keys.push(*key);
            news.bytes = news.bytes.saturating_add(length);
        }
        Ok(news)
    }

    /// Writes down what was added, by one process at a time that has read all the news.
    pub(super) fn append(&mut self, added: &[(Digest, u64)]) {
        // If it cannot be written, others learn of it at their next survey.
        let _ = self.write(added);
    }

    fn write(&mut self, added: &[(Digest, u64)]) -> io::Result<()> {
        let mut file = File::options().append(true).create(true).open(&self.path)?;
        let found_bytes = file.metadata()?.len();
        // A process that was killed as it wrote leaves part of an entry, which would put those behind it out of step.
        let whole_bytes = match found_bytes < JOURNAL_BYTES_MAX {
            true => whole(found_bytes),
            false => 0,
        };
        if whole_bytes < found_bytes {
            file.set_len(whole_bytes)?;
        }
        let begun = (whole_bytes == 0).then(drawn);
        let mut bytes: Vec<u8> = begun.into_iter().flatten().collect();
        for (key, length) in added {
            bytes.extend_from_slice(key);
            bytes.extend_from_slice(&length.to_le_bytes());
        }
        file.write_all(&bytes)?;
        // Entries that could not be read before this are still to be read, with one's own.
        if self.position == whole(found_bytes) {
            self.header = begun.or(self.header);
            self.position = whole_bytes + bytes.len() as u64;
        }
        Ok(())
    }
}

/// What a file begins with; nothing as long as it is not there.
fn header(file: &mut File) -> io::Result<Option<Header>> {
    let mut header = [0; ENTRY_BYTES];
    match file.read_exact(&mut header) {
        Ok(()) => Ok(Some(header)),
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error),
    }
}

/// A header that no other journal has.
fn drawn() -> Header {
    let state = RandomState::new();
    let mut header = [0; ENTRY_BYTES];
    for (number, bytes) in header.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        *bytes = state.hash_one(number).to_le_bytes();
    }
    header
}

/// The bytes of whole entries.
fn whole(bytes: u64) -> u64 {
    bytes - bytes % ENTRY_BYTES as u64
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    fn keys(journal: &mut Journal) -> Vec<u8> {
        journal.news().keys.iter().map(|key| key[0]).collect()
    }

    #[test]
    fn each_learns_what_the_others_have_added() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        let (mut one, mut other) = (Journal::at_end(&path), Journal::at_end(&path));
        one.append(&[([1; 32], 10), ([2; 32], 20)]);
        assert_eq!(other.news().bytes, 30);
        other.append(&[([3; 32], 5)]);
        assert_eq!((keys(&mut one), keys(&mut other)), (vec![3], vec![]));
        let late = keys(&mut Journal::at_end(&path));
        assert!(late.is_empty(), "what was there before is found by looking");
        fs::remove_file(&path).unwrap();
        other.append(&[([4; 32], 5)]);
        assert_eq!(keys(&mut one), [4], "another file is read from its start");
    }

    #[test]
    fn a_torn_or_altered_journal_does_no_harm() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        let (mut one, mut other) = (Journal::at_end(&path), Journal::at_end(&path));
        fs::write(&path, [0xff; 4 * ENTRY_BYTES + 7]).unwrap();
        let news = one.news();
        assert_eq!((news.keys.len(), news.bytes), (3, 3 * ENTRY_FILE_BYTES_MAX));
        assert_eq!(one.news().keys.len(), 0, "half an entry is waited for");
        other.append(&[([1; 32], 1)]);
        other.append(&[([2; 32], 1)]);
        assert_eq!(keys(&mut one), [1, 2], "what comes behind half an entry is in step");
    }

    #[test]
    fn a_full_journal_starts_anew_and_whoever_had_not_read_it_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        File::create(&path).unwrap().set_len(JOURNAL_BYTES_MAX).unwrap();
        let mut one = Journal::at_end(&path);
        let (mut other, mut late) = (Journal::at_end(&path), Journal::at_end(&path));
        one.append(&[([1; 32], 1)]);
        assert_eq!(path.metadata().unwrap().len(), 2 * ENTRY_BYTES as u64);
        let news = other.news();
        assert!(news.incomplete && news.keys == [[1; 32]]);
        assert!(!other.news().incomplete, "it is said once");
        one.append(&[([2; 32], 1)]);
        assert_eq!(keys(&mut other), [2]);
        assert_eq!(keys(&mut one), [0; 0], "one's own entries are no news");
        assert!(late.news().incomplete);
    }

    #[test]
    fn another_journal_is_known_however_long_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        let (mut one, mut other) = (Journal::at_end(&path), Journal::at_end(&path));
        one.append(&[([1; 32], 1), ([2; 32], 1)]);
        assert_eq!(keys(&mut other), [1, 2]);
        for added in 1..4 {
            Journal::clear(&path);
            assert!(!other.news().incomplete, "nothing is lost yet");
            one.append(&vec![([3; 32], 1); added]);
            let news = other.news();
            assert!(news.incomplete && news.keys.len() == added, "{added}");
        }
    }

    #[test]
    fn what_was_not_read_before_a_write_is_read_after_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        let (mut one, mut other) = (Journal::at_end(&path), Journal::at_end(&path));
        one.append(&[([1; 32], 1)]);
        // As if it could not be opened for reading just before.
        other.append(&[([2; 32], 1)]);
        assert_eq!(keys(&mut other), [1, 2]);
        File::options()
            .append(true)
            .open(&path)
            .unwrap()
            .write_all(&[0; 7])
            .unwrap();
        let mut late = Journal::at_end(&path);
        one.append(&[([3; 32], 1)]);
        assert_eq!(keys(&mut late), [3], "it began before half an entry");
    }
}
