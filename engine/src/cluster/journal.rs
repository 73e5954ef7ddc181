//! What the name node must not forget: an append-only log in a folder.
//!
//! ```text
//! file    = magic (16 bytes), frame*
//! frame   = payload length (u32), check of the length (u32), check of the payload (u64), payload
//! payload = postcard of a `LogEntry`
//! ```
//! Numbers are little endian; the checks are xxh3, that of the length over the frame's offset too. A frame that is not
//! whole at the end of the file was being written when the process or the machine died, and is cut off. Damage before
//! that is an error. Answers stay on disk and are read back when a process asks for one, so that the memory needed does
//! not grow with the results of a long program. What the file takes of them has a limit, since they are kept as long as
//! the program runs.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use distdl_storage::{Digest, durable};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use super::arithmetic::Arithmetic;
use super::identity::MemberId;
use super::protocol::{Answer, Generation, Head, Work};
pub(crate) use error::JournalError;
use error::{failed, no_place};
pub(crate) use quota::JournalQuota;

mod error;
mod quota;

/// First in the file: what it is, and the version of its format.
const MAGIC: &[u8; 16] = b"DistDL journal4\n";
const HEADER_BYTES: u64 = 16;
/// Memory that a payload may take before its bytes have been read.
const READ_STEP_BYTES: u64 = 1 << 16;

/// Something that must outlive the name node.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum LogEntry {
    /// A process was given a number.
    Joined {
        /// The number.
        member: MemberId,
        /// Of its machine.
        arithmetic: Arithmetic,
    },
    /// A member is gone.
    Lost { member: MemberId },
    /// A new generation; it has no round yet.
    Generation(Generation),
    /// The cluster came to its next action.
    Came(Head),
    /// A round begins in the last generation, of the last action.
    Began {
        /// Its number.
        round: u32,
        /// What it is.
        work: Work,
    },
    /// The round is cut.
    Cut,
    /// The round ended without an answer, and this is what came of it.
    Collected(Vec<Collected>),
    /// The action has its answer.
    Answered {
        /// The action.
        head: Head,
        /// Members that finished its loop themselves.
        finished_by: Vec<MemberId>,
        /// The answer; in what [`Journal::open`] returns only if it is an error.
        answer: Option<Answer>,
    },
    /// A driver program has ended well: no process is started any more.
    Finishing,
    /// What tells this run of the program from others; comes first.
    Run(u64),
    /// The BLAKE3 hash of the program file that all run; the last such entry counts.
    Program(Digest),
    /// All members have ended, and the program with them: nothing follows.
    Over,
}

impl LogEntry {
    /// Whether it is of a few bytes, whatever is computed.
    fn is_small(&self) -> bool {
        match self {
            Self::Joined { .. } | Self::Lost { .. } | Self::Generation(_) => true,
            Self::Cut | Self::Finishing | Self::Run(_) | Self::Program(_) | Self::Over => true,
            Self::Came(_) | Self::Began { .. } | Self::Collected(_) | Self::Answered { .. } => false,
        }
    }
}

/// What one member gave in one round.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Collected {
    /// Results by partition.
    pub results: Vec<(u64, Bytes)>,
    /// Updates of accumulators.
    pub updates: Vec<Bytes>,
}

/// The log of one name node, open for appending.
#[derive(Debug)]
pub(crate) struct Journal {
    file: File,
    path: PathBuf,
    quota: JournalQuota,
    /// Offsets of the frames of the answers, by number of the action.
    answers: Vec<u64>,
    /// Held on the folder; `None` if nobody will read the log again.
    lock: Option<File>,
}

