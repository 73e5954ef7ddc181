//! Which fields of a record type have no column, and would be `None` in every record without a word.

use std::cell::Cell;

use serde::de::value::Error;
use serde::de::{DeserializeOwned, DeserializeSeed, Deserializer, Error as _, IntoDeserializer, MapAccess, Visitor};
use serde::forward_to_deserialize_any;

type Result<T> = std::result::Result<T, Error>;

/// Of a name an error shows so much, in letters.
const NAME_CHARS_SHOWN: usize = 40;
/// Of all names an error shows so many.
const COLUMNS_SHOWN: usize = 50;

/// The words of an error and how to mend it, if a field of `T` that is an `Option` has none of `columns`, which `names`
/// has (a header or schema) and `option` would allow. Where `T` does not say what its fields are, as with
/// `#[serde(flatten)]`, there is none.
pub(crate) fn unseen<T: DeserializeOwned>(columns: &[&str], names: &str, option: &str) -> Option<(String, String)> {
    let field = missing::<T>(columns)?;
    let record = std::any::type_name::<T>();
    let problem = format!(
        "field `{field}` of {record} has no column in the {names}, which has {}",
        shown(columns)
    );
    let remedy = format!(
        "name the field as the column is (`#[serde(rename = \"..\")]`), or set `{option}` if it may be `None` in all records"
    );
    Some((problem, remedy))
}

/// Names of columns, for people.
pub(crate) fn shown(names: &[&str]) -> String {
    let short = |name: &&str| format!("`{}`", name.chars().take(NAME_CHARS_SHOWN).collect::<String>());
    let mut shown: Vec<String> = names.iter().take(COLUMNS_SHOWN).map(short).collect();
    if names.len() > COLUMNS_SHOWN {
        shown.push(format!("and {} more", names.len() - COLUMNS_SHOWN));
    }
    shown.join(", ")
}

/// The first field of `T` that is an `Option` and has none of `columns`, by none of its names.
fn missing<T: DeserializeOwned>(columns: &[&str]) -> Option<&'static str> {
    let fields = Answers::of::<T>(&[]).fields.get();
    let (present, absent): (Vec<_>, Vec<_>) = fields.iter().copied().partition(|field| columns.contains(field));
    let is_optional = |field| Answers::of::<T>(&[field]).given.get() == 1;
    // No value is asked for where a field comes again under another of its names.
    let is_alias = |field, other| Answers::of::<T>(&[field, other]).asked.get() == 1;
    absent
        .into_iter()
        .find(|field| is_optional(field) && !present.iter().any(|other| is_alias(field, other)))
}

/// What a type asks for when it is made of fields of some names. It is never made.
#[derive(Default)]
struct Answers {
    /// All names of its fields.
    fields: Cell<&'static [&'static str]>,
    /// Of how many fields it has asked for the value.
    asked: Cell<usize>,
    /// How many of those may be `None`, and were.
    given: Cell<usize>,
}

impl Answers {
    fn of<T: DeserializeOwned>(names: &[&str]) -> Self {
        let answers = Self::default();
        // An error in any case: that of the fields' end, at the latest.
        let _ = T::deserialize(Asked(&answers, names));
        answers
    }
}

/// Is read in place of a record, and has fields of these names.
struct Asked<'a>(&'a Answers, &'a [&'a str]);

impl<'de> Deserializer<'de> for Asked<'_> {
    type Error = Error;

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value> {
        self.0.fields.set(fields);
        visitor.visit_map(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value> {
        Err(Error::custom("it is no struct"))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        seq tuple tuple_struct map enum identifier ignored_any
    }
}

impl<'de> MapAccess<'de> for Asked<'_> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>> {
        let Some((name, rest)) = self.1.split_first() else {
            return Err(Error::custom("all is asked"));
        };
        self.1 = rest;
        seed.deserialize((*name).into_deserializer()).map(Some)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value> {
        self.0.asked.set(self.0.asked.get() + 1);
        seed.deserialize(Absent(self.0))
    }
}

/// The value of a field: `None`, where it may be.
struct Absent<'a>(&'a Answers);

impl<'de> Deserializer<'de> for Absent<'_> {
    type Error = Error;

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        self.0.given.set(self.0.given.get() + 1);
        visitor.visit_none()
    }

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value> {
        Err(Error::custom("it is no `Option`"))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct
        newtype_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}
