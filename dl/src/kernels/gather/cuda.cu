// Samples into the rows of a batch, by their indices.

extern "C" __global__ void gather_bytes(
    u64 count, u64 columns, const u32* indices, const u8* samples, float scale, float* batch) {
    FOR_EACH(index, count) {
        u64 sample = indices[index / columns];
        batch[index] = (float)samples[sample * columns + index % columns] * scale;
    }
}

extern "C" __global__ void gather_values(
    u64 count, u64 columns, const u32* indices, const float* samples, float* batch) {
    FOR_EACH(index, count) {
        u64 sample = indices[index / columns];
        batch[index] = samples[sample * columns + index % columns];
    }
}
