// Emulated convolutions, each sum in ascending order and in double precision. As cuDNN where that is strict: operands begin at
// multiples of 16 bytes, what an algorithm works with is there and spoilt by it, and gradients by filters of more than two
// pixels from one window to the next are not supported, nor are filters of more than four pixels, which it says only when they
// are to be computed; those of seven are bad then, and of more padding than filter at once; those of nine fail, and for four it
// wants a lot to work with. Its default math rounds factors to 11 bits.

#include <atomic>
#include <dlfcn.h>
#include <functional>
#include <stdio.h>
#include <stdint.h>
#include <string.h>

enum {
    BAD_PARAM = 2000,
    MISALIGNED = 2003,
    SIZE_INSUFFICIENT = 2006,
    SHAPE_MISMATCH = 2008,
    NOT_SUPPORTED = 3000,
    NCHW = 0,
    FLOAT = 0,
    CROSS_CORRELATION = 1,
    DEFAULT_MATH = 0,
    FMA_MATH = 3,
    PRECOMPUTED = 1,
    DETERMINISTIC = 1,
    STRIDE_MAX = 2,
    FILTER_MAX = 4,
    FILTER_BAD = 7,
    FILTER_BROKEN = 9,
    FILTER_GREEDY = 4,
    GREEDY_BYTES = 33 << 20,
    EXECUTION_FAILED = 5000,
};

namespace {

// Of the CUDA that it says it is made for, as the driver writes it; 0 where it does not say.
std::atomic<int> version{13040};

struct Handle {
    void* stream;
};

struct Sides {
    int outer = 0, channels = 0, height = 0, width = 0;

    bool operator==(const Sides& other) const {
        return outer == other.outer && channels == other.channels && height == other.height && width == other.width;
    }
    long place(int o, int c, int y, int x) const { return ((static_cast<long>(o) * channels + c) * height + y) * width + x; }
    long length() const { return static_cast<long>(outer) * channels * height * width; }
};

struct Windows {
    int padding_y = 0, padding_x = 0, stride_y = 0, stride_x = 0, math = -1;
    int stride() const { return stride_y > stride_x ? stride_y : stride_x; }
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

// What it is about: images, filters and outputs, and how windows walk.
struct Convolution {
    Sides images, filters, outputs;
    Windows windows;

    int state() const {
        bool is_whole = images.length() > 0 && filters.length() > 0 && windows.stride_y > 0 && windows.stride_x > 0;
        bool is_padded_too_much = windows.padding_y > filters.height || windows.padding_x > filters.width;
        if (!is_whole || is_padded_too_much || (windows.math != FMA_MATH && windows.math != DEFAULT_MATH)) {
            return BAD_PARAM;
        }
        int rows = (images.height + 2 * windows.padding_y - filters.height) / windows.stride_y + 1;
        int columns = (images.width + 2 * windows.padding_x - filters.width) / windows.stride_x + 1;
        bool fits = images.channels == filters.channels && outputs == Sides{images.outer, filters.outer, rows, columns};
        return fits ? 0 : SHAPE_MISMATCH;
    }

    size_t workspace() const {
        return filters.height == FILTER_GREEDY ? GREEDY_BYTES : 8 * static_cast<size_t>(images.outer) + 4;
    }

    // A factor as it counts.
    double factor(float value) const {
        uint32_t bits;
        memcpy(&bits, &value, 4);
        bits = windows.math == DEFAULT_MATH ? (bits + 0x1000) & ~0x1fffu : bits;
        memcpy(&value, &bits, 4);
        return value;
    }

    // Calls `visit` with the places of a pixel, a weight and an output for each product, outputs ascending.
    template <typename F> void each(F visit) const {
        for (int image = 0; image < outputs.outer; image++) {
            for (int filter = 0; filter < outputs.channels; filter++) {
                for (int row = 0; row < outputs.height; row++) {
                    for (int column = 0; column < outputs.width; column++) {
                        each_in(image, filter, row, column, visit);
                    }
                }
            }
        }
    }

