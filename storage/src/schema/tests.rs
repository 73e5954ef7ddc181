#![allow(dead_code)]

use std::collections::{BTreeMap, HashMap};
use std::num::NonZeroU32;
use std::time::Duration;

use serde::Deserialize;

use super::*;

/// Schemas of two types that are both called `Record`, written one after the other.
macro_rules! schemas {
    ({$($first:item)+} {$($second:item)+}) => {{
        let first = {
            $(#[derive(Deserialize)] $first)+
            schema::<Record>()
        };
        let second = {
            $(#[derive(Deserialize)] $second)+
            schema::<Record>()
        };
        (first, second)
    }};
}

#[test]
fn another_order_of_fields_or_variants_and_another_kind_of_number_are_other_schemas() {
    let (first, second) =
        schemas!({ struct Record { debit: u64, credit: u64 } } { struct Record { credit: u64, debit: u64 } });
    assert_ne!(first, second);
    let (first, second) = schemas!({ struct Record { delta: i32 } } { struct Record { delta: u32 } });
    assert_ne!(first, second);
    let (first, second) = schemas!({ enum Record { Spam, Ham } } { enum Record { Ham, Spam } });
    assert_ne!(first, second);
    let (first, second) = schemas!({ struct Record { at: u8 } } { struct Record { at: u8 } });
    assert_eq!(first, second, "written twice, and the same");
}

#[test]
fn what_lies_behind_options_sequences_maps_and_variants_counts() {
    let (first, second) = schemas!(
        { struct Record { all: Vec<Option<BTreeMap<u8, Inner>>> } enum Inner { None, Some { a: (u8, i16) } } }
        { struct Record { all: Vec<Option<BTreeMap<u8, Inner>>> } enum Inner { None, Some { a: (u8, u16) } } }
    );
    assert_ne!(first, second);
    let (first, second) = schemas!(
        { struct Record { one: Inner, two: Option<Inner>, last: f32 } enum Inner { A, B(u8) } }
        { struct Record { one: Inner, two: Option<Inner>, last: f64 } enum Inner { A, B(u8) } }
    );
    assert_ne!(first, second);
}

#[test]
fn of_types_that_hold_themselves_each_part_is_seen() {
    let (first, second) = schemas!(
        { enum Record { Sum(Box<Pair>), Leaf(i8) } struct Pair { left: Record, right: Record, sign: i32 } }
        { enum Record { Sum(Box<Pair>), Leaf(i8) } struct Pair { left: Record, right: Record, sign: u32 } }
    );
    assert_ne!(first, second, "a pair is behind what it holds");
    let (first, second) = schemas!(
        { struct Record { parts: Vec<Record>, next: Option<Box<Record>>, tail: i64 } }
        { struct Record { parts: Vec<Record>, next: Option<Box<Record>>, tail: u64 } }
    );
    assert_ne!(first, second);
}

#[test]
fn a_generic_type_in_itself_is_not_taken_for_one_that_holds_itself() {
    let (first, second) = schemas!(
        { struct Record { held: Held<Held<i32>> } struct Held<T> { it: T } }
        { struct Record { held: Held<Held<u32>> } struct Held<T> { it: T } }
    );
    assert_ne!(first, second);
}

/// Text that is never right.
#[derive(Deserialize)]
#[serde(try_from = "String")]
struct Day;

impl TryFrom<String> for Day {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Err(text)
    }
}

#[test]
fn what_a_type_has_asked_for_before_it_refuses_counts() {
    let (first, second) = schemas!(
        { struct Record { a: i8, day: Day, b: i8 } }
        { struct Record { a: u8, day: Day, b: i8 } }
    );
    assert_ne!(first, second);
    let (first, second) = schemas!(
        { struct Record { count: NonZeroU32, after: Duration, last: i8 } }
        { struct Record { count: NonZeroU32, after: Duration, last: u8 } }
    );
    assert_ne!(first, second, "none of these refuses");
}

#[test]
fn a_schema_is_the_same_each_time_and_reads_as_what_it_is() {
    #[derive(Deserialize)]
    struct Record {
        word: String,
        counts: HashMap<u16, Option<f32>>,
        tail: Tail,
    }
    #[derive(Deserialize)]
    enum Tail {
        Nothing,
        More(Box<Record>),
    }
    let wanted = r#"0: 1 Record ["word", "counts", "tail"]
1.counts: map
1.counts.each.0: u16
1.counts.each.1: option
1.counts.each.1.some: f32
1.tail: 2 Tail ["Nothing", "More"]
1.word: text
2.More: newtype
2.More.0: 1 Record ["word", "counts", "tail"]
2.Nothing: unit
"#;
    assert_eq!(schema::<Record>(), wanted);
    assert_eq!(schema::<Record>(), wanted);
}

/// What takes only some texts, or bytes, and says so in its visitor, as crates for dates, URLs and UUIDs do.
macro_rules! picky {
    ($name:ident: $deserialize:ident, $visit:ident($taken:ty), $is_right:expr) => {
        struct $name;

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.$deserialize($name)
            }
        }

        impl Visitor<'_> for $name {
            type Value = Self;

            fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.write_str(stringify!($name))
            }

            fn $visit<E: de::Error>(self, value: $taken) -> Result<Self, E> {
                let is_right: fn($taken) -> bool = $is_right;
                is_right(value)
                    .then_some(self)
                    .ok_or_else(|| E::custom("refused"))
            }
        }
    };
}

