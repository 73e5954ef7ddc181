// What all programs for GPUs begin with.
//
// Elements that do not depend on each other are shared among all threads of the grid; a sum belongs to one block, whose
// threads add up their shares in ascending order and then each other's, pair by pair. Where so few sums have so many rows
// that few blocks would do it all, each is cut into parts with a block of their own. So the order of every sum follows from
// shapes alone, where it shows at all: sums of squares are of integers. Nothing is added atomically, and compiled without fused operations a kernel without sums gives the bits of
// its counterpart on the CPU.

typedef unsigned char u8;
typedef unsigned int u32;
typedef unsigned long long u64;

// Most threads of a block. They are a power of two wherever a block sums.
const u32 THREADS_MAX = 256;

// Threads that go together, and read neighbours.
const u32 LINE = 32;

// Goes through the elements of this thread.
#define FOR_EACH(index, count)                                                          \
    for (u64 index = (u64)blockIdx.x * blockDim.x + threadIdx.x; index < (count);       \
         index += (u64)gridDim.x * blockDim.x)

// Goes through the rows of this block; all of its threads go together.
#define FOR_EACH_ROW(row, rows) for (u64 row = blockIdx.x; row < (rows); row += gridDim.x)

// Goes through short lines of neighbours, each of which is one of the threads that go together.
#define FOR_EACH_LINE(line, lines)                                                         \
    for (u32 line = blockIdx.x * (blockDim.x / LINE) + threadIdx.x / LINE; line < (lines); \
         line += gridDim.x * (blockDim.x / LINE))

// Gives what `read(index)` says to `write(index, it)`, for every so manieth index below `count`, from `first` on. It reads
// ahead, so that some reads are under way together.
template <typename F, typename K> __device__ inline void each_ahead(u64 first, u64 count, u64 step, F read, K write) {
    u64 index = first;
    for (; index + 3 * step < count; index += 4 * step) {
        float values[4];
        for (int ahead = 0; ahead < 4; ahead++) {
            values[ahead] = read(index + ahead * step);
        }
        for (int ahead = 0; ahead < 4; ahead++) {
            write(index + ahead * step, values[ahead]);
        }
    }
    for (; index < count; index += step) {
        write(index, read(index));
    }
}

// The sum of what the threads of a block bring, for each of them.
template <typename T> __device__ inline T block_sum(T value) {
    __shared__ T values[THREADS_MAX];
    values[threadIdx.x] = value;
    __syncthreads();
    for (u32 half = blockDim.x / 2; half > 0; half /= 2) {
        if (threadIdx.x < half) {
            values[threadIdx.x] += values[threadIdx.x + half];
        }
        __syncthreads();
    }
    T sum = values[0];
    __syncthreads();
    return sum;
}

// The sum of `of(index)` over all indices below `count`, by all threads of a block.
template <typename T, typename F> __device__ inline T sum_of(u64 count, F of) {
    T sum = 0;
    for (u64 index = threadIdx.x; index < count; index += blockDim.x) {
        sum += of(index);
    }
    return block_sum(sum);
}

// How many of `count` things are a thread's that begins with the `first` and goes on by `step`.
__device__ inline u64 turns_of(u64 count, u64 first, u64 step) {
    return count > first ? (count - first - 1) / step + 1 : 0;
}

// What was read for one element of a sum.
template <typename T> struct Term {
    u64 index;
    T read;
};

// The sum of `value(index, read)` of the terms that `next` gives, in order. It is asked ahead, so that some reads are under
// way together; what `value` writes comes behind them.
template <typename F, typename G> __device__ inline float sum_ahead(u64 turns, F next, G value) {
    float sum = 0;
    for (; turns >= 4; turns -= 4) {
        decltype(next()) terms[4];
        for (int ahead = 0; ahead < 4; ahead++) {
            terms[ahead] = next();
        }
        for (int ahead = 0; ahead < 4; ahead++) {
            sum += value(terms[ahead].index, terms[ahead].read);
        }
    }
    for (; turns > 0; turns--) {
        auto term = next();
        sum += value(term.index, term.read);
    }
    return sum;
}

// Where what was read is summed as it is.
struct AsRead {
    __device__ float operator()(u64, float read) const { return read; }
};

// Sums over many rows are cut into parts of so many rows, so that more blocks have something to do. Each part has sums of
// its own, those of the first part first; `column_sums` then makes one of them.

// One past the last row of the part that begins there.
__device__ inline u64 end_of_part(u64 first, u64 part, u64 rows) {
    return rows - first < part ? rows : first + part;
}