impl Journal {
    /// The log in `folder`, made if it is not there, and what it says, without what later entries made obsolete. What
    /// is large does not let it grow beyond `bytes_max`.
    ///
    /// # Errors
    /// [`JournalError`] if another process has it open, the disk refuses, it is damaged before its end, or its program
    /// is over.
    pub(crate) fn open(folder: &Path, bytes_max: u64) -> Result<(Self, Vec<LogEntry>), JournalError> {
        durable::create_folders(folder).map_err(|source| failed("create", folder, source))?;
        let lock = lock(folder)?;
        let path = folder.join("journal");
        let file = OpenOptions::new().read(true).append(true).create(true).open(&path);
        let file = file.map_err(|source| failed("open", &path, source))?;
        durable::sync_folder(folder).map_err(|source| failed("sync", folder, source))?;
        let mut journal = Self {
            file,
            path,
            quota: JournalQuota::up_to(bytes_max),
            answers: Vec::new(),
            lock: Some(lock),
        };
        let entries = journal.read_all()?;
        if matches!(entries.last(), Some(LogEntry::Over)) {
            return Err(JournalError::Over {
                path: folder.to_owned(),
            });
        }
        Ok((journal, entries))
    }

    /// A log that nobody will read again after this process: a file without a name on the disk of a folder, which is
    /// made if it is not there, or else of that where blocks are. The system removes it with this process, however that
    /// ends. What is large does not let it grow beyond `bytes_max`.
    ///
    /// # Errors
    /// [`JournalError::NoPlace`] if the folder takes no files, [`JournalError::Io`] if the disk refuses.
    pub(crate) fn temporary(folder: Option<&Path>, bytes_max: u64) -> Result<Self, JournalError> {
        let path = folder.map_or_else(distdl_storage::temporary_folder, Path::to_path_buf);
        let file = std::fs::create_dir_all(&path).and_then(|()| tempfile::tempfile_in(&path));
        let file = file.map_err(|source| no_place(&path, source))?;
        let mut journal = Self {
            file,
            path,
            quota: JournalQuota {
                answers_only: true,
                ..JournalQuota::up_to(bytes_max)
            },
            answers: Vec::new(),
            lock: None,
        };
        journal.cut_off(0)?;
        Ok(journal)
    }

    /// Appends an entry. An answer is on the disk when this returns, and that all is over; other entries are with the
    /// operating system. Of a temporary log only answers are ever read, so it has nothing else, and need not outlive
    /// the machine.
    ///
    /// # Errors
    /// [`JournalError`] if the entry is too large, the log is full or the disk refuses; the log is then as it was.
    pub(crate) fn append(&mut self, entry: &LogEntry) -> Result<(), JournalError> {
        if !self.quota.is_written(entry) {
            return Ok(());
        }
        let answered = matches!(entry, LogEntry::Answered { .. });
        let payload = postcard::to_stdvec(entry).map_err(io::Error::other);
        let payload = payload.map_err(|source| failed("encode an entry for", &self.path, source))?;
        let length = u32::try_from(payload.len()).map_err(|_| JournalError::TooLarge { bytes: payload.len() })?;
        let more = HEADER_BYTES + u64::from(length);
        if !self.quota.has(entry, more) {
            return Err(JournalError::Full {
                path: self.path.clone(),
                bytes: self.quota.bytes,
                bytes_max: self.quota.bytes_max,
                more,
            });
        }
        let header = header(length, self.quota.bytes, &payload);
        // Answers are read in between.
        let mut written = self.file.seek(SeekFrom::Start(self.quota.bytes)).map(drop);
        written = written.and_then(|()| self.file.write_all(&header));
        written = written.and_then(|()| self.file.write_all(&payload));
        if (answered || matches!(entry, LogEntry::Over)) && self.lock.is_some() {
            written = written.and_then(|()| self.file.sync_data());
        }
        if let Err(source) = written {
            // Should this fail too, the next to open the log cuts off what is not whole.
            let _ = self.file.set_len(self.quota.bytes);
            return Err(failed("write", &self.path, source));
        }
        if answered {
            self.answers.push(self.quota.bytes);
        }
        self.quota.bytes += more;
        Ok(())
    }

