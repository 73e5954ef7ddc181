//! How the records of a block become bytes and records again. The only file of this crate with `unsafe`.
//!
//! Plain numbers lie in a frame as they lie in memory and are read in place where the frame is a mapped file, with
//! `abomonation`; all other types go through `postcard`. `abomonation` checks nothing by itself. So it sees only
//! [`Plain`] types, and only bytes whose length and alignment were checked here and whose checksum, type and writing
//! program were checked in `frame`.

#![expect(unsafe_code, reason = "records are read in place; each block says why that is sound")]

use std::any::{Any, TypeId};
use std::fmt;
use std::fs::File;
use std::io;
use std::marker::PhantomData;
use std::mem::{align_of, needs_drop, size_of};
use std::ops::Deref;
use std::ptr::NonNull;
use std::sync::Arc;

use abomonation::Abomonation;
use memmap2::{MmapMut, MmapOptions};

use crate::records::{Record, Records};
use crate::schema::schema;
use crate::size::size_of_value;
use crate::strict::{Whole, explained};

/// Where the payload of a frame begins. A multiple of 64, so that records read in place suit vector instructions; the
/// last bytes before it are spare room that every codec leaves zero.
pub(crate) const PAYLOAD_START: usize = 192;

/// End of the part of the header that the frame itself uses.
pub(crate) const HEADER_END: usize = 128;

/// A `Records<T>` whose `T` only its table knows.
pub(crate) type Erased = Box<dyn Any + Send + Sync>;

/// How a codec writes records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum CodecKind {
    /// As they lie in memory, read back in place. Only plain numbers, and only for this machine and this program.
    Abomonation = 1,
    /// Serialised by `postcard`.
    Postcard = 2,
}

/// How blocks of one record type become bytes and records again.
#[derive(Clone, Copy)]
pub struct Codec(&'static Table);

struct Table {
    kind: CodecKind,
    type_id: fn() -> TypeId,
    type_name: fn() -> &'static str,
    size: usize,
    align: usize,
    portable: fn() -> Codec,
    schema: fn() -> String,
    memory_bytes: fn(&Erased) -> u64,
    append: fn(&Erased, &mut Vec<u8>) -> Result<(), String>,
    read: fn(Source, usize) -> Result<Erased, String>,
}

impl Codec {
    /// The codec of `T`: [`CodecKind::Abomonation`] for fixed-size numbers and small tuples and arrays of numbers of
    /// one size, else [`CodecKind::Postcard`].
    pub fn of<T: Record>() -> Self {
        plain_table(TypeId::of::<T>()).map_or_else(Self::postcard::<T>, Self)
    }

    /// How it writes records.
    pub fn kind(self) -> CodecKind {
        self.0.kind
    }

    /// The codec of the same record type whose frames other machines and other builds may read.
    #[must_use]
    pub fn portable(self) -> Self {
        (self.0.portable)()
    }

    /// The record type's name, for people.
    pub fn type_name(self) -> &'static str {
        (self.0.type_name)()
    }

    /// The codec that a store uses for this record type.
    pub(crate) fn native(self) -> Self {
        plain_table(self.type_id()).map_or(self, Self)
    }

    fn postcard<T: Record>() -> Self {
        Self(&Serialised::<T>::TABLE)
    }

    pub(crate) fn type_id(self) -> TypeId {
        (self.0.type_id)()
    }

    /// Size and alignment of a record in memory, in bytes.
    pub(crate) fn layout(self) -> (usize, usize) {
        (self.0.size, self.0.align)
    }

    /// What the record type is made of. Making it takes a while.
    pub(crate) fn schema(self) -> String {
        (self.0.schema)()
    }

    /// Estimate of the memory that records of this type take, in bytes.
    pub(crate) fn memory_bytes(self, records: &Erased) -> u64 {
        (self.0.memory_bytes)(records)
    }

    /// Appends the payload to a frame that holds [`PAYLOAD_START`] bytes of header. `records` are of this type.
    pub(crate) fn append(self, records: &Erased, frame: &mut Vec<u8>) -> Result<(), String> {
        (self.0.append)(records, frame)
    }

    /// Reads `count` records from a frame of [`PAYLOAD_START`] bytes or more whose checksum is right.
    pub(crate) fn read(self, source: Source, count: usize) -> Result<Erased, String> {
        (self.0.read)(source, count)
    }
}

