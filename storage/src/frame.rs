//! The frame around a block's bytes: what they are, and a checksum over all of it.
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 8 | magic `DISTDLB1` |
//! | 8 | 4 | format version |
//! | 12 | 4 | codec kind |
//! | 16 | 32 | fingerprint of the record type |
//! | 48 | 32 | fingerprint of the program; zero for portable frames |
//! | 80 | 8 | number of records |
//! | 88 | 8 | length of the payload, in bytes |
//! | 96 | 32 | blake3 of the fields above and of all that follows |
//! | 128 | 64 | zero |
//! | 192 | | payload |
//!
//! Numbers are little-endian. Nothing is believed before the checksum is right, and every length is bounded by the
//! bytes that are there. The checksum finds damage, not an attacker.

#[cfg(target_os = "linux")]
use std::ffi::OsStr;
use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::io;
#[cfg(target_os = "linux")]
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::OnceLock;

use crate::block::Block;
use crate::bloom::Digest;
use crate::codec::{Codec, CodecKind, HEADER_END, PAYLOAD_START, Source};
use crate::error::{Result, StorageError};

const MAGIC: [u8; 8] = *b"DISTDLB1";
const VERSION: u32 = 1;
const CHECKSUM_START: usize = 96;
const FINGERPRINT_BYTES: usize = 32;

type Fingerprint = [u8; FINGERPRINT_BYTES];

impl Codec {
    /// The block as a frame of bytes.
    ///
    /// # Errors
    /// [`StorageError::WrongType`] if the block holds records of another type; [`StorageError::Encode`] if a record
    /// refuses to be serialised.
    pub fn encode(self, block: &Block) -> Result<Vec<u8>> {
        block.check_type(self)?;
        let mut frame = vec![0; PAYLOAD_START];
        self.append(block.erased(), &mut frame)
            .map_err(|reason| StorageError::Encode {
                type_name: self.type_name(),
                reason,
            })?;
        let payload_bytes = (frame.len() - PAYLOAD_START) as u64;
        frame[..CHECKSUM_START].copy_from_slice(&Header::of(self, block.len() as u64, payload_bytes).to_bytes());
        let checksum = checksum(&frame);
        frame[CHECKSUM_START..HEADER_END].copy_from_slice(&checksum);
        Ok(frame)
    }

    /// What tells the record type from others, also from one of its name that it was before: its name, its layout in
    /// memory, and the names, order and kinds of its fields and variants, as its `Deserialize` asks for them. The same
    /// in all programs of one compiler. Not for each block: it goes through the type.
    pub fn fingerprint(self) -> Digest {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&type_fingerprint(self));
        hasher.update(self.schema().as_bytes());
        *hasher.finalize().as_bytes()
    }

    /// The block in a frame. A mapped frame of plain records is not copied: the block reads it in place.
    ///
    /// # Errors
    /// [`StorageError::Corrupt`] if the bytes are not a whole frame as this program writes it;
    /// [`StorageError::WrongType`] if they hold records of another type; [`StorageError::Decode`] if `Deserialize`
    /// refuses what `Serialize` wrote.
    pub fn decode(self, source: Source) -> Result<Block> {
        let header = Header::read(&source)?;
        let count = header.check(self)?;
        let records = self.read(source, count).map_err(|reason| StorageError::Decode {
            what: NAMELESS.to_owned(),
            type_name: self.type_name(),
            reason,
        })?;
        Ok(Block::from_erased(records, count, self.native()))
    }
}

/// What errors call a frame until [`StorageError::about`] names it.
const NAMELESS: &str = "a frame of bytes";

#[derive(Debug, PartialEq, Eq)]
struct Header {
    kind: u32,
    record_type: Fingerprint,
    program: Fingerprint,
    count: u64,
    payload_bytes: u64,
}

impl Header {
    fn of(codec: Codec, count: u64, payload_bytes: u64) -> Self {
        let program = match codec.kind() {
            CodecKind::Abomonation => program_fingerprint(),
            CodecKind::Postcard => Fingerprint::default(),
        };
        Self {
            kind: codec.kind() as u32,
            record_type: type_fingerprint(codec),
            program,
            count,
            payload_bytes,
        }
    }

