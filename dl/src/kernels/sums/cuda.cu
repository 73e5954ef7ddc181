// Sums over rows, channels and everything.

// Elements that one block sums. Then come the sums of those sums, until one is left.
const u64 PART = 8192;

extern "C" __global__ void add(u64 count, const float* values, float* sums) {
    FOR_EACH(index, count) {
        sums[index] += values[index];
    }
}

// The sum of each column: the gradient by a bias.
extern "C" __global__ void column_sums(u64 rows, u64 columns, const float* values, float* sums) {
    line_sums(rows, columns, [=](u64 index) { return values[index]; }, sums);
}

// The sum of each channel of so many positions.
extern "C" __global__ void channel_sums(u64 rows, u64 channels, u64 positions, const float* values, float* sums) {
    FOR_EACH_ROW(channel, channels) {
        float sum = channel_sum(rows, channels, positions, channel, [=](u64 index) { return values[index]; });
        if (threadIdx.x == 0) {
            sums[channel] = sum;
        }
    }
}

extern "C" __global__ void sums_of_parts(u64 count, const double* values, double* sums) {
    FOR_EACH_ROW(part, (count + PART - 1) / PART) {
        u64 first = part * PART;
        u64 length = count - first < PART ? count - first : PART;
        double sum = sum_of<double>(length, [=](u64 index) { return values[first + index]; });
        if (threadIdx.x == 0) {
            sums[part] = sum;
        }
    }
}
