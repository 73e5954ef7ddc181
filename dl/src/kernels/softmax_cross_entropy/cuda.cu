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
