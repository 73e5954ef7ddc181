//! Exact sums over records: a difference type, so that a change of one record costs one addition.

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
        self.plus_equals(other);
    }

    fn widen(&mut self, values: usize) {
        if values > self.sums.len() {
            self.sums.resize(values, 0);
            self.squares.resize(values, 0);
        }
    }
}

impl IsZero for Totals {
    fn is_zero(&self) -> bool {
        self.count == 0 && self.sums.iter().chain(&self.squares).all(|sum| *sum == 0)
    }
}

impl Semigroup for Totals {
    fn plus_equals(&mut self, other: &Self) {
        self.widen(other.sums.len());
        self.count += other.count;
        self.sums
            .iter_mut()
            .zip(&other.sums)
            .for_each(|(sum, more)| *sum += more);
        let squares = self.squares.iter_mut().zip(&other.squares);
        squares.for_each(|(square, more)| *square += more);
    }
}

impl Multiply<isize> for Totals {
    type Output = Self;

    fn multiply(mut self, times: &isize) -> Self {
        self.count *= *times as i64;
        let all = self.sums.iter_mut().chain(&mut self.squares);
        all.for_each(|sum| *sum *= *times as i128);
        self
    }
}
