//! What the elements of a row mean to a layer.

use std::fmt::{Display, Formatter};

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

/// Square windows that walk over an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Windows {
    /// What they walk over.
    pub image: Image,
    /// Rows and columns of a window.
    pub size: usize,
    /// Pixels from one window to the next.
    pub stride: usize,
    /// Zeros around the image, at each side.
    pub padding: usize,
}

impl Windows {
    /// How many windows there are, by rows and columns; `None` if not even one fits, or a side is 0.
    pub fn counts(&self) -> Option<(usize, usize)> {
        let count = |side: usize| {
            let free = side.checked_add(self.padding.checked_mul(2)?)?.checked_sub(self.size)?;
            Some(free.checked_div(self.stride)? + 1)
        };
        let is_something = self.size > 0 && self.image.channels > 0 && self.image.pixels() > 0;
        is_something.then_some(())?;
        Some((count(self.image.height)?, count(self.image.width)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(side: usize, size: usize, stride: usize, padding: usize) -> Option<(usize, usize)> {
        let image = Image {
            channels: 1,
            height: side,
            width: side + 1,
        };
        Windows {
            image,
            size,
            stride,
            padding,
        }
        .counts()
    }

    #[test]
    fn windows_are_counted_as_pytorch_does() {
        assert_eq!(counts(28, 5, 1, 0), Some((24, 25)));
        assert_eq!(counts(28, 3, 2, 1), Some((14, 15)));
        assert_eq!(counts(5, 2, 2, 0), Some((2, 3)));
        assert_eq!(counts(4, 6, 1, 1), Some((1, 2)));
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
