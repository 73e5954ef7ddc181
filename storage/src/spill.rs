//! Working data that memory has no room for, in files without a name.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{Advice, fadvise};

use crate::error::{Result, StorageError};

/// What follows every row: its checksum.
const CHECKSUM_BYTES: usize = size_of::<u32>();

/// Rows are brought together for a write of about so many bytes.
const WRITE_BYTES: usize = 1 << 20;

/// What the files may take.
pub(crate) trait SpillQuota: fmt::Debug + Send + Sync {
    /// Reserves `bytes` more.
    fn reserve(&self, bytes: u64) -> Result<()>;

    /// Gives them back.
    fn release(&self, bytes: u64);
}

/// A file that is only appended to, and gone when this is dropped or the process ends. Its length counts against the
/// limit of the tier that made it. Threads share it by reference.
///
/// It is not synced: nobody reads it after a crash. Every row has a checksum (CRC-32 of its bytes, begun with its
/// offset), so that damage is found when it is read.
#[derive(Debug)]
pub struct Spill {
    file: File,
    /// Where the file lies, for errors.
    folder: PathBuf,
    end: AtomicU64,
    quota: Arc<dyn SpillQuota>,
}

/// Where rows of equal length lie in a [`Spill`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpilledRows {
    offset: u64,
    row_bytes: usize,
    count: u64,
}

impl SpilledRows {
    /// Number of rows.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Length of a row, in bytes.
    pub fn row_bytes(&self) -> usize {
        self.row_bytes
    }

    /// What reading a row takes, in bytes: the row and its checksum.
    pub fn buffer_bytes(&self) -> usize {
        self.row_bytes + CHECKSUM_BYTES
    }

    fn stride(&self) -> u64 {
        self.buffer_bytes() as u64
    }

    fn offset(&self, index: u64) -> u64 {
        self.offset + index * self.stride()
    }
}

impl Spill {
    pub(crate) fn new(file: File, folder: PathBuf, quota: Arc<dyn SpillQuota>) -> Self {
        Self {
            file,
            folder,
            end: AtomicU64::new(0),
            quota,
        }
    }

    /// What it takes on disk, in bytes.
    pub fn bytes(&self) -> u64 {
        self.end.load(Ordering::Relaxed)
    }

    /// Appends `bytes` as one row.
    ///
    /// # Errors
    /// The tier's limit leaves no room, or the disk is full or refuses.
    pub fn append(&self, bytes: &[u8]) -> Result<SpilledRows> {
        self.append_rows(bytes, bytes.len())
    }

    /// Appends rows of `row_bytes` bytes each, which lie one behind another in `rows`. What is behind the last whole
    /// row is left out.
    ///
    /// # Errors
    /// As [`Spill::append`].
    pub fn append_rows(&self, rows: &[u8], row_bytes: usize) -> Result<SpilledRows> {
        let count = rows
            .len()
            .checked_div(row_bytes)
            .unwrap_or(usize::from(rows.is_empty()));
        let mut written = SpilledRows {
            offset: 0,
            row_bytes,
            count: count as u64,
        };
        let bytes = written.count * written.stride();
        self.quota.reserve(bytes)?;
        written.offset = self.end.fetch_add(bytes, Ordering::Relaxed);
        let mut buffer = Vec::with_capacity((bytes as usize).min(WRITE_BYTES + row_bytes + CHECKSUM_BYTES));
        let mut offset = written.offset;
        for index in 0..count {
            let row = &rows[index * row_bytes..][..row_bytes];
            let checksum = checksum(offset + buffer.len() as u64, row);
            buffer.extend_from_slice(row);
            buffer.extend_from_slice(&checksum);
            if buffer.len() >= WRITE_BYTES {
                self.write(&buffer, offset)?;
                offset += buffer.len() as u64;
                buffer.clear();
            }
        }
        self.write(&buffer, offset)?;
        Ok(written)
    }

