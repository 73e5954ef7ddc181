//! Exact sums over records, and their difference type, so that a change of one record costs one addition.

use std::collections::BTreeMap;

use differential_dataflow::difference::{IsZero, Multiply, Semigroup};
use serde::{Deserialize, Serialize};

/// How many records there are, and for each place of their values the sum and the sum of squares. All are exact: values
/// have 32 bits and sums 128, which 2^64 records cannot fill.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Totals {
    /// Number of records.
    pub count: i64,
    /// Sum of each value.
    pub sums: Vec<i128>,
    /// Sum of each value's square.
    pub squares: Vec<i128>,
}

impl Totals {
    /// Adds `times` records with `values`. Where records have different numbers of values, those that are missing are 0.
    pub fn add(&mut self, values: &[i32], times: i64) {
        self.widen(values.len());
        self.count += times;
        let places = self.sums.iter_mut().zip(&mut self.squares).zip(values);
        for ((sum, square), value) in places {
            let value = i128::from(*value);
            *sum += value * i128::from(times);
            *square += value * value * i128::from(times);
        }
    }

    /// Adds the totals of other records.
    pub fn merge(&mut self, other: &Self) {
        self.widen(other.sums.len());
        self.count += other.count;
        add(&mut self.sums, &other.sums);
        add(&mut self.squares, &other.squares);
    }

    fn widen(&mut self, values: usize) {
        if values > self.sums.len() {
            self.sums.resize(values, 0);
            self.squares.resize(values, 0);
        }
    }
}

fn add(sums: &mut [i128], more: &[i128]) {
    sums.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
}

/// By how much totals change. It also counts records by their number of values, so that the places of records that are
/// gone again go with them: totals are a function of the records that are there.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct Difference {
    totals: Totals,
    /// Records by number of values; none that is 0.
    widths: BTreeMap<usize, i64>,
}

impl Difference {
    pub(crate) fn add(&mut self, values: &[i32], times: i64) {
        self.totals.add(values, times);
        self.count_width(values.len(), times);
    }

    /// The totals of the records that are there, if this is all that has changed since there were none. `None` if more
    /// were taken away than were there.
    pub(crate) fn into_totals(self) -> Option<Totals> {
        if self.totals.count < 1 || self.widths.values().any(|count| *count < 1) {
            return None;
        }
        let width = self.widths.last_key_value().map_or(0, |(width, _)| *width);
        let mut totals = self.totals;
        totals.sums.truncate(width);
        totals.squares.truncate(width);
        Some(totals)
    }

    fn count_width(&mut self, width: usize, times: i64) {
        let count = self.widths.entry(width).or_default();
        *count += times;
        if *count == 0 {
            self.widths.remove(&width);
        }
    }
}

impl IsZero for Difference {
    fn is_zero(&self) -> bool {
        let Totals { count, sums, squares } = &self.totals;
        *count == 0 && self.widths.is_empty() && sums.iter().chain(squares).all(|sum| *sum == 0)
    }
}

impl Semigroup for Difference {
    fn plus_equals(&mut self, other: &Self) {
        self.totals.merge(&other.totals);
        for (width, times) in &other.widths {
            self.count_width(*width, *times);
        }
    }
}

impl Multiply<isize> for Difference {
    type Output = Self;

    fn multiply(mut self, times: &isize) -> Self {
        if *times == 0 {
            return Self::default();
        }
        self.totals.count *= *times as i64;
        let all = self.totals.sums.iter_mut().chain(&mut self.totals.squares);
        all.for_each(|sum| *sum *= *times as i128);
        self.widths.values_mut().for_each(|count| *count *= *times as i64);
        self
    }
}
