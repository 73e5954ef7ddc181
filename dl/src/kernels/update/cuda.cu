// One step of an optimizer, in place: the rules of the CPU, of which each says what its numbers mean.

extern "C" __global__ void update_plain(u64 count, float rate, const float* gradient_sum, float* parameters) {
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
    const float* gradient_sum, float* parameters, float* kept) {
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
    float* squares, float* largest) {
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
    float momentum, const float* gradient_sum, float* parameters, float* squares, float* means, float* steps) {
    FOR_EACH(index, count) {
        float before = parameters[index];
        float gradient = gradient_sum[index] * scale + weight_decay * before;
        float square = kept_square * squares[index] + new_square * gradient * gradient;
        float mean = means ? means[index] + new_square * (gradient - means[index]) : 0.0f;
        float step = gradient / (sqrtf(square - mean * mean) + epsilon);
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

// `begin` is where the sums of squares begin, at the first step, and then 0.
extern "C" __global__ void update_adagrad(
    u64 count, float rate, float scale, float weight_decay, float begin, float epsilon, const float* gradient_sum,
    float* parameters, float* squares) {
    FOR_EACH(index, count) {
        float before = parameters[index];
        float gradient = gradient_sum[index] * scale + weight_decay * before;
        float square = squares[index] + begin + gradient * gradient;
        squares[index] = square;
        parameters[index] = before - rate * (gradient / (sqrtf(square) + epsilon));
    }
}