    /// Reads row `index` of `rows` into `buffer`, of [`SpilledRows::buffer_bytes`], and gives the part of it that is
    /// the row.
    ///
    /// # Errors
    /// [`StorageError::Corrupt`] if the bytes are not those that were written; if the disk refuses to give them.
    ///
    /// # Panics
    /// If `buffer` is of another length, or there is no such row.
    pub fn read<'a>(&self, rows: &SpilledRows, index: u64, buffer: &'a mut [u8]) -> Result<&'a [u8]> {
        assert!(index < rows.count, "row {index} of {}", rows.count);
        assert_eq!(buffer.len(), rows.buffer_bytes(), "a row and its checksum");
        let offset = rows.offset(index);
        let read = self.file.read_exact_at(buffer, offset);
        read.map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => self.corrupt(offset, error),
            // What is there may be whole.
            _ => StorageError::io("read what was spilled in", &self.folder, 0, error),
        })?;
        let (row, found) = buffer.split_at(rows.row_bytes);
        if found != checksum(offset, row) {
            return Err(self.corrupt(offset, "its checksum is another one"));
        }
        Ok(row)
    }

    /// What was [appended](Spill::append) as one row.
    ///
    /// # Errors
    /// As [`Spill::read`].
    pub fn read_one(&self, rows: &SpilledRows) -> Result<Vec<u8>> {
        let mut row = vec![0; rows.buffer_bytes()];
        self.read(rows, 0, &mut row)?;
        row.truncate(rows.row_bytes);
        Ok(row)
    }

    /// Says that row `index` of `rows` will be read soon: the system fetches it from the disk meanwhile.
    pub fn will_read(&self, rows: &SpilledRows, index: u64) {
        let length = std::num::NonZeroU64::new(rows.stride());
        // Advice may be ignored, and so may its failure.
        let _ = fadvise(&self.file, rows.offset(index), length, Advice::WillNeed);
    }

    fn write(&self, bytes: &[u8], offset: u64) -> Result<()> {
        let written = self.file.write_all_at(bytes, offset);
        written.map_err(|error| StorageError::io("write", &self.folder, bytes.len() as u64, error))
    }

    fn corrupt(&self, offset: u64, reason: impl fmt::Display) -> StorageError {
        let folder = self.folder.display();
        StorageError::corrupt(
            format!("what was spilled at offset {offset} of a file in {folder}"),
            reason,
        )
    }
}

impl Drop for Spill {
    fn drop(&mut self) {
        self.quota.release(self.bytes());
    }
}

