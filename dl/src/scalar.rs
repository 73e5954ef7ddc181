//! The element type of parameters, activations and gradients: `f32` in production, `f64` where a test needs the
//! precision.

use std::collections::TryReserveError;
use std::fmt::Debug;
use std::ops::{Add, AddAssign, Div, Mul, MulAssign, Neg, Sub, SubAssign};

mod sealed {
    /// What the matrix product asks of an element; also keeps [`super::Scalar`] closed to other crates.
    pub trait Sealed: faer::traits::ComplexField {}
    impl Sealed for f32 {}
    impl Sealed for f64 {}
}

/// Zeros for so many rows of `length` elements. Errors if there is no memory for them.
pub(crate) fn try_zeros<T: Copy + Default>(rows: usize, length: usize) -> Result<Vec<T>, TryReserveError> {
    let length = rows.saturating_mul(length);
    Vec::<T>::new().try_reserve_exact(length)?;
    // Pages that the system gives as zeros take no memory until they are written, which on a GPU's lane they are not.
    Ok(vec![T::default(); length])
}

/// `base`^`exponent` by squaring: a fixed order of multiplications, the same on every machine.
pub(crate) fn power(mut base: f64, mut exponent: u64) -> f64 {
    let mut product = 1.0;
    while exponent > 0 {
        if exponent % 2 == 1 {
            product *= base;
        }
        base *= base;
        exponent /= 2;
    }
    product
}

/// A floating-point element.
///
/// `exp` and `tanh` are computed here from additions and multiplications in a fixed order, so that their bits do not
/// depend on the C library or on the instructions a CPU has, and so that loops over them can be vectorised.
pub trait Scalar:
    sealed::Sealed
    + Copy
    + Default
    + PartialOrd
    + Debug
    + Send
    + Sync
    + 'static
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
    + AddAssign
    + SubAssign
    + MulAssign
{
    /// 0.
    const ZERO: Self;
    /// 1.
    const ONE: Self;
    /// Rounds an `f64` to this type.
    fn from_f64(value: f64) -> Self;
    /// Widens an `f32` to this type (exact).
    fn from_f32(value: f32) -> Self;
    /// A byte as a number (exact).
    fn from_u8(value: u8) -> Self;
    /// Widens to `f64` (exact).
    fn to_f64(self) -> f64;
    /// The square root (correctly rounded).
    fn square_root(self) -> Self;
    /// e to the power of `self`; 0 where the result would be less than the smallest normal number; NaN stays NaN.
    fn exponential(self) -> Self;
    /// Hyperbolic tangent; NaN stays NaN.
    fn hyperbolic_tangent(self) -> Self;
    /// ln(1 + `self`), also close to 0. Not from additions and multiplications alone, but by one library everywhere.
    fn logarithm_of_one_plus(self) -> Self;
    /// The error function; by the same library.
    fn error_function(self) -> Self;
}

macro_rules! implement_scalar {
    (
        $float:ident, $mantissa:expr, $bias:expr, $lowest:expr, $highest:expr,
        $ln2_high:expr, $ln2_low:expr, $taylor:expr, $log1p:path, $erf:path
    ) => {
        impl Scalar for $float {
            const ZERO: Self = 0.0;
            const ONE: Self = 1.0;

            #[inline(always)]
            fn from_f64(value: f64) -> Self {
                value as $float
            }

            #[inline(always)]
            fn from_f32(value: f32) -> Self {
                value.into()
            }

            #[inline(always)]
            fn from_u8(value: u8) -> Self {
                value.into()
            }

            #[inline(always)]
            fn to_f64(self) -> f64 {
                self.into()
            }

            #[inline(always)]
            fn square_root(self) -> Self {
                self.sqrt()
            }

            #[inline(always)]
            fn exponential(self) -> Self {
                let clamped = if self > $highest { $highest } else { self };
                let (power, tail) = $float::split_exponential(clamped);
                let value = power + power * tail;
                if self < $lowest { 0.0 } else { value }
            }

            #[inline(always)]
            fn hyperbolic_tangent(self) -> Self {
                // tanh |x| = (e^2|x| - 1) / (e^2|x| + 1), from e^y - 1 = 2^k (e^r - 1) + (2^k - 1): nothing cancels, as
                // y >= 0.
                let doubled = self.abs() + self.abs();
                let clamped = if doubled > 50.0 { 50.0 } else { doubled };
                let (power, tail) = $float::split_exponential(clamped);
                let minus_one = power * tail + (power - 1.0);
                (minus_one / (minus_one + 2.0)).copysign(self)
            }

            #[inline(always)]
            fn logarithm_of_one_plus(self) -> Self {
                $log1p(self)
            }

            #[inline(always)]
            fn error_function(self) -> Self {
                $erf(self)
            }
        }

        impl SplitExponential for $float {
            #[inline(always)]
            fn split_exponential(self) -> (Self, Self) {
                // Adding 1.5 * 2^mantissa rounds to an integer and leaves it in the low bits.
                const ROUND: $float = 1.5 * (1u64 << $mantissa) as $float;
                let shifted = self * std::$float::consts::LOG2_E + ROUND;
                let whole = shifted - ROUND;
                let remainder = (self - whole * $ln2_high) - whole * $ln2_low;
                let exponent = shifted
                    .to_bits()
                    .wrapping_sub(ROUND.to_bits())
                    .wrapping_add($bias);
                let power = $float::from_bits(exponent << $mantissa);
                const TAYLOR: &[$float] = &$taylor;
                let mut sum = TAYLOR[0];
                let mut term = 1;
                while term < TAYLOR.len() {
                    sum = sum * remainder + TAYLOR[term];
                    term += 1;
                }
                (power, sum * remainder)
            }
        }
    };
}

