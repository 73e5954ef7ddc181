// Windows of images as the columns of a matrix, and back; convolutions of windows of few elements; the largest element and the
// mean of each window.
//
// What goes back to a pixel is summed by the pixel's thread, in the order in which the CPU adds it. Divisions cost a GPU
// more than anything else here, those of 64 bits most of all: a thread divides where it begins and not for each element
// that it reads, and all is counted in 32 bits.

// Goes through the elements of this thread, of which there are fewer than 2^31.
#define FOR_EACH_WORD(index, count)                                                     \
    for (u32 index = blockIdx.x * blockDim.x + threadIdx.x; index < (count);            \
         index += gridDim.x * blockDim.x)

// Images, their windows, and how many windows there are by rows and columns.
#define WINDOWS                                                                               \
    u32 channels, u32 height, u32 width, u32 size_y, u32 size_x, u32 stride_y, u32 stride_x,  \
        u32 padding_y, u32 padding_x, u32 rows, u32 columns

// The first and one past the last of `count` windows along a side that cover `pixel`, which counts from the padding on.
__device__ inline u32 first_window(u32 pixel, u32 size, u32 stride) {
    return pixel < size ? 0 : (pixel - size) / stride + 1;
}

__device__ inline u32 end_window(u32 pixel, u32 stride, u32 count) {
    u32 last = pixel / stride;
    return last + 1 < count ? last + 1 : count;
}

// Where an element of planes lies, each of so many rows and columns.
struct Place {
    u32 plane, row, column;
};

__device__ inline Place place_of(u32 index, u32 rows, u32 columns) {
    u32 row = index / columns;
    return {row / rows, row % rows, index % columns};
}

// Each thread writes what one window has of one channel.
extern "C" __global__ void to_columns(WINDOWS, u32 count, const float* images, float* matrix) {
    u32 all = count * rows * columns;
    FOR_EACH_WORD(index, channels * all) {
        u32 channel = index / all;
        u32 window = index % all;
        Place place = place_of(window, rows, columns);
        u32 first_line = place.row * stride_y - padding_y;
        u32 first_pixel = place.column * stride_x - padding_x;
        const float* from = images + (place.plane * channels + channel) * height * width;
        float* to = matrix + channel * size_y * size_x * all + window;
        // What lies before the image is beyond it as well, since nothing is negative.
        for (u32 line = first_line; line != first_line + size_y; line++) {
            for (u32 pixel = first_pixel; pixel != first_pixel + size_x; pixel++) {
                *to = line < height && pixel < width ? from[line * width + pixel] : 0.0f;
                to += all;
            }
        }
    }
}

// The sum of what windows that are one pixel apart have of a pixel. What lies outside counts as 0, so that some reads are under
// way together.
__device__ inline float sum_of_windows(
    u32 line, u32 pixel, u32 size_y, u32 size_x, u32 rows, u32 columns, u32 all, const float* from) {
    const u32 AHEAD = 8;
    float sum = 0.0f;
    for (u32 y = 0; y < size_y; y++, from += size_x * all) {
        u32 row = line - y;
        if (row >= rows) {
            continue;
        }
        const float* at = from + row * columns + pixel;
        for (u32 x = 0; x < size_x; x += AHEAD) {
            float values[AHEAD];
#pragma unroll
            for (u32 ahead = 0; ahead < AHEAD; ahead++) {
                bool is_there = x + ahead < size_x && pixel - (x + ahead) < columns;
                values[ahead] = is_there ? at[(x + ahead) * (all - 1)] : 0.0f;
            }
#pragma unroll
            for (u32 ahead = 0; ahead < AHEAD; ahead++) {
                sum += values[ahead];
            }
        }
    }
    return sum;
}

extern "C" __global__ void from_columns(WINDOWS, u32 count, const float* matrix, float* images) {
    u32 all = count * rows * columns;
    FOR_EACH_WORD(index, count * channels * height * width) {
        Place place = place_of(index, height, width);
        u32 line = place.row + padding_y, pixel = place.column + padding_x;
        u32 image = place.plane / channels, channel = place.plane % channels;
        const float* from = matrix + channel * size_y * size_x * all + image * rows * columns;
        if (stride_y == 1 && stride_x == 1) {
            images[index] = sum_of_windows(line, pixel, size_y, size_x, rows, columns, all, from);
            continue;
        }
        u32 first_row = first_window(line, size_y, stride_y), end_row = end_window(line, stride_y, rows);
        u32 first_column = first_window(pixel, size_x, stride_x), end_column = end_window(pixel, stride_x, columns);
        float sum = 0.0f;
        for (u32 row = end_row; row > first_row; row--) {
            u32 y = line - (row - 1) * stride_y;
            for (u32 column = end_column; column > first_column; column--) {
                u32 x = pixel - (column - 1) * stride_x;
                sum += from[(y * size_x + x) * all + (row - 1) * columns + column - 1];
            }
        }
        images[index] = sum;
    }
}

