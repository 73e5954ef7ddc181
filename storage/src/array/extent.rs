//! Where in an object the array lies.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::text::Compression;

/// The bytes of an object that are an array with its header.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ArrayExtent {
    /// Where they lie in the object, as they are stored.
    pub range: Range<u64>,
    /// How they are compressed. Then they are read from their start by one partition.
    pub compression: Option<Compression>,
}
