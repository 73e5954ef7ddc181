//! What the elements of a row mean to a layer.

use std::fmt::{Debug, Display, Formatter};

/// The input of a network: the number of elements of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Input(pub usize);

/// The input of a network, or what passes between layers: an image of some channels, which lie one after the other, row
/// after row of pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Image {
    /// Numbers of a pixel.
    pub channels: usize,
    /// Rows of pixels.
    pub height: usize,
    /// Pixels of a row.
    pub width: usize,
}

/// What the elements of one sample are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// So many numbers.
    Row(usize),
    /// An image.
    Image(Image),
}

impl Image {
    /// Pixels of a channel.
    pub fn pixels(self) -> usize {
        self.height.saturating_mul(self.width)
    }
}

impl Shape {
    /// Number of elements; the largest number there is if they are more.
    pub fn length(self) -> usize {
        match self {
            Shape::Row(length) => length,
            Shape::Image(image) => image.pixels().saturating_mul(image.channels),
        }
    }

    /// Channels, each with a bias or scale of its own, and elements of each.
    pub(crate) fn channels(self) -> (usize, usize) {
        match self {
            Shape::Row(length) => (length, 1),
            Shape::Image(image) => (image.channels, image.pixels()),
        }
    }
}

impl From<Input> for Shape {
    fn from(Input(length): Input) -> Self {
        Shape::Row(length)
    }
}

impl From<Image> for Shape {
    fn from(image: Image) -> Self {
        Shape::Image(image)
    }
}

impl Display for Shape {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> std::fmt::Result {
        match self {
            Shape::Row(length) => write!(formatter, "{length}"),
            Shape::Image(image) => write!(formatter, "{}x{}x{}", image.channels, image.height, image.width),
        }
    }
}

/// Pixels down an image and across it: made of one number where both are the same, or of (height, width).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Sides {
    /// Along the columns of the image, from row to row.
    pub height: usize,
    /// Along its rows.
    pub width: usize,
}

impl Sides {
    /// Pixels of a window of these sides; `None` if they are too many to count.
    pub fn pixels(&self) -> Option<usize> {
        self.height.checked_mul(self.width)
    }
}

impl From<usize> for Sides {
    fn from(side: usize) -> Self {
        Self {
            height: side,
            width: side,
        }
    }
}

impl From<(usize, usize)> for Sides {
    fn from((height, width): (usize, usize)) -> Self {
        Self { height, width }
    }
}

/// One number where both are the same, as it is written.
impl Debug for Sides {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> std::fmt::Result {
        match self.height == self.width {
            true => write!(formatter, "{}", self.height),
            false => write!(formatter, "({}, {})", self.height, self.width),
        }
    }
}

/// Windows that walk over an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Windows {
    /// What they walk over.
    pub image: Image,
    /// Rows and columns of a window.
    pub size: Sides,
    /// Pixels from one window to the next, down and across.
    pub stride: Sides,
    /// Zeros around the image: so many rows above and as many below, and so many columns at either side.
    pub padding: Sides,
}

impl Windows {
    /// How many windows there are, by rows and columns; `None` if not even one fits, or a side is 0.
    pub fn counts(&self) -> Option<(usize, usize)> {
        let Self {
            image,
            size,
            stride,
            padding,
        } = self;
        let count = |side: usize, size: usize, stride: usize, padding: usize| {
            let free = side.checked_add(padding.checked_mul(2)?)?.checked_sub(size)?;
            Some(free.checked_div(stride)? + 1)
        };
        let is_something = size.height > 0 && size.width > 0 && image.channels > 0 && image.pixels() > 0;
        is_something.then_some(())?;
        Some((
            count(image.height, size.height, stride.height, padding.height)?,
            count(image.width, size.width, stride.width, padding.width)?,
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn windows(side: usize, size: impl Into<Sides>, stride: impl Into<Sides>, padding: impl Into<Sides>) -> Windows {
        let image = Image {
            channels: 1,
            height: side,
            width: side + 1,
        };
        Windows {
            image,
            size: size.into(),
            stride: stride.into(),
            padding: padding.into(),
        }
    }

    fn counts(side: usize, size: usize, stride: usize, padding: usize) -> Option<(usize, usize)> {
        windows(side, size, stride, padding).counts()
    }

    #[test]
    fn windows_are_counted_as_pytorch_does() {
        assert_eq!(counts(28, 5, 1, 0), Some((24, 25)));
        assert_eq!(counts(28, 3, 2, 1), Some((14, 15)));
        assert_eq!(counts(5, 2, 2, 0), Some((2, 3)));
        assert_eq!(counts(4, 6, 1, 1), Some((1, 2)));
        assert_eq!(windows(4, (6, 2), (1, 3), (1, 0)).counts(), Some((1, 2)));
        assert_eq!(windows(4, (2, 6), 1, 0).counts(), None);
        for impossible in [
            (4, 6, 1, 0),
            (4, 0, 1, 0),
            (4, 2, 0, 0),
            (0, 1, 1, 1),
            (4, 2, 1, usize::MAX),
        ] {
            let (side, size, stride, padding) = impossible;
            assert_eq!(counts(side, size, stride, padding), None, "{impossible:?}");
        }
    }

    #[test]
    fn sides_are_shown_as_they_are_written() {
        let words = |windows: Windows| format!("{windows:?}");
        let square = words(windows(4, 3, 2, 1));
        let expected = "Windows { image: Image { channels: 1, height: 4, width: 5 }, size: 3, stride: 2, padding: 1 }";
        assert_eq!(square, expected);
        assert!(words(windows(4, (3, 2), 1, 0)).contains("size: (3, 2), stride: 1, padding: 0"));
        assert_ne!(words(windows(4, (3, 2), 1, 0)), words(windows(4, (2, 3), 1, 0)));
    }

    #[test]
    fn lengths_do_not_wrap() {
        let image = Image {
            channels: 3,
            height: usize::MAX,
            width: 2,
        };
        assert_eq!(Shape::from(image).length(), usize::MAX);
        assert_eq!(Shape::from(Input(7)).to_string(), "7");
    }
}
