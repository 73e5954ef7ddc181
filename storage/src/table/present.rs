//! Nulls in lists, maps and structs of a row, which `serde_arrow` would read as whatever lies under them.
//!
//! It looks whether a value is there where a field is an `Option`, a number or a text. So each other value is asked for
//! as if it were an `Option`, and one that is not there is an error.
//!
//! An array or a tuple takes as many values as it has, and leaves the rest where they are. Here they take all of a
//! list, or none. Of columns and of a struct's fields they take those named `0`, `1` and so on, as tuples are written:
//! others may stand in another order in the next file.

use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// A value of which all is there that its type wants.
pub(super) struct Present<T>(pub(super) T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Present<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // A row itself is always there.
        T::deserialize(Checked(deserializer, MayBeNull(false))).map(Present)
    }
}

/// Whether it is still to be asked if a value is there.
#[derive(Clone, Copy)]
struct MayBeNull(bool);

/// Reads a value, and all that is in it.
struct Checked<D>(D, MayBeNull);

/// What holds other values.
#[derive(Clone, Copy)]
enum Holder {
    List,
    /// An array, a tuple or a struct without names.
    Tuple,
    Map,
    Struct(&'static str, &'static [&'static str]),
}

impl Holder {
    fn read<'de, D: Deserializer<'de>, V: Visitor<'de>>(self, from: D, visitor: V) -> Result<V::Value, D::Error> {
        let inside = |visitor| Inside(visitor, MayBeNull(false));
        match self {
            Self::List => from.deserialize_seq(inside(visitor)),
            // With the names of a struct's fields, which asking for a tuple would not give.
            Self::Tuple => from.deserialize_any(All(visitor)),
            Self::Map => from.deserialize_map(inside(visitor)),
            Self::Struct(name, fields) => from.deserialize_struct(name, fields, inside(visitor)),
        }
    }
}

impl<'de, D: Deserializer<'de>> Checked<D> {
    fn held<V: Visitor<'de>>(self, holder: Holder, visitor: V) -> Result<V::Value, D::Error> {
        match self.1 {
            MayBeNull(true) => self.0.deserialize_option(IfThere(holder, visitor)),
            MayBeNull(false) => holder.read(self.0, visitor),
        }
    }
}

/// Takes what holds other values if it is there.
struct IfThere<V>(Holder, V);

impl<'de, V: Visitor<'de>> Visitor<'de> for IfThere<V> {
    type Value = V::Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.1.expecting(formatter)
    }

    fn visit_none<E: Error>(self) -> Result<V::Value, E> {
        Err(E::custom(
            "a list, map or struct is null where the record has no `Option`",
        ))
    }

    fn visit_unit<E: Error>(self) -> Result<V::Value, E> {
        self.visit_none()
    }

    fn visit_some<D: Deserializer<'de>>(self, from: D) -> Result<V::Value, D::Error> {
        self.0.read(from, self.1)
    }
}

