//! What the records of a type are made of, as the type's own `Deserialize` tells: a trace of what it asks for.
//!
//! Records become bytes without names (postcard), so another order of a type's fields or variants, or another kind of
//! number, may read old bytes without an error. A schema tells such types apart.
//!
//! The type is deserialised again and again from nothing, and each request is noted with where it was made. What is
//! not known beforehand, such as the variant of an enum, is chosen another way each time, until all ways were gone. A
//! type with a name is gone through once each time, however often it is met: then it is given as little as it takes, so
//! that types which hold each other in many ways are not walked along each of these. A type that refuses what it is
//! given is known as far as it has asked until then.

mod trace;

use std::panic::{AssertUnwindSafe, catch_unwind};

use serde::de::value::Error;
use serde::de::{self, DeserializeOwned, DeserializeSeed, Deserializer, IntoDeserializer, Visitor};

use self::trace::{Choice, Place, Trace};

/// Types may nest this deep.
const DEPTH_MAX: usize = 64;

/// Requests that are looked at, of all rounds: some tenths of a second. A type that makes more is known as far as that.
const STEPS_MAX: usize = 1 << 19;

/// What texts are tried with, until one is taken: a number, what dates, times and addresses look like, and an
/// identifier.
const TEXTS: [&str; 8] = [
    "1",
    "2000-01-01",
    "2000-01-01T00:00:00",
    "2000-01-01T00:00:00Z",
    "00:00:00",
    "http://localhost/",
    "127.0.0.1",
    "UTC",
];

/// The same for bytes: one, and as many as a UUID has.
const BYTES: [&[u8]; 2] = [b"1", &[1; 16]];

/// Text that is the same for one type, and another if names, order or kinds of its fields or variants are others.
pub(crate) fn schema<T: DeserializeOwned>() -> String {
    let trace = traced::<T>();
    if trace.steps_left == 0 {
        tracing::debug!(
            record = std::any::type_name::<T>(),
            "its schema is known in part: it is too large"
        );
    }
    let lines = trace.seen.iter();
    lines
        .map(|((number, path), what)| format!("{number}{path}: {what}\n"))
        .collect()
}

fn traced<T: DeserializeOwned>() -> Trace {
    let mut trace = Trace {
        types: vec![""],
        steps_left: STEPS_MAX,
        ..Trace::default()
    };
    // What holds itself is gone through once it is known how it may end.
    let mut known = None;
    while known != Some(trace.known()) {
        known = Some(trace.known());
        trace.choices.values_mut().for_each(|choice| choice.taken = 0);
        loop {
            trace.met.clear();
            trace.passed.clear();
            trace.emptied = None;
            // Where it refuses, what it has asked for is noted. What panics would do so each time, and say it.
            let round = catch_unwind(AssertUnwindSafe(|| T::deserialize(At::begin(&mut trace)).map(drop)));
            let Ok(value) = round else { return trace };
            if trace.steps_left == 0 {
                return trace;
            }
            if value.is_err() {
                trace.refuse_emptiness();
            }
            if !trace.turn() {
                break;
            }
        }
    }
    trace
}

/// The deserializer of what is at a place.
struct At<'a> {
    trace: &'a mut Trace,
    place: Place,
    depth: usize,
    /// Whether it is in a type that was met before in this round.
    is_again: bool,
}

impl<'a> At<'a> {
    fn begin(trace: &'a mut Trace) -> Self {
        Self {
            trace,
            place: Place::default(),
            depth: 0,
            is_again: false,
        }
    }

    fn note(&mut self, what: impl Into<String>) {
        self.trace.emptied = None;
        self.trace.seen.insert(self.place.clone(), what.into());
    }

