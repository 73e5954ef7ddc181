//! What processes that share a folder have added to it, so that each learns of it without looking through the folder.
//!
//! A file of entries of one length, which is appended to until it is full. Losing it, or some of it, costs fetches and nothing else.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::bloom::Digest;

const ENTRY_BYTES: usize = 40;

/// Longest journal, in bytes. One that has reached it starts anew, and whoever had not read it to its end looks through the
/// folder.
const JOURNAL_BYTES_MAX: u64 = 64 << 20;

/// Longest file that an entry stands for, in bytes. What counts too much is counted anew before anything is evicted.
const ENTRY_FILE_BYTES_MAX: u64 = 1 << 40;

#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
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
        Self {
            path: path.to_owned(),
            position: fs::metadata(path).map_or(0, |found| found.len()),
        }
    }

    /// Starts it anew. Nobody else may be using the folder.
    pub(super) fn clear(path: &Path) {
        // If it stays, it is read to its end and no more.
        let _ = fs::remove_file(path);
    }

    /// What was added since the last call.
    pub(super) fn news(&mut self) -> News {
        let Ok(found) = fs::metadata(&self.path) else {
            return News::default();
        };
        if found.len() == self.position {
            return News::default();
        }
        // Another file, by a process that found the folder gone, or the old one was full.
        let incomplete = found.len() < self.position;
        if incomplete {
            self.position = 0;
        }
        let bytes = self.read().unwrap_or_default();
        let (entries, _) = bytes.as_chunks::<ENTRY_BYTES>();
        self.position += (entries.len() * ENTRY_BYTES) as u64;
        let mut news = News {
            incomplete,
            ..News::default()
        };
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
        news
    }

    fn read(&self) -> std::io::Result<Vec<u8>> {
        let mut file = File::open(&self.path)?;
        file.seek(SeekFrom::Start(self.position))?;
        let mut bytes = Vec::new();
        file.take(JOURNAL_BYTES_MAX).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// Writes down what was added, by one process at a time that has read all the news.
    pub(super) fn append(&mut self, added: &[(Digest, u64)]) {
        let mut bytes = Vec::with_capacity(added.len() * ENTRY_BYTES);
        for (key, length) in added {
            bytes.extend_from_slice(key);
            bytes.extend_from_slice(&length.to_le_bytes());
        }
        let file = File::options().append(true).create(true).open(&self.path);
        let written = file.and_then(|mut file| {
            let found_bytes = file.metadata()?.len();
            // A process that was killed as it wrote leaves part of an entry, which would put those behind it out of step.
            let whole_bytes = match found_bytes < JOURNAL_BYTES_MAX {
                true => found_bytes - found_bytes % ENTRY_BYTES as u64,
                false => 0,
            };
            if whole_bytes < found_bytes {
                file.set_len(whole_bytes)?;
            }
            file.write_all(&bytes)?;
            Ok(whole_bytes + bytes.len() as u64)
        });
        self.position = written.unwrap_or(self.position);
    }
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
        fs::write(&path, [0xff; 3 * ENTRY_BYTES + 7]).unwrap();
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
        let mut one = Journal::at_end(&path);
        File::create(&path).unwrap().set_len(JOURNAL_BYTES_MAX).unwrap();
        let (mut other, mut late) = (Journal::at_end(&path), Journal::at_end(&path));
        one.append(&[([1; 32], 1)]);
        assert_eq!(path.metadata().unwrap().len(), ENTRY_BYTES as u64);
        let news = other.news();
        assert!(news.incomplete && news.keys == [[1; 32]]);
        assert!(!other.news().incomplete, "it is said once");
        one.append(&[([2; 32], 1)]);
        assert_eq!(keys(&mut other), [2]);
        assert_eq!(keys(&mut one), [0; 0], "one's own entries are no news");
        assert!(late.news().incomplete);
    }
}
