// Vectors that are looked up by indices, which are whole numbers in floats.

// What is no index of a vector gives no number.
extern "C" __global__ void embedding_forward(
    u64 count, u64 width, u64 vectors, const float* indices, const float* weight, float* outputs) {
    FOR_EACH(element, count) {
        float index = indices[element / width];
        bool is_one = index >= 0.0f && index < (float)vectors;
        outputs[element] = is_one ? weight[(u64)index * width + element % width] : nanf("");
    }
}

// The gradient by each vector: the sum of those by the outputs where it was looked up, one after the other as on the CPU.
// Each block has its own vectors, and goes through all places for each of them, of which few are its.
extern "C" __global__ void embedding_backward(
    u64 vectors, u64 width, u64 places, const float* indices, const float* output_gradient, float* gradient) {
    __shared__ u8 is_here[THREADS_MAX];
    __shared__ u32 are_any;
    FOR_EACH_ROW(vector, vectors) {
        float* sums = gradient + vector * width;
        for (u64 column = threadIdx.x; column < width; column += blockDim.x) {
            sums[column] = 0.0f;
        }
        for (u64 first = 0; first < places; first += blockDim.x) {
            if (threadIdx.x == 0) {
                are_any = 0;
            }
            __syncthreads();
            u64 place = first + threadIdx.x;
            is_here[threadIdx.x] = place < places && indices[place] == (float)vector;
            if (is_here[threadIdx.x]) {
                are_any = 1; // Whoever writes it writes this.
            }
            __syncthreads();
            for (u32 within = 0; are_any && within < blockDim.x; within++) {
                if (is_here[within]) {
                    const float* values = output_gradient + (first + within) * width;
                    for (u64 column = threadIdx.x; column < width; column += blockDim.x) {
                        sums[column] += values[column];
                    }
                }
            }
            __syncthreads();
        }
    }
}
