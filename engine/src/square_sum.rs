//! Sums of squares that are exact, so that neither order nor grouping shows in them.

/// Words of the sum as one large integer: the squares of all f32 span 554 bits, which leaves room for 2^86 of them.
const WORDS: usize = 10;
/// Words of a sum on its way.
pub(crate) const SQUARE_SUM_WORDS: usize = WORDS + 1;
/// Exponent of the integer's unit: the square of the smallest f32 above 0 is 2^-298.
const UNIT: i32 = -298;
/// Exponents that an f32 can have.
const EXPONENTS: usize = 256;
/// A square of a mantissa has 48 bits: so many of them are added up in 64.
const BIN_SQUARES_MAX: usize = 1 << 16;
/// Sums that take turns, so that an addition need not wait for the one before.
const SETS: usize = 4;

/// The exact sum of the squares of f32 values: a fixed-point number that is long enough for all of them (after Kulisch,
/// "Computer Arithmetic and Validity", 2008). It is rounded once, when it is [read](Self::value), so that the norm of
/// parameters that lie in several shards is the same number however they are cut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SquareSum {
    /// The lowest first.
    words: [u64; WORDS],
    /// How many values were infinite or no number.
    not_finite: u64,
}

impl SquareSum {
    /// Adds the squares of `values`.
    pub fn add(&mut self, values: &[f32]) {
        for values in values.chunks(BIN_SQUARES_MAX) {
            if values.len() < EXPONENTS {
                values.iter().for_each(|value| self.add_value(*value));
            } else {
                self.add_binned(values);
            }
        }
    }

    /// All that it consists of, for another process.
    pub(crate) fn to_words(self) -> [u64; SQUARE_SUM_WORDS] {
        let mut words = [self.not_finite; SQUARE_SUM_WORDS];
        words[..WORDS].copy_from_slice(&self.words);
        words
    }

    pub(crate) fn of_words([words @ .., not_finite]: [u64; SQUARE_SUM_WORDS]) -> Self {
        Self { words, not_finite }
    }

    /// Adds another sum.
    pub fn merge(&mut self, other: &Self) {
        let mut carry = false;
        for (word, other) in self.words.iter_mut().zip(other.words) {
            let (sum, first) = word.overflowing_add(other);
            let (sum, second) = sum.overflowing_add(u64::from(carry));
            (*word, carry) = (sum, first || second);
        }
        self.not_finite = self.not_finite.saturating_add(other.not_finite);
    }

    /// The sum, rounded to the nearest number, to the even one of two that are as near; NaN if a value was not finite.
    pub fn value(&self) -> f64 {
        if self.not_finite > 0 {
            return f64::NAN;
        }
        let Some(top) = self.words.iter().rposition(|word| *word > 0).map(|top| top.max(1)) else {
            return 0.0;
        };
        // What lies below two words is less than half of the last place of an f64, so that one bit stands for all of
        // it. If the upper word has few bits, the lower one still has more than are kept.
        let below = self.words[..top - 1].iter().any(|word| *word > 0);
        let upper = u128::from(self.words[top]) << 64 | u128::from(self.words[top - 1]) | u128::from(below);
        upper as f64 * power_of_two(64 * (top as i32 - 1) + UNIT)
    }

    fn add_value(&mut self, value: f32) {
        let (exponent, square) = parts(value);
        self.add_squares(exponent, square);
    }

    /// Adds by exponent first: one addition for each value.
    fn add_binned(&mut self, values: &[f32]) {
        let mut bins = [[0_u64; EXPONENTS]; SETS];
        let mut add = |set: usize, value: f32| {
            let (exponent, square) = parts(value);
            bins[set][exponent] += square;
        };
        let (groups, rest) = values.as_chunks::<SETS>();
        for group in groups {
            group.iter().enumerate().for_each(|(set, value)| add(set, *value));
        }
        rest.iter().for_each(|value| add(0, *value));
        for bins in bins {
            for (exponent, sum) in bins.into_iter().enumerate().filter(|(_, sum)| *sum > 0) {
                self.add_squares(exponent, sum);
            }
        }
    }