    template <typename F> void each_in(int image, int filter, int row, int column, F visit) const {
        for (int channel = 0; channel < filters.channels; channel++) {
            for (int y = 0; y < filters.height; y++) {
                for (int x = 0; x < filters.width; x++) {
                    int at_y = row * windows.stride_y + y - windows.padding_y;
                    int at_x = column * windows.stride_x + x - windows.padding_x;
                    if (at_y >= 0 && at_y < images.height && at_x >= 0 && at_x < images.width) {
                        visit(images.place(image, channel, at_y, at_x), filters.place(filter, channel, y, x),
                              outputs.place(image, filter, row, column));
                    }
                }
            }
        }
    }
};

// Writes one of three as sums over `each` of products of the others. `product` is told all three places and adds.
template <typename F>
int sums(Handle* handle, const Convolution& of, const float* one, const float* before, const void* left, const void* right,
         float* to, long length, void* workspace, size_t bytes, F product) {
    if (of.state()) {
        return of.state();
    }
    if (of.filters.height > FILTER_MAX) {
        int height = of.filters.height;
        return height == FILTER_BROKEN ? EXECUTION_FAILED : height == FILTER_BAD ? BAD_PARAM : NOT_SUPPORTED;
    }
    if (*one != 1 || *before != 0 || !to || !left || !right) {
        return BAD_PARAM;
    }
    for (const void* operand : {left, right, static_cast<const void*>(to), static_cast<const void*>(workspace)}) {
        if (reinterpret_cast<uintptr_t>(operand) % 16) {
            return MISALIGNED;
        }
    }
    if (bytes < of.workspace()) {
        return SIZE_INSUFFICIENT;
    }
    return run(handle->stream, [=] {
        memset(workspace, 0xff, bytes);
        double* all = new double[length]();
        of.each([&](long image, long filter, long output) { product(all, image, filter, output); });
        for (long index = 0; index < length; index++) {
            to[index] = static_cast<float>(all[index]);
        }
        delete[] all;
        return 0;
    });
}

int set(Sides* sides, bool is_known, int outer, int channels, int height, int width) {
    return is_known && outer > 0 && channels > 0 && height > 0 && width > 0
        ? (*sides = Sides{outer, channels, height, width}, 0) : BAD_PARAM;
}

}

extern "C" {

int cudnnCnnVersionCheck() { return 0; }
size_t cudnnGetCudartVersion() { return version; }
void emulated_be_version(long number) { version = number; }
void cudnnGetLastErrorString(char* words, size_t bytes) { snprintf(words, bytes, "Not\nemulated."); }

int cudnnCreate(Handle** handle) { return wait_for_all(), *handle = new Handle{nullptr}, 0; }
int cudnnDestroy(Handle* handle) { return wait_for_all(), delete handle, 0; }
int cudnnSetStream(Handle* handle, void* stream) { return handle->stream = stream, 0; }

int cudnnCreateTensorDescriptor(Sides** sides) { return *sides = new Sides, 0; }
int cudnnDestroyTensorDescriptor(Sides* sides) { return delete sides, 0; }
int cudnnSetTensor4dDescriptor(Sides* sides, int layout, int type, int outer, int channels, int height, int width) {
    return set(sides, layout == NCHW && type == FLOAT, outer, channels, height, width);
}
int cudnnCreateFilterDescriptor(Sides** sides) { return *sides = new Sides, 0; }
int cudnnDestroyFilterDescriptor(Sides* sides) { return delete sides, 0; }
int cudnnSetFilter4dDescriptor(Sides* sides, int type, int layout, int outer, int channels, int height, int width) {
    return set(sides, layout == NCHW && type == FLOAT, outer, channels, height, width);
}
int cudnnCreateConvolutionDescriptor(Windows** windows) { return *windows = new Windows, 0; }
int cudnnDestroyConvolutionDescriptor(Windows* windows) { return delete windows, 0; }
int cudnnSetConvolution2dDescriptor(Windows* windows, int padding_y, int padding_x, int stride_y, int stride_x, int dilation_y,
                                    int dilation_x, int mode, int type) {
    bool is_whole = stride_y >= 1 && stride_x >= 1 && padding_y >= 0 && padding_x >= 0;
    if (!is_whole || dilation_y != 1 || dilation_x != 1 || mode != CROSS_CORRELATION || type != FLOAT) {
        return NOT_SUPPORTED;
    }
    *windows = {padding_y, padding_x, stride_y, stride_x, windows->math};
    return 0;
}
int cudnnSetConvolutionMathType(Windows* windows, int math) { return windows->math = math, 0; }

int cudnnGetConvolutionForwardWorkspaceSize(Handle*, Sides* images, Sides* filters, Windows* windows, Sides* outputs,
                                            int algorithm, size_t* bytes) {
    Convolution of{*images, *filters, *outputs, *windows};
    return algorithm != PRECOMPUTED ? NOT_SUPPORTED : (*bytes = of.workspace(), of.state());
}

int cudnnGetConvolutionBackwardDataWorkspaceSize(Handle*, Sides* filters, Sides* outputs, Windows* windows, Sides* images,
                                                 int algorithm, size_t* bytes) {
    Convolution of{*images, *filters, *outputs, *windows};
    return algorithm != DETERMINISTIC ? NOT_SUPPORTED : (*bytes = of.workspace(), of.state());
}

int cudnnGetConvolutionBackwardFilterWorkspaceSize(Handle*, Sides* images, Sides* outputs, Windows* windows, Sides* filters,
                                                   int algorithm, size_t* bytes) {
    Convolution of{*images, *filters, *outputs, *windows};
    bool is_known = algorithm == DETERMINISTIC && windows->stride() <= STRIDE_MAX;
    return is_known ? (*bytes = of.workspace(), of.state()) : NOT_SUPPORTED;
}

int cudnnConvolutionForward(Handle* handle, const float* one, Sides* images, const float* pixels, Sides* filters,
                            const float* weights, Windows* windows, int algorithm, void* workspace, size_t bytes,
                            const float* before, Sides* outputs, float* to) {
    Convolution of{*images, *filters, *outputs, *windows};
    auto product = [=](double* all, long image, long filter, long output) {
        all[output] += of.factor(pixels[image]) * of.factor(weights[filter]);
    };
    return algorithm != PRECOMPUTED ? NOT_SUPPORTED
        : sums(handle, of, one, before, pixels, weights, to, outputs->length(), workspace, bytes, product);
}

int cudnnConvolutionBackwardData(Handle* handle, const float* one, Sides* filters, const float* weights, Sides* outputs,
                                 const float* gradient, Windows* windows, int algorithm, void* workspace, size_t bytes,
                                 const float* before, Sides* images, float* to) {
    Convolution of{*images, *filters, *outputs, *windows};
    auto product = [=](double* all, long image, long filter, long output) {
        all[image] += of.factor(weights[filter]) * of.factor(gradient[output]);
    };
    return algorithm != DETERMINISTIC ? NOT_SUPPORTED
        : sums(handle, of, one, before, weights, gradient, to, images->length(), workspace, bytes, product);
}

int cudnnConvolutionBackwardFilter(Handle* handle, const float* one, Sides* images, const float* pixels, Sides* outputs,
                                   const float* gradient, Windows* windows, int algorithm, void* workspace, size_t bytes,
                                   const float* before, Sides* filters, float* to) {
    Convolution of{*images, *filters, *outputs, *windows};
    auto product = [=](double* all, long image, long filter, long output) {
        all[filter] += of.factor(pixels[image]) * of.factor(gradient[output]);
    };
    return algorithm != DETERMINISTIC || windows->stride() > STRIDE_MAX ? NOT_SUPPORTED
        : sums(handle, of, one, before, pixels, gradient, to, filters->length(), workspace, bytes, product);
}

}
