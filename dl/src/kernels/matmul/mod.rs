//! Products of row-major matrices.
//!
//! An element is summed over the inner side in an order that does not depend on how many rows or columns there are, so
//! a row of a forward pass has the same bits in a batch of any size, but for two cases in which faer takes another
//! path: a product of a single row or column, and one of at most 16^3 multiplications. What ran before never matters.

mod cpu;

use crate::error::{Result, check_length};
use crate::scalar::Scalar;
use faer::Accum;

/// A row-major matrix or the transpose of one, by reference.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a, T> {
    elements: &'a [T],
    rows: usize,
    columns: usize,
    transposed: bool,
}

impl<'a, T: Scalar> Matrix<'a, T> {
    /// Reads `elements` as `rows` x `columns`, row after row. Errors if the length is another.
    pub fn new(what: &'static str, elements: &'a [T], rows: usize, columns: usize) -> Result<Self> {
        check_length(what, rows.saturating_mul(columns), elements.len())?;
        Ok(Matrix {
            elements,
            rows,
            columns,
            transposed: false,
        })
    }

    /// The same elements seen as the transposed matrix.
    #[must_use]
    pub fn transpose(self) -> Self {
        Matrix {
            transposed: !self.transposed,
            ..self
        }
    }

    fn shape(&self) -> (usize, usize) {
        if self.transposed {
            (self.columns, self.rows)
        } else {
            (self.rows, self.columns)
        }
    }
}

/// `product` = `left` x `right`, row-major, overwriting what was there. Errors if the shapes do not fit.
pub fn matmul<T: Scalar>(product: &mut [T], left: Matrix<'_, T>, right: Matrix<'_, T>) -> Result<()> {
    checked(Accum::Replace, product, left, right)
}

/// Adds `left` x `right` to `sum`, row-major. Errors if the shapes do not fit.
pub fn add_matmul<T: Scalar>(sum: &mut [T], left: Matrix<'_, T>, right: Matrix<'_, T>) -> Result<()> {
    checked(Accum::Add, sum, left, right)
}

fn checked<T: Scalar>(accum: Accum, product: &mut [T], left: Matrix<'_, T>, right: Matrix<'_, T>) -> Result<()> {
    let ((rows, inner), (right_rows, columns)) = (left.shape(), right.shape());
    check_length("the inner side of the right factor", inner, right_rows)?;
    check_length("the product", rows * columns, product.len())?;
    cpu::matmul(accum, product, (rows, columns), left, right);
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn numbers(count: usize, factor: usize) -> Vec<f64> {
        (0..count).map(|index| (index * factor % 17) as f64 - 8.0).collect()
    }

    proptest! {
        #[test]
        fn products_are_those_of_the_definition(sides in [0usize..20, 0usize..20, 0usize..20], turned: [bool; 2]) {
            let [rows, inner, columns] = sides;
            let (a, b) = (numbers(rows * inner, 7), numbers(inner * columns, 5));
            let view = |elements, rows, columns, turned| match turned {
                false => Matrix::new("a factor", elements, rows, columns).unwrap(),
                true => Matrix::new("a factor", elements, columns, rows).unwrap().transpose(),
            };
            let mut product = vec![f64::NAN; rows * columns];
            matmul(&mut product, view(&a, rows, inner, turned[0]), view(&b, inner, columns, turned[1])).unwrap();
            let mut twice = product.clone();
            add_matmul(&mut twice, view(&a, rows, inner, turned[0]), view(&b, inner, columns, turned[1])).unwrap();
            for row in 0..rows {
                for column in 0..columns {
                    let at = |k: usize| if turned[0] { a[k * rows + row] } else { a[row * inner + k] };
                    let bt = |k: usize| if turned[1] { b[column * inner + k] } else { b[k * columns + column] };
                    let expected = (0..inner).map(|k| at(k) * bt(k)).sum::<f64>();
                    prop_assert_eq!(product[row * columns + column], expected);
                    prop_assert_eq!(twice[row * columns + column], 2.0 * expected);
                }
            }
        }
    }

    #[test]
    fn shapes_that_do_not_fit_are_refused() {
        let elements = [0.0f32; 6];
        assert!(Matrix::new("a", &elements, 2, 2).is_err());
        assert!(Matrix::new("a", &elements, usize::MAX, 2).is_err());
        let (left, right) = (
            Matrix::new("a", &elements, 2, 3).unwrap(),
            Matrix::new("b", &elements, 3, 2).unwrap(),
        );
        assert!(matmul(&mut [0.0; 4], left, right).is_ok());
        assert!(matmul(&mut [0.0; 3], left, right).is_err());
        assert!(matmul(&mut [0.0; 4], left, left).is_err());
    }
}
