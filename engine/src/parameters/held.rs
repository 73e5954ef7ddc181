//! Of which parameters the optimizer's state is kept here, in which of the versions.

use std::ops::Range;

/// Ranges that do not overlap, ascending.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Ranges(Vec<Range<usize>>);

impl Ranges {
    /// Everything.
    pub(super) fn all(length: usize) -> Self {
        Self(std::iter::once(0..length).collect())
    }

    /// Adds a range.
    pub(super) fn add(&mut self, range: Range<usize>) {
        self.0.push(range);
        self.0.sort_unstable_by_key(|range| range.start);
        let mut joined: Vec<Range<usize>> = Vec::with_capacity(self.0.len());
        for range in self.0.drain(..) {
            match joined.last_mut() {
                Some(last) if last.end >= range.start => last.end = last.end.max(range.end),
                _ => joined.push(range),
            }
        }
        self.0 = joined;
    }

    /// Whether all of a range is there.
    pub(super) fn contain(&self, wanted: &Range<usize>) -> bool {
        let mut ranges = self.0.iter();
        ranges.any(|range| range.start <= wanted.start && wanted.end <= range.end)
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

/// For each of the versions that may be here.
#[derive(Debug, Default)]
pub(super) struct HeldState {
    pub(super) previous: Ranges,
    pub(super) newest: Ranges,
    pub(super) next: Ranges,
}

impl HeldState {
    /// The next version is complete.
    pub(super) fn advance(&mut self, follows: bool) {
        let next = std::mem::take(&mut self.next);
        let newest = std::mem::replace(&mut self.newest, next);
        self.previous = if follows { newest } else { Ranges::default() };
    }

    /// The version before is the newest again.
    pub(super) fn go_back(&mut self) {
        self.newest = std::mem::take(&mut self.previous);
        self.next.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_that_touch_are_one() {
        let mut ranges = Ranges::default();
        ranges.add(10..20);
        ranges.add(0..5);
        assert!(!ranges.contain(&(3..12)));
        ranges.add(5..10);
        assert!(ranges.contain(&(0..20)));
        assert!(!ranges.contain(&(0..21)));
    }

    #[test]
    fn state_moves_with_its_version() {
        let mut held = HeldState {
            newest: Ranges::all(8),
            ..HeldState::default()
        };
        held.next.add(2..4);
        held.advance(true);
        assert!(held.newest.contain(&(2..4)) && !held.newest.contain(&(0..4)));
        assert!(held.previous.contain(&(0..8)));
        held.go_back();
        assert!(held.newest.contain(&(0..8)) && !held.next.contain(&(2..4)));
    }
}
