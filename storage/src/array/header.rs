//! What a header says, checked.

use serde::{Deserialize, Serialize};

use super::element::ElementKind;
use crate::object::ObjectError;

/// Longest row, in bytes: 1 GiB. One row at a time is held in memory.
pub const ROW_BYTES_MAX: u64 = 1 << 30;
/// Longest header, in bytes; NumPy believes no longer one either.
pub(super) const HEADER_BYTES_MAX: usize = 10_000;
/// How to mend a file that is not what its header says.
pub(super) const FETCH: &str = "fetch the file again, or take the one that its name promises";

/// Type and shape of the array in a file, and where its elements begin.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ArrayHeader {
    /// Type of an element.
    pub kind: ElementKind,
    /// Whether the most significant byte comes first.
    pub big_endian: bool,
    /// Length of each side, outermost first; empty for a single number.
    pub shape: Vec<u64>,
    /// Length of the header, in bytes.
    pub header_bytes: u64,
    /// Length of a row, in bytes.
    row_bytes: u64,
    /// Length of all rows, in bytes.
    elements_bytes: u64,
}

impl ArrayHeader {
    /// The same after a look at the sizes, which `at` says the place of.
    pub(super) fn checked(
        url: &str,
        at: &str,
        kind: ElementKind,
        big_endian: bool,
        shape: Vec<u64>,
        header_bytes: u64,
    ) -> Result<Self, ObjectError> {
        let wrong = |problem: &str| {
            let problem = format!("sides {shape:?} {problem}");
            Err(ObjectError::malformed(url, at, problem, FETCH))
        };
        let row = shape.get(1..).unwrap_or_default();
        let row_bytes = row
            .iter()
            .try_fold(kind.bytes(), |product, &side| product.checked_mul(side));
        let Some(row_bytes) = row_bytes.filter(|bytes| *bytes <= ROW_BYTES_MAX) else {
            return wrong(&format!("multiply to rows of more than {ROW_BYTES_MAX} bytes"));
        };
        let rows = shape.first().copied().unwrap_or(1);
        if row_bytes == 0 && rows > 0 {
            return wrong("make rows without elements");
        }
        let elements_bytes = rows
            .checked_mul(row_bytes)
            .filter(|bytes| bytes.checked_add(header_bytes).is_some());
        let Some(elements_bytes) = elements_bytes else {
            return wrong("multiply to more than memory can hold");
        };
        Ok(Self {
            kind,
            big_endian,
            shape,
            header_bytes,
            row_bytes,
            elements_bytes,
        })
    }

    /// Number of rows: the length of the outermost side, 1 for a single number.
    pub fn rows(&self) -> u64 {
        self.shape.first().copied().unwrap_or(1)
    }

    /// Shape of a row: all sides but the outermost.
    pub fn row_shape(&self) -> &[u64] {
        self.shape.get(1..).unwrap_or_default()
    }

    /// Length of a row, in bytes; 0 only if there are no rows.
    pub fn row_bytes(&self) -> u64 {
        self.row_bytes
    }

    /// Length of all rows, in bytes.
    pub fn elements_bytes(&self) -> u64 {
        self.elements_bytes
    }

    /// An error unless that many bytes lie behind the header.
    pub(super) fn check_elements(&self, url: &str, got: u64) -> Result<(), ObjectError> {
        if got == self.elements_bytes {
            return Ok(());
        }
        let expected = self.elements_bytes;
        let problem = format!("{got} bytes of elements, the sides say {expected}");
        Err(ObjectError::malformed(
            url,
            "the elements after the header",
            problem,
            FETCH,
        ))
    }
}
