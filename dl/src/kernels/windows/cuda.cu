// Windows of images as the columns of a matrix, and back; the largest element and the mean of each window.
//
// What goes back to a pixel is summed by the pixel's thread, in the order in which the CPU adds it.

// Images, their windows, and how many windows there are by rows and columns.
#define WINDOWS u64 channels, u64 height, u64 width, u64 size, u64 stride, u64 padding, u64 rows, u64 columns

// The first and one past the last of `count` windows along a side that cover `pixel`, which counts from the padding on.
__device__ inline u64 first_window(u64 pixel, u64 size, u64 stride) {
    return pixel < size ? 0 : (pixel - size) / stride + 1;
}

__device__ inline u64 end_window(u64 pixel, u64 stride, u64 count) {
    return pixel / stride + 1 < count ? pixel / stride + 1 : count;
}

extern "C" __global__ void to_columns(WINDOWS, u64 count, const float* images, float* matrix) {
    u64 all = count * rows * columns;
    FOR_EACH(index, channels * size * size * all) {
        u64 place = index / all;
        u64 window = index % all;
        u64 line = window / columns % rows * stride + place / size % size;
        u64 pixel = window % columns * stride + place % size;
        bool is_inside = line >= padding && line - padding < height && pixel >= padding && pixel - padding < width;
        u64 channel = window / (rows * columns) * channels + place / (size * size);
        u64 from = (channel * height + line - padding) * width + pixel - padding;
        matrix[index] = is_inside ? images[from] : 0.0f;
    }
}

extern "C" __global__ void from_columns(WINDOWS, u64 count, const float* matrix, float* images) {
    FOR_EACH(index, count * channels * height * width) {
        u64 pixel = index % width + padding;
        u64 line = index / width % height + padding;
        u64 channel = index / (width * height) % channels;
        u64 image = index / (width * height * channels);
        float sum = 0.0f;
        for (u64 y = 0; y < size && y <= line; y++) {
            u64 row = (line - y) / stride;
            if ((line - y) % stride != 0 || row >= rows) {
                continue;
            }
            for (u64 x = 0; x < size && x <= pixel; x++) {
                u64 column = (pixel - x) / stride;
                if ((pixel - x) % stride == 0 && column < columns) {
                    u64 place = (channel * size + y) * size + x;
                    sum += matrix[((place * count + image) * rows + row) * columns + column];
                }
            }
        }
        images[index] = sum;
    }
}

// Images as one row for each channel, which has the pixels of all images; and back, with something added to each channel.
extern "C" __global__ void to_channels(u64 count, u64 channels, u64 pixels, const float* images, float* rows) {
    FOR_EACH(index, count * channels * pixels) {
        u64 image = index / pixels % count;
        u64 channel = index / (pixels * count);
        rows[index] = images[(image * channels + channel) * pixels + index % pixels];
    }
}

extern "C" __global__ void from_channels(
    u64 count, u64 channels, u64 pixels, const float* rows, const float* bias, float* images) {
    FOR_EACH(index, count * channels * pixels) {
        u64 channel = index / pixels % channels;
        u64 image = index / (pixels * channels);
        images[index] = rows[(channel * count + image) * pixels + index % pixels] + bias[channel];
    }
}

// The first pixel of a window, counted through all images.
__device__ inline u64 first_pixel(u64 pool, u64 height, u64 width, u64 stride, u64 rows, u64 columns) {
    u64 line = pool / (rows * columns) * height + pool / columns % rows * stride;
    return line * width + pool % columns * stride;
}

extern "C" __global__ void pool_largest(WINDOWS, u64 count, const float* images, float* pooled) {
    FOR_EACH(pool, count * channels * rows * columns) {
        u64 first = first_pixel(pool, height, width, stride, rows, columns);
        float best = images[first];
        for (u64 y = 0; y < size; y++) {
            for (u64 x = 0; x < size; x++) {
                float value = images[first + y * width + x];
                best = value > best || value != value ? value : best;
            }
        }
        pooled[pool] = best;
    }
}

__device__ inline u64 first_largest(u64 first, u64 width, u64 size, const float* images) {
    u64 best = first;
    for (u64 y = 0; y < size; y++) {
        for (u64 x = 0; x < size; x++) {
            u64 pixel = first + y * width + x;
            best = images[pixel] > images[best] ? pixel : best;
        }
    }
    return best;
}

extern "C" __global__ void pool_largest_backward(
    WINDOWS, u64 count, const float* images, const float* gradient, float* image_gradient) {
    FOR_EACH(index, count * channels * height * width) {
        u64 pixel = index % width;
        u64 line = index / width % height;
        u64 channel = index / (width * height);
        float sum = 0.0f;
        for (u64 row = first_window(line, size, stride); row < end_window(line, stride, rows); row++) {
            for (u64 column = first_window(pixel, size, stride); column < end_window(pixel, stride, columns); column++) {
                u64 pool = (channel * rows + row) * columns + column;
                u64 first = first_pixel(pool, height, width, stride, rows, columns);
                sum += first_largest(first, width, size, images) == index ? gradient[pool] : 0.0f;
            }
        }
        image_gradient[index] = sum;
    }
}

extern "C" __global__ void pool_mean(WINDOWS, u64 count, const float* images, float* pooled) {
    float share = (float)(1.0 / (double)(size * size));
    FOR_EACH(pool, count * channels * rows * columns) {
        u64 first = first_pixel(pool, height, width, stride, rows, columns);
        float sum = 0.0f;
        for (u64 y = 0; y < size; y++) {
            for (u64 x = 0; x < size; x++) {
                sum += images[first + y * width + x];
            }
        }
        pooled[pool] = sum * share;
    }
}

extern "C" __global__ void pool_mean_backward(WINDOWS, u64 count, const float* gradient, float* image_gradient) {
    float share = (float)(1.0 / (double)(size * size));
    FOR_EACH(index, count * channels * height * width) {
        u64 pixel = index % width;
        u64 line = index / width % height;
        u64 channel = index / (width * height);
        float sum = 0.0f;
        for (u64 row = first_window(line, size, stride); row < end_window(line, stride, rows); row++) {
            for (u64 column = first_window(pixel, size, stride); column < end_window(pixel, stride, columns); column++) {
                sum += gradient[(channel * rows + row) * columns + column] * share;
            }
        }
        image_gradient[index] = sum;
    }
}
