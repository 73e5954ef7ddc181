// One step of an optimizer, in place: the rules of the CPU, of which each says what its numbers mean. `limit` is null, or
// what the scale of the gradient is multiplied with.

__device__ inline float scale_of(float scale, const float* limit) {
    return limit ? scale * *limit : scale;
}

extern "C" __global__ void update_plain(
    u64 count, float rate, float scale, const float* gradient_sum, float* parameters, const float* limit) {
    rate *= scale_of(scale, limit);
    FOR_EACH(index, count) {
        parameters[index] -= rate * gradient_sum[index];
    }
}

// Running statistics move towards the mean over the rows of the step.
extern "C" __global__ void update_statistics(
    u64 count, float scale, float momentum, const float* sums, float* statistics) {
    FOR_EACH(index, count) {
        float before = statistics[index];
        statistics[index] = before + momentum * (sums[index] * scale - before);
    }
}

// `nesterov` is 0 or 1. `kept` is null without momentum.
extern "C" __global__ void update_momentum(
    u64 count, float rate, float scale, float weight_decay, float momentum, float share, u32 nesterov,
    const float* gradient_sum, float* parameters, float* kept, const float* limit) {
    scale = scale_of(scale, limit);
    FOR_EACH(index, count) {
        float before = parameters[index];
        float gradient = gradient_sum[index] * scale + weight_decay * before;
        float direction = gradient;
        if (kept) {
            kept[index] = momentum * kept[index] + share * gradient;
            direction = nesterov ? gradient + momentum * kept[index] : kept[index];
        }
        parameters[index] = before - rate * direction;
    }
}

// Adam and AdamW. `largest` is null unless the largest mean square so far is taken.
extern "C" __global__ void update_adam(
    u64 count, float rate, float scale, float weight_decay, float shrink, float new_mean, float kept_square,
    float new_square, float root, float epsilon, const float* gradient_sum, float* parameters, float* means,
    float* squares, float* largest, const float* limit) {
    scale = scale_of(scale, limit);
    FOR_EACH(index, count) {
        float before = parameters[index];
        float gradient = gradient_sum[index] * scale + weight_decay * before;
        float mean = means[index] + new_mean * (gradient - means[index]);
        float square = kept_square * squares[index] + new_square * gradient * gradient;
        means[index] = mean;
        squares[index] = square;
        if (largest) {
            square = largest[index] > square ? largest[index] : square;
            largest[index] = square;
        }
        parameters[index] = before * shrink - rate * (mean / (sqrtf(square) / root + epsilon));
    }
}

// `means` is null unless the variance is taken, `steps` without momentum.
extern "C" __global__ void update_rms_prop(
    u64 count, float rate, float scale, float weight_decay, float kept_square, float new_square, float epsilon,
    float momentum, const float* gradient_sum, float* parameters, float* squares, float* means, float* steps,
    const float* limit) {
    scale = scale_of(scale, limit);
    FOR_EACH(index, count) {
        float before = parameters[index];
        float gradient = gradient_sum[index] * scale + weight_decay * before;
        float square = kept_square * squares[index] + new_square * gradient * gradient;
        float mean = means ? means[index] + new_square * (gradient - means[index]) : 0.0f;
        float variance = square - mean * mean;
        variance = variance < 0.0f ? 0.0f : variance;
        float step = gradient / (sqrtf(variance) + epsilon);
        squares[index] = square;
        if (means) {
            means[index] = mean;
        }
        if (steps) {
            step = momentum * steps[index] + step;
            steps[index] = step;
        }
        parameters[index] = before - rate * step;
    }
}

// `begin` is where the sums of squares begin.
extern "C" __global__ void update_adagrad(
    u64 count, float rate, float scale, float weight_decay, float begin, float epsilon, const float* gradient_sum,
    float* parameters, float* squares, const float* limit) {
    scale = scale_of(scale, limit);
    FOR_EACH(index, count) {
        float before = parameters[index];
        float gradient = gradient_sum[index] * scale + weight_decay * before;
        float square = (squares[index] == 0.0f ? begin : squares[index]) + gradient * gradient;
        squares[index] = square;
        parameters[index] = before - rate * (gradient / (sqrtf(square) + epsilon));
    }
}

// The direction takes the place of the gradient, so that its norm can be measured.
extern "C" __global__ void update_lamb_direction(
    u64 count, float scale, float weight_decay, float new_mean, float kept_square, float new_square,
    float mean_correction, float root, float epsilon, float* gradient_sum, const float* parameters, float* means,
    float* squares, const float* limit) {
    scale = scale_of(scale, limit);
    FOR_EACH(index, count) {
        float gradient = gradient_sum[index] * scale;
        float mean = means[index] + new_mean * (gradient - means[index]);
        float square = kept_square * squares[index] + new_square * gradient * gradient;
        means[index] = mean;
        squares[index] = square;
        float adam = (mean / mean_correction) / (sqrtf(square) / root + epsilon);
        gradient_sum[index] = adam + weight_decay * parameters[index];
    }
}

// Moves along it; the totals are of squares.
extern "C" __global__ void update_lamb(
    u64 count, float rate, const float* directions, float* parameters, const double* of_parameters,
    const double* of_directions) {
    __shared__ float step;
    if (threadIdx.x == 0) {
        bool has_norms = *of_parameters > 0 && *of_directions > 0;
        step = (float)((double)rate * (has_norms ? sqrt(*of_parameters / *of_directions) : 1.0));
    }
    __syncthreads();
    FOR_EACH(index, count) {
        parameters[index] = parameters[index] - step * directions[index];
    }
}
