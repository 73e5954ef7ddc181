// Elements left out by chance: the same ones as on the CPU, as each has a word of the same stream.

__device__ inline u32 rotated(u32 x, u32 bits) {
    return (x << bits) | (x >> (32 - bits));
}

__device__ inline void quarter_round(u32* s, u32 a, u32 b, u32 c, u32 d) {
    s[a] += s[b];
    s[d] = rotated(s[d] ^ s[a], 16);
    s[c] += s[d];
    s[b] = rotated(s[b] ^ s[c], 12);
    s[a] += s[b];
    s[d] = rotated(s[d] ^ s[a], 8);
    s[c] += s[d];
    s[b] = rotated(s[b] ^ s[c], 7);
}

// Sixteen words of a stream: ChaCha with 8 rounds (Bernstein, "ChaCha, a variant of Salsa20", 2008), with a counter of 64 bits.
__device__ inline void words_of(const u64* key, u64 block, u32* words) {
    u32 first[16] = {0x61707865u, 0x3320646eu, 0x79622d32u, 0x6b206574u};
    for (u32 part = 0; part < 4; part++) {
        first[4 + 2 * part] = (u32)key[part];
        first[5 + 2 * part] = (u32)(key[part] >> 32);
    }
    first[12] = (u32)block;
    first[13] = (u32)(block >> 32);
    for (u32 word = 0; word < 16; word++) {
        words[word] = first[word];
    }
    for (u32 round = 0; round < 4; round++) {
        for (u32 column = 0; column < 4; column++) {
            quarter_round(words, column, 4 + column, 8 + column, 12 + column);
        }
        for (u32 column = 0; column < 4; column++) {
            quarter_round(words, column, 4 + (column + 1) % 4, 8 + (column + 2) % 4, 12 + (column + 3) % 4);
        }
    }
    for (u32 word = 0; word < 16; word++) {
        words[word] += first[word];
    }
}

// Element n has word first + n of the stream of the four parts of the key, and is left out if that is below `out`. Each thread
// takes the elements of one block of words.
extern "C" __global__ void dropout(
    u64 count, u64 seed, u64 purpose, u64 id, u64 other_id, u64 first, u64 out, float scale, const float* from, float* to) {
    u64 key[4] = {seed, purpose, id, other_id};
    u64 before = first % 16;
    FOR_EACH(index, (before + count + 15) / 16) {
        u32 words[16];
        words_of(key, first / 16 + index, words);
        for (u64 word = index > 0 ? 0 : before; word < 16 && index * 16 + word < before + count; word++) {
            u64 element = index * 16 + word - before;
            to[element] = words[word] < out ? 0.0f : from[element] * scale;
        }
    }
}
