// Emulated products of matrices: columns first, as cuBLAS has them, each sum in ascending order and in double precision.

#include <atomic>
#include <dlfcn.h>
#include <functional>

enum { INVALID_VALUE = 7, NOT_SUPPORTED = 15, FLOAT = 0, NORMAL = 0, COMPUTE_FLOAT = 68, FAST_BF16 = 75, FAST_TF32 = 77 };

namespace {

// Of the CUDA that it says it is made for, as the driver writes it; 0 where it does not say.
std::atomic<int> version{13040};

struct Matrix {
    const float* values;
    bool is_transposed;
    int stride;

    double at(int row, int column) const {
        return is_transposed ? values[column + static_cast<long>(row) * stride] : values[row + static_cast<long>(column) * stride];
    }

    bool fits(int rows, int columns) const { return stride >= (is_transposed ? columns : rows); }
};

struct Handle {
    void* stream;
};

// One product of a batch, or the only one: matrices, and how far those of the next product are.
struct Product {
    int rows, columns, inner;
    float factor, before;
    Matrix left, right;
    float* to;
    int stride;
    long long left_step, right_step, to_step;

    void multiply(int number) const {
        Matrix a = left, b = right;
        a.values += number * left_step, b.values += number * right_step;
        float* c = to + number * to_step;
        for (int column = 0; column < columns; column++) {
            for (int row = 0; row < rows; row++) {
                double sum = 0;
                for (int index = 0; index < inner; index++) {
                    sum += a.at(row, index) * b.at(index, column);
                }
                float& at = c[row + static_cast<long>(column) * stride];
                at = static_cast<float>(factor * sum + (before == 0 ? 0.0 : before * at));
            }
        }
    }
};

void* of_driver(const char* name) {
    static void* driver = dlopen(FOLDER "/libcuda.so", RTLD_NOW);
    return dlsym(driver, name);
}

// The driver's, which runs it now or with the graph that is captured.
int run(void* stream, const std::function<int()>& product) {
    static void* found = of_driver("emulated_run");
    return reinterpret_cast<int (*)(void*, const std::function<int()>&)>(found)(stream, product);
}

// Waits for all of the device, as it may before it takes memory there, and does before it frees that.
int wait_for_all() {
    return reinterpret_cast<int (*)()>(of_driver("cuCtxSynchronize"))();
}

}

extern "C" {

int cublasCreate_v2(Handle** handle) { return wait_for_all(), *handle = new Handle{nullptr}, 0; }
int cublasGetProperty(int property, int* value) {
    return *value = property == 0 ? version / 1000 : version % 1000 / 10, version == 0;
}
void emulated_be_version(long number) { version = number; }
int cublasDestroy_v2(Handle* handle) { return wait_for_all(), delete handle, 0; }
int cublasSetStream_v2(Handle* handle, void* stream) { return handle->stream = stream, 0; }
int cublasSetWorkspace_v2(Handle*, void* place, size_t bytes) { return place && bytes ? 0 : INVALID_VALUE; }

int cublasGemmStridedBatchedEx(Handle* handle, int transposes_a, int transposes_b, int rows, int columns, int inner,
                               const float* alpha, const float* a, int a_type, int a_stride, long long a_step,
                               const float* b, int b_type, int b_stride, long long b_step, const float* beta, float* c,
                               int c_type, int c_stride, long long c_step, int count, int compute, int) {
    Matrix left{a, transposes_a != NORMAL, a_stride}, right{b, transposes_b != NORMAL, b_stride};
    bool is_float = a_type == FLOAT && b_type == FLOAT && c_type == FLOAT;
    if (!is_float || (compute != COMPUTE_FLOAT && compute != FAST_BF16 && compute != FAST_TF32)) {
        return NOT_SUPPORTED;
    }
    bool fits = left.fits(rows, inner) && right.fits(inner, columns) && c_stride >= rows;
    if (rows < 0 || columns < 0 || inner < 0 || count < 0 || !fits) {
        return INVALID_VALUE;
    }
    // Factors of the sum are the host's: they may be gone when a graph is launched.
    Product product{rows, columns, inner, *alpha, *beta, left, right, c, c_stride, a_step, b_step, c_step};
    return run(handle->stream, [=] {
        for (int number = 0; number < count; number++) {
            product.multiply(number);
        }
        return 0;
    });
}

int cublasGemmEx(Handle* handle, int transposes_a, int transposes_b, int rows, int columns, int inner, const float* alpha,
                 const float* a, int a_type, int a_stride, const float* b, int b_type, int b_stride, const float* beta,
                 float* c, int c_type, int c_stride, int compute, int algorithm) {
    return cublasGemmStridedBatchedEx(handle, transposes_a, transposes_b, rows, columns, inner, alpha, a, a_type, a_stride, 0,
                                      b, b_type, b_stride, 0, beta, c, c_type, c_stride, 0, 1, compute, algorithm);
}

}
