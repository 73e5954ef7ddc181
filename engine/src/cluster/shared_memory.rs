//! Memory that the processes of one host share: a peer reads an update where the lane has written it.
//!
//! A process makes one region a loop, as a memory file without a name in any folder, so that nothing is left behind
//! whatever dies. Others map it read-only through `/proc`, which the system allows to the same user only. Who may write
//! when is the business of the parameter exchange (a vector is written again only after everybody who was told of it
//! has done with it); a region is never used for a second round, so that a round that was cut cannot disturb the next.
//!
//! Processes of two containers may have the same number, and files of the same number open. So a region begins with a
//! mark that nobody can guess, and whoever maps it by its name compares that.
#![allow(unsafe_code)] // mapped memory, shared with other processes

use std::fs::File;
use std::io;
use std::ops::{Deref, DerefMut, Range};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering, fence};

use memmap2::{MmapOptions, MmapRaw};

use super::socket::random_bytes;

/// Numbers per cache line: pieces begin on lines of their own, behind one with the mark.
const LINE: usize = 16;

/// A region of this process, cut into [`Piece`]s.
pub(crate) struct Region {
    map: MmapRaw,
    file: File,
    floats: usize,
    mark: [u64; 2],
}

/// How other processes find a region.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RegionName {
    /// The process that made it.
    pub process: u32,
    /// Its number there.
    pub descriptor: u32,
    /// How long it is, in numbers of 4 bytes.
    pub floats: u64,
    /// What it begins with.
    pub mark: [u64; 2],
}

impl Region {
    /// A region with room for pieces of these lengths, in numbers of 4 bytes, all 0.
    ///
    /// # Errors
    /// If the system has no such memory, or not so much of it.
    pub(crate) fn create(lengths: &[usize]) -> io::Result<(Arc<Self>, Vec<Piece>)> {
        let floats = LINE
            + lengths
                .iter()
                .map(|length| length.next_multiple_of(LINE))
                .sum::<usize>();
        let file = system::create(floats as u64 * 4)?;
        let map = MmapOptions::new().len(floats * 4).map_raw(&file)?;
        let mark = [random_bytes()?, random_bytes()?].map(u64::from_ne_bytes);
        // SAFETY: the mapping is page-aligned and has a line at least, and nobody else knows of it yet.
        unsafe { map.as_mut_ptr().cast::<[u64; 2]>().write(mark) };
        let region = Arc::new(Self {
            map,
            file,
            floats,
            mark,
        });
        let mut start = LINE;
        let mut pieces = Vec::with_capacity(lengths.len());
        for length in lengths {
            pieces.push(Piece {
                region: Arc::clone(&region),
                range: start..start + length,
            });
            start += length.next_multiple_of(LINE);
        }
        Ok((region, pieces))
    }

    /// Its name for other processes.
    pub(crate) fn name(&self) -> RegionName {
        RegionName {
            process: std::process::id(),
            descriptor: system::number(&self.file),
            floats: self.floats as u64,
            mark: self.mark,
        }
    }
}

/// A range of a region that only its holder writes.
pub(crate) struct Piece {
    region: Arc<Region>,
    range: Range<usize>,
}

impl Piece {
    /// Where it begins in its region, in numbers of 4 bytes.
    pub(crate) fn start(&self) -> usize {
        self.range.start
    }
}

impl Deref for Piece {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        // SAFETY: pieces of a region do not overlap and lie within the mapping, which is page-aligned and lives as long
        // as the region; every bit pattern is an `f32`. In this process only this piece's holder writes it, through
        // `&mut self`; other processes map it read-only.
        unsafe {
            std::slice::from_raw_parts(
                self.region.map.as_ptr().cast::<f32>().add(self.range.start),
                self.range.len(),
            )
        }
    }
}

impl DerefMut for Piece {
    fn deref_mut(&mut self) -> &mut [f32] {
        let start = self.region.map.as_mut_ptr().cast::<f32>();
        // SAFETY: as for `deref`; that nobody in another process reads while this is written is what the exchange sees
        // to: it writes a piece again only when all who were told of it have said that they are done.
        unsafe { std::slice::from_raw_parts_mut(start.add(self.range.start), self.range.len()) }
    }
}

/// A piece whose memory is used as words that other processes read while this one writes them.
pub(crate) struct Words(Piece);

impl Piece {
    /// Uses the piece as words of 8 bytes, two numbers each.
    pub(crate) fn into_words(self) -> Words {
        Words(self)
    }
}

impl Words {
    /// Where they begin in their region, in numbers of 4 bytes.
    pub(crate) fn start(&self) -> usize {
        self.0.range.start
    }

    /// The word with an index; `None` beyond the last.
    pub(crate) fn get(&self, index: usize) -> Option<&AtomicU64> {
        if (index + 1) * 2 > self.0.range.len() {
            return None;
        }
        let start = self.0.region.map.as_mut_ptr().cast::<f32>();
        // SAFETY: the word lies within this piece, which begins on a cache line and so is aligned for it, and which
        // lives as long as `self`. The piece was given up for `self`, so that this process reaches its memory as these
        // atomics only, and others read it by atomic loads.
        Some(unsafe { AtomicU64::from_ptr(start.add(self.0.range.start + index * 2).cast::<u64>()) })
    }
}

/// A region of another process.
pub(crate) struct View {
    map: MmapRaw,
    floats: usize,
}

