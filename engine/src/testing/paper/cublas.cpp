// Products of matrices on paper: columns first, as cuBLAS has them, each sum in ascending order and in double precision.

#include <cstdlib>

enum { INVALID_VALUE = 7, NOT_SUPPORTED = 15, FLOAT = 0, NORMAL = 0, COMPUTE_FLOAT = 68, FAST_BF16 = 75, FAST_TF32 = 77 };

namespace {

struct Matrix {
    const float* values;
    bool is_transposed;
    int stride;

    double at(int row, int column) const {
        return is_transposed ? values[column + static_cast<long>(row) * stride] : values[row + static_cast<long>(column) * stride];
    }

    bool fits(int rows, int columns) const { return stride >= (is_transposed ? columns : rows); }
};

}

extern "C" {

int cublasCreate_v2(void** handle) { return *handle = malloc(1), 0; }
int cublasDestroy_v2(void* handle) { return free(handle), 0; }
int cublasSetStream_v2(void*, void*) { return 0; }

int cublasGemmEx(void*, int transposes_a, int transposes_b, int rows, int columns, int inner, const float* alpha,
                 const float* a, int a_type, int a_stride, const float* b, int b_type, int b_stride, const float* beta,
                 float* c, int c_type, int c_stride, int compute, int) {
    Matrix left{a, transposes_a != NORMAL, a_stride}, right{b, transposes_b != NORMAL, b_stride};
    bool is_float = a_type == FLOAT && b_type == FLOAT && c_type == FLOAT;
    if (!is_float || (compute != COMPUTE_FLOAT && compute != FAST_BF16 && compute != FAST_TF32)) {
        return NOT_SUPPORTED;
    }
    if (rows < 0 || columns < 0 || inner < 0 || !left.fits(rows, inner) || !right.fits(inner, columns) || c_stride < rows) {
        return INVALID_VALUE;
    }
    for (int column = 0; column < columns; column++) {
        for (int row = 0; row < rows; row++) {
            double sum = 0;
            for (int index = 0; index < inner; index++) {
                sum += left.at(row, index) * right.at(index, column);
            }
            float& to = c[row + static_cast<long>(column) * c_stride];
            to = static_cast<float>(*alpha * sum + (*beta == 0 ? 0.0 : *beta * to));
        }
    }
    return 0;
}

}
