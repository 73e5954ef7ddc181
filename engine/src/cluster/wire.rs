//! The frames that members send each other: a header of fixed size, and a payload whose length and checksum it has.
//!
//! | bytes    | field                                      |
//! |----------|--------------------------------------------|
//! | 0..4     | magic                                      |
//! | 4        | kind                                       |
//! | 5..8     | zero                                       |
//! | 8..16    | generation                                 |
//! | 16..24   | action                                     |
//! | 24..28   | round                                      |
//! | 28..32   | zero                                       |
//! | 32..80   | six words, of a meaning that the kind has  |
//! | 80..112  | four tallies, IEEE 754 double              |
//! | 112..120 | length of the payload in bytes             |
//! | 120..128 | XXH3 of the payload                        |
//! | 128..136 | XXH3 of the header before it               |
//!
//! All numbers are little endian. After an error nothing more can be read from the connection: where the next frame
//! begins is not known.

use std::io::{self, IoSlice, Read, Write};

use xxhash_rust::xxh3::{Xxh3Default, xxh3_64};

#[cfg(target_endian = "big")]
compile_error!("parameters are sent as little-endian f32 and read in place; big-endian machines are not supported");

/// Size of an encoded [`Header`].
pub(crate) const HEADER_BYTES: usize = 136;

const MAGIC: u32 = u32::from_le_bytes(*b"DDLf");
const CHECKED_BYTES: usize = HEADER_BYTES - 8;
/// A buffer for what is announced is made at most this large before anything has arrived.
const FIRST_STEP_BYTES: u64 = 1 << 20;

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Kind {
    /// Records of a shuffle on their way to the owner of a partition.
    Parcel = 1,
    /// The sender has no more parcels from a partition.
    SourceDone = 2,
    /// The sender gives its part of the round up.
    Abandon = 3,
    /// Asks for a block.
    BlockRequest = 4,
    /// A block that was asked for.
    Block = 5,
    /// Summed gradients for a shard, to its owner.
    Update = 6,
    /// New parameters of a shard, from its owner.
    Shard = 7,
    /// The sum of a step's updates over a shard, to the process that keeps its state as well.
    Sum = 8,
    /// State of a loop, for a member that lacks it.
    State = 9,
    /// Names memory that the receiver may read in place.
    Share = 10,
    /// The sender can read the memory that the receiver has named.
    Shared = 11,
    /// Tallies of a step that was finished before the receiver came.
    Report = 12,
    /// The sender has all of a version; from one that keeps optimizer state and hosts no lane, whose updates would say
    /// so.
    Attend = 13,
    /// The sender has left something in the memory that it shares.
    Ring = 14,
    /// A block to be kept for the sender, which waits for [`Kind::Block`].
    BlockCopy = 15,
    /// The sender has ended a task that others may be computing as well.
    TaskDone = 16,
    /// Asks for the place of an update in a step, or tells it.
    Sequence = 17,
    /// What the sender's shards have measured in a round of a step.
    Measures = 18,
    /// The end of an update whose beginning is still being computed.
    Piece = 19,
}

impl TryFrom<u8> for Kind {
    type Error = WireError;

    fn try_from(number: u8) -> Result<Self, WireError> {
        const KINDS: [Kind; 19] = [
            Kind::Parcel,
            Kind::SourceDone,
            Kind::Abandon,
            Kind::BlockRequest,
            Kind::Block,
            Kind::Update,
            Kind::Shard,
            Kind::Sum,
            Kind::State,
            Kind::Share,
            Kind::Shared,
            Kind::Report,
            Kind::Attend,
            Kind::Ring,
            Kind::BlockCopy,
            Kind::TaskDone,
            Kind::Sequence,
            Kind::Measures,
            Kind::Piece,
        ];
        KINDS
            .into_iter()
            .find(|kind| *kind as u8 == number)
            .ok_or(WireError::Kind(number))
    }
}

/// What a receiver is ready to take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Largest payload of one frame.
    pub payload_bytes_max: u64,
}

/// What stands before a payload.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Header {
    /// What the frame is.
    pub kind: Kind,
    /// The sender's generation: a frame of another one is not for this life of the cluster.
    pub generation: u64,
    /// Number of the action.
    pub action: u64,
    /// Round of the action.
    pub round: u32,
    /// Of a meaning that the kind has.
    pub words: [u64; 6],
    /// Of a meaning that the kind has; every bit of them arrives, those of a NaN too.
    pub tallies: [f64; 4],
    /// Length of the payload; set by [`write_frame`].
    pub payload_bytes: u64,
    /// XXH3 of the payload; set by [`write_frame`].
    pub payload_checksum: u64,
}