impl fmt::Debug for Codec {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Codec({:?} of {})", self.kind(), self.type_name())
    }
}

impl PartialEq for Codec {
    fn eq(&self, other: &Self) -> bool {
        self.kind() == other.kind() && self.type_id() == other.type_id()
    }
}

impl Eq for Codec {}

/// The bytes of a frame: in memory, perhaps shared, or a private mapping of a file.
pub struct Source(Bytes);

enum Bytes {
    InMemory(bytes::Bytes),
    Mapped(MmapMut),
}

impl Source {
    /// Maps a file of a folder that only this store writes to. The mapping is private: what is written to it never
    /// reaches the file.
    pub(crate) fn map(file: &File) -> io::Result<Self> {
        // SAFETY: a mapping is sound while nobody changes or shortens the file. The files of a disk tier are complete
        // before they get their name and are never written again, only replaced or unlinked, which leaves the mapped
        // file as it is; they lie in a folder of mode 0700 with a random name that the tier made for itself.
        let mapping = unsafe { MmapOptions::new().map_copy(file)? };
        Ok(Self(Bytes::Mapped(mapping)))
    }
}

impl From<Vec<u8>> for Source {
    fn from(bytes: Vec<u8>) -> Self {
        bytes::Bytes::from(bytes).into()
    }
}

impl From<bytes::Bytes> for Source {
    fn from(bytes: bytes::Bytes) -> Self {
        Self(Bytes::InMemory(bytes))
    }
}

impl Deref for Source {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Bytes::InMemory(bytes) => bytes,
            Bytes::Mapped(mapping) => mapping,
        }
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Source({} bytes)", self.len())
    }
}

fn records_of<T: Record>(records: &Erased) -> Result<&Records<T>, String> {
    records
        .downcast_ref()
        .ok_or_else(|| "the block holds records of another type".to_owned())
}

/// Where `postcard` puts the bytes of a record.
struct Appending<'a>(&'a mut Vec<u8>);

impl postcard::ser_flavors::Flavor for Appending<'_> {
    type Output = ();

    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.0.push(byte);
        Ok(())
    }

    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }

    fn finalize(self) -> postcard::Result<()> {
        Ok(())
    }
}

struct Serialised<T>(PhantomData<T>);

impl<T: Record> Serialised<T> {
    const TABLE: Table = Table {
        kind: CodecKind::Postcard,
        type_id: TypeId::of::<T>,
        type_name: std::any::type_name::<T>,
        size: size_of::<T>(),
        align: align_of::<T>(),
        portable: Codec::postcard::<T>,
        schema: schema::<T>,
        memory_bytes: memory_bytes::<T>,
        append: Self::append,
        read: Self::read,
    };

    /// A record may take no bytes at all. Zeros follow then, up to one byte a record, so that no frame can claim more
    /// records than it has bytes.
    fn append(records: &Erased, frame: &mut Vec<u8>) -> Result<(), String> {
        let records = records_of::<T>(records)?;
        for (number, record) in records.iter().enumerate() {
            postcard::serialize_with_flavor(&Whole(record), Appending(frame))
                .map_err(|error| format!("record {number}: {}", explained(&error)))?;
        }
        let bytes_min = PAYLOAD_START + records.len();
        if frame.len() < bytes_min {
            frame.resize(bytes_min, 0);
        }
        Ok(())
    }

    fn read(source: Source, count: usize) -> Result<Erased, String> {
        let payload = &source[PAYLOAD_START..];
        if count > payload.len() {
            return Err(format!("{count} records cannot lie in {} bytes", payload.len()));
        }
        let mut rest = payload;
        let mut records = Vec::with_capacity(count.min(payload.len() / size_of::<T>().max(1)));
        for number in 0..count {
            let (record, after) = postcard::take_from_bytes::<T>(rest).map_err(|error| {
                let begins = payload.len() - rest.len();
                format!("record {number}, which begins at byte {begins}: {}", explained(&error))
            })?;
            records.push(record);
            rest = after;
        }
        let padding = count.saturating_sub(payload.len() - rest.len());
        if rest.len() != padding || rest.iter().any(|byte| *byte != 0) {
            return Err(format!("{} bytes follow the last record", rest.len()));
        }
        records.shrink_to_fit();
        Ok(Box::new(Records::from(records)))
    }
}