// Images as one row for each channel, which has the pixels of all images; `activation_from_channels` goes back.
extern "C" __global__ void to_channels(u32 count, u32 channels, u32 pixels, const float* images, float* rows) {
    FOR_EACH_LINE(plane, count * channels) {
        const float* from = images + (u64)(plane % count * channels + plane / count) * pixels;
        float* to = rows + (u64)plane * pixels;
        auto read = [=](u64 pixel) { return from[pixel]; };
        each_ahead(threadIdx.x % LINE, pixels, LINE, read, [=](u64 pixel, float value) { to[pixel] = value; });
    }
}

// Elements of a window at most, and filters and windows that a thread takes together.
const u32 WINDOW_MAX = 32, FILTERS = 8, TOGETHER = 2;

// Read as one.
struct alignas(16) Quad {
    float values[4];
};

// Elements of a window that are read together.
const u32 ELEMENTS = 4;

// Where the windows of a thread begin in an image, and which of their elements are there.
struct Few {
    const float* image;
    u32 first[TOGETHER], mask[TOGETHER];
};

// Adds products of some elements of windows, from `first` on, with filters to the sums of a thread, in order; of those that are
// not in `mask` none, if `is_masked`.
template <bool is_masked>
__device__ inline void add_products(u32 first, const u32* offsets, const Quad* factors, Few few, float (*sums)[FILTERS]) {
    float values[TOGETHER][ELEMENTS];
#pragma unroll
    for (u32 ahead = 0; ahead < ELEMENTS; ahead++) {
#pragma unroll
        for (u32 window = 0; window < TOGETHER; window++) {
            bool is_there = !is_masked || few.mask[window] >> (first + ahead) & 1;
            values[window][ahead] = is_there ? few.image[few.first[window] + offsets[first + ahead]] : 0.0f;
        }
    }
#pragma unroll
    for (u32 ahead = 0; ahead < ELEMENTS; ahead++) {
#pragma unroll
        for (u32 quad = 0; quad < FILTERS / 4; quad++) {
            Quad some = factors[(first + ahead) * (FILTERS / 4) + quad];
#pragma unroll
            for (u32 window = 0; window < TOGETHER; window++) {
#pragma unroll
                for (u32 one = 0; one < 4; one++) {
                    float* sum = &sums[window][quad * 4 + one];
                    *sum = fmaf(values[window][ahead], some.values[one], *sum);
                }
            }
        }
    }
}

// Which elements of a window are in the image: what lies before it is beyond it as well, since nothing is negative.
__device__ inline u32 mask_of(
    u32 first_line, u32 first_pixel, u32 channels, u32 height, u32 width, u32 size_y, u32 size_x) {
    u32 mask = 0, element = 0;
    for (u32 channel = 0; channel < channels; channel++) {
        for (u32 line = first_line; line != first_line + size_y; line++) {
            for (u32 pixel = first_pixel; pixel != first_pixel + size_x; pixel++, element++) {
                mask |= (line < height && pixel < width ? 1u : 0u) << element;
            }
        }
    }
    return mask;
}

