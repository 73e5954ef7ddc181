// The limit of the norm of a lane's gradient. Squares are summed as on the CPU: of each stretch in floats, sixteen sums at a time
// whose terms take turns, then these, then what is left; and all stretches from the first to the last in doubles.

// Values of a stretch at most.
const u32 BLOCK = 4096;
const u32 SUMS = 16;
// Numbers that say what a stretch is: its first value, how many they are, and whether it is the first of its range.
const u32 STRETCH = 3;
const double LARGEST = 1.7976931348623157e308;

// Of each stretch the sum of its squares.
extern "C" __global__ void lane_limit_squares(u64 count, const u64* stretches, const float* gradient, double* sums) {
    __shared__ float squares[BLOCK];
    __shared__ float of_turns[SUMS];
    FOR_EACH_ROW(place, count) {
        const float* from = gradient + stretches[STRETCH * place];
        u64 length = stretches[STRETCH * place + 1];
        auto write = [=](u64 index, float value) { squares[index] = value * value; };
        each_ahead(threadIdx.x, length, blockDim.x, [=](u64 index) { return from[index]; }, write);
        __syncthreads();
        u64 whole = length - length % SUMS;
        if (threadIdx.x < SUMS) {
            float sum = 0;
            for (u64 index = threadIdx.x; index < whole; index += SUMS) {
                sum += squares[index];
            }
            of_turns[threadIdx.x] = sum;
        }
        __syncthreads();
        if (threadIdx.x == 0) {
            float sum = 0;
            for (u32 turn = 0; turn < SUMS; turn++) {
                sum += of_turns[turn];
            }
            for (u64 index = whole; index < length; index++) {
                sum += squares[index];
            }
            sums[place] = sum;
        }
        __syncthreads();
    }
}

// Has the first thread call `add` with what `value` says of each index below `count`, from the first to the last.
template <typename F, typename K> __device__ inline void in_order(u64 count, F value, K add) {
    __shared__ double values[THREADS_MAX];
    for (u64 first = 0; first < count; first += blockDim.x) {
        u64 left = count - first < blockDim.x ? count - first : blockDim.x;
        if (threadIdx.x < left) {
            values[threadIdx.x] = value(first + threadIdx.x);
        }
        __syncthreads();
        for (u64 index = 0; threadIdx.x == 0 && index < left; index++) {
            add(first + index, values[index]);
        }
        __syncthreads();
    }
}

// What a lane's gradient is multiplied with, 1 at most, so that its mean over samples of this weight has a norm of `norm_max` at
// most; 1 if it is not finite. By one block. The small number is PyTorch's.
extern "C" __global__ void lane_limit(
    float norm_max, double weight, u64 count, const u64* stretches, const double* sums, const float* gradient,
    float* limit) {
    __shared__ double total;
    double squares = 0, of_range = 0;
    in_order(count, [=](u64 place) { return sums[place]; }, [&](u64 place, double sum) {
        if (stretches[STRETCH * place + 2]) {
            squares += of_range;
            of_range = 0;
        }
        of_range += sum;
    });
    if (threadIdx.x == 0) {
        total = squares + of_range;
    }
    __syncthreads();
    if (total > LARGEST) {
        // Squares of large numbers are infinite, in floats: they are summed value by value.
        squares = 0;
        for (u64 place = 0; place < count; place++) {
            const float* from = gradient + stretches[STRETCH * place];
            auto square = [=](u64 index) { return (double)from[index] * (double)from[index]; };
            in_order(stretches[STRETCH * place + 1], square, [&](u64, double value) { squares += value; });
        }
        if (threadIdx.x == 0) {
            total = squares;
        }
    }
    if (threadIdx.x == 0) {
        double norm = sqrt(total) / (weight > 0 ? weight : 1.0);
        float factor = (float)((double)norm_max / (norm + 1e-6));
        *limit = norm <= LARGEST && factor < 1.0f ? factor : 1.0f;
    }
}

extern "C" __global__ void lane_limit_scale(u64 count, const u64* stretches, const float* limit, float* gradient) {
    float factor = *limit;
    if (factor < 1.0f) {
        FOR_EACH_ROW(place, count) {
            float* values = gradient + stretches[STRETCH * place];
            for (u64 index = threadIdx.x; index < stretches[STRETCH * place + 1]; index += blockDim.x) {
                values[index] *= factor;
            }
        }
    }
}
