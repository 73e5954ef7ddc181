//! Who reads what: rows of units dealt to partitions, and readers that end with their first error.

use std::iter::FusedIterator;
use std::ops::Range;

use crate::error::Result;

/// Something that holds units (bytes, records, rows) in a row, and whether it must be read by one reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Extent {
    /// How many there are.
    pub(crate) units: u64,
    /// Whether it cannot be cut.
    pub(crate) whole: bool,
}

/// The most parts that a row is cut into. Who asks for more gets one more than that, by which it shows.
pub const PARTITIONS_MAX: usize = 1 << 20;

/// Lays `extents` end to end and cuts the row into `partitions` equal parts (none if 0 is asked for): for each part the
/// extents in it, by index, and which of their units. What cannot be cut, and holds at least one unit, belongs to the
/// part in which its middle lies. Where there is too little, the last parts are empty, or some between.
pub(crate) fn deal(extents: &[Extent], partitions: usize) -> Vec<Vec<(usize, Range<u64>)>> {
    let partitions = partitions.min(PARTITIONS_MAX + 1);
    if partitions == 0 {
        return Vec::new();
    }
    let total: u128 = extents.iter().map(|extent| u128::from(extent.units)).sum();
    let cut = |index: usize| total * index as u128 / partitions as u128;
    let mut groups = vec![Vec::new(); partitions];
    let mut before: u128 = 0;
    let mut group = 0;
    for (index, extent) in extents.iter().enumerate() {
        let after = before + u128::from(extent.units);
        let middle = before + (after - before) / 2;
        let mut start = before;
        while start < after {
            while cut(group + 1) <= if extent.whole { middle } else { start } {
                group += 1;
            }
            let end = if extent.whole { after } else { cut(group + 1).min(after) };
            groups[group].push((index, (start - before) as u64..(end - before) as u64));
            start = end;
        }
        before = after;
    }
    groups
}

/// What `read` gives, until there is no more or it fails. After an error there is nothing.
pub(crate) fn until_error<T>(mut read: impl FnMut() -> Result<Option<T>>) -> impl FusedIterator<Item = Result<T>> {
    let mut finished = false;
    std::iter::from_fn(move || {
        let next = if finished { None } else { read().transpose() };
        finished = !matches!(next, Some(Ok(_)));
        next
    })
    .fuse()
}