// Outputs of a convolution whose windows are so few elements that writing them as columns would take longer than to multiply
// them: filter x window + bias. A block has some filters on an image.
extern "C" __global__ void convolve(
    WINDOWS, u32 count, u32 filters, u32 has_bias, u32 is_relu, const float* parameters, const float* images,
    float* outputs) {
    __shared__ Quad factors[WINDOW_MAX * FILTERS / 4];
    __shared__ u32 offsets[WINDOW_MAX];
    u32 elements = channels * size_y * size_x, windows = rows * columns;
    u32 groups = (filters + FILTERS - 1) / FILTERS;
    bool is_padded = padding_y + padding_x > 0;
    u32 all = elements < WINDOW_MAX ? (1u << elements) - 1 : ~0u;
    const float* bias = parameters + filters * elements;
    for (u32 element = threadIdx.x; element < WINDOW_MAX; element += blockDim.x) {
        u32 line = element / size_x, plane = line / size_y;
        offsets[element] = element < elements ? (plane * height + line % size_y) * width + element % size_x : 0;
    }
    FOR_EACH_ROW(place, (u64)count * groups) {
        u32 image = (u32)place / groups, first_filter = (u32)place % groups * FILTERS;
        const float* from = images + image * channels * height * width;
        float* to = outputs + (image * filters + first_filter) * windows;
        for (u32 index = threadIdx.x; index < WINDOW_MAX * FILTERS; index += blockDim.x) {
            u32 filter = first_filter + index % FILTERS, element = index / FILTERS;
            bool is_there = filter < filters && element < elements;
            factors[index / 4].values[index % 4] = is_there ? parameters[filter * elements + element] : 0.0f;
        }
        __syncthreads();
        for (u32 begin = threadIdx.x; begin < windows; begin += TOGETHER * blockDim.x) {
            Few few = {from};
            float sums[TOGETHER][FILTERS] = {};
#pragma unroll
            for (u32 one = 0; one < TOGETHER; one++) {
                // Where there is no other, it is the first once more.
                u32 window = begin + one * blockDim.x < windows ? begin + one * blockDim.x : begin;
                u32 line = window / columns * stride_y - padding_y, pixel = window % columns * stride_x - padding_x;
                few.first[one] = line * width + pixel;
                few.mask[one] = is_padded ? mask_of(line, pixel, channels, height, width, size_y, size_x) : all;
            }
            u32 element = 0;
            for (; !is_padded && element + ELEMENTS <= elements; element += ELEMENTS) {
                add_products<false>(element, offsets, factors, few, sums);
            }
            for (; element < elements; element += ELEMENTS) {
                add_products<true>(element, offsets, factors, few, sums);
            }
#pragma unroll
            for (u32 filter = 0; filter < FILTERS; filter++) {
                if (first_filter + filter < filters) {
                    float added = has_bias ? bias[first_filter + filter] : 0.0f;
#pragma unroll
                    for (u32 one = 0; one < TOGETHER; one++) {
                        u32 window = begin + one * blockDim.x;
                        float sum = sums[one][filter] + added;
                        if (window < windows) {
                            to[filter * windows + window] = is_relu ? relu(sum) : sum;
                        }
                    }
                }
            }
        }
        // The next filters have other factors.
        __syncthreads();
    }
}

// The first pixel of a window that lies there, counted through all images.
__device__ inline u32 first_pixel(Place pool, u32 height, u32 width, u32 stride_y, u32 stride_x) {
    return (pool.plane * height + pool.row * stride_y) * width + pool.column * stride_x;
}

// Read as one.
struct alignas(8) Pair {
    float left, right;
};

// Whether windows are two pixels wide and high and cover all of an image one by one, as those of most pools. Then each has two
// pairs, and its pixels are read and written by pairs.
__device__ inline bool are_of_pairs(
    u32 height, u32 width, u32 size_y, u32 size_x, u32 stride_y, u32 stride_x) {
    bool are_two = size_y == 2 && size_x == 2 && stride_y == 2 && stride_x == 2;
    return are_two && height % 2 == 0 && width % 2 == 0;
}

__device__ inline float larger(float best, float value) {
    return value > best || value != value ? value : best;
}

extern "C" __global__ void pool_largest(WINDOWS, u32 count, const float* images, float* pooled) {
    bool of_pairs = are_of_pairs(height, width, size_y, size_x, stride_y, stride_x);
    FOR_EACH_WORD(pool, count * channels * rows * columns) {
        u32 first = first_pixel(place_of(pool, rows, columns), height, width, stride_y, stride_x);
        if (of_pairs) {
            const Pair* pairs = (const Pair*)(images + first);
            Pair upper = pairs[0], lower = pairs[width / 2];
            pooled[pool] = larger(larger(larger(upper.left, upper.right), lower.left), lower.right);
            continue;
        }
        float best = images[first];
        for (u32 y = 0; y < size_y; y++) {
            for (u32 x = 0; x < size_x; x++) {
                best = larger(best, images[first + y * width + x]);
            }
        }
        pooled[pool] = best;
    }
}

