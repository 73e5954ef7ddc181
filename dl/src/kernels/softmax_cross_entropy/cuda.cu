// Softmax and cross-entropy in one: a loss on logits.

// The gradient by the logits, and for each row its loss and whether its largest logit is the label's (1, or else 0, as where
// the loss is not a number). The loss of a label that is no class is not a number.
extern "C" __global__ void softmax_cross_entropy(
    u64 rows, u64 classes, const float* logits, const u32* labels, float* gradient, double* losses, double* correct) {
    FOR_EACH_ROW(row, rows) {
        const float* from = logits + row * classes;
        float* to = gradient + row * classes;
        u64 label = labels[row];
        Largest largest = largest_of(classes, from);
        float sum = sum_of<float>(classes, [=](u64 column) {
            to[column] = exponential(from[column] - largest.value);
            return to[column];
        });
        float scale = 1.0f / sum;
        for (u64 column = threadIdx.x; column < classes; column += blockDim.x) {
            to[column] = to[column] * scale - (column == label ? 1.0f : 0.0f);
        }
        if (threadIdx.x == 0) {
            double below = label < classes ? (double)largest.value - (double)from[label] : nan("");
            double loss = log((double)sum) + below;
            losses[row] = loss;
            correct[row] = largest.index == label && loss == loss ? 1.0 : 0.0;
        }
    }
}

// The same with targets that are weighted and smoothed: each class has `spread` times its weight, and the label `kept` times its
// own besides. Without `class_weights` all are 1; `weights` is their sum. Those that are 0 do not count, whatever their logits.
extern "C" __global__ void weighted_cross_entropy(
    u64 rows, u64 classes, double spread, double kept, double weights, const float* class_weights, const float* logits,
    const u32* labels, float* gradient, double* losses, double* correct) {
    FOR_EACH_ROW(row, rows) {
        const float* from = logits + row * classes;
        float* to = gradient + row * classes;
        u64 label = labels[row];
        auto weight_of = [=](u64 column) { return class_weights ? (double)class_weights[column] : 1.0; };
        Largest largest = largest_of(classes, from);
        float sum = sum_of<float>(classes, [=](u64 column) {
            to[column] = exponential(from[column] - largest.value);
            return to[column];
        });
        double own = label < classes ? kept * weight_of(label) : nan("");
        float scale = 1.0f / sum, total = (float)(own + spread * weights);
        double log_sum = log((double)sum);
        double loss = sum_of<double>(classes, [=](u64 column) {
            double target = (column == label ? own : 0.0) + spread * weight_of(column);
            to[column] = to[column] * scale * total - (float)target;
            return target > 0 ? target * (log_sum + ((double)largest.value - (double)from[column])) : 0.0;
        });
        if (threadIdx.x == 0) {
            bool is_number = sum == sum && label < classes;
            losses[row] = is_number ? loss : nan("");
            correct[row] = largest.index == label && is_number ? 1.0 : 0.0;
        }
    }
}
