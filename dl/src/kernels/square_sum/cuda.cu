// Exact sums of squares, as the engine's `SquareSum`: a number of fixed point that has room for the square of every float.
// Integers are added, so that no order shows, and it is rounded once.

// Of 32 bits each, the lowest first, whose unit is 2^-298. What they carry waits, so that each is added for itself.
const u32 DIGITS = 20;
// Behind them stands how many values were not finite.
const u32 WORDS = DIGITS + 1;
const int UNIT = -298;

__device__ inline u32 lower_half(u64 word) {
    return (u32)word;
}

// Adds the square of a value to digits that lie `THREADS_MAX` apart, or 1 to `not_finite`.
__device__ inline void add_square(u64* digits, u32* not_finite, float value) {
    union {
        float number;
        u32 bits;
    } of;
    of.number = value;
    u32 exponent = of.bits >> 23 & 0xFF;
    bool is_finite = exponent < 0xFF;
    *not_finite += !is_finite;
    u32 mantissa = is_finite ? (of.bits & 0x7FFFFF) | (u32)(exponent > 0) << 23 : 0;
    u64 square = (u64)mantissa * mantissa;
    // Numbers with exponent 0 have the unit of those with 1.
    u32 bit = exponent > 0 ? 2 * exponent - 2 : 0;
    u64 lower = (u64)lower_half(square) << bit % 32;
    u64 upper = (square >> 32 << bit % 32) + (lower >> 32);
    digits += bit / 32 * THREADS_MAX;
    digits[0] += lower_half(lower);
    digits[THREADS_MAX] += lower_half(upper);
    digits[2 * THREADS_MAX] += upper >> 32;
}

// Makes each digit less than 2^32.
__device__ inline void carry(u64* digits, u32 apart) {
    u64 carried = 0;
    for (u32 digit = 0; digit < DIGITS; digit++) {
        carried += digits[digit * apart];
        digits[digit * apart] = lower_half(carried);
        carried >>= 32;
    }
}

// The nearest number, the even one of two that are as near; none if a value was not finite.
__device__ inline double rounded(const u64* digits) {
    union {
        double number;
        u64 bits;
    } power, none;
    if (digits[DIGITS] > 0) {
        none.bits = 0x7FF8000000000000;
        return none.number;
    }
    int top = DIGITS / 2 - 1;
    while (top > 1 && digits[2 * top] == 0 && digits[2 * top + 1] == 0) {
        top--;
    }
    u64 upper = digits[2 * top] | digits[2 * top + 1] << 32;
    u64 lower = digits[2 * top - 2] | digits[2 * top - 1] << 32;
    // One bit stands for all that lies below.
    for (int digit = 0; digit < 2 * top - 2; digit++) {
        lower |= digits[digit] > 0;
    }
    int shift = 0;
    if (upper == 0) {
        upper = lower;
        lower = 0;
        shift = 64;
    }
    for (int by = 32; by > 0; by /= 2) {
        if (upper >> (64 - by) == 0) {
            upper = upper << by | lower >> (64 - by);
            lower <<= by;
            shift += by;
        }
    }
    power.bits = (u64)(1023 + 64 * top - shift + UNIT) << 52;
    return (double)(upper | (lower > 0)) * power.number;
}

// Of each block the sum of its share, `WORDS` words.
extern "C" __global__ void square_sum_parts(u64 count, const float* values, u64* sums) {
    __shared__ u64 words[WORDS][THREADS_MAX];
    u64* own = &words[0][threadIdx.x];
    for (u32 digit = 0; digit < DIGITS; digit++) {
        own[digit * THREADS_MAX] = 0;
    }
    u32 not_finite = 0;
    u64 index = (u64)blockIdx.x * blockDim.x + threadIdx.x, on = (u64)gridDim.x * blockDim.x;
    u64 turns = turns_of(count, index, on);
    // Some reads are under way together.
    for (; turns >= 4; turns -= 4, index += 4 * on) {
        float first = values[index], second = values[index + on];
        float third = values[index + 2 * on], fourth = values[index + 3 * on];
        add_square(own, &not_finite, first);
        add_square(own, &not_finite, second);
        add_square(own, &not_finite, third);
        add_square(own, &not_finite, fourth);
    }
    for (; turns > 0; turns--, index += on) {
        add_square(own, &not_finite, values[index]);
    }
    own[DIGITS * THREADS_MAX] = not_finite;
    __syncthreads();
    for (u32 half = blockDim.x / 2; half > 0; half /= 2) {
        if (threadIdx.x < half) {
            // All are read before one is written, so that no read waits for a sum.
            u64 others[WORDS];
#pragma unroll
            for (u32 word = 0; word < WORDS; word++) {
                others[word] = own[word * THREADS_MAX + half];
            }
#pragma unroll
            for (u32 word = 0; word < WORDS; word++) {
                own[word * THREADS_MAX] += others[word];
            }
        }
        __syncthreads();
    }
    if (threadIdx.x == 0) {
        carry(own, THREADS_MAX);
        for (u32 word = 0; word < WORDS; word++) {
            sums[blockIdx.x * WORDS + word] = own[word * THREADS_MAX];
        }
    }
}

// The sum of so many parts, by one block.
extern "C" __global__ void square_sum(u64 parts, const u64* sums, double* total) {
    __shared__ u64 words[THREADS_MAX];
    u32 word = threadIdx.x % LINE;
    u64 sum = 0;
    if (word < WORDS) {
        u64 lines = blockDim.x / LINE, on = lines * WORDS;
        u64 turns = turns_of(parts, threadIdx.x / LINE, lines);
        const u64* next = sums + threadIdx.x / LINE * WORDS + word;
        for (; turns >= 4; turns -= 4, next += 4 * on) {
            sum += (next[0] + next[on]) + (next[2 * on] + next[3 * on]);
        }
        for (; turns > 0; turns--, next += on) {
            sum += *next;
        }
    }
    words[threadIdx.x] = sum;
    __syncthreads();
    for (u32 half = blockDim.x / 2; half >= LINE; half /= 2) {
        if (threadIdx.x < half) {
            words[threadIdx.x] += words[threadIdx.x + half];
        }
        __syncthreads();
    }
    if (threadIdx.x == 0) {
        carry(words, 1);
        *total = rounded(words);
    }
}

// What a mean over samples is multiplied with so that its norm is `norm_max` at most, from the sum of the squares of the sum
// over samples. The small number is PyTorch's.
extern "C" __global__ void norm_limit(float norm_max, double weight, const double* total, float* limit) {
    if (threadIdx.x == 0) {
        double norm = sqrt(*total) / weight;
        float factor = (float)((double)norm_max / (norm + 1e-6));
        *limit = factor < 1.0f ? factor : 1.0f;
    }
}
