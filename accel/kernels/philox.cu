// Philox4x32-10: random numbers that hang on key and place alone. accel/philox.py gives the same bits.

struct Counter {
    uint32 a, b, c, d;
};

// The permutation of all counters that the key chooses.
__device__ inline Counter philox(Counter at, uint64 key) {
    uint32 key_0 = (uint32)key, key_1 = (uint32)(key >> 32);
    for (int round = 0; round < 10; ++round) {
        uint64 first = (uint64)0xD2511F53u * at.a, second = (uint64)0xCD9E8D57u * at.c;
        at = {(uint32)(second >> 32) ^ at.b ^ key_0, (uint32)second, (uint32)(first >> 32) ^ at.d ^ key_1,
              (uint32)first};
        key_0 += 0x9E3779B9u;
        key_1 += 0xBB67AE85u;
    }
    return at;
}

// The first 53 of their 64 bits, as a number in [0, 1).
__device__ inline double unit(uint32 high, uint32 low) { return (double)(((uint64)high << 32 | low) >> 11) * 0x1p-53; }

// out [rows, columns]. A thread a counter: two neighbours in a row.
template <typename T> __global__ void philox_uniform(T* out, uint64 key, int64 rows, int columns) {
    int64 pairs = (columns + 1) / 2, row = thread_of_grid() / pairs, pair = thread_of_grid() % pairs;
    if (row >= rows) return;
    Counter words = philox({(uint32)pair, 0, (uint32)row, (uint32)(row >> 32)}, key);
    out += row * columns + 2 * pair;
    out[0] = unit(words.a, words.b);
    if (2 * pair + 1 < columns) out[1] = unit(words.c, words.d);
}
