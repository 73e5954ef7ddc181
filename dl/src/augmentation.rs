//! Pictures as they might have been as well: moved, turned and mirrored by chance while a network learns from them.

#[cfg(feature = "gpu")]
mod drawn;

use serde::{Deserialize, Serialize};

#[cfg(feature = "gpu")]
pub(crate) use self::drawn::Drawn;
use crate::error::{Error, Result};
use crate::kernels::augment::AffineTransform;
#[cfg(feature = "gpu")]
use crate::kernels::augment::TRANSFORM_LENGTH;
use crate::layer::Draw;
use crate::rng::{Purpose, Stream};
use crate::shape::{Image, Shape};

/// Words of the random stream that a row has for itself; it takes fewer.
const WORDS: u64 = 8;

/// By how much the pictures of a training may be changed; by default not at all. Each time a lane takes a sample, its
/// picture is mirrored, then turned about its centre, then moved, all by chance: a function of (seed, step, lane, row).
/// What is measured or predicted is never changed. Pixels that come from outside the picture are 0, so it is best that
/// 0 is the background, or the mean where features are normalised.
///
/// ```
/// use distdl_dl::{Augmentation, TrainingOptions};
///
/// let options = TrainingOptions {
///     augmentation: Some(Augmentation { shift: 2, rotate_degrees: 10.0, ..Augmentation::default() }),
///     ..TrainingOptions::default()
/// };
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Augmentation {
    /// The most pixels that a picture is moved, each way; less than its sides. All whole numbers are equally likely.
    pub shift: u16,
    /// The largest angle in degrees, 0 to 180, that it is turned by, each way; all angles are equally likely.
    pub rotate_degrees: f32,
    /// Whether every other picture, by chance, has its left and right side swapped.
    pub flip: bool,
}

impl Augmentation {
    /// The pictures that a network takes.
    ///
    /// # Errors
    /// If it takes none, or a limit makes no sense for them.
    pub(crate) fn check(&self, input: Shape) -> Result<Image> {
        let Shape::Image(image) = input else {
            return Err(Error::Options(format!(
                "augmentation changes pictures, and the network takes rows of {input} elements; begin it with `Image`, and \
                 flatten behind it"
            )));
        };
        if usize::from(self.shift) >= image.height.min(image.width) && self.shift > 0 {
            return Err(Error::Options(format!(
                "augmentation by a shift of {} would move pictures of {input} out of sight; give less than their sides",
                self.shift
            )));
        }
        if !(0.0..=180.0).contains(&self.rotate_degrees) {
            return Err(Error::Options(format!(
                "augmentation by rotate_degrees of {}; give an angle from 0 to 180",
                self.rotate_degrees
            )));
        }
        Ok(image)
    }

    /// What is done to so many rows of a step, the first of which is [`Draw::first_row`], as a kernel for GPUs takes
    /// it.
    #[cfg(feature = "gpu")]
    fn transforms(&self, draw: Draw, rows: usize) -> impl Iterator<Item = [u64; TRANSFORM_LENGTH]> {
        let rows = (draw.first_row..).take(rows);
        rows.map(move |row| self.draw(draw, row).transform().words())
    }

    /// What is done to a row of a step. Each part is drawn whether it is wanted or not, so that one does not show in
    /// another.
    fn draw(&self, draw: Draw, row: u64) -> Change {
        let mut stream = Stream::new(draw.seed, Purpose::Augmentation, [draw.step, draw.lane]);
        stream.seek(row.wrapping_mul(WORDS));
        let shift = i32::from(self.shift);
        let mut moved = || stream.next_below(2 * u32::from(self.shift) + 1) as i32 - shift;
        Change {
            right: moved(),
            down: moved(),
            degrees: stream.next_symmetric() * self.rotate_degrees,
            is_flipped: stream.next_chance(0.5) && self.flip,
        }
    }
}

/// What is done to a picture.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Change {
    /// Pixels.
    right: i32,
    /// Pixels.
    down: i32,
    /// Against the clock, as one sees the picture with its first row above.
    degrees: f32,
    is_flipped: bool,
}

impl Change {
    /// This change as kernels take it.
    fn transform(&self) -> AffineTransform {
        let angle = f64::from(self.degrees).to_radians();
        // libm's, since those of the C library have other bits on other machines. Of nothing they are known, sign
        // included.
        let (sine, cosine) = match angle == 0.0 {
            true => (angle, 1.0),
            false => (libm::sin(angle), libm::cos(angle)),
        };
        AffineTransform {
            sine,
            cosine,
            right: self.right,
            down: self.down,
            is_flipped: self.is_flipped,
        }
    }
}

/// What changes the pictures of a lane.
#[derive(Debug)]
pub(crate) struct Augmenter {
    augmentation: Augmentation,
    image: Image,
    /// The picture as it was.
    before: Vec<f32>,
}

impl Augmenter {
    /// Errors as [`Augmentation::check`].
    pub(crate) fn new(augmentation: Augmentation, input: Shape) -> Result<Self> {
        let image = augmentation.check(input)?;
        Ok(Self {
            augmentation,
            image,
            before: vec![0.0; input.length()],
        })
    }

    /// By how much they may be changed.
    pub(crate) fn augmentation(&self) -> Augmentation {
        self.augmentation
    }

    /// Changes rows of pictures in place, the first of which is [`Draw::first_row`]. They are of the network's length.
    pub(crate) fn apply(&mut self, draw: Draw, pictures: &mut [f32]) -> Result<()> {
        for (row, picture) in (draw.first_row..).zip(pictures.chunks_exact_mut(self.before.len())) {
            let transform = self.augmentation.draw(draw, row).transform();
            if transform != AffineTransform::NONE {
                self.before.copy_from_slice(picture);
                transform.apply(self.image, &self.before, picture)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
