// Rows with mean 0 and variance 1, scaled and shifted.

// Of each row the mean, and what is multiplied with for variance 1.
extern "C" __global__ void layer_norm_moments(
    u64 rows, u64 columns, float epsilon, const float* inputs, float* means, float* scales) {
    float share = (float)(1.0 / (double)columns);
    FOR_EACH_ROW(row, rows) {
        const float* of = inputs + row * columns;
        float mean = sum_of<float>(columns, [=](u64 column) { return of[column]; }) * share;
        float squares = sum_of<float>(columns, [=](u64 column) { return (of[column] - mean) * (of[column] - mean); });
        if (threadIdx.x == 0) {
            means[row] = mean;
            scales[row] = 1.0f / sqrtf(squares * share + epsilon);
        }
    }
}

extern "C" __global__ void layer_norm_forward(
    u64 count, u64 columns, const float* means, const float* scales, const float* weight, const float* bias,
    const float* inputs, float* outputs) {
    FOR_EACH(index, count) {
        u64 row = index / columns;
        u64 column = index % columns;
        outputs[index] = (inputs[index] - means[row]) * scales[row] * weight[column] + bias[column];
    }
}

// Of each part the sum of the gradients by the weight, times something; that by the bias is a sum of columns.
extern "C" __global__ void layer_norm_along(
    u64 rows, u64 columns, u64 part, float scale, const float* means, const float* scales, const float* inputs,
    const float* gradient, float* sums) {
    auto along = [=](u64 row, u64 index) {
        return gradient[index] * ((inputs[index] - means[row]) * scales[row]);
    };
    column_parts(rows, columns, part, scale, along, sums);
}

// The gradient by the inputs.
extern "C" __global__ void layer_norm_backward(
    u64 rows, u64 columns, const float* means, const float* scales, const float* weight, const float* inputs,
    const float* gradient, float* input_gradient) {
    float share = (float)(1.0 / (double)columns);
    FOR_EACH_ROW(row, rows) {
        float mean = means[row];
        float scale = scales[row];
        const float* x = inputs + row * columns;
        const float* g = gradient + row * columns;
        float middle = sum_of<float>(columns, [=](u64 column) { return g[column] * weight[column]; }) * share;
        float along = sum_of<float>(columns, [=](u64 column) {
            return g[column] * weight[column] * ((x[column] - mean) * scale);
        }) * share;
        for (u64 column = threadIdx.x; column < columns; column += blockDim.x) {
            float normal = (x[column] - mean) * scale;
            input_gradient[row * columns + column] = scale * (g[column] * weight[column] - middle - normal * along);
        }
    }
}
