// Elements that count, by a word for each that is not 0; all others are 0.

extern "C" __global__ void mask(u64 count, const u32* counts, const float* from, float* to) {
    FOR_EACH(index, count) {
        to[index] = counts[index] ? from[index] : 0.0f;
    }
}
