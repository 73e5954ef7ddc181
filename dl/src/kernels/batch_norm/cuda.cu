// Channels with mean 0 and variance 1, scaled and shifted.

// What is multiplied with for variance 1.
__device__ inline float scale_of(float variance, float epsilon) {
    return 1.0f / sqrtf(variance + epsilon);
}

// Of each part the sum of squares around the mean, times something.
extern "C" __global__ void batch_norm_squares(
    u64 rows, u64 channels, u64 positions, u64 part, float scale, const float* mean, const float* inputs, float* sums) {
    auto square = [=](u64 channel, u64 index) {
        return (inputs[index] - mean[channel]) * (inputs[index] - mean[channel]);
    };
    channel_parts(rows, channels, positions, part, square, [=](u64, float sum) { return sum * scale; }, sums);
}

// What a step's running statistics are made from: the moments, the variance as an estimate for all data, times the rows.
extern "C" __global__ void batch_norm_running(
    u64 channels, float rows, float unbiased, const float* mean, const float* variance, float* running) {
    FOR_EACH(channel, channels) {
        running[channel] = mean[channel] * rows;
        running[channels + channel] = variance[channel] * unbiased * rows;
    }
}

extern "C" __global__ void batch_norm_forward(
    u64 count, u64 channels, u64 positions, float epsilon, const float* mean, const float* variance,
    const float* weight, const float* bias, const float* inputs, float* outputs) {
    FOR_EACH(index, count) {
        u64 channel = index / positions % channels;
        float scale = scale_of(variance[channel], epsilon) * weight[channel];
        outputs[index] = (inputs[index] - mean[channel]) * scale + bias[channel];
    }
}

// Of each part the sum of the gradients by the weight, times something; that by the bias is a sum of channels.
extern "C" __global__ void batch_norm_along(
    u64 rows, u64 channels, u64 positions, u64 part, float scale, float epsilon, const float* mean,
    const float* variance, const float* inputs, const float* gradient, float* sums) {
    auto along = [=](u64 channel, u64 index) { return gradient[index] * (inputs[index] - mean[channel]); };
    auto scaled = [=](u64 channel, float sum) { return sum * scale_of(variance[channel], epsilon) * scale; };
    channel_parts(rows, channels, positions, part, along, scaled, sums);
}

// The gradient by the inputs, each of which has a share of the moments (0 where they are given), from those by the outputs,
// weight and bias.
extern "C" __global__ void batch_norm_backward(
    u64 rows, u64 channels, u64 positions, float epsilon, float share, const float* mean, const float* variance,
    const float* weight, const float* inputs, const float* gradient, const float* weight_gradient,
    const float* bias_gradient, float* input_gradient) {
    FOR_EACH(index, rows * channels * positions) {
        u64 channel = index / positions % channels;
        float scale = scale_of(variance[channel], epsilon);
        float along = weight_gradient[channel] * share;
        float middle = bias_gradient[channel] * share;
        float normal = (inputs[index] - mean[channel]) * scale;
        input_gradient[index] = weight[channel] * scale * (gradient[index] - middle - normal * along);
    }
}
