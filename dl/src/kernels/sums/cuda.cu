// Sums over rows, channels and everything.

// Elements that one block sums. Then come the sums of those sums, until one is left.
const u64 PIECE = 8192;

extern "C" __global__ void add(u64 count, const float* values, float* sums) {
    FOR_EACH(index, count) {
        sums[index] += values[index];
    }
}

// Of each part the sum of each column, times something: the gradient by a bias.
extern "C" __global__ void column_sums(
    u64 rows, u64 columns, u64 part, float scale, const float* values, float* sums) {
    column_parts(rows, columns, part, scale, [=](u64, u64 index) { return values[index]; }, sums);
}

// Of each part the sum of each channel of so many positions, times something.
extern "C" __global__ void channel_sums(
    u64 rows, u64 channels, u64 positions, u64 part, float scale, const float* values, float* sums) {
    auto value = [=](u64, u64 index) { return values[index]; };
    channel_parts(rows, channels, positions, part, value, [=](u64, float sum) { return sum * scale; }, sums);
}

// Of some rows of so many elements each, the sum of each piece.
extern "C" __global__ void sums_of_pieces(u64 rows, u64 count, const double* values, double* sums) {
    u64 pieces = (count + PIECE - 1) / PIECE;
    FOR_EACH_ROW(place, rows * pieces) {
        u64 first = place % pieces * PIECE;
        u64 length = count - first < PIECE ? count - first : PIECE;
        const double* from = values + place / pieces * count + first;
        double sum = sum_of<double>(length, [=](u64 index) { return from[index]; });
        if (threadIdx.x == 0) {
            sums[place] = sum;
        }
    }
}