// For each part and channel, `finish` of the sum over all of its elements, so many positions in each row, of
// `value(index, read)`, where `of(channel, index)` reads. A thread divides once and goes on from there.
template <typename F, typename G, typename V = AsRead>
__device__ inline void channel_parts(
    u64 rows, u64 channels, u64 positions, u64 part, F of, G finish, float* sums, V value = V()) {
    u64 parts = rows > part ? (rows + part - 1) / part : 1;
    u64 rows_on = blockDim.x / positions, positions_on = blockDim.x % positions;
    u64 first_row = threadIdx.x / positions, first_position = threadIdx.x % positions;
    FOR_EACH_ROW(place, parts * channels) {
        u64 channel = place % channels;
        u64 first = place / channels * part;
        u64 count = (end_of_part(first, part, rows) - first) * positions;
        u64 row = first + first_row, position = first_position;
        float sum = sum_ahead(turns_of(count, threadIdx.x, blockDim.x), [&]() {
            u64 index = (row * channels + channel) * positions + position;
            Term<decltype(of(channel, index))> term = {index, of(channel, index)};
            bool is_next = position + positions_on >= positions;
            row += rows_on + is_next;
            position += is_next ? positions_on - positions : positions_on;
            return term;
        }, value);
        sum = block_sum(sum);
        if (threadIdx.x == 0) {
            sums[place] = finish(channel, sum);
        }
    }
}

// For each part and column the sum over its rows of `value(index, read)`, where `of(row, index)` reads, times `scale`. The
// threads of a line read neighbours, and each line of threads of a block has its own rows.
template <typename F, typename V = AsRead>
__device__ inline void column_parts(u64 rows, u64 columns, u64 part, float scale, F of, float* sums, V value = V()) {
    __shared__ float values[THREADS_MAX];
    u64 lines = (columns + LINE - 1) / LINE;
    u64 number = blockIdx.x / lines;
    u64 first = number * part;
    u64 column = blockIdx.x % lines * LINE + threadIdx.x % LINE;
    u64 row = first + threadIdx.x / LINE;
    u64 turns = turns_of(end_of_part(first, part, rows), row, blockDim.x / LINE);
    float sum = sum_ahead(column < columns ? turns : 0, [&]() {
        u64 index = row * columns + column;
        Term<decltype(of(row, index))> term = {index, of(row, index)};
        row += blockDim.x / LINE;
        return term;
    }, value);
    values[threadIdx.x] = sum;
    __syncthreads();
    for (u32 half = blockDim.x / 2; half >= LINE; half /= 2) {
        if (threadIdx.x < half) {
            values[threadIdx.x] += values[threadIdx.x + half];
        }
        __syncthreads();
    }
    if (threadIdx.x < LINE && column < columns) {
        sums[number * columns + column] = values[threadIdx.x] * scale;
    }
}

// The first of the largest elements of a row.
struct Largest {
    float value;
    u64 index;
};

// That of a whole row, for each thread of the block. Nothing is larger than what is not a number, if that comes first.
__device__ inline Largest largest_of(u64 count, const float* row) {
    __shared__ float values[THREADS_MAX];
    __shared__ u64 indices[THREADS_MAX];
    Largest best = {row[0], 0};
    for (u64 index = threadIdx.x; index < count; index += blockDim.x) {
        if (row[index] > best.value) {
            best = {row[index], index};
        }
    }
    values[threadIdx.x] = best.value;
    indices[threadIdx.x] = best.index;
    __syncthreads();
    for (u32 half = blockDim.x / 2; half > 0; half /= 2) {
        if (threadIdx.x < half) {
            u32 other = threadIdx.x + half;
            bool is_first = values[other] == values[threadIdx.x] && indices[other] < indices[threadIdx.x];
            if (values[other] > values[threadIdx.x] || is_first) {
                values[threadIdx.x] = values[other];
                indices[threadIdx.x] = indices[other];
            }
        }
        __syncthreads();
    }
    best = {values[0], indices[0]};
    __syncthreads();
    return best;
}

// e^x = 2^k * (1 + (e^r - 1)), as the CPU computes it: from additions and multiplications in a fixed order.
__device__ inline void split_exponential(float x, float* power, float* tail) {
    const float ROUND = 12582912.0f;
    float shifted = x * 1.44269504088896340736f + ROUND;
    float whole = shifted - ROUND;
    float remainder = (x - whole * (355.0f / 512.0f)) - whole * -2.1219444e-4f;
    union {
        float number;
        u32 bits;
    } from, to;
    from.number = shifted;
    to.number = ROUND;
    to.bits = (from.bits - to.bits + 127u) << 23;
    float sum = 1.0f / 5040.0f;
    sum = sum * remainder + 1.0f / 720.0f;
    sum = sum * remainder + 1.0f / 120.0f;
    sum = sum * remainder + 1.0f / 24.0f;
    sum = sum * remainder + 1.0f / 6.0f;
    sum = sum * remainder + 0.5f;
    sum = sum * remainder + 1.0f;
    *power = to.number;
    *tail = sum * remainder;
}

__device__ inline float exponential(float x) {
    float power, tail;
    split_exponential(x > 88.0f ? 88.0f : x, &power, &tail);
    return x < -87.33654f ? 0.0f : power + power * tail;
}

__device__ inline float hyperbolic_tangent(float x) {
    float power, tail;
    float doubled = fabsf(x) + fabsf(x);
    split_exponential(doubled > 50.0f ? 50.0f : doubled, &power, &tail);
    float minus_one = power * tail + (power - 1.0f);
    return copysignf(minus_one / (minus_one + 2.0f), x);
}

// Keeps what is not a number, so that it shows in the loss.
__device__ inline float relu(float x) {
    return x < 0.0f ? 0.0f : x;
}
