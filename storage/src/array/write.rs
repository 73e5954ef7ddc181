//! Arrays as npy files.

use std::marker::PhantomData;

use super::element::Element;
use super::header::ROW_BYTES_MAX;
use super::npy::{MAGIC, code};
use crate::error::Result;
use crate::object::ObjectError;

/// Header and elements begin at multiples of this, in bytes, so that they may be mapped.
const ALIGNMENT: usize = 64;

/// Makes an npy file, version 1.0, little-endian and in C order, row by row in memory.
#[derive(Debug)]
pub struct NpyWriter<T> {
    url: String,
    row_shape: Vec<usize>,
    row_elements: usize,
    rows: u64,
    /// Room for the header, and the rows.
    bytes: Vec<u8>,
    header_bytes: usize,
    element: PhantomData<fn() -> T>,
}

impl<T: Element> NpyWriter<T> {
    /// Rows of that shape, row-major; one number each if it is empty. `url` is what errors call the file.
    ///
    /// # Errors
    /// A row of no bytes or of more than [`ROW_BYTES_MAX`].
    pub fn new(url: &str, row_shape: &[usize]) -> Result<Self> {
        let row_elements = row_shape
            .iter()
            .try_fold(1_usize, |product, &side| product.checked_mul(side))
            .filter(|elements| *elements > 0 && *elements as u64 <= ROW_BYTES_MAX / T::KIND.bytes());
        let Some(row_elements) = row_elements else {
            let remedy = format!("rows of shape {row_shape:?} hold no elements, or more than {ROW_BYTES_MAX} bytes");
            return Err(ObjectError::unsupported(url, &remedy).into());
        };
        let longest = dictionary::<T>(u64::MAX, row_shape).len();
        // The dictionary ends with a line end.
        let header_bytes = (MAGIC.len() + 4 + longest + 1).next_multiple_of(ALIGNMENT);
        if u16::try_from(header_bytes).is_err() {
            return Err(ObjectError::unsupported(url, "a row has too many sides for an npy file").into());
        }
        Ok(Self {
            url: url.to_owned(),
            row_shape: row_shape.to_vec(),
            row_elements,
            rows: 0,
            bytes: vec![b' '; header_bytes],
            header_bytes,
            element: PhantomData,
        })
    }

    /// Appends a row.
    ///
    /// # Errors
    /// It has another length than its shape says.
    pub fn push(&mut self, row: &[T]) -> Result<()> {
        if row.len() != self.row_elements {
            let (length, shape) = (row.len(), &self.row_shape);
            let problem = format!("{length} elements where rows are of shape {shape:?}");
            let remedy = "make all rows equally long, or name their true shape";
            return Err(ObjectError::malformed(&self.url, format!("row {}", self.rows), problem, remedy).into());
        }
        row.iter().for_each(|element| element.encode(&mut self.bytes));
        self.rows += 1;
        Ok(())
    }

    /// The file.
    pub fn finish(mut self) -> Vec<u8> {
        let dictionary = dictionary::<T>(self.rows, &self.row_shape);
        let rest = (self.header_bytes - MAGIC.len() - 4) as u16;
        let start = [&MAGIC[..], &[1, 0], &rest.to_le_bytes(), dictionary.as_bytes()].concat();
        self.bytes[..start.len()].copy_from_slice(&start);
        self.bytes[self.header_bytes - 1] = b'\n';
        self.bytes
    }
}

fn dictionary<T: Element>(rows: u64, row_shape: &[usize]) -> String {
    let order = if T::KIND.bytes() == 1 { '|' } else { '<' };
    let code = code(T::KIND);
    let sides: String = row_shape.iter().map(|side| format!(" {side},")).collect();
    let sides = match row_shape.is_empty() {
        true => ",",
        false => sides.trim_end_matches(','),
    };
    let separator = if row_shape.is_empty() { "" } else { "," };
    format!("{{'descr': '{order}{code}', 'fortran_order': False, 'shape': ({rows}{separator}{sides}), }}")
}