    /// Adds squares of mantissas that belong to an exponent.
    fn add_squares(&mut self, exponent: usize, squares: u64) {
        if exponent == EXPONENTS - 1 {
            self.not_finite = self.not_finite.saturating_add(squares);
            return;
        }
        // Numbers with exponent 0 have the unit of those with 1.
        let bit = 2 * exponent.max(1) - 2;
        let shifted = u128::from(squares) << (bit % 64);
        let mut carry = shifted as u64;
        let mut next = (shifted >> 64) as u64;
        for word in &mut self.words[bit / 64..] {
            let (sum, overflows) = word.overflowing_add(carry);
            *word = sum;
            // The upper half of 128 bits that hold 64 shifted ones has room for one more.
            carry = next + u64::from(overflows);
            next = 0;
            if carry == 0 {
                return;
            }
        }
    }
}

/// The exponent of a number and the square of its mantissa; 1 in place of the latter for what is not finite.
#[inline(always)]
fn parts(value: f32) -> (usize, u64) {
    let bits = value.to_bits();
    let exponent = (bits >> 23 & 0xFF) as usize;
    let mantissa = u64::from(bits & 0x7F_FFFF) | u64::from(exponent > 0) << 23;
    let square = if exponent == EXPONENTS - 1 {
        1
    } else {
        mantissa * mantissa
    };
    (exponent, square)
}

/// 2 to a power that a normal f64 can have.
fn power_of_two(exponent: i32) -> f64 {
    f64::from_bits(((1023 + exponent) as u64) << 52)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sum_of(values: &[f32]) -> SquareSum {
        let mut sum = SquareSum::default();
        sum.add(values);
        sum
    }

    #[test]
    fn squares_are_exact_at_both_ends() {
        let smallest = f32::from_bits(1);
        for value in [0.0, -0.0, 1.0, -3.0, smallest, f32::MIN_POSITIVE, f32::MAX, f32::MIN] {
            let square = f64::from(value) * f64::from(value);
            assert_eq!(sum_of(&[value]).value(), square, "{value}");
        }
        assert_eq!(sum_of(&[f32::MAX; 1000]).value(), 1000.0 * f64::from(f32::MAX).powi(2));
        // Far below what an f64 beside 1 can hold.
        let mut sum = sum_of(&[1.0, smallest]);
        assert_eq!(sum.value(), 1.0);
        assert_ne!(sum, sum_of(&[1.0]));
        // Half of the last place goes to the even number, and with anything more up.
        sum = sum_of(&[1.0, 2.0_f32.powi(-27), 2.0_f32.powi(-27)]);
        sum.merge(&SquareSum::default());
        assert_eq!(sum.value(), 1.0);
        sum.add(&[smallest]);
        assert_eq!(sum.value(), 1.0 + f64::EPSILON);
    }

    #[test]
    fn what_is_not_finite_shows() {
        for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            assert!(sum_of(&[1.0, value]).value().is_nan());
            let mut many = vec![1.0; 1000];
            many[777] = value;
            let mut sum = sum_of(&[2.0]);
            sum.merge(&sum_of(&many));
            assert!(sum.value().is_nan());
        }
    }

    #[test]
    fn the_largest_sum_of_a_bin_fits() {
        // All of them take the same bins.
        let value = f32::from_bits(0x3FFF_FFFF);
        let sum = sum_of(&vec![value; 3 * BIN_SQUARES_MAX + 5]);
        let mut expected = SquareSum::default();
        (0..3 * BIN_SQUARES_MAX + 5).for_each(|_| expected.add_value(value));
        assert_eq!(sum, expected);
    }

    fn values() -> impl Strategy<Value = Vec<f32>> {
        let value = any::<u32>()
            .prop_map(f32::from_bits)
            .prop_filter("finite", |value| value.is_finite());
        prop::collection::vec(prop_oneof![value, -1.0_f32..1.0], 0..700)
    }

    proptest! {
        #[test]
        fn neither_order_nor_grouping_shows(mut values in values(), cut in 0..700_usize) {
            let whole = sum_of(&values);
            let (left, right) = values.split_at(cut.min(values.len()));
            let mut parts = sum_of(right);
            parts.merge(&sum_of(left));
            prop_assert_eq!(parts, whole);
            values.reverse();
            prop_assert_eq!(sum_of(&values), whole);
        }

        #[test]
        fn it_is_the_sum_of_squares(values in prop::collection::vec(-1e3_f32..1e3, 1..2000)) {
            // Of a common unit and small enough to be exact in 128 bits.
            let values: Vec<f32> = values.iter().map(|value| (value * 4096.0).round() / 4096.0).collect();
            let squares = values.iter().map(|value| (i128::from((value * 4096.0) as i64)).pow(2));
            let expected = squares.sum::<i128>() as f64 / 4096.0_f64.powi(2);
            prop_assert_eq!(sum_of(&values).value(), expected);
        }
    }
}