    fn to_bytes(&self) -> [u8; CHECKSUM_START] {
        let mut bytes = [0; CHECKSUM_START];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.kind.to_le_bytes());
        bytes[16..48].copy_from_slice(&self.record_type);
        bytes[48..80].copy_from_slice(&self.program);
        bytes[80..88].copy_from_slice(&self.count.to_le_bytes());
        bytes[88..96].copy_from_slice(&self.payload_bytes.to_le_bytes());
        bytes
    }

    /// The header of a frame whose length and checksum are right.
    fn read(frame: &[u8]) -> Result<Self> {
        let corrupt = |reason: String| StorageError::corrupt(NAMELESS, reason);
        if frame.len() < PAYLOAD_START {
            return Err(corrupt(format!(
                "{} bytes are less than a header of {PAYLOAD_START}",
                frame.len()
            )));
        }
        if frame[..8] != MAGIC {
            return Err(corrupt("it does not begin with DISTDLB1".to_owned()));
        }
        let version = u32::from_le_bytes(field(frame, 8));
        if version != VERSION {
            return Err(corrupt(format!("format version {version} is not {VERSION}")));
        }
        let header = Self {
            kind: u32::from_le_bytes(field(frame, 12)),
            record_type: field(frame, 16),
            program: field(frame, 48),
            count: u64::from_le_bytes(field(frame, 80)),
            payload_bytes: u64::from_le_bytes(field(frame, 88)),
        };
        let payload_bytes = (frame.len() - PAYLOAD_START) as u64;
        if header.payload_bytes != payload_bytes {
            return Err(corrupt(format!(
                "{payload_bytes} bytes are there, {} were written",
                header.payload_bytes
            )));
        }
        if checksum(frame) != field::<FINGERPRINT_BYTES>(frame, CHECKSUM_START) {
            return Err(corrupt("the checksum is wrong".to_owned()));
        }
        Ok(header)
    }

    /// The number of records, if the frame is one that `codec` writes.
    fn check(&self, codec: Codec) -> Result<usize> {
        let wanted = Self::of(codec, self.count, self.payload_bytes);
        if self.record_type != wanted.record_type {
            let found = "records of another type".to_owned();
            return Err(StorageError::WrongType {
                expected: codec.type_name(),
                found,
            });
        }
        if self.kind != wanted.kind {
            return Err(StorageError::corrupt(
                NAMELESS,
                format!("codec {} is not {}", self.kind, wanted.kind),
            ));
        }
        if self.program != wanted.program {
            return Err(StorageError::corrupt(NAMELESS, "another build of the program wrote it"));
        }
        usize::try_from(self.count).map_err(|_| StorageError::corrupt(NAMELESS, "it claims too many records"))
    }
}

/// `N` bytes of the header from `start`, both within it.
fn field<const N: usize>(frame: &[u8], start: usize) -> [u8; N] {
    let mut bytes = [0; N];
    bytes.copy_from_slice(&frame[start..start + N]);
    bytes
}

fn checksum(frame: &[u8]) -> Fingerprint {
    *blake3::Hasher::new()
        .update(&frame[..CHECKSUM_START])
        .update(&frame[HEADER_END..])
        .finalize()
        .as_bytes()
}

/// What tells the record type from others in frames, within one build: its name and its layout in memory.
fn type_fingerprint(codec: Codec) -> Fingerprint {
    let (size, align) = codec.layout();
    let mut hasher = blake3::Hasher::new();
    hasher.update(codec.type_name().as_bytes());
    hasher
        .update(&(size as u64).to_le_bytes())
        .update(&(align as u64).to_le_bytes());
    *hasher.finalize().as_bytes()
}

/// BLAKE3 of the running program's file, and of the file with this library if that is another, the same in all
/// processes of one build: frames of memory images are only for them, and only they make a cluster.
pub fn program_fingerprint() -> Digest {
    static FINGERPRINT: OnceLock<Fingerprint> = OnceLock::new();
    *FINGERPRINT.get_or_init(|| {
        // A program that cannot be read gets a fingerprint of this process alone: frames of others are refused then.
        executable_hash().unwrap_or_else(|_| *blake3::hash(&RandomState::new().hash_one(0).to_le_bytes()).as_bytes())
    })
}

fn executable_hash() -> io::Result<Fingerprint> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(open_executable()?)?;
    if let Some(library) = other_file_of_this_library() {
        hasher.update_reader(File::open(library)?)?;
    }
    Ok(*hasher.finalize().as_bytes())
}

/// On Linux the program that runs, even if its file was replaced since.
#[cfg(target_os = "linux")]
fn open_executable() -> io::Result<File> {
    File::open("/proc/self/exe")
}

#[cfg(not(target_os = "linux"))]
fn open_executable() -> io::Result<File> {
    File::open(std::env::current_exe()?)
}

/// The file that this library was loaded from, if the running program's is another: a loader that was told to run the
/// program, or an interpreter that has loaded it. One that was replaced since has a name that cannot be opened.
#[cfg(target_os = "linux")]
fn other_file_of_this_library() -> Option<PathBuf> {
    let here = program_fingerprint as fn() -> Digest as usize;
    // Where the system does not tell, the program's own file must do.
    let maps = std::fs::read("/proc/self/maps").ok()?;
    let executable = std::fs::read_link("/proc/self/exe").ok()?;
    let file = file_at(&maps, here).map(|name| PathBuf::from(OsStr::from_bytes(name)))?;
    (file != executable).then_some(file)
}

#[cfg(not(target_os = "linux"))]
fn other_file_of_this_library() -> Option<PathBuf> {
    None
}

/// Of lines as `55d0-55f0 r-xp 00000000 08:01 1234    /usr/bin/program` the file that lies at an address.
#[cfg(target_os = "linux")]
fn file_at(maps: &[u8], address: usize) -> Option<&[u8]> {
    maps.split(|byte| *byte == b'\n').find_map(|line| {
        let mut fields = line.splitn(6, |byte| *byte == b' ');
        let range = str::from_utf8(fields.next()?).ok()?;
        let (start, end) = range.split_once('-')?;
        let at = |text| usize::from_str_radix(text, 16).ok();
        let name = fields.nth(4)?.trim_ascii_start();
        ((at(start)?..at(end)?).contains(&address) && name.starts_with(b"/")).then_some(name)
    })
}

#[cfg(test)]
mod tests;
