// What of a token's work in drawing sequences is no layer. Slots hold the sequences that are under way; *now is the
// place of the token, the same in all of them. Nothing else of a token differs from the next: one CUDA graph makes all.

const int HALVES = 2;  // channels of a lane: lane, lane + 32

// x = table[last] + place[*now]: [slots, columns].
template <typename T>
__global__ void embed_token(T* x, const T* table, const T* place, const int64* last, const int64* now, int64 size,
                            int columns) {
    int64 i = thread_of_grid();
    if (i >= size) return;
    int64 column = i % columns;
    x[i] = table[last[i / columns] * columns + column] + place[*now * columns + column];
}

// out = softmax(scale query keys^T) values over the places up to *now, [slots, heads, channels]; the last token's key and
// value enter the store first. qkv: [slots, 3, heads, channels]; store: [2, capacity, heads, length, channels]. A warp has a
// head of a slot, rows of them: places by its lanes, 32 at a time, then channels.
template <typename T>
__global__ void cached_attention(T* out, T* store, const T* qkv, const int64* now, int64 rows, int heads, int channels,
                                 int length, int64 capacity, T scale) {
    int64 row = warp_of_grid();
    if (row >= rows) return;
    int lane = lane_of_thread(), t = (int)*now, part = heads * channels;
    const T* query = qkv + row / heads * 3 * part + row % heads * channels;
    T *keys = store + row * length * channels, *values = keys + capacity * length * part;
    for (int d = lane; d < channels; d += WARP) {
        keys[t * channels + d] = query[part + d];
        values[t * channels + d] = query[2 * part + d];
    }
    __syncwarp();
    T top = Limits<T>::lowest(), total = 0, sums[HALVES] = {};
    for (int begin = 0; begin <= t; begin += WARP) {
        int s = begin + lane;
        T score = Limits<T>::lowest();
        if (s <= t) {
            score = 0;
#pragma unroll 8
            for (int d = 0; d < channels; ++d) score += query[d] * keys[s * channels + d];
            score *= scale;
        }
        T highest = warp_max(score);
        highest = highest > top ? highest : top;
        T weight = s <= t ? exp(score - highest) : T(0), shrink = exp(top - highest);
        top = highest;
        total = total * shrink + warp_sum(weight);
        for (int half = 0; half < HALVES; ++half) sums[half] *= shrink;
        int count = t - begin + 1 < WARP ? t - begin + 1 : WARP;
        for (int j = 0; j < count; ++j) {
            T share = __shfl_sync(ALL_LANES, weight, j);
            for (int half = 0; half < HALVES; ++half) {
                int d = lane + half * WARP;
                if (d < channels) sums[half] += share * values[(begin + j) * channels + d];
            }
        }
    }
    for (int half = 0; half < HALVES; ++half) {
        int d = lane + half * WARP;
        if (d < channels) out[row * channels + d] = sums[half] / total;
    }
}

// The next token of every slot that is going: into tokens [., length] and log_p of its sequence active[slot]. Those that
// have ended, by eos or padding, are given padding. uniform: as tokens. A block a slot.
template <typename T>
__global__ void draw_token(int64* tokens, double* log_p, int64* last, int64* going, const T* logits, const T* bias,
                           const double* uniform, const int64* active, const int64* now, int length, int columns,
                           int64 eos) {
    int64 slot = blockIdx.x, sequence = active[slot], at = sequence * length + *now;
    if (!going[slot]) {
        if (threadIdx.x == 0) last[slot] = 0;
        return;
    }
    draw(logits + slot * columns, bias, uniform[at], columns, [&](int token, double value) {
        tokens[at] = token;
        log_p[sequence] += value;
        last[slot] = token;
        going[slot] = token != eos && token != 0;
    });
}

// *now += 1. One thread.
template <typename T> __global__ void advance(int64* now) {
    if (threadIdx.x == 0) *now += 1;
}
