// Bias and activation of a layer, and their gradients, in place.

enum Activation : u32 { IDENTITY, RELU, LEAKY_RELU, SIGMOID, TANH, SOFTPLUS, SOFTMAX };

__device__ inline float activated(u32 kind, float x) {
    switch (kind) {
    case RELU:
        return relu(x);
    case LEAKY_RELU:
        return x < 0.0f ? x * 0.01f : x;
    case SIGMOID:
        return 1.0f / (1.0f + exponential(-x));
    case TANH:
        return hyperbolic_tangent(x);
    case SOFTPLUS:
        return relu(x) + log1pf(exponential(x < 0.0f ? x : -x));
    default:
        return x;
    }
}

__device__ inline float derived(u32 kind, float y, float g) {
    switch (kind) {
    case RELU:
        return y > 0.0f ? g : 0.0f;
    case LEAKY_RELU:
        return y > 0.0f ? g : g * 0.01f;
    case SIGMOID:
        return g * (y * (1.0f - y));
    case TANH:
        return g * (1.0f - y * y);
    case SOFTPLUS: {
        float tangent = hyperbolic_tangent(y * 0.5f);
        return g * ((tangent + tangent) / (1.0f + tangent));
    }
    default:
        return g;
    }
}

// Applies an activation; softmax has `softmax_rows`.
extern "C" __global__ void activation_apply(u32 kind, u64 count, float* values) {
    FOR_EACH(index, count) {
        values[index] = activated(kind, values[index]);
    }
}

// Adds a bias to each row, and applies an activation; softmax wants `softmax_rows` after it.
extern "C" __global__ void activation_rows(u32 kind, u64 rows, u64 columns, const float* bias, float* outputs) {
    FOR_EACH_ROW(row, rows) {
        float* of = outputs + row * columns;
        auto read = [=](u64 column) { return of[column] + bias[column]; };
        auto write = [=](u64 column, float x) { of[column] = activated(kind, x); };
        each_ahead(threadIdx.x, columns, blockDim.x, read, write);
    }
}

// The same with a bias of each channel; a row is a channel of an image. Not for softmax.
extern "C" __global__ void activation_channels(
    u32 kind, u64 rows, u64 channels, u64 positions, const float* bias, float* outputs) {
    FOR_EACH_ROW(row, rows) {
        float* of = outputs + row * positions;
        float added = bias[row % channels];
        auto read = [=](u64 position) { return of[position] + added; };
        auto write = [=](u64 position, float x) { of[position] = activated(kind, x); };
        each_ahead(threadIdx.x, positions, blockDim.x, read, write);
    }
}

// The same, or without a bias, from one row for each channel, which has the pixels of all images, to images.
extern "C" __global__ void activation_from_channels(
    u32 kind, u32 count, u32 channels, u32 pixels, const float* rows, u32 has_bias, const float* bias, float* images) {
    FOR_EACH_LINE(plane, count * channels) {
        u32 channel = plane % channels;
        const float* from = rows + (u64)(channel * count + plane / channels) * pixels;
        float* to = images + (u64)plane * pixels;
        float added = has_bias ? bias[channel] : 0.0f;
        auto read = [=](u64 pixel) { return from[pixel] + added; };
        auto write = [=](u64 pixel, float x) { to[pixel] = activated(kind, x); };
        each_ahead(threadIdx.x % LINE, pixels, LINE, read, write);
    }
}

// Turns the gradient by activated outputs into that before the activation; softmax has `softmax_rows_backward`.
extern "C" __global__ void activation_backward(u32 kind, u64 count, const float* outputs, float* gradient) {
    FOR_EACH(index, count) {
        gradient[index] = derived(kind, outputs[index], gradient[index]);
    }
}

// What goes back through one activation.
struct Backward {
    float output, gradient;
};

// The same, and of each part the sum of each column of what comes out: the gradient by a bias.
extern "C" __global__ void activation_backward_columns(
    u32 kind, u64 rows, u64 columns, u64 part, const float* outputs, float* gradient, float* sums) {
    auto read = [=](u64, u64 index) { return Backward{outputs[index], gradient[index]}; };
    auto value = [=](u64 index, Backward at) { return gradient[index] = derived(kind, at.output, at.gradient); };
    column_parts(rows, columns, part, 1.0f, read, sums, value);
}

// The same with the sum of each channel of so many positions.
extern "C" __global__ void activation_backward_channels(
    u32 kind, u64 rows, u64 channels, u64 positions, u64 part, const float* outputs, float* gradient, float* sums) {
    auto read = [=](u64, u64 index) { return Backward{outputs[index], gradient[index]}; };
    auto value = [=](u64 index, Backward at) { return gradient[index] = derived(kind, at.output, at.gradient); };
    channel_parts(rows, channels, positions, part, read, [](u64, float sum) { return sum; }, sums, value);
}

extern "C" __global__ void softmax_rows(u64 rows, u64 columns, float* values) {
    FOR_EACH_ROW(row, rows) {
        float* of = values + row * columns;
        float largest = largest_of(columns, of).value;
        float sum = sum_of<float>(columns, [=](u64 column) {
            of[column] = exponential(of[column] - largest);
            return of[column];
        });
        float scale = 1.0f / sum;
        for (u64 column = threadIdx.x; column < columns; column += blockDim.x) {
            of[column] *= scale;
        }
    }
}

extern "C" __global__ void softmax_rows_backward(u64 rows, u64 columns, const float* outputs, float* gradient) {
    FOR_EACH_ROW(row, rows) {
        const float* y = outputs + row * columns;
        float* g = gradient + row * columns;
        float inner = sum_of<float>(columns, [=](u64 column) { return y[column] * g[column]; });
        for (u64 column = threadIdx.x; column < columns; column += blockDim.x) {
            g[column] = y[column] * (g[column] - inner);
        }
    }
}