__device__ inline u32 first_largest(u32 first, u32 width, u32 size_y, u32 size_x, const float* images) {
    u32 best = first;
    float largest = images[first];
    for (u32 y = 0; y < size_y; y++) {
        for (u32 x = 0; x < size_x; x++) {
            u32 pixel = first + y * width + x;
            float value = images[pixel];
            best = value > largest ? pixel : best;
            largest = value > largest ? value : largest;
        }
    }
    return best;
}

// Where no windows share a pixel: each thread writes a window's pixels and those up to the next windows.
extern "C" __global__ void pool_largest_backward_apart(
    WINDOWS, u32 count, const float* images, const float* gradient, float* image_gradient) {
    bool of_pairs = are_of_pairs(height, width, size_y, size_x, stride_y, stride_x);
    FOR_EACH_WORD(pool, count * channels * rows * columns) {
        Place place = place_of(pool, rows, columns);
        u32 first = first_pixel(place, height, width, stride_y, stride_x);
        // As a sum, which is never -0.
        float whole = 0.0f + gradient[pool];
        if (of_pairs) {
            const Pair* pairs = (const Pair*)(images + first);
            Pair* to = (Pair*)(image_gradient + first);
            Pair upper = pairs[0], lower = pairs[width / 2];
            u32 best = upper.right > upper.left ? 1 : 0;
            float largest = best == 1 ? upper.right : upper.left;
            best = lower.left > largest ? 2 : best;
            largest = best == 2 ? lower.left : largest;
            best = lower.right > largest ? 3 : best;
            to[0] = {best == 0 ? whole : 0.0f, best == 1 ? whole : 0.0f};
            to[width / 2] = {best == 2 ? whole : 0.0f, best == 3 ? whole : 0.0f};
            continue;
        }
        u32 best = first_largest(first, width, size_y, size_x, images);
        u32 lines = place.row + 1 < rows ? stride_y : height - place.row * stride_y;
        u32 pixels = place.column + 1 < columns ? stride_x : width - place.column * stride_x;
        for (u32 y = 0; y < lines; y++) {
            for (u32 x = 0; x < pixels; x++) {
                u32 pixel = first + y * width + x;
                image_gradient[pixel] = pixel == best ? whole : 0.0f;
            }
        }
    }
}

extern "C" __global__ void pool_largest_backward(
    WINDOWS, u32 count, const float* images, const float* gradient, float* image_gradient) {
    FOR_EACH_WORD(index, count * channels * height * width) {
        auto [plane, line, pixel] = place_of(index, height, width);
        u32 end_row = end_window(line, stride_y, rows), end_column = end_window(pixel, stride_x, columns);
        u32 first_column = first_window(pixel, size_x, stride_x);
        float sum = 0.0f;
        for (u32 row = first_window(line, size_y, stride_y); row < end_row; row++) {
            for (u32 column = first_column; column < end_column; column++) {
                u32 pool = (plane * rows + row) * columns + column;
                u32 first = first_pixel({plane, row, column}, height, width, stride_y, stride_x);
                sum += first_largest(first, width, size_y, size_x, images) == index ? gradient[pool] : 0.0f;
            }
        }
        image_gradient[index] = sum;
    }
}

extern "C" __global__ void pool_mean(WINDOWS, u32 count, const float* images, float* pooled) {
    float share = (float)(1.0 / (double)(size_y * size_x));
    FOR_EACH_WORD(pool, count * channels * rows * columns) {
        u32 first = first_pixel(place_of(pool, rows, columns), height, width, stride_y, stride_x);
        float sum = 0.0f;
        for (u32 y = 0; y < size_y; y++) {
            for (u32 x = 0; x < size_x; x++) {
                sum += images[first + y * width + x];
            }
        }
        pooled[pool] = sum * share;
    }
}

extern "C" __global__ void pool_mean_backward(WINDOWS, u32 count, const float* gradient, float* image_gradient) {
    float share = (float)(1.0 / (double)(size_y * size_x));
    FOR_EACH_WORD(index, count * channels * height * width) {
        auto [plane, line, pixel] = place_of(index, height, width);
        u32 end_row = end_window(line, stride_y, rows), end_column = end_window(pixel, stride_x, columns);
        u32 first_column = first_window(pixel, size_x, stride_x);
        float sum = 0.0f;
        for (u32 row = first_window(line, size_y, stride_y); row < end_row; row++) {
            for (u32 column = first_column; column < end_column; column++) {
                sum += gradient[(plane * rows + row) * columns + column] * share;
            }
        }
        image_gradient[index] = sum;
    }
}