picky!(Instant: deserialize_str, visit_str(&str), |text| text.ends_with(":00Z"));
picky!(Address: deserialize_string, visit_str(&str), |text| text.starts_with("http://"));
picky!(Identifier: deserialize_bytes, visit_bytes(&[u8]), |bytes| bytes.len() == 16);

#[test]
fn what_comes_after_dates_addresses_and_identifiers_counts() {
    let (first, second) = schemas!(
        { struct Record { at: Vec<Instant>, page: Option<Address>, again: Instant, id: Identifier, last: i8 } }
        { struct Record { at: Vec<Instant>, page: Option<Address>, again: Instant, id: Identifier, last: u8 } }
    );
    assert_ne!(first, second);
    assert!(first.contains("1.last: i8"), "{first}");
}

/// At least one: it is seen that an empty list is refused.
struct Some1(Vec<u8>);

impl<'de> Deserialize<'de> for Some1 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Seen;
        impl<'de> Visitor<'de> for Seen {
            type Value = Some1;

            fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.write_str("at least one")
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, mut access: A) -> Result<Some1, A::Error> {
                let first = access.next_element()?;
                first
                    .map(|first| Some1(vec![first]))
                    .ok_or_else(|| de::Error::custom("empty"))
            }
        }
        deserializer.deserialize_seq(Seen)
    }
}

/// At least one: the list itself may be empty, as far as can be seen.
#[derive(Deserialize)]
#[serde(try_from = "BTreeMap<u8, Option<i8>>")]
struct Some2;

impl TryFrom<BTreeMap<u8, Option<i8>>> for Some2 {
    type Error = &'static str;

    fn try_from(map: BTreeMap<u8, Option<i8>>) -> Result<Self, &'static str> {
        (!map.is_empty()).then_some(Self).ok_or("empty")
    }
}

#[test]
fn what_comes_after_a_second_list_that_may_not_be_empty_counts() {
    let (first, second) = schemas!(
        { struct Record { one: Part, other: Part, last: i8 } struct Part { a: Some1, b: Some2, c: Vec<Some1> } }
        { struct Record { one: Part, other: Part, last: u8 } struct Part { a: Some1, b: Some2, c: Vec<Some1> } }
    );
    assert_ne!(first, second);
    assert!(first.contains("1.last: i8"), "{first}");
}

#[test]
fn a_text_that_is_taken_at_once_costs_no_round() {
    let steps = |trace: Trace| STEPS_MAX - trace.steps_left;
    assert_eq!(
        steps(traced::<(String, String)>()),
        4,
        "two texts, in two rounds: the second shows that nothing new comes"
    );
}

/// Structs that hold each other in all ways.
macro_rules! mutual {
    ($all:tt; $($name:ident)+; $last:ty) => {
        $(mutual!(@ $name $all $last);)+
    };
    (@ $name:ident ($($other:ident)+) $last:ty) => {
        #[allow(non_snake_case)]
        #[derive(Deserialize)]
        struct $name { $($other: Option<Box<$other>>, )+ all: Vec<$name>, last: $last }
    };
}

#[test]
fn types_that_hold_each_other_in_all_ways_are_known_whole_and_soon() {
    let of = |trace: Trace| (trace.steps_left, trace.types.len(), trace.seen.len());
    let signed = {
        mutual!((A B C D E F G H); A B C D E F G H; i8);
        traced::<A>()
    };
    let unsigned = {
        mutual!((A B C D E F G H); A B C D E F G H; u8);
        traced::<A>()
    };
    assert!(signed.seen != unsigned.seen);
    let (left, types, seen) = of(signed);
    assert!(left > 0);
    // The first place, and of each of the 8: its options, what is in them, its sequence, what is in it, and the last.
    assert_eq!((types, seen), (1 + 8, 1 + 8 * (2 * 8 + 3)));
}

#[test]
fn a_type_that_nobody_could_go_through_ends() {
    #[derive(Deserialize)]
    #[serde(transparent)]
    struct Tree(Vec<(Tree, Tree)>);
    let trace = traced::<Tree>();
    assert!(trace.steps_left < STEPS_MAX && !trace.seen.is_empty());
}

struct Odd;

impl<'de> Deserialize<'de> for Odd {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match u8::deserialize(deserializer)? {
            1 => panic!("it was never written"),
            _ => Ok(Self),
        }
    }
}

#[test]
fn what_panics_is_tried_once() {
    let trace = traced::<Vec<Odd>>();
    assert_eq!(trace.seen.len(), 2, "a sequence, and the number in it");
    assert_eq!(STEPS_MAX - trace.steps_left, 1, "one round");
}
