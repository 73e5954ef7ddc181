//! Who reads which bytes.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::compression::Compression;
use crate::object::Object;
use crate::split::{Extent, deal};

/// The lines of an object whose first byte lies in a range.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TextSplit {
    /// Where the lines are.
    pub object: Object,
    /// The bytes in which they start; all of the object if it is compressed.
    pub range: Range<u64>,
    /// How the object is compressed.
    pub compression: Option<Compression>,
}

/// Cuts the text of `objects`, in their order, into `partitions` groups of equal numbers of bytes (one group if 0 is
/// asked for). Read one after the other, the groups give all lines in order. An object in gzip or zstd format, by its
/// name, cannot be cut: it belongs to the group in which its middle lies. Where there is too little data the last
/// groups are empty, or some between.
pub fn split_text(objects: &[Object], partitions: usize) -> Vec<Vec<TextSplit>> {
    let extent = |object: &Object| byte_extent(object, object.bytes);
    let extents: Vec<Extent> = objects.iter().map(extent).collect();
    let split = |(index, range): (usize, Range<u64>)| text_split(&objects[index], range);
    let groups = deal(&extents, partitions).into_iter();
    groups.map(|group| group.into_iter().map(split).collect()).collect()
}

/// The lines of `object` that start in `range`; all of them if it is compressed.
pub(crate) fn text_split(object: &Object, range: Range<u64>) -> TextSplit {
    let compression = Compression::of_name(&object.url);
    TextSplit {
        object: object.clone(),
        range: if compression.is_some() { 0..object.bytes } else { range },
        compression,
    }
}

/// An object of that many units: cut anywhere between two, or not at all if it is compressed.
pub(super) fn byte_extent(object: &Object, units: u64) -> Extent {
    match Compression::of_name(&object.url) {
        // At least one, so that a file cut off at its start is read and found out.
        Some(_) => Extent {
            units: units.max(1),
            whole: true,
        },
        None => Extent { units, whole: false },
    }
}