fn checksum(offset: u64, row: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let mut hasher = crc32fast::Hasher::new_with_initial((offset ^ offset >> 32) as u32);
    hasher.update(row);
    hasher.finalize().to_le_bytes()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::disk::DiskTier;
    use crate::tier::Tier;
    use proptest::prelude::*;

    fn tier(bytes_max: u64) -> (tempfile::TempDir, DiskTier) {
        let folder = tempfile::tempdir().unwrap();
        let tier = DiskTier::open(folder.path(), bytes_max).unwrap();
        (folder, tier)
    }

    fn row(spill: &Spill, rows: &SpilledRows, index: u64) -> Result<Vec<u8>> {
        spill.will_read(rows, index);
        let mut buffer = vec![0; rows.buffer_bytes()];
        spill.read(rows, index, &mut buffer).map(<[u8]>::to_vec)
    }

    proptest! {
        #[test]
        fn rows_come_back_in_any_order(pieces in prop::collection::vec((1usize..9, 0usize..40), 1..6), seed: u8) {
            let (_folder, tier) = tier(1 << 20);
            let spill = tier.spill().unwrap();
            let byte = |piece: usize, at: usize| seed.wrapping_add((7 * piece + at) as u8);
            let written: Vec<_> = pieces.iter().enumerate().map(|(piece, (row_bytes, count))| {
                let bytes: Vec<u8> = (0..row_bytes * count).map(|at| byte(piece, at)).collect();
                (spill.append_rows(&bytes, *row_bytes).unwrap(), bytes)
            }).collect();
            for (rows, bytes) in written.iter().rev() {
                prop_assert_eq!(rows.count() as usize, bytes.len() / rows.row_bytes());
                for index in (0..rows.count()).rev() {
                    let at = index as usize * rows.row_bytes();
                    prop_assert_eq!(row(&spill, rows, index).unwrap(), &bytes[at..at + rows.row_bytes()]);
                }
            }
        }
    }

    #[test]
    fn threads_write_beside_each_other() {
        let (_folder, tier) = tier(64 << 20);
        let spill = tier.spill().unwrap();
        // More than one write each.
        let bytes = |thread: u8| vec![thread; WRITE_BYTES + 100];
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let spill = &spill;
                scope.spawn(move || {
                    let rows = spill.append_rows(&bytes(thread), 100).unwrap();
                    assert!((0..rows.count()).all(|index| row(spill, &rows, index).unwrap() == [thread; 100]));
                });
            }
        });
    }

    #[test]
    fn nothing_at_all_can_be_spilled() {
        let (_folder, tier) = tier(1 << 20);
        let spill = tier.spill().unwrap();
        let nothing = spill.append(&[]).unwrap();
        assert!(spill.read_one(&nothing).unwrap().is_empty());
        assert_eq!(spill.append_rows(&[], 3).unwrap().count(), 0);
    }

    #[test]
    fn the_limit_of_the_tier_holds_and_room_comes_back() {
        let (_folder, tier) = tier(1000);
        let (one, other) = (tier.spill().unwrap(), tier.spill().unwrap());
        one.append(&[1; 500]).unwrap();
        assert!(matches!(other.append(&[2; 500]), Err(StorageError::OverBudget { .. })));
        other.append(&[2; 400]).unwrap();
        drop(one);
        let last = other.append(&[2; 500]).unwrap();
        assert_eq!(other.read_one(&last).unwrap(), [2; 500]);
        assert_eq!(other.bytes(), 400 + 500 + 2 * CHECKSUM_BYTES as u64);
    }

    #[test]
    fn nothing_is_left_behind() {
        let (folder, tier) = tier(1 << 20);
        tier.spill().unwrap().append(&[1; 10]).unwrap();
        drop(tier);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn damage_is_found() {
        let (_folder, tier) = tier(1 << 20);
        let spill = tier.spill().unwrap();
        let rows = spill.append_rows(&[7; 30], 10).unwrap();
        spill.file.write_all_at(&[8], rows.stride() + 3).unwrap();
        assert!(matches!(row(&spill, &rows, 1), Err(StorageError::Corrupt { .. })));
        assert_eq!(row(&spill, &rows, 2).unwrap(), [7; 10]);
        spill.file.set_len(2 * rows.stride() + 5).unwrap();
        assert!(matches!(row(&spill, &rows, 2), Err(StorageError::Corrupt { .. })));
        // A row that was written elsewhere.
        let mut first = vec![0; rows.stride() as usize];
        spill.file.read_exact_at(&mut first, 0).unwrap();
        spill.file.write_all_at(&first, rows.stride()).unwrap();
        assert!(matches!(row(&spill, &rows, 1), Err(StorageError::Corrupt { .. })));
    }

    #[test]
    fn a_file_that_cannot_be_read_is_not_called_damaged() {
        let folder = tempfile::tempdir().unwrap();
        let unreadable = File::create(folder.path().join("file")).unwrap();
        let spill = Spill::new(unreadable, folder.path().into(), Arc::new(Endless));
        let rows = spill.append(&[1]).unwrap();
        assert!(matches!(spill.read_one(&rows), Err(StorageError::Io { .. })));
    }

    #[derive(Debug)]
    struct Endless;

    impl SpillQuota for Endless {
        fn reserve(&self, _: u64) -> Result<()> {
            Ok(())
        }

        fn release(&self, _: u64) {}
    }

    #[test]
    fn a_full_disk_is_an_error_that_says_so() {
        let full = File::options().read(true).write(true).open("/dev/full").unwrap();
        let spill = Spill::new(full, "/dev".into(), Arc::new(Endless));
        assert!(matches!(spill.append(&[1]), Err(StorageError::DiskFull { .. })));
    }
}
