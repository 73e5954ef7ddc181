//! One pixel after the other.

use super::AffineTransform;
use crate::shape::Image;

pub(super) fn apply(transform: &AffineTransform, image: Image, from: &[f32], to: &mut [f32]) {
    let centre = |side: usize| (side as f64 - 1.0) / 2.0;
    let (centre_x, centre_y) = (centre(image.width), centre(image.height));
    for (place, pixel) in (0..image.pixels()).map(|place| (place, (place % image.width, place / image.width))) {
        let u = pixel.0 as f64 - f64::from(transform.right) - centre_x;
        let v = pixel.1 as f64 - f64::from(transform.down) - centre_y;
        let x = centre_x + u * transform.cosine - v * transform.sine;
        let y = centre_y + u * transform.sine + v * transform.cosine;
        let x = if transform.is_flipped {
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
