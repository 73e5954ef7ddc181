//! Pictures that are mirrored, turned and moved.

mod cpu;
#[cfg(feature = "gpu")]
pub(crate) mod cuda;

use crate::error::{Result, check_length};
use crate::shape::Image;

/// What is done to a picture: an affine transform of its columns and rows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AffineTransform {
    /// Of the angle that it is turned by, against the clock as one sees it with its first row above.
    pub sine: f64,
    /// Of the same angle.
    pub cosine: f64,
    /// Pixels that it is moved by.
    pub right: i32,
    /// Pixels that it is moved by.
    pub down: i32,
    /// Whether left and right are swapped, before all else.
    pub is_flipped: bool,
}

/// Words of eight bytes of a transform, as the kernel for GPUs takes it.
pub const TRANSFORM_LENGTH: usize = 4;

impl AffineTransform {
    /// That leaves a picture as it is.
    pub const NONE: Self = Self {
        sine: 0.0,
        cosine: 1.0,
        right: 0,
        down: 0,
        is_flipped: false,
    };

    /// Sine and cosine by their bits; by how many pixels it goes to the right, and in the upper half down; 1 if it is
    /// flipped, and 2 if it is anything but [`NONE`](Self::NONE).
    pub fn words(&self) -> [u64; TRANSFORM_LENGTH] {
        let moved = u64::from(self.right.cast_unsigned()) | u64::from(self.down.cast_unsigned()) << 32;
        let kinds = u64::from(self.is_flipped) | u64::from(*self != Self::NONE) << 1;
        [self.sine.to_bits(), self.cosine.to_bits(), moved, kinds]
    }

    /// Writes the changed picture `from` to `to`. Errors if they are not of the lengths of `image`.
    ///
    /// The pixel at column x and row y comes from (x', y') of the picture: with the centre (cx, cy), u = x - `right` -
    /// cx and v = y - `down` - cy, it is x' = cx + u cos a - v sin a and y' = cy + u sin a + v cos a. If the picture is
    /// flipped, the column is (width - 1) - x' instead of x'. It is between four pixels (bilinear), of which those
    /// outside are 0.
    pub fn apply(&self, image: Image, from: &[f32], to: &mut [f32]) -> Result<()> {
        let length = image.channels * image.pixels();
        check_length("the picture", length, from.len())?;
        check_length("the changed picture", length, to.len())?;
        cpu::apply(self, image, from, to);
        Ok(())
    }
}