impl Header {
    /// Of a frame without payload, in no round yet.
    pub(crate) fn new(kind: Kind, words: [u64; 6]) -> Self {
        let (payload_bytes, payload_checksum) = (0, xxh3_64(&[]));
        Self {
            kind,
            generation: 0,
            action: 0,
            round: 0,
            words,
            tallies: [0.0; 4],
            payload_bytes,
            payload_checksum,
        }
    }

    /// Its bytes on the wire.
    pub(crate) fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..4].copy_from_slice(&MAGIC.to_le_bytes());
        bytes[4] = self.kind as u8;
        put(&mut bytes, 8, self.generation);
        put(&mut bytes, 16, self.action);
        put(&mut bytes, 24, u64::from(self.round));
        for (index, word) in self.words.iter().enumerate() {
            put(&mut bytes, 32 + 8 * index, *word);
        }
        for (index, tally) in self.tallies.iter().enumerate() {
            put(&mut bytes, 80 + 8 * index, tally.to_bits());
        }
        put(&mut bytes, 112, self.payload_bytes);
        put(&mut bytes, 120, self.payload_checksum);
        let checksum = xxh3_64(&bytes[..CHECKED_BYTES]);
        put(&mut bytes, CHECKED_BYTES, checksum);
        bytes
    }

    /// Of the bytes that [`Self::encode`] makes, and of no others.
    ///
    /// # Errors
    /// If a bit of them was changed, or the payload is longer than `limits` allow.
    pub(crate) fn decode(bytes: &[u8; HEADER_BYTES], limits: Limits) -> Result<Self, WireError> {
        if bytes[..4] != MAGIC.to_le_bytes() {
            return Err(WireError::NoFrame);
        }
        if xxh3_64(&bytes[..CHECKED_BYTES]) != get(bytes, CHECKED_BYTES) {
            return Err(WireError::Checksum { part: "header" });
        }
        let kind = Kind::try_from(bytes[4])?;
        let round = u32::try_from(get(bytes, 24)).map_err(|_| WireError::NoFrame)?;
        if bytes[5..8] != [0; 3] {
            return Err(WireError::NoFrame);
        }
        let payload_bytes = get(bytes, 112);
        if payload_bytes > limits.payload_bytes_max {
            return Err(WireError::TooLong {
                bytes: payload_bytes,
                bytes_max: limits.payload_bytes_max,
            });
        }
        Ok(Self {
            kind,
            generation: get(bytes, 8),
            action: get(bytes, 16),
            round,
            words: std::array::from_fn(|index| get(bytes, 32 + 8 * index)),
            tallies: std::array::from_fn(|index| f64::from_bits(get(bytes, 80 + 8 * index))),
            payload_bytes,
            payload_checksum: get(bytes, 120),
        })
    }
}

fn put(bytes: &mut [u8; HEADER_BYTES], at: usize, word: u64) {
    bytes[at..at + 8].copy_from_slice(&word.to_le_bytes());
}

fn get(bytes: &[u8; HEADER_BYTES], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}

/// Why a frame was not taken or not sent. The connection is of no more use.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum WireError {
    /// What was read is no frame.
    #[error("what arrived is not a frame; the connection is out of step and must be made again")]
    NoFrame,
    /// Bits were changed on the way.
    #[error("the {part} of a frame does not match its checksum; check the network and the memory of both hosts")]
    Checksum {
        /// Header or payload.
        part: &'static str,
    },
    /// A kind that this version does not know.
    #[error("a frame is of the unknown kind {0}; start all processes from the same build of the program")]
    Kind(u8),
    /// A longer payload than the receiver takes.
    #[error("a frame of {bytes} bytes is longer than the {bytes_max} that are allowed; use more partitions or shards")]
    TooLong {
        /// Announced.
        bytes: u64,
        /// Allowed.
        bytes_max: u64,
    },
    /// Another number of floats than the place for them has.
    #[error("a frame has {bytes} bytes where {expected} belong; the processes do not agree about the parameters")]
    Length {
        /// Announced.
        bytes: u64,
        /// Size of the place for them.
        expected: u64,
    },
    /// The connection ended within a frame.
    #[error("the connection ended within a frame; the process at the other side is gone")]
    Ended,
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Io(io::Error),
}