    /// The folder that it is in; `None` if nobody will read the log again.
    pub(crate) fn folder(&self) -> Option<&Path> {
        self.lock.as_ref().and(self.path.parent())
    }

    /// What it takes, and may take.
    pub(crate) fn quota(&self) -> JournalQuota {
        self.quota
    }

    /// Reads back an action and its answer.
    ///
    /// # Errors
    /// [`JournalError`] if there is none, the disk refuses, or it is damaged.
    pub(crate) fn answer(&mut self, action: u64) -> Result<(Head, Answer), JournalError> {
        let none = || JournalError::NoAnswer {
            action,
            path: self.path.clone(),
        };
        let index = usize::try_from(action).map_err(|_| none())?;
        let offset = *self.answers.get(index).ok_or_else(none)?;
        let mut reader = &self.file;
        reader
            .seek(SeekFrom::Start(offset))
            .map_err(|source| failed("read", &self.path, source))?;
        match self.frame(&mut reader, offset)? {
            Some((
                LogEntry::Answered {
                    head,
                    answer: Some(answer),
                    ..
                },
                _,
            )) => Ok((head, answer)),
            _ => Err(self.damaged(offset, "no answer is there any more")),
        }
    }

    /// Reads the log from its start and cuts off an end that is not whole.
    fn read_all(&mut self) -> Result<Vec<LogEntry>, JournalError> {
        let io = |source| failed("read", &self.path, source);
        self.quota.bytes = self.file.metadata().map_err(io)?.len();
        let file = self.file.try_clone().map_err(io)?;
        let mut reader = BufReader::new(file);
        let mut offset = self.read_magic(&mut reader)?;
        let mut entries = Vec::new();
        while offset > 0
            && let Some((entry, bytes)) = self.frame(&mut reader, offset)?
        {
            if matches!(entry, LogEntry::Answered { .. }) {
                self.answers.push(offset);
            }
            remember(&mut entries, entry);
            offset += bytes;
        }
        self.cut_off(offset)?;
        Ok(entries)
    }

    /// The offset after the magic, or 0 if the file was just made.
    fn read_magic(&self, reader: &mut impl Read) -> Result<u64, JournalError> {
        let mut magic = Vec::new();
        let io = |source| failed("read", &self.path, source);
        reader.take(MAGIC.len() as u64).read_to_end(&mut magic).map_err(io)?;
        match magic.len() {
            16 if magic == MAGIC => Ok(16),
            0..16 if MAGIC.starts_with(&magic) => Ok(0),
            _ => Err(self.damaged(0, "it is not a journal of this version")),
        }
    }

    fn cut_off(&mut self, offset: u64) -> Result<(), JournalError> {
        let mut written = self.file.set_len(offset);
        self.quota.bytes = offset;
        if offset == 0 {
            written = written.and_then(|()| self.file.write_all(MAGIC));
            self.quota.bytes = MAGIC.len() as u64;
        }
        written.map_err(|source| failed("write", &self.path, source))
    }

    /// The frame at `offset`, where `reader` stands, and its size; `None` if the log ends there.
    fn frame(&self, reader: &mut impl Read, offset: u64) -> Result<Option<(LogEntry, u64)>, JournalError> {
        let io = |source| failed("read", &self.path, source);
        let left = self.quota.bytes.saturating_sub(offset);
        let mut header = [0; HEADER_BYTES as usize];
        if left < HEADER_BYTES {
            return Ok(None);
        }
        reader.read_exact(&mut header).map_err(io)?;
        let (length, length_check, payload_check) = parts(&header);
        if length_check != check_of_length(length, offset) {
            return self.only_zeros(&header, reader, offset);
        }
        let end = HEADER_BYTES + u64::from(length);
        if left < end {
            return Ok(None);
        }
        let mut payload = Vec::with_capacity(u64::from(length).min(READ_STEP_BYTES) as usize);
        reader.take(u64::from(length)).read_to_end(&mut payload).map_err(io)?;
        if xxh3_64(&payload) != payload_check {
            // The last frame may have been extended without having been filled.
            return if left == end {
                Ok(None)
            } else {
                Err(self.damaged(offset, "a checksum does not match"))
            };
        }
        let entry = postcard::from_bytes(&payload);
        let entry = entry.map_err(|error| self.damaged(offset, &format!("an entry cannot be decoded ({error})")))?;
        Ok(Some((entry, end)))
    }

