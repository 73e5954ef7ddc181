//! Rows for the tests of both formats.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use proptest::prelude::*;
use serde::{Deserialize, Serialize};

use crate::object::Object;
use crate::remote::Stores;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) count: Option<i32>,
    pub(crate) share: f64,
    pub(crate) tags: Vec<i64>,
    pub(crate) kind: String,
}

pub(crate) fn rows() -> impl Strategy<Value = Vec<Row>> {
    let tags = prop::collection::vec(any::<i64>(), 0..4);
    let row = (
        "[a-zé]{0,8}",
        proptest::option::of(any::<i32>()),
        -1e9..1e9_f64,
        tags,
        "[ab]",
    );
    let row = row.prop_map(|(name, count, share, tags, kind)| Row {
        name,
        count,
        share,
        tags,
        kind,
    });
    prop::collection::vec(row, 0..30)
}

/// What `fixtures/make.py` writes.
pub(crate) fn fixture_rows() -> Vec<Row> {
    let row = |number: i32| Row {
        name: format!("name {}", number % 7),
        count: (number % 5 != 0).then_some(number),
        share: f64::from(number) / 4.0,
        tags: (0..i64::from(number % 3)).collect(),
        kind: format!("kind {}", number % 2),
    };
    (0..20).map(row).collect()
}

pub(crate) fn fixture(name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
    folder.join(name).to_str().unwrap().to_owned()
}

pub(crate) fn stored(stores: &Stores, name: &str, bytes: Vec<u8>) -> Vec<Object> {
    let url = format!("memory://{name}");
    stores.write(&url, bytes.into()).unwrap();
    stores.list(&url).unwrap()
}
