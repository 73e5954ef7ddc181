// Losses that are a mean over the outputs of a row.

enum ElementLoss : u32 { SQUARED, ABSOLUTE, HINGE, BINARY_CROSS_ENTROPY };

// The loss of an output x against its target t.
__device__ inline double loss_of(u32 kind, float x, float t) {
    switch (kind) {
    case SQUARED:
        return (double)(x - t) * (double)(x - t);
    case ABSOLUTE:
        return fabs((double)(x - t));
    case HINGE:
        return (double)relu(1.0f - t * x);
    default:
        return (double)relu(x) - (double)x * (double)t + log1p(exp(-fabs((double)x)));
    }
}

__device__ inline float derivative_of(u32 kind, float x, float t) {
    switch (kind) {
    case SQUARED:
        return (x - t) + (x - t);
    case ABSOLUTE:
        return x - t < 0.0f ? -1.0f : (x - t > 0.0f ? 1.0f : 0.0f);
    case HINGE:
        return 1.0f - t * x < 0.0f ? 0.0f : -t;
    default:
        return 1.0f / (1.0f + exponential(-x)) - t;
    }
}

// The loss of a row against what `target` gives for a column, and its gradient.
template <typename F>
__device__ inline double row_loss(u32 kind, u64 columns, const float* outputs, F target, float* gradient) {
    float share = (float)(1.0 / (double)columns);
    double sum = sum_of<double>(columns, [=](u64 column) {
        float x = outputs[column];
        float t = target(column);
        gradient[column] = derivative_of(kind, x, t) * share;
        return loss_of(kind, x, t);
    });
    return sum / (double)columns;
}

extern "C" __global__ void element_loss(
    u32 kind, u64 rows, u64 columns, const float* outputs, const float* targets, float* gradient, double* losses) {
    FOR_EACH_ROW(row, rows) {
        u64 first = row * columns;
        auto target = [=](u64 column) { return targets[first + column]; };
        double loss = row_loss(kind, columns, outputs + first, target, gradient + first);
        if (threadIdx.x == 0) {
            losses[row] = loss;
        }
    }
}

// Against 1 at the label and elsewhere 0, or -1 for the hinge loss; and whether the largest output is there.
extern "C" __global__ void element_loss_labels(
    u32 kind, u64 rows, u64 columns, const float* outputs, const u32* labels, float* gradient, double* losses,
    double* correct) {
    FOR_EACH_ROW(row, rows) {
        u64 first = row * columns;
        u64 label = labels[row];
        float other = kind == HINGE ? -1.0f : 0.0f;
        auto target = [=](u64 column) { return column == label ? 1.0f : other; };
        u64 largest = largest_of(columns, outputs + first).index;
        double loss = row_loss(kind, columns, outputs + first, target, gradient + first);
        if (threadIdx.x == 0) {
            losses[row] = loss;
            correct[row] = largest == label && loss == loss ? 1.0 : 0.0;
        }
    }
}