    /// Some file systems leave zeros at the end of a file after a crash; anything else is damage.
    fn only_zeros<T>(&self, header: &[u8], reader: &mut impl Read, offset: u64) -> Result<Option<T>, JournalError> {
        let mut piece = [0; 4096];
        let mut zeros = header.iter().all(|byte| *byte == 0);
        while zeros {
            match reader
                .read(&mut piece)
                .map_err(|source| failed("read", &self.path, source))?
            {
                0 => return Ok(None),
                count => zeros = piece[..count].iter().all(|byte| *byte == 0),
            }
        }
        Err(self.damaged(offset, "a frame's length does not match its checksum"))
    }

    fn damaged(&self, offset: u64, what: &str) -> JournalError {
        JournalError::Damaged {
            path: self.path.clone(),
            offset,
            what: what.to_owned(),
        }
    }
}

/// Keeps what is still of use: of an answered action neither its answer nor how it came about.
pub(super) fn remember(entries: &mut Vec<LogEntry>, mut entry: LogEntry) {
    if let LogEntry::Answered { answer, .. } = &mut entry {
        answer.take_if(|answer| !matches!(answer, Answer::Failed(_)));
        let last = entries
            .iter()
            .rposition(|entry| matches!(entry, LogEntry::Answered { .. }));
        let of_action = |entry: &LogEntry| {
            use LogEntry::{Began, Came, Collected};
            matches!(entry, Came(_) | Collected(_) | Began { .. })
        };
        let since = entries.split_off(last.map_or(0, |last| last + 1));
        // Of the actions before it, the number of the last one says that they have answers.
        entries.truncate(last.unwrap_or(entries.len()));
        entries.extend(since.into_iter().filter(|entry| !of_action(entry)));
    }
    entries.push(entry);
}

fn lock(folder: &Path) -> Result<File, JournalError> {
    let path = folder.join("lock");
    let lock = OpenOptions::new().write(true).create(true).truncate(false).open(&path);
    let lock = lock.map_err(|source| failed("open", &path, source))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(JournalError::InUse {
            path: folder.to_owned(),
        }),
        Err(TryLockError::Error(source)) => Err(failed("lock", &path, source)),
    }
}

fn header(length: u32, offset: u64, payload: &[u8]) -> [u8; HEADER_BYTES as usize] {
    let mut header = [0; HEADER_BYTES as usize];
    header[..4].copy_from_slice(&length.to_le_bytes());
    header[4..8].copy_from_slice(&check_of_length(length, offset).to_le_bytes());
    header[8..].copy_from_slice(&xxh3_64(payload).to_le_bytes());
    header
}

fn parts(header: &[u8; HEADER_BYTES as usize]) -> (u32, u32, u64) {
    let [a, b, c, d, e, f, g, h, payload @ ..] = *header;
    (
        u32::from_le_bytes([a, b, c, d]),
        u32::from_le_bytes([e, f, g, h]),
        u64::from_le_bytes(payload),
    )
}

/// The lower half of an xxh3; never 0 for a frame of zeros.
fn check_of_length(length: u32, offset: u64) -> u32 {
    let mut bytes = [0; 12];
    bytes[..4].copy_from_slice(&length.to_le_bytes());
    bytes[4..].copy_from_slice(&offset.to_le_bytes());
    (xxh3_64(&bytes) as u32).max(1)
}

#[cfg(test)]
mod tests;