/// e^x = 2^k * (1 + (e^r - 1)) with |r| <= ln 2 / 2.
trait SplitExponential: Sized {
    /// Gives `(2^k, e^r - 1)`, the second by its Taylor series, which at this length is exact to the last bit of the
    /// type.
    fn split_exponential(self) -> (Self, Self);
}

// ln 2 is split so that k times its high part is exact (Cody and Waite, Software Manual for the Elementary Functions,
// 1980). The coefficients are 1/n! from the highest order down to 1.
implement_scalar!(
    f32,
    23,
    127,
    -87.336_54,
    88.0,
    355.0 / 512.0,
    -2.121_944_4e-4,
    [1.0 / 5040.0, 1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0],
    libm::log1pf,
    libm::erff
);
implement_scalar!(
    f64,
    52,
    1023,
    -708.396_418_532_264,
    709.0,
    0.693_145_751_953_125,
    1.428_606_820_309_417_2e-6,
    [
        1.0 / 6_227_020_800.0,
        1.0 / 479_001_600.0,
        1.0 / 39_916_800.0,
        1.0 / 3_628_800.0,
        1.0 / 362_880.0,
        1.0 / 40_320.0,
        1.0 / 5040.0,
        1.0 / 720.0,
        1.0 / 120.0,
        1.0 / 24.0,
        1.0 / 6.0,
        0.5,
        1.0
    ],
    libm::log1p,
    libm::erf
);

#[cfg(test)]
mod tests {
    use super::*;

    fn relative(got: f64, expected: f64) -> f64 {
        (got - expected).abs() / expected.abs().max(f64::MIN_POSITIVE)
    }

    #[test]
    fn exponential_is_near_the_true_one_over_the_whole_range() {
        for step in -8_600..8_800 {
            let x = f64::from(step) * 0.01 + 0.003;
            assert!(
                relative(Scalar::exponential(x as f32).into(), f64::from(x as f32).exp()) < 2e-7,
                "f32 at {x}"
            );
            assert!(
                relative(Scalar::exponential(x * 8.0), (x * 8.0).exp()) < 5e-16,
                "f64 at {}",
                x * 8.0
            );
        }
    }

    #[test]
    fn hyperbolic_tangent_is_near_the_true_one_also_close_to_zero() {
        for step in -2_000..2_000 {
            for scale in [1e-6, 1e-3, 0.02] {
                let x = f64::from(step) * scale + 1e-9;
                assert!(
                    relative(Scalar::hyperbolic_tangent(x as f32).into(), f64::from(x as f32).tanh()) < 4e-7,
                    "{x}"
                );
                assert!(relative(Scalar::hyperbolic_tangent(x), x.tanh()) < 2e-15, "{x}");
            }
        }
    }

    #[test]
    fn extremes_are_kept() {
        assert!(Scalar::exponential(f32::NAN).is_nan() && Scalar::hyperbolic_tangent(f32::NAN).is_nan());
        assert_eq!(Scalar::exponential(f32::NEG_INFINITY), 0.0);
        assert_eq!(Scalar::exponential(0.0f32), 1.0);
        assert_eq!(Scalar::hyperbolic_tangent(f32::INFINITY), 1.0);
        assert_eq!(Scalar::hyperbolic_tangent(f64::NEG_INFINITY), -1.0);
        assert!(Scalar::exponential(1e9f32).is_finite());
    }
}
