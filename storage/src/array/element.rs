//! Numbers as they lie in a file.

use serde::{Deserialize, Serialize};

use crate::records::Record;

/// A type of number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[expect(missing_docs, reason = "each is named as its type is")]
pub enum ElementKind {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    U64,
    I64,
    F32,
    F64,
}

impl ElementKind {
    /// All of them.
    pub(super) const ALL: [Self; 10] = [
        Self::U8,
        Self::I8,
        Self::U16,
        Self::I16,
        Self::U32,
        Self::I32,
        Self::U64,
        Self::I64,
        Self::F32,
        Self::F64,
    ];

    /// Name of the type in Rust.
    pub fn name(self) -> &'static str {
        match self {
            Self::U8 => "u8",
            Self::I8 => "i8",
            Self::U16 => "u16",
            Self::I16 => "i16",
            Self::U32 => "u32",
            Self::I32 => "i32",
            Self::U64 => "u64",
            Self::I64 => "i64",
            Self::F32 => "f32",
            Self::F64 => "f64",
        }
    }

    /// Length of one, in bytes.
    pub fn bytes(self) -> u64 {
        match self {
            Self::U8 | Self::I8 => 1,
            Self::U16 | Self::I16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 => 8,
        }
    }
}

/// A number that array files hold.
pub trait Element: Record + Copy + sealed::Sealed {
    /// Which one.
    const KIND: ElementKind;

    /// Appends the numbers that lie in `bytes`, of which there is a whole number.
    #[doc(hidden)]
    fn decode(bytes: &[u8], big_endian: bool, target: &mut Vec<Self>);

    /// Appends the number's bytes, the least significant first.
    #[doc(hidden)]
    fn encode(self, target: &mut Vec<u8>);
}

mod sealed {
    pub trait Sealed {}
}

macro_rules! element {
    ($($number:ty: $kind:ident),*) => {$(
        impl sealed::Sealed for $number {}

        impl Element for $number {
            const KIND: ElementKind = ElementKind::$kind;

            fn decode(bytes: &[u8], big_endian: bool, target: &mut Vec<Self>) {
                let (numbers, _) = bytes.as_chunks();
                match big_endian {
                    true => target.extend(numbers.iter().map(|bytes| Self::from_be_bytes(*bytes))),
                    false => target.extend(numbers.iter().map(|bytes| Self::from_le_bytes(*bytes))),
                }
            }

            fn encode(self, target: &mut Vec<u8>) {
                target.extend_from_slice(&self.to_le_bytes());
            }
        }
    )*};
}

element!(u8: U8, i8: I8, u16: U16, i16: I16, u32: U32, i32: I32, u64: U64, i64: I64, f32: F32, f64: F64);