/// The size of the records, with what those take that own heap memory.
fn memory_bytes<T: Record>(records: &Erased) -> u64 {
    let Ok(records) = records_of::<T>(records) else {
        return 0;
    };
    if !needs_drop::<T>() {
        return size_of_val::<[T]>(records) as u64;
    }
    records.iter().map(size_of_value).sum()
}

/// Types that may be read in place: no pointer, no padding, and every pattern of bits is a value.
///
/// # Safety
/// The implementor vouches for these three.
unsafe trait Plain: Record + Copy + Abomonation {}

/// Records of a plain type that lie in a mapping which they keep alive.
struct InPlace<T> {
    vector: NonNull<Vec<T>>,
    _mapping: MmapMut,
}

// SAFETY: the mapping is owned and from here on only read, through shared references to `Vec<T>`, which is `Send` and
// `Sync` because `T` is a `Record`. The vector itself is never dropped.
unsafe impl<T: Plain> Send for InPlace<T> {}
// SAFETY: as above.
unsafe impl<T: Plain> Sync for InPlace<T> {}

impl<T: Plain> Deref for InPlace<T> {
    type Target = Vec<T>;

    fn deref(&self) -> &Vec<T> {
        // SAFETY: `vector` points into the mapping, which lives as long as `self` and has not moved: moving a mapping
        // moves its address and length, not its pages. It was initialised by `exhume`, and nothing writes to it.
        unsafe { self.vector.as_ref() }
    }
}

struct Embedded<T>(PhantomData<T>);

impl<T: Plain> Embedded<T> {
    const TABLE: Table = Table {
        kind: CodecKind::Abomonation,
        type_id: TypeId::of::<T>,
        type_name: std::any::type_name::<T>,
        size: size_of::<T>(),
        align: align_of::<T>(),
        portable: Codec::postcard::<T>,
        schema: schema::<T>,
        memory_bytes: memory_bytes::<T>,
        append: Self::append,
        read: Self::read,
    };

    /// Where abomonation's image of the vector itself lies: the last bytes before the payload.
    const VECTOR_START: usize = {
        assert!(size_of::<Vec<T>>() <= PAYLOAD_START - HEADER_END && size_of::<T>() > 0);
        PAYLOAD_START - size_of::<Vec<T>>()
    };

    fn append(records: &Erased, frame: &mut Vec<u8>) -> Result<(), String> {
        let records = records_of::<T>(records)?;
        frame.truncate(Self::VECTOR_START);
        frame.reserve(size_of::<Vec<T>>() + size_of_val::<[T]>(records));
        // SAFETY: a `Vec` is three words without padding, and a `Plain` record has none either, so only initialised
        // bytes are read.
        unsafe { abomonation::encode(records.as_vec(), frame) }.map_err(|error| error.to_string())?;
        // The image holds an address, which is of no use to a reader and must not leave the process.
        frame[Self::VECTOR_START..PAYLOAD_START].fill(0);
        Ok(())
    }

    fn read(source: Source, count: usize) -> Result<Erased, String> {
        let mut mapping = match source.0 {
            Bytes::InMemory(bytes) => return Self::copy(&bytes, count),
            Bytes::Mapped(mapping) => mapping,
        };
        let vector = Self::exhume(&mut mapping, count)?;
        Ok(Box::new(Records::<T>::in_place(Arc::new(InPlace {
            vector,
            _mapping: mapping,
        }))))
    }

    /// The records of a frame in memory of their own, since nothing says how the frame is aligned.
    fn copy(frame: &[u8], count: usize) -> Result<Erased, String> {
        let payload = Self::payload(frame, count)?;
        let mut records: Vec<T> = Vec::with_capacity(count);
        // SAFETY: the payload has `count * size_of::<T>()` bytes, for which there is room; they do not overlap, and are
        // values of `T` whatever they hold.
        unsafe {
            std::ptr::copy_nonoverlapping(payload.as_ptr(), records.as_mut_ptr().cast(), payload.len());
            records.set_len(count);
        }
        Ok(Box::new(Records::from(records)))
    }

