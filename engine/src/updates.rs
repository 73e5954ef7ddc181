//! In what form updates are summed and sent.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

/// In what form updates are summed, and sent where processes do not share memory. New parameters are sent as they are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum UpdateFormat {
    /// Four bytes a value.
    #[default]
    Full,
    /// Two bytes a value: each lane's update, and the sum at each node of the tree over lanes, is rounded to bfloat16
    /// (the upper half of an f32), to the nearest and to even ones between two. So results have the same bits whatever
    /// lanes share a process, but not those of [`Full`](Self::Full).
    Bf16,
    /// Eight bytes for each value that is not 0, where that is shorter. The same results as [`Full`](Self::Full).
    Sparse,
}

impl UpdateFormat {
    /// Rounds values to what this form can hold.
    pub fn round(self, values: &mut [f32]) {
        if self == Self::Bf16 {
            values.iter_mut().for_each(|value| *value = rounded(*value));
        }
    }

    /// Values rounded to what this form can hold.
    pub(crate) fn rounded(self, values: &[f32]) -> Cow<'_, [f32]> {
        match self {
            Self::Bf16 => values.iter().map(|value| rounded(*value)).collect(),
            Self::Full | Self::Sparse => Cow::Borrowed(values),
        }
    }
}

/// The nearest bfloat16, the even one of two that are as near. What is not a number stays none.
fn rounded(value: f32) -> f32 {
    let bits = value.to_bits();
    let up = 0x7FFF + ((bits >> 16) & 1);
    let rounded = if value.is_nan() {
        bits | 0x0040_0000
    } else {
        bits.wrapping_add(up)
    };
    f32::from_bits(rounded & 0xFFFF_0000)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn halves_go_to_even() {
        let mut values = [
            f32::from_bits(0x3F80_8000),
            f32::from_bits(0x3F81_8000),
            f32::from_bits(0x3F80_8001),
            f32::MAX,
            f32::NEG_INFINITY,
            f32::from_bits(0x7F80_0001),
        ];
        UpdateFormat::Bf16.round(&mut values);
        assert_eq!(
            values[..3],
            [1.0, f32::from_bits(0x3F82_0000), f32::from_bits(0x3F81_0000)]
        );
        assert_eq!(values[3..5], [f32::INFINITY, f32::NEG_INFINITY]);
        assert!(values[5].is_nan());
    }

    proptest! {
        #[test]
        fn what_is_rounded_is_near_and_stays(bits in any::<u32>()) {
            let value = f32::from_bits(bits);
            let near = rounded(value);
            prop_assert_eq!(near.to_bits() & 0xFFFF, 0);
            prop_assert!(value.is_nan() || rounded(near).to_bits() == near.to_bits());
            if value.is_normal() && near.is_finite() {
                prop_assert!((near - value).abs() <= value.abs() / 256.0, "{} to {}", value, near);
            }
        }
    }
}
