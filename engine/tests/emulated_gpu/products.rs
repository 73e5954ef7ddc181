//! Products of matrices by cuBLAS.

use distdl_engine::config::Precision;
use distdl_engine::device::{Gpu, GpuBlas, GpuFound, GpuMatrices, GpuMatrix};
use distdl_storage::DeviceMemory;

pub(crate) fn are_those_of_the_cpu(found: &GpuFound) {
    let gpu = Gpu::open(found, 0).unwrap();
    let [left, right, product] = [6, 12, 8].map(|count| gpu.allocate(4 * count).unwrap());
    let number = |index: usize| index as f32 - 2.5;
    let numbers: Vec<f32> = (0..12).map(number).collect();
    gpu.write(&numbers[..6], left.words()).unwrap();
    gpu.write(&numbers, right.words()).unwrap();
    gpu.write(&[100.0_f32; 8], product.words()).unwrap();
    let to = GpuMatrix::new(product.words(), 2, 4);
    for precision in [Precision::F32, Precision::Tf32, Precision::Bf16] {
        let blas = GpuBlas::new(&gpu, precision).unwrap();
        for (adds, (turns_left, turns_right)) in [
            (false, (false, false)),
            (true, (true, false)),
            (false, (true, true)),
            (true, (false, true)),
        ] {
            let mut expected = [0.0_f32; 8];
            gpu.read(product.words(), &mut expected).unwrap();
            for (index, value) in expected.iter_mut().enumerate() {
                let (row, column) = (index / 4, index % 4);
                let of_left = |inner| number(if turns_left { inner * 2 + row } else { row * 3 + inner });
                let of_right = |inner| {
                    number(if turns_right {
                        column * 3 + inner
                    } else {
                        inner * 4 + column
                    })
                };
                let sum: f32 = (0..3).map(|inner| of_left(inner) * of_right(inner)).sum();
                *value = sum + if adds { *value } else { 0.0 };
            }
            let matrix = |words, rows, columns, turns| match turns {
                false => GpuMatrix::new(words, rows, columns),
                true => GpuMatrix::new(words, columns, rows).transpose(),
            };
            let left = matrix(left.words(), 2, 3, turns_left);
            let right = matrix(right.words(), 3, 4, turns_right);
            blas.multiply(&gpu, to, left, right, adds).unwrap();
            let mut written = [0.0_f32; 8];
            gpu.read(product.words(), &mut written).unwrap();
            assert_eq!(written, expected);
        }
    }
    let blas = GpuBlas::new(&gpu, Precision::F32).unwrap();
    let other = Gpu::open(found, 0).unwrap();
    let factor = GpuMatrix::new(left.words(), 2, 3);
    assert!(
        blas.multiply(&other, to, factor, GpuMatrix::new(right.words(), 3, 4), false)
            .is_err()
    );
    let error = blas
        .multiply(&gpu, to, GpuMatrix::new(left.words(), 3, 2), to, false)
        .unwrap_err();
    assert!(error.to_string().contains("3 x 2"), "{error}");
}

/// Products of as many matrices: one that all share, by some that lie side by side, turned.
pub(crate) fn of_each_are_those_of_the_cpu(found: &GpuFound) {
    let gpu = Gpu::open(found, 0).unwrap();
    let blas = GpuBlas::new(&gpu, Precision::F32).unwrap();
    let [left, right, product] = [6, 36, 40].map(|count| gpu.allocate(4 * count).unwrap());
    let number = |index: usize| index as f32 - 2.5;
    let numbers: Vec<f32> = (0..36).map(number).collect();
    gpu.write(&numbers[..6], left.words()).unwrap();
    gpu.write(&numbers, right.words()).unwrap();
    gpu.write(&[100.0_f32; 40], product.words()).unwrap();
    // 2 x 3, three of 4 x 3 in rows of nine elements, and products of 2 x 4 with a gap of 4 between them.
    let lefts = |step| GpuMatrices::new(left.words(), 3, step, [2, 3], 3);
    let of_rights = |count| GpuMatrices::new(right.words(), count, 3, [4, 3], 9).transpose();
    let products = |step| GpuMatrices::new(product.words(), 3, step, [2, 4], 4);
    blas.multiply_each(&gpu, products(12), lefts(0), of_rights(3)).unwrap();
    let mut expected = [100.0_f32; 40];
    for (index, value) in expected.iter_mut().enumerate() {
        let (matrix, row, column) = (index / 12, index % 12 / 4, index % 4);
        let of_right = |inner| number(column * 9 + matrix * 3 + inner);
        if row < 2 && matrix < 3 {
            *value = (0..3).map(|inner| number(row * 3 + inner) * of_right(inner)).sum();
        }
    }
    let mut written = [0.0_f32; 40];
    gpu.read(product.words(), &mut written).unwrap();
    assert_eq!(written, expected);
    let nothing = GpuMatrices::new(product.words(), 0, 8, [2, 4], 4);
    blas.multiply_each(&gpu, nothing, nothing, nothing).unwrap();
    for (products, rights, reason) in [
        (products(12), of_rights(2), "[3, 3, 2]"),
        (products(7), of_rights(3), "overlap"),
    ] {
        let error = blas.multiply_each(&gpu, products, lefts(0), rights).unwrap_err();
        assert!(error.to_string().contains(reason), "{error}");
    }
}