    /// What follows the header, if it is as long as `count` records.
    fn payload(frame: &[u8], count: usize) -> Result<&[u8], String> {
        let payload = frame.get(PAYLOAD_START..).ok_or("the header is cut short")?;
        if count.checked_mul(size_of::<T>()) != Some(payload.len()) {
            return Err(format!("{count} records do not make {} bytes", payload.len()));
        }
        Ok(payload)
    }

    /// Makes the vector that stands before the payload point to the records there.
    fn exhume(frame: &mut [u8], count: usize) -> Result<NonNull<Vec<T>>, String> {
        Self::payload(frame, count)?;
        let image = frame[Self::VECTOR_START..].as_mut_ptr().cast::<Vec<T>>();
        if !image.is_aligned() || !frame[PAYLOAD_START..].as_ptr().cast::<T>().is_aligned() {
            return Err("the bytes are not aligned".to_owned());
        }
        // SAFETY: the image's place is aligned and within `frame`. The vector is a stand-in of the right length: it
        // replaces the zeros there, so that abomonation finds a valid value, and is overwritten before anyone reads
        // through it.
        unsafe { image.write(Vec::from_raw_parts(NonNull::dangling().as_ptr(), count, count)) };
        // SAFETY: the bytes begin with a valid `Vec<T>` of length `count`; the `count * size_of::<T>()` bytes after it
        // were counted above without overflow, are aligned, and are values of `T` whatever they hold. The result is
        // only read, and never dropped, so the allocator never sees its buffer.
        let decoded = unsafe { abomonation::decode::<Vec<T>>(&mut frame[Self::VECTOR_START..]) };
        let (vector, _) = decoded.ok_or("the records are cut short")?;
        Ok(NonNull::from(vector))
    }
}

/// Numbers, with a mark of their size in bytes: only numbers of one size make plain tuples.
trait Number: Plain {
    type Size;
}

struct Bytes1;
struct Bytes2;
struct Bytes4;
struct Bytes8;
struct PointerBytes;

macro_rules! numbers {
    ($($size:ty: $($number:ty)+;)+) => {
        $($(
            const _: () = assert!(size_of::<$number>() == align_of::<$number>());
            // SAFETY: a number of fixed size is all value, and every pattern of bits is one.
            unsafe impl Plain for $number {}
            impl Number for $number {
                type Size = $size;
            }
        )+)+
    };
}

numbers! {
    Bytes1: u8 i8;
    Bytes2: u16 i16;
    Bytes4: u32 i32 f32;
    Bytes8: u64 i64 f64;
    PointerBytes: usize isize;
}

// SAFETY: parts whose size is their alignment, and the same for all, leave no gap in whichever order they lie.
unsafe impl<A: Number, B: Number<Size = A::Size>> Plain for (A, B) {}
// SAFETY: as above.
unsafe impl<A: Number> Plain for (A, A, A) {}

macro_rules! arrays {
    ($($length:literal)+) => {
        // SAFETY: an array has no gap between its elements.
        $(unsafe impl<A: Number> Plain for [A; $length] {})+

        fn array_table<A: Number>(wanted: TypeId) -> Option<&'static Table> {
            None$(.or_else(|| table::<[A; $length]>(wanted)))+
        }
    };
}

arrays! { 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 }

fn table<T: Plain>(wanted: TypeId) -> Option<&'static Table> {
    (wanted == TypeId::of::<T>()).then_some(&Embedded::<T>::TABLE)
}

fn number_table<A: Number>(wanted: TypeId) -> Option<&'static Table> {
    table::<A>(wanted)
        .or_else(|| table::<(A, A, A)>(wanted))
        .or_else(|| array_table::<A>(wanted))
}

macro_rules! plain_table {
    ($($number:ty: $($partner:ty)+;)+) => {
        /// The table of the plain type `wanted`; `None` for all other types.
        fn plain_table(wanted: TypeId) -> Option<&'static Table> {
            None$(.or_else(|| number_table::<$number>(wanted))$(.or_else(|| table::<($number, $partner)>(wanted)))+)+
        }
    };
}

plain_table! {
    u8: u8 i8;
    i8: u8 i8;
    u16: u16 i16;
    i16: u16 i16;
    u32: u32 i32 f32;
    i32: u32 i32 f32;
    f32: u32 i32 f32;
    u64: u64 i64 f64;
    i64: u64 i64 f64;
    f64: u64 i64 f64;
    usize: usize isize;
    isize: usize isize;
}
