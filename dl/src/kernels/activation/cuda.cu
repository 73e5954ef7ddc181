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
    case SOFTPLUS:
        return g * (1.0f - exponential(-y));
    default:
        return g;
    }
}

// Adds `bias` to each row, if there is one, and applies an activation; softmax wants `softmax_rows` after it.
extern "C" __global__ void activation_forward(u32 kind, u64 count, u64 columns, const float* bias, float* outputs) {
    FOR_EACH(index, count) {
        float x = bias ? outputs[index] + bias[index % columns] : outputs[index];
        outputs[index] = activated(kind, x);
    }
}

// The same with a bias of each channel; a row is a channel of an image. Not for softmax.
extern "C" __global__ void activation_channels(
    u32 kind, u64 rows, u64 channels, u64 positions, const float* bias, float* outputs
) {
    FOR_EACH_ROW(row, rows) {
        float* of = outputs + row * positions;
        float added = bias[row % channels];
        for (u64 position = threadIdx.x; position < positions; position += blockDim.x) {
            of[position] = activated(kind, of[position] + added);
        }
    }
}

// Turns the gradient by activated outputs into that before the activation; softmax has `softmax_rows_backward`.
extern "C" __global__ void activation_backward(u32 kind, u64 count, const float* outputs, float* gradient) {
    FOR_EACH(index, count) {
        gradient[index] = derived(kind, outputs[index], gradient[index]);
    }
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
