//! What a record takes in memory, counted by serialising it to nowhere.
//!
//! Numbers count as wide as they lie in memory, sequences and texts with what their handle and their allocation take.
//! It is an estimate: room that a vector has left over is not seen.

use std::fmt::Display;

use serde::Serialize;
use serde::ser::{self, Serializer};

/// A handle of owned memory, and what the allocator adds to it, in bytes.
const OWNED_BYTES: u64 = 24 + 16;

/// About what a value takes, in bytes; what refuses to be serialised takes what was counted until then.
pub fn size_of_value<T: Serialize>(value: &T) -> u64 {
    let mut size = Size(0);
    let _ = value.serialize(&mut size);
    size.0.max(size_of::<T>() as u64)
}

struct Size(u64);

/// A value says that it cannot be serialised.
#[derive(Debug)]
struct Refused;

impl Display for Refused {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("refused")
    }
}

impl std::error::Error for Refused {}

impl ser::Error for Refused {
    fn custom<T: Display>(_: T) -> Self {
        Self
    }
}

macro_rules! numbers {
    ($($name:ident: $number:ty),+) => {
        $(fn $name(self, _: $number) -> Result<(), Refused> {
            self.add(size_of::<$number>())
        })+
    };
}

impl Size {
    fn add(&mut self, bytes: usize) -> Result<(), Refused> {
        self.0 += bytes as u64;
        Ok(())
    }

    fn owned(&mut self, bytes: usize) -> Result<(), Refused> {
        self.0 += OWNED_BYTES;
        self.add(bytes)
    }
}

impl<'a> Serializer for &'a mut Size {
    type Ok = ();
    type Error = Refused;
    type SerializeSeq = &'a mut Size;
    type SerializeTuple = &'a mut Size;
    type SerializeTupleStruct = &'a mut Size;
    type SerializeTupleVariant = &'a mut Size;
    type SerializeMap = &'a mut Size;
    type SerializeStruct = &'a mut Size;
    type SerializeStructVariant = &'a mut Size;

    numbers! {
        serialize_bool: bool, serialize_char: char,
        serialize_i8: i8, serialize_i16: i16, serialize_i32: i32, serialize_i64: i64, serialize_i128: i128,
        serialize_u8: u8, serialize_u16: u16, serialize_u32: u32, serialize_u64: u64, serialize_u128: u128,
        serialize_f32: f32, serialize_f64: f64
    }

    fn serialize_str(self, text: &str) -> Result<(), Refused> {
        self.owned(text.len())
    }

    fn serialize_bytes(self, bytes: &[u8]) -> Result<(), Refused> {
        self.owned(bytes.len())
    }

    fn serialize_none(self) -> Result<(), Refused> {
        self.add(size_of::<u64>())
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), Refused> {
        value.serialize(self)
    }

    fn serialize_unit(self) -> Result<(), Refused> {
        Ok(())
    }

    fn serialize_unit_struct(self, _: &'static str) -> Result<(), Refused> {
        Ok(())
    }

    fn serialize_unit_variant(self, _: &'static str, _: u32, _: &'static str) -> Result<(), Refused> {
        self.add(size_of::<u64>())
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, value: &T) -> Result<(), Refused> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        value: &T,
    ) -> Result<(), Refused> {
        self.add(size_of::<u64>())?;
        value.serialize(self)
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<Self, Refused> {
        self.owned(0)?;
        Ok(self)
    }

    fn serialize_tuple(self, _: usize) -> Result<Self, Refused> {
        Ok(self)
    }

    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Self, Refused> {
        Ok(self)
    }

    fn serialize_tuple_variant(self, _: &'static str, _: u32, _: &'static str, _: usize) -> Result<Self, Refused> {
        self.add(size_of::<u64>())?;
        Ok(self)
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Self, Refused> {
        self.owned(0)?;
        Ok(self)
    }

    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Self, Refused> {
        Ok(self)
    }

    fn serialize_struct_variant(self, _: &'static str, _: u32, _: &'static str, _: usize) -> Result<Self, Refused> {
        self.add(size_of::<u64>())?;
        Ok(self)
    }

    fn is_human_readable(&self) -> bool {
        false
    }
}

macro_rules! elements {
    ($($of:ident: $element:ident,)+) => {
        $(impl ser::$of for &mut Size {
            type Ok = ();
            type Error = Refused;

            fn $element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Refused> {
                value.serialize(&mut **self)
            }

            fn end(self) -> Result<(), Refused> {
                Ok(())
            }
        })+
    };
}

elements! {
    SerializeSeq: serialize_element,
    SerializeTuple: serialize_element,
    SerializeTupleStruct: serialize_field,
    SerializeTupleVariant: serialize_field,
}

macro_rules! fields {
    ($($of:ident),+) => {
        $(impl ser::$of for &mut Size {
            type Ok = ();
            type Error = Refused;

            fn serialize_field<T: Serialize + ?Sized>(&mut self, _: &'static str, value: &T) -> Result<(), Refused> {
                value.serialize(&mut **self)
            }

            fn end(self) -> Result<(), Refused> {
                Ok(())
            }
        })+
    };
}

fields!(SerializeStruct, SerializeStructVariant);

impl ser::SerializeMap for &mut Size {
    type Ok = ();
    type Error = Refused;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), Refused> {
        // Nodes of a map are not full.
        self.add(2 * size_of::<u64>())?;
        key.serialize(&mut **self)
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Refused> {
        value.serialize(&mut **self)
    }

    fn end(self) -> Result<(), Refused> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn numbers_count_as_wide_as_they_are_whatever_their_value() {
        assert_eq!(size_of_value(&(1u64, 2u8, -3i16, 4.0f32)), 16);
        assert_eq!(size_of_value(&[(1u8, 2u8); 3]), 6);
        assert_eq!(size_of_value(&vec![0u64; 100]), 40 + 800);
        assert_eq!(size_of_value(&"x".repeat(100)), 40 + 100);
        assert_eq!(size_of_value(&Some(vec![(1u32, "ab".to_owned())])), 40 + 4 + 40 + 2);
        assert_eq!(size_of_value(&BTreeMap::from([(1u64, 2u64)])), 40 + 16 + 16);
    }
}
