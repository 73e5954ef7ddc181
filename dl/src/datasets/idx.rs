//! The IDX format: a magic number, the length of each side, then the elements (Yann LeCun's page of MNIST describes
//! it).

/// An array of unsigned bytes as an IDX file holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdxBytes {
    /// Length of each side, outermost first.
    pub shape: Vec<usize>,
    /// The elements, row-major.
    pub elements: Vec<u8>,
}

/// Why bytes are not an IDX array of unsigned bytes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdxError {
    /// The file ends within its header.
    #[error("the header is cut: {got} bytes, expected at least {expected}")]
    Header {
        /// Bytes the header takes.
        expected: usize,
        /// Bytes there are.
        got: usize,
    },
    /// The magic number is another one.
    #[error("magic number {got:#010x}, expected {expected:#010x} (unsigned bytes, {} sides)", expected & 0xff)]
    Magic {
        /// The magic number of unsigned bytes with that many sides.
        expected: u32,
        /// The one found.
        got: u32,
    },
    /// The sides multiply to more than memory can hold.
    #[error("sides {0:?} multiply to more than memory can hold")]
    Shape(Vec<u32>),
    /// There are fewer or more elements than the sides say.
    #[error("{got} bytes of elements, the sides say {expected}")]
    Elements {
        /// Product of the sides.
        expected: usize,
        /// Bytes after the header.
        got: usize,
    },
}

impl IdxError {
    /// Where in the file the trouble is.
    pub fn place(&self) -> &'static str {
        match self {
            IdxError::Magic { .. } => "offset 0 (magic number)",
            IdxError::Header { .. } | IdxError::Shape(_) => "offset 4 (sides)",
            IdxError::Elements { .. } => "the elements after the header",
        }
    }
}

/// Parses an array of unsigned bytes with `sides` sides (1 for labels, 3 for images); `sides` must be below 256.
pub fn parse(bytes: &[u8], sides: u8) -> Result<IdxBytes, IdxError> {
    let header = 4 + 4 * usize::from(sides);
    let word = |index: usize| {
        bytes
            .get(4 * index..4 * index + 4)
            .map(|b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]))
    };
    let expected = 0x0800 | u32::from(sides);
    match word(0) {
        Some(got) if got != expected => return Err(IdxError::Magic { expected, got }),
        Some(_) if bytes.len() >= header => {}
        _ => {
            return Err(IdxError::Header {
                expected: header,
                got: bytes.len(),
            });
        }
    }
    let shape: Vec<u32> = (1..=usize::from(sides)).filter_map(word).collect();
    let product = shape
        .iter()
        .try_fold(1usize, |product, &side| product.checked_mul(side as usize));
    let Some(expected) = product else {
        return Err(IdxError::Shape(shape));
    };
    let elements = &bytes[header..];
    if elements.len() != expected {
        return Err(IdxError::Elements {
            expected,
            got: elements.len(),
        });
    }
    Ok(IdxBytes {
        shape: shape.into_iter().map(|side| side as usize).collect(),
        elements: elements.to_vec(),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn file(magic: u32, sides: &[u32], elements: &[u8]) -> Vec<u8> {
        let words = std::iter::once(magic)
            .chain(sides.iter().copied())
            .flat_map(u32::to_be_bytes);
        words.chain(elements.iter().copied()).collect()
    }

    #[test]
    fn a_whole_file_is_read() {
        let parsed = parse(&file(0x0803, &[2, 1, 3], &[1, 2, 3, 4, 5, 6]), 3).unwrap();
        assert_eq!(
            parsed,
            IdxBytes {
                shape: vec![2, 1, 3],
                elements: vec![1, 2, 3, 4, 5, 6]
            }
        );
        assert_eq!(parse(&file(0x0801, &[0], &[]), 1).unwrap().elements, [0u8; 0]);
    }

    #[test]
    fn a_wrong_magic_number_is_named() {
        let error = parse(&file(0x0803, &[1], &[0]), 1).unwrap_err();
        assert_eq!(
            error,
            IdxError::Magic {
                expected: 0x0801,
                got: 0x0803
            }
        );
        assert_eq!(
            error.to_string(),
            "magic number 0x00000803, expected 0x00000801 (unsigned bytes, 1 sides)"
        );
    }

    #[test]
    fn every_cut_and_every_addition_is_an_error() {
        let whole = file(0x0803, &[2, 2, 2], &[9; 8]);
        for length in 0..whole.len() {
            assert!(parse(&whole[..length], 3).is_err(), "cut at {length}");
        }
        let longer = [whole, vec![0]].concat();
        assert_eq!(
            parse(&longer, 3).unwrap_err(),
            IdxError::Elements { expected: 8, got: 9 }
        );
    }

    #[test]
    fn sides_that_overflow_are_an_error() {
        let error = parse(&file(0x0803, &[u32::MAX; 3], &[]), 3).unwrap_err();
        assert_eq!(error, IdxError::Shape(vec![u32::MAX; 3]));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>, sides: u8) {
            let _ = parse(&bytes, sides);
        }
    }
}
