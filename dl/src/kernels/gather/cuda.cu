// Samples into the rows of a batch, by their indices: features to inputs, and targets as they are.

template <typename F>
__device__ inline void gather(
    u64 rows, u64 columns, u64 target_columns, const u32* sample_indices, F feature, const u32* targets, float* inputs, u32* to) {
    FOR_EACH_ROW(row, rows) {
        u64 sample = sample_indices[row];
        auto read = [=](u64 column) { return feature(sample * columns + column); };
        auto write = [=](u64 column, float x) { inputs[row * columns + column] = x; };
        each_ahead(threadIdx.x, columns, blockDim.x, read, write);
        for (u64 column = threadIdx.x; column < target_columns; column += blockDim.x) {
            to[row * target_columns + column] = targets[sample * target_columns + column];
        }
    }
}

extern "C" __global__ void gather_bytes(
    u64 rows, u64 columns, u64 target_columns, const u32* sample_indices, const u8* features, float scale, const u32* targets,
    float* inputs, u32* to) {
    auto feature = [=](u64 index) { return (float)features[index] * scale; };
    gather(rows, columns, target_columns, sample_indices, feature, targets, inputs, to);
}

extern "C" __global__ void gather_values(
    u64 rows, u64 columns, u64 target_columns, const u32* sample_indices, const float* features, const u32* targets,
    float* inputs, u32* to) {
    gather(rows, columns, target_columns, sample_indices, [=](u64 index) { return features[index]; }, targets, inputs, to);
}
