//! Pictures as they might have been as well: moved, turned and mirrored by chance while a network learns from them.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::layer::Draw;
use crate::rng::{Purpose, Stream};
use crate::shape::{Image, Shape};

/// Words of the random stream that a row has for itself; it takes fewer.
const WORDS: u64 = 8;

/// By how much the pictures of a training may be changed; by default not at all. Each time a lane takes a sample, its
/// picture is mirrored, then turned about its centre, then moved, all by chance: a function of (seed, step, lane, row). What
/// is measured or predicted is never changed. Pixels that come from outside the picture are 0, so it is best that 0 is the
/// background, or the mean where features are normalised.
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

    /// What is done to a row of a step. Each part is drawn whether it is wanted or not, so that one does not show in another.
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
    /// Writes the changed picture.
    ///
    /// The pixel at column x and row y comes from (x', y') of the picture: with the centre (cx, cy), u = x - `right` - cx and
    /// v = y - `down` - cy, it is x' = cx + u cos a - v sin a and y' = cy + u sin a + v cos a. If the picture is flipped, the
    /// column is (width - 1) - x' instead of x'.
    fn apply(&self, image: Image, from: &[f32], to: &mut [f32]) {
        let angle = f64::from(self.degrees).to_radians();
        // libm's, since those of the C library have other bits on other machines.
        let (sine, cosine) = (libm::sin(angle), libm::cos(angle));
        let centre = |side: usize| (side as f64 - 1.0) / 2.0;
        let (centre_x, centre_y) = (centre(image.width), centre(image.height));
        for (place, pixel) in (0..image.pixels()).map(|place| (place, (place % image.width, place / image.width))) {
            let u = pixel.0 as f64 - f64::from(self.right) - centre_x;
            let v = pixel.1 as f64 - f64::from(self.down) - centre_y;
            let (x, y) = (centre_x + u * cosine - v * sine, centre_y + u * sine + v * cosine);
            let x = if self.is_flipped {
                image.width as f64 - 1.0 - x
            } else {
                x
            };
            let taps = taps(image, x, y);
            for channel in 0..image.channels {
                let begin = channel * image.pixels();
                to[begin + place] = interpolate(&from[begin..begin + image.pixels()], &taps);
            }
        }
    }
}

/// The four pixels around a place of a picture, and how much each counts (bilinear); 0 for those outside.
fn taps(image: Image, x: f64, y: f64) -> [(usize, f64); 4] {
    let (left, top) = (x.floor(), y.floor());
    let (right_share, lower_share) = (x - left, y - top);
    let is_inside = |at: f64, side: usize| at >= 0.0 && at < side as f64;
    let tap = |column: f64, row: f64, weight: f64| match is_inside(column, image.width) && is_inside(row, image.height)
    {
        true => (row as usize * image.width + column as usize, weight),
        false => (0, 0.0),
    };
    [
        tap(left, top, (1.0 - right_share) * (1.0 - lower_share)),
        tap(left + 1.0, top, right_share * (1.0 - lower_share)),
        tap(left, top + 1.0, (1.0 - right_share) * lower_share),
        tap(left + 1.0, top + 1.0, right_share * lower_share),
    ]
}

fn interpolate(channel: &[f32], taps: &[(usize, f64); 4]) -> f32 {
    // One that does not count is not looked at: it may be infinite.
    let counting = taps.iter().filter(|(_, weight)| *weight > 0.0);
    let sum: f64 = counting
        .map(|(place, weight)| weight * f64::from(channel[*place]))
        .sum();
    sum as f32
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

    /// Changes rows of pictures in place, the first of which is [`Draw::first_row`].
    pub(crate) fn apply(&mut self, draw: Draw, pictures: &mut [f32]) {
        for (row, picture) in (draw.first_row..).zip(pictures.chunks_exact_mut(self.before.len())) {
            let change = self.augmentation.draw(draw, row);
            if change != Change::default() {
                self.before.copy_from_slice(picture);
                change.apply(self.image, &self.before, picture);
            }
        }
    }
}

#[cfg(test)]
mod tests;
