//! What is known of a type so far, and which way is gone next.

use std::collections::{BTreeMap, BTreeSet};

/// A place in a type with a name, by its number and the path in it. The types count as they are first met.
pub(super) type Place = (usize, String);

#[derive(Default)]
pub(super) struct Trace {
    pub(super) seen: BTreeMap<Place, String>,
    /// Structs and enums, by the names of their visitors, which tell generic ones apart.
    pub(super) types: Vec<&'static str>,
    /// Those of them that were met in this round.
    pub(super) met: BTreeSet<usize>,
    pub(super) steps_left: usize,
    pub(super) choices: BTreeMap<Place, Choice>,
    /// Choices of this round.
    pub(super) passed: Vec<Place>,
    /// The place where nothing was taken, if that was the last request.
    pub(super) emptied: Option<Place>,
}

pub(super) struct Choice {
    /// The way that is gone next; `count` if all were gone.
    pub(super) taken: usize,
    pub(super) count: usize,
    /// The way that is gone where all were gone, or its type was met before: the one that takes nothing, or where there
    /// is none or it is refused, the first that led to a value. That value holds nothing for which there was none
    /// before, so going such ways alone comes to an end.
    pub(super) good: Option<usize>,
    /// The way that takes nothing, if there is one.
    pub(super) empty: Option<usize>,
    /// Whether its type wants something.
    pub(super) refuses_empty: bool,
}

impl Choice {
    pub(super) fn new(count: usize, empty: Option<usize>) -> Self {
        Self {
            taken: 0,
            count,
            good: empty,
            empty,
            refuses_empty: false,
        }
    }

    /// Remembers that a way led to a value.
    pub(super) fn went(&mut self, way: usize) {
        if !self.refuses_empty || self.empty != Some(way) {
            self.good.get_or_insert(way);
        }
    }
}

impl Trace {
    /// Another one where something was learnt.
    pub(super) fn known(&self) -> (usize, usize, usize) {
        let count = |is: fn(&Choice) -> bool| self.choices.values().filter(|choice| is(choice)).count();
        (
            self.seen.len(),
            count(|choice| choice.good.is_some()),
            count(|choice| choice.refuses_empty),
        )
    }

    /// A value was refused. If the last that it was made of is nothing, as an empty list is, then most likely that is
    /// why: another way is the good one.
    pub(super) fn refuse_emptiness(&mut self) {
        let emptied = self.emptied.take();
        if let Some(choice) = emptied.and_then(|place| self.choices.get_mut(&place)) {
            choice.refuses_empty = true;
            choice.good = choice.good.filter(|good| choice.empty != Some(*good));
        }
    }

    /// Has the last choice that can be made otherwise made otherwise in the next round. False if there is none.
    pub(super) fn turn(&mut self) -> bool {
        while let Some(place) = self.passed.pop() {
            let Some(choice) = self.choices.get_mut(&place) else {
                continue;
            };
            choice.taken = (choice.taken + 1).min(choice.count);
            if choice.taken < choice.count {
                return true;
            }
        }
        false
    }
}