impl View {
    /// Maps a region of another process of this host.
    ///
    /// # Errors
    /// If there is none of that name, length and mark, this process may not see it, or it could shrink.
    pub(crate) fn open(name: &RegionName) -> io::Result<Self> {
        let floats = usize::try_from(name.floats).map_err(io::Error::other)?;
        let bytes = floats
            .checked_mul(4)
            .ok_or_else(|| io::Error::other("a region too large to be true"))?;
        let file = system::open(name, bytes as u64)?;
        let map = MmapOptions::new().len(bytes.max(1)).map_raw_read_only(&file)?;
        let view = Self { map, floats };
        let mark = [0, 1].map(|half| view.word(0, half));
        match floats >= LINE && mark == name.mark.map(Some) {
            true => Ok(view),
            false => Err(io::Error::other("it is the region of another process")),
        }
    }

    /// A word that its process writes at any time: `index` words behind `start`, which counts numbers of 4 bytes. None
    /// if it is not in the region. What was written before the word is seen by who sees it.
    pub(crate) fn word(&self, start: usize, index: usize) -> Option<u64> {
        let at = index.checked_mul(2).and_then(|words| words.checked_add(start))?;
        if at % 2 != 0 || at.checked_add(2)? > self.floats {
            return None;
        }
        let word = self.map.as_mut_ptr().cast::<f32>();
        // SAFETY: the word lies within the mapping, which is page-aligned, and is aligned itself, being an even number
        // of 4 bytes from its start. Relaxed loads of this size are allowed from memory that is mapped read-only.
        let word = unsafe { AtomicU64::from_ptr(word.add(at).cast::<u64>()) };
        let value = word.load(Ordering::Relaxed);
        fence(Ordering::Acquire);
        Some(value)
    }

    /// A range of it; none if it goes beyond the region.
    pub(crate) fn read(&self, range: Range<usize>) -> Option<&[f32]> {
        if range.start > range.end || range.end > self.floats {
            return None;
        }
        // SAFETY: the range lies within the mapping, which cannot shrink, is page-aligned and lives as long as `self`;
        // every bit pattern is an `f32`. The process that told us of the range does not write it until we are done.
        Some(unsafe { std::slice::from_raw_parts(self.map.as_ptr().cast::<f32>().add(range.start), range.len()) })
    }
}

// SAFETY: the mappings are reached through pieces, each with one holder, and read-only views.
unsafe impl Send for Region {}
// SAFETY: as above; `&Region` gives no access to the memory.
unsafe impl Sync for Region {}
// SAFETY: a view is read-only.
unsafe impl Send for View {}
// SAFETY: a view is read-only.
unsafe impl Sync for View {}

#[cfg(target_os = "linux")]
mod system {
    use std::fs::File;
    use std::io;
    use std::os::fd::{AsRawFd, OwnedFd};

    use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, memfd_create};

    use super::RegionName;

    /// A file that cannot shrink, so that nobody who has mapped it can be surprised.
    const SEALS: SealFlags = SealFlags::SHRINK;

    pub(super) fn create(bytes: u64) -> io::Result<File> {
        let file: OwnedFd = memfd_create("distdl", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        let file = File::from(file);
        file.set_len(bytes.max(1))?;
        fcntl_add_seals(&file, SEALS)?;
        Ok(file)
    }

    pub(super) fn number(file: &File) -> u32 {
        file.as_raw_fd() as u32
    }

    pub(super) fn open(name: &RegionName, bytes: u64) -> io::Result<File> {
        // Another host's names may be those of anything here: of a pipe that nobody writes to, too.
        let waits_for_nobody = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let path = format!("/proc/{}/fd/{}", name.process, name.descriptor);
        let file = File::from(rustix::fs::open(path, waits_for_nobody, Mode::empty())?);
        if file.metadata()?.len() < bytes || !fcntl_get_seals(&file)?.contains(SEALS) {
            return Err(io::Error::other("it is not a region of this length"));
        }
        Ok(file)
    }
}

#[cfg(not(target_os = "linux"))]
mod system {
    use std::fs::File;
    use std::io;

    use super::RegionName;

    fn unsupported() -> io::Error {
        io::ErrorKind::Unsupported.into()
    }

    pub(super) fn create(_: u64) -> io::Result<File> {
        Err(unsupported())
    }

    pub(super) fn number(_: &File) -> u32 {
        u32::MAX
    }

    pub(super) fn open(_: &RegionName, _: u64) -> io::Result<File> {
        Err(unsupported())
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_written_in_a_piece_is_read_in_a_view() {
        let (region, mut pieces) = Region::create(&[3, 40, 1]).unwrap();
        for (index, piece) in pieces.iter_mut().enumerate() {
            piece.fill(index as f32 + 1.0);
        }
        let view = View::open(&region.name()).unwrap();
        for (index, piece) in pieces.iter().enumerate() {
            let read = view.read(piece.start()..piece.start() + piece.len()).unwrap();
            assert_eq!(read, &vec![index as f32 + 1.0; [3, 40, 1][index]][..]);
        }
        assert!(view.read(0..usize::MAX).is_none());
        assert!(view.read(region.floats..region.floats + 1).is_none());
    }

    #[test]
    fn a_name_of_something_else_is_refused() {
        let (region, _pieces) = Region::create(&[100]).unwrap();
        let name = region.name();
        assert!(
            View::open(&RegionName {
                floats: name.floats + 1,
                ..name
            })
            .is_err()
        );
        assert!(
            View::open(&RegionName {
                floats: u64::MAX,
                ..name
            })
            .is_err()
        );
        let (second, _pieces) = Region::create(&[100]).unwrap();
        let other = RegionName {
            mark: second.mark,
            ..name
        };
        assert!(
            View::open(&other).is_err(),
            "as a process of another container would find it"
        );
        let file = tempfile::tempfile().unwrap();
        file.set_len(1 << 20).unwrap();
        let other = RegionName {
            descriptor: system::number(&file),
            ..name
        };
        assert!(View::open(&other).is_err(), "a file that can shrink");
        drop(region);
    }
}