impl From<io::Error> for WireError {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::UnexpectedEof {
            Self::Ended
        } else {
            Self::Io(error)
        }
    }
}

/// Reads the next header; `None` if the connection ended before it, which is between two frames.
///
/// # Errors
/// As [`Header::decode`], or if the connection ends within the header.
pub(crate) fn read_header(reader: impl Read, limits: Limits) -> Result<Option<Header>, WireError> {
    let mut bytes = [0; HEADER_BYTES];
    if !read_or_end(reader, &mut bytes)? {
        return Ok(None);
    }
    Header::decode(&bytes, limits).map(Some)
}

/// Fills `bytes`; `false` if the connection ended before the first of them.
pub(super) fn read_or_end(mut reader: impl Read, bytes: &mut [u8]) -> io::Result<bool> {
    loop {
        match reader.read(bytes) {
            Ok(0) => return Ok(false),
            Ok(count) => return reader.read_exact(&mut bytes[count..]).map(|()| true),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Reads the payload that follows `header`. The buffer grows with what arrives, whatever the header announces: it is
/// never larger than 1 MiB or twice what has arrived, and at the end as large as the payload.
///
/// # Errors
/// If the payload is longer than `limits` allow, cut short, or was changed on the way.
pub(crate) fn read_bytes(reader: impl Read, header: &Header, limits: Limits) -> Result<Vec<u8>, WireError> {
    if header.payload_bytes > limits.payload_bytes_max {
        return Err(WireError::TooLong {
            bytes: header.payload_bytes,
            bytes_max: limits.payload_bytes_max,
        });
    }
    let bytes = read_growing(reader, header.payload_bytes)?;
    check_payload(header, &bytes)?;
    Ok(bytes)
}

/// Reads `length` bytes into a buffer that grows as [`read_bytes`] says.
pub(super) fn read_growing(mut reader: impl Read, length: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    loop {
        let arrived = bytes.len();
        let step = (length - arrived as u64).min(FIRST_STEP_BYTES.max(arrived as u64)) as usize;
        if step == 0 {
            return Ok(bytes);
        }
        bytes.try_reserve_exact(step)?;
        bytes.resize(arrived + step, 0);
        reader.read_exact(&mut bytes[arrived..])?;
    }
}

/// Reads the payload that follows `header` into `floats`, without a copy. After an error `floats` may have any values.
///
/// # Errors
/// If the payload has not exactly the size of `floats`, is cut short, or was changed on the way.
pub(crate) fn read_floats_into(mut reader: impl Read, header: &Header, floats: &mut [f32]) -> Result<(), WireError> {
    let bytes: &mut [u8] = bytemuck::cast_slice_mut(floats);
    if header.payload_bytes != bytes.len() as u64 {
        return Err(WireError::Length {
            bytes: header.payload_bytes,
            expected: bytes.len() as u64,
        });
    }
    reader.read_exact(bytes)?;
    check_payload(header, bytes)
}

fn check_payload(header: &Header, bytes: &[u8]) -> Result<(), WireError> {
    if xxh3_64(bytes) == header.payload_checksum {
        Ok(())
    } else {
        Err(WireError::Checksum { part: "payload" })
    }
}

/// Sends a frame whose payload is the `payload` pieces one after the other, and sets the header's length and checksum
/// accordingly. A small frame goes out in one system call. Frames of several threads must not be sent at the same time.
///
/// # Errors
/// If the connection is broken; a part of the frame may have been sent.
pub(crate) fn write_frame(writer: impl Write, header: &mut Header, payload: &[&[u8]]) -> Result<(), WireError> {
    let mut hasher = Xxh3Default::new();
    payload.iter().for_each(|piece| hasher.update(piece));
    header.payload_bytes = payload.iter().map(|piece| piece.len() as u64).sum();
    header.payload_checksum = hasher.digest();
    let start = header.encode();
    let mut pieces: Vec<_> = std::iter::once(&start[..])
        .chain(payload.iter().copied())
        .map(IoSlice::new)
        .collect();
    Ok(write_all_pieces(writer, &mut pieces)?)
}

/// Writes all of `pieces`, in as few calls as the writer allows.
pub(super) fn write_all_pieces(mut writer: impl Write, mut pieces: &mut [IoSlice<'_>]) -> io::Result<()> {
    // Takes empty pieces off the front, which would look like the end of what can be written.
    IoSlice::advance_slices(&mut pieces, 0);
    while !pieces.is_empty() {
        match writer.write_vectored(pieces) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => IoSlice::advance_slices(&mut pieces, count),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