    /// A step further into the same type.
    fn part(&mut self, step: &str) -> At<'_> {
        let (number, path) = &self.place;
        At {
            place: (*number, format!("{path}.{step}")),
            depth: self.depth + 1,
            is_again: self.is_again,
            trace: self.trace,
        }
    }

    /// Goes into the type whose visitor is `V`.
    fn enter<'de, V: Visitor<'de>>(
        mut self,
        what: String,
        visit: impl FnOnce(At<'_>) -> Result<V::Value, Error>,
    ) -> Result<V::Value, Error> {
        let name = std::any::type_name::<V>();
        let known = self.trace.types.iter().position(|other| *other == name);
        let number = known.unwrap_or(self.trace.types.len());
        if known.is_none() {
            self.trace.types.push(name);
        }
        self.note(format!("{number} {what}"));
        self.step()?;
        let is_again = self.is_again || !self.trace.met.insert(number);
        visit(At {
            place: (number, String::new()),
            depth: self.depth + 1,
            is_again,
            trace: self.trace,
        })
    }

    fn step(&mut self) -> Result<(), Error> {
        self.trace.steps_left = self.trace.steps_left.saturating_sub(1);
        match self.depth < DEPTH_MAX && self.trace.steps_left > 0 {
            true => Ok(()),
            false => Err(refused()),
        }
    }

    /// Gives one of `values` after the other, until one is taken.
    fn attempt<V, R>(mut self, values: &[V], give: impl FnOnce(&V) -> Result<R, Error>) -> Result<R, Error> {
        let place = self.place.clone();
        let taken = self.choose(values.len(), None, |_, way| give(values.get(way).ok_or_else(refused)?));
        if let (Ok(_), Some(choice)) = (&taken, self.trace.choices.get_mut(&place)) {
            choice.taken = choice.count;
        }
        taken
    }

    /// Goes one of `count` ways, of which `empty` takes nothing, if one does.
    fn choose<R>(
        &mut self,
        count: usize,
        empty: Option<usize>,
        go: impl FnOnce(&mut Self, usize) -> Result<R, Error>,
    ) -> Result<R, Error> {
        self.step()?;
        let place = self.place.clone();
        let new = || Choice::new(count, empty);
        let choice = self.trace.choices.entry(place.clone()).or_insert_with(new);
        let way = match self.is_again || choice.taken >= choice.count {
            true => choice.good.ok_or_else(refused)?,
            false => choice.taken,
        };
        if !self.is_again {
            self.trace.passed.push(place.clone());
        }
        self.trace.emptied = (empty == Some(way)).then(|| place.clone());
        let gone = go(self, way);
        if let (Ok(_), Some(choice)) = (&gone, self.trace.choices.get_mut(&place)) {
            choice.went(way);
        }
        gone
    }
}

fn refused() -> Error {
    de::Error::custom("a schema ends here")
}

/// The parts of a struct or a tuple, or those that a sequence or a map is given.
struct Parts<'a> {
    whole: At<'a>,
    names: Names,
    next: usize,
    count: usize,
}

enum Names {
    Given(&'static [&'static str]),
    Numbers,
}

impl Parts<'_> {
    fn visit<'de, V: Visitor<'de>>(whole: At<'_>, names: Names, count: usize, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_seq(Parts {
            whole,
            names,
            next: 0,
            count,
        })
    }

    fn give<'de, S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Error> {
        let number = self.next;
        self.next += 1;
        match self.names {
            Names::Given(names) => seed.deserialize(self.whole.part(names.get(number).unwrap_or(&""))),
            Names::Numbers => seed.deserialize(self.whole.part(&number.to_string())),
        }
    }
}

impl<'de> de::SeqAccess<'de> for Parts<'_> {
    type Error = Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Error> {
        (self.next < self.count).then(|| self.give(seed)).transpose()
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.count - self.next)
    }
}

/// A map of `count` entries, 0 or 1.
impl<'de> de::MapAccess<'de> for Parts<'_> {
    type Error = Error;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Error> {
        (self.next < self.count).then(|| self.give(seed)).transpose()
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Error> {
        self.give(seed)
    }
}

/// One variant of an enum.
struct Variant<'a> {
    at: At<'a>,
    index: usize,
}

impl<'de> de::EnumAccess<'de> for Variant<'_> {
    type Error = Error;
    type Variant = Self;

    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, Self), Error> {
        let index = u32::try_from(self.index).map_err(|_| refused())?;
        Ok((
            seed.deserialize(IntoDeserializer::<Error>::into_deserializer(index))?,
            self,
        ))
    }
}

impl<'de> de::VariantAccess<'de> for Variant<'_> {
    type Error = Error;

    fn unit_variant(mut self) -> Result<(), Error> {
        self.at.note("unit");
        Ok(())
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(mut self, seed: S) -> Result<S::Value, Error> {
        self.at.note("newtype");
        seed.deserialize(self.at.part("0"))
    }

    fn tuple_variant<V: Visitor<'de>>(self, length: usize, visitor: V) -> Result<V::Value, Error> {
        self.at.deserialize_tuple(length, visitor)
    }

    fn struct_variant<V: Visitor<'de>>(
        mut self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.at.note(format!("{fields:?}"));
        Parts::visit(self.at, Names::Given(fields), fields.len(), visitor)
    }
}

