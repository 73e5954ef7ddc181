// The Gaussian error linear unit.

__device__ inline float probability(float x) {
    return (1.0f + erff(x * 0.70710678118654752440f)) * 0.5f;
}

extern "C" __global__ void gelu_forward(u64 count, const float* inputs, float* outputs) {
    FOR_EACH(index, count) {
        outputs[index] = inputs[index] * probability(inputs[index]);
    }
}

extern "C" __global__ void gelu_backward(u64 count, const float* inputs, const float* gradient, float* input_gradient) {
    FOR_EACH(index, count) {
        float x = inputs[index];
        float density = exponential(-(x * x) * 0.5f) * 0.39894228040143267794f;
        input_gradient[index] = gradient[index] * (probability(x) + x * density);
    }
}
