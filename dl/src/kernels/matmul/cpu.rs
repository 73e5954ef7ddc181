//! faer's product on the calling thread.
//!
//! On x86-64 with AVX2, faer packs factors into a buffer of twice the size of the last-level cache, which each thread
//! reserves at its first product and keeps; memory is committed only as far as products reach. Later calls allocate
//! nothing.

use super::Matrix;
use crate::scalar::Scalar;
use faer::{Accum, MatMut, MatRef, Par, linalg::matmul};

pub(super) fn matmul<T: Scalar>(product: &mut [T], shape: (usize, usize), left: Matrix<'_, T>, right: Matrix<'_, T>) {
    let product = MatMut::from_row_major_slice_mut(product, shape.0, shape.1);
    matmul::matmul(product, Accum::Replace, view(left), view(right), T::ONE, Par::Seq);
}

fn view<T: Scalar>(matrix: Matrix<'_, T>) -> MatRef<'_, T> {
    let plain = MatRef::from_row_major_slice(matrix.elements, matrix.rows, matrix.columns);
    if matrix.transposed { plain.transpose() } else { plain }
}
