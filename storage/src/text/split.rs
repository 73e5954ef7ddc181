//! Who reads which bytes.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::gzip::is_gzip_name;
use crate::object::Object;

/// The lines of an object whose first byte lies in a range.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TextSplit {
    /// Where the lines are.
    pub object: Object,
    /// The bytes in which they start; all of the object if it is compressed.
    pub range: Range<u64>,
    /// Whether the object is in gzip format.
    pub compressed: bool,
}

/// Cuts the text of `objects`, in their order, into `partitions` groups of equal numbers of bytes (one group if 0 is
/// asked for). Read one after the other, the groups give all lines in order. An object in gzip format, by its name
/// `.gz`, cannot be cut: it belongs to the group in which its middle lies. Where there is too little data the last
/// groups are empty, or some between.
pub fn split_text(objects: &[Object], partitions: usize) -> Vec<Vec<TextSplit>> {
    split_bytes(objects, partitions, 0, 1)
        .into_iter()
        .map(|group| {
            let split = |(object, range, compressed): Cut| TextSplit {
                object,
                range,
                compressed,
            };
            group.into_iter().map(split).collect()
        })
        .collect()
}

/// A piece of an object, and whether that is compressed.
pub(super) type Cut = (Object, Range<u64>, bool);

/// Lays the objects' units (after a header) end to end and cuts the row into equal parts.
pub(super) fn split_bytes(objects: &[Object], partitions: usize, header_bytes: u64, unit_bytes: u64) -> Vec<Vec<Cut>> {
    let units = |object: &Object| match is_gzip_name(&object.url) {
        // At least one, so that a file cut off at its start is read and found out.
        true => (object.bytes / unit_bytes).max(1),
        false => object.bytes.saturating_sub(header_bytes) / unit_bytes,
    };
    let partitions = partitions.max(1);
    let total: u128 = objects.iter().map(|object| u128::from(units(object))).sum();
    let cut = |index: usize| total * index as u128 / partitions as u128;
    let mut groups = vec![Vec::new(); partitions];
    let mut before: u128 = 0;
    let mut group = 0;
    for object in objects {
        let after = before + u128::from(units(object));
        let compressed = is_gzip_name(&object.url);
        let middle = before + (after - before) / 2;
        let mut start = before;
        while start < after {
            while cut(group + 1) <= if compressed { middle } else { start } {
                group += 1;
            }
            let end = if compressed { after } else { cut(group + 1).min(after) };
            let range = match compressed {
                true => 0..object.bytes,
                false => {
                    let position = |unit: u128| header_bytes + (unit - before) as u64 * unit_bytes;
                    position(start)..position(end)
                }
            };
            groups[group].push((object.clone(), range, compressed));
            start = end;
        }
        before = after;
    }
    groups
}