macro_rules! as_they_are {
    ($($name:ident)+) => {
        $(fn $name<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
            self.0.$name(visitor)
        })+
    };
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Checked<D> {
    type Error = D::Error;

    as_they_are! {
        deserialize_any deserialize_bool deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_i128
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64 deserialize_u128 deserialize_f32 deserialize_f64
        deserialize_char deserialize_str deserialize_string deserialize_bytes deserialize_byte_buf deserialize_unit
        deserialize_identifier deserialize_ignored_any
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.0.deserialize_option(Inside(visitor, MayBeNull(false)))
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value, D::Error> {
        self.0.deserialize_unit_struct(name, visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value, D::Error> {
        self.0.deserialize_newtype_struct(name, Inside(visitor, self.1))
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.held(Holder::List, visitor)
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, D::Error> {
        self.held(Holder::Tuple, visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: usize,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.held(Holder::Tuple, visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.held(Holder::Map, visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.held(Holder::Struct(name, fields), visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.0.deserialize_enum(name, variants, visitor)
    }

    fn is_human_readable(&self) -> bool {
        self.0.is_human_readable()
    }
}

/// Gives a visitor what it is given, with what is in that checked; of a newtype, whether it may be null.
struct Inside<V>(V, MayBeNull);

macro_rules! given_on {
    ($($name:ident: $type:ty),+ $(,)?) => {
        $(fn $name<E: Error>(self, value: $type) -> Result<V::Value, E> {
            self.0.$name(value)
        })+
    };
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Inside<V> {
    type Value = V::Value;

    given_on! {
        visit_bool: bool, visit_i8: i8, visit_i16: i16, visit_i32: i32, visit_i64: i64, visit_i128: i128,
        visit_u8: u8, visit_u16: u16, visit_u32: u32, visit_u64: u64, visit_u128: u128,
        visit_f32: f32, visit_f64: f64, visit_char: char,
        visit_str: &str, visit_borrowed_str: &'de str, visit_string: String,
        visit_bytes: &[u8], visit_borrowed_bytes: &'de [u8], visit_byte_buf: Vec<u8>,
    }

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.expecting(formatter)
    }

    fn visit_none<E: Error>(self) -> Result<V::Value, E> {
        self.0.visit_none()
    }

    fn visit_unit<E: Error>(self) -> Result<V::Value, E> {
        self.0.visit_unit()
    }

    fn visit_some<D: Deserializer<'de>>(self, from: D) -> Result<V::Value, D::Error> {
        self.0.visit_some(Checked(from, MayBeNull(false)))
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, from: D) -> Result<V::Value, D::Error> {
        self.0.visit_newtype_struct(Checked(from, self.1))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, values: A) -> Result<V::Value, A::Error> {
        self.0.visit_seq(Values(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, values: A) -> Result<V::Value, A::Error> {
        self.0.visit_map(Values(values))
    }
}

/// Gives a visitor that takes so many values all that there are.
struct All<V>(V);

impl<V> All<V> {
    fn visit<'de, A: SeqAccess<'de>>(self, mut values: A) -> Result<V::Value, A::Error>
    where
        V: Visitor<'de>,
    {
        let value = self.0.visit_seq(&mut values)?;
        match values.next_element::<IgnoredAny>()? {
            None => Ok(value),
            Some(_) => Err(A::Error::custom(
                "a list or struct holds more values than the record's array or tuple has places",
            )),
        }
    }
}

impl<'de, V: Visitor<'de>> Visitor<'de> for All<V> {
    type Value = V::Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.expecting(formatter)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, values: A) -> Result<V::Value, A::Error> {
        self.visit(Values(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, values: A) -> Result<V::Value, A::Error> {
        self.visit(Numbered(Values(values), 0))
    }
}

/// The values of fields whose names are the numbers from 0 on, and the next number.
struct Numbered<A>(A, usize);

impl<'de, A: MapAccess<'de>> SeqAccess<'de> for Numbered<A> {
    type Error = A::Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, A::Error> {
        let Some(name) = self.0.next_key::<String>()? else {
            return Ok(None);
        };
        if name.parse() != Ok(self.1) {
            return Err(A::Error::custom(format_args!(
                "a tuple takes fields by position, so they must be named `0`, `1` and so on; `{name}` is not"
            )));
        }
        self.1 += 1;
        self.0.next_value_seed(seed).map(Some)
    }
}

/// The values in a list, map or struct.
struct Values<A>(A);

/// One of them, which may be null.
struct Value<S>(S);

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for Value<S> {
    type Value = S::Value;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<S::Value, D::Error> {
        self.0.deserialize(Checked(from, MayBeNull(true)))
    }
}

impl<'de, A: SeqAccess<'de>> SeqAccess<'de> for Values<A> {
    type Error = A::Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, A::Error> {
        self.0.next_element_seed(Value(seed))
    }

    fn size_hint(&self) -> Option<usize> {
        self.0.size_hint()
    }
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Values<A> {
    type Error = A::Error;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, A::Error> {
        self.0.next_key_seed(seed)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, A::Error> {
        self.0.next_value_seed(Value(seed))
    }

    fn size_hint(&self) -> Option<usize> {
        self.0.size_hint()
    }
}