macro_rules! plain {
    ($($deserialize:ident, $kind:literal: $visit:ident($value:expr);)+) => {
        $(fn $deserialize<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, Error> {
            self.note($kind);
            visitor.$visit($value)
        })+
    };
}

/// Of numbers it gives what most types take: 1, which is not zero.
impl<'de> Deserializer<'de> for At<'_> {
    type Error = Error;

    plain! {
        deserialize_bool, "bool": visit_bool(true);
        deserialize_i8, "i8": visit_i8(1);
        deserialize_i16, "i16": visit_i16(1);
        deserialize_i32, "i32": visit_i32(1);
        deserialize_i64, "i64": visit_i64(1);
        deserialize_i128, "i128": visit_i128(1);
        deserialize_u8, "u8": visit_u8(1);
        deserialize_u16, "u16": visit_u16(1);
        deserialize_u32, "u32": visit_u32(1);
        deserialize_u64, "u64": visit_u64(1);
        deserialize_u128, "u128": visit_u128(1);
        deserialize_f32, "f32": visit_f32(1.0);
        deserialize_f64, "f64": visit_f64(1.0);
        deserialize_char, "char": visit_char('1');
    }

    fn deserialize_str<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, Error> {
        self.note("text");
        self.attempt(&TEXTS, |text| visitor.visit_str(text))
    }

    fn deserialize_string<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, Error> {
        self.note("text");
        self.attempt(&TEXTS, |text| visitor.visit_string((*text).to_owned()))
    }

    fn deserialize_bytes<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, Error> {
        self.note("bytes");
        self.attempt(&BYTES, |bytes| visitor.visit_bytes(bytes))
    }

    fn deserialize_byte_buf<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, Error> {
        self.note("bytes");
        self.attempt(&BYTES, |bytes| visitor.visit_byte_buf(bytes.to_vec()))
    }

    fn deserialize_option<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, Error> {
        self.note("option");
        self.choose(2, Some(1), |at, way| match way {
            0 => visitor.visit_some(at.part("some")),
            _ => visitor.visit_none(),
        })
    }

    fn deserialize_unit<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, Error> {
        self.note("unit");
        visitor.visit_unit()
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(mut self, name: &'static str, visitor: V) -> Result<V::Value, Error> {
        self.note(name);
        visitor.visit_unit()
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value, Error> {
        self.enter::<V>(name.to_owned(), |mut at| visitor.visit_newtype_struct(at.part("0")))
    }

    fn deserialize_seq<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, Error> {
        self.note("sequence");
        self.choose(2, Some(1), |at, way| {
            Parts::visit(at.part("each"), Names::Numbers, 1 - way, visitor)
        })
    }

    fn deserialize_tuple<V: Visitor<'de>>(mut self, length: usize, visitor: V) -> Result<V::Value, Error> {
        self.note(format!("tuple of {length}"));
        Parts::visit(self, Names::Numbers, length, visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        length: usize,
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.enter::<V>(format!("{name} of {length}"), |at| {
            Parts::visit(at, Names::Numbers, length, visitor)
        })
    }

    fn deserialize_map<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, Error> {
        self.note("map");
        self.choose(2, Some(1), |at, way| {
            visitor.visit_map(Parts {
                whole: at.part("each"),
                names: Names::Numbers,
                next: 0,
                count: 1 - way,
            })
        })
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.enter::<V>(format!("{name} {fields:?}"), |at| {
            Parts::visit(at, Names::Given(fields), fields.len(), visitor)
        })
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.enter::<V>(format!("{name} {variants:?}"), |mut at| {
            at.choose(variants.len(), None, |at, way| {
                visitor.visit_enum(Variant {
                    at: at.part(variants.get(way).unwrap_or(&"")),
                    index: way,
                })
            })
        })
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Error> {
        Err(refused())
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Error> {
        Err(refused())
    }

    /// Such types cannot be read back at all.
    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Error> {
        Err(refused())
    }

    /// As `postcard` says.
    fn is_human_readable(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests;
