// Causal attention: one kernel forward, one backward, which computes the weights again.

const int HALVES = SPAN / WARP;  // keys of a lane: lane, lane + 32
const int WARPS = 8;
const int TURNS = SPAN / WARPS;  // queries of a warp: warp, warp + 8, ...

// The sequence's rows of one head into shared memory.
template <typename T>
__device__ void stage(T (*tile)[SPAN + 1], const T* rows, const Head& head, int channels) {
    for (int i = threadIdx.x; i < head.length * channels; i += blockDim.x)
        tile[i / channels][i % channels] = rows[head.begin + (int64)(i / channels) * head.stride + i % channels];
}

// row . tile[s] for this lane's s <= t; 0 beyond.
template <typename T>
__device__ void products(T (&out)[HALVES], const T* row, T (*tile)[SPAN + 1], int t, int channels) {
    for (int half = 0; half < HALVES; ++half) out[half] = 0;
#pragma unroll 2
    for (int d = 0; d < channels; ++d)
        for (int half = 0; half < HALVES; ++half) out[half] += row[d] * tile[lane_of_thread() + half * WARP][d];
    for (int half = 0; half < HALVES; ++half)
        if (lane_of_thread() + half * WARP > t) out[half] = 0;  // whatever stood there
}

// scores of the keys s <= t, scaled, become their softmax; 0 beyond.
template <typename T> __device__ void softmax(T (&scores)[HALVES], int t, T scale) {
    T top = Limits<T>::lowest(), sum = 0;
    for (int half = 0; half < HALVES; ++half) {
        scores[half] *= scale;
        if (lane_of_thread() + half * WARP <= t && scores[half] > top) top = scores[half];
    }
    top = warp_max(top);
    for (int half = 0; half < HALVES; ++half) {
        scores[half] = lane_of_thread() + half * WARP <= t ? exp(scores[half] - top) : T(0);
        sum += scores[half];
    }
    sum = warp_sum(sum);
    for (int half = 0; half < HALVES; ++half) scores[half] /= sum;
}

// out = softmax(scale query . key) value.
template <typename T>
__global__ void attention_forward(T* out, const T* qkv, const int64* starts, int heads, int channels,
                                  T scale) {
    __shared__ T keys[SPAN][SPAN + 1], weights[WARPS][SPAN];
    Head head(starts, 3, heads, channels), dense(starts, 1, heads, channels);
    const T *query = qkv, *key = qkv + head.part, *value = qkv + 2 * head.part;
    stage(keys, key, head, channels);
    __syncthreads();
    T* own = weights[warp_of_thread()];
    for (int t = warp_of_thread(); t < head.length; t += WARPS) {
        T row[HALVES];
        products(row, query + head.begin + (int64)t * head.stride, keys, t, channels);
        softmax(row, t, scale);
        for (int half = 0; half < HALVES; ++half) own[lane_of_thread() + half * WARP] = row[half];
        __syncwarp();
        for (int d = lane_of_thread(); d < channels; d += WARP) {
            T sum = 0;
            for (int s = 0; s <= t; ++s) sum += own[s] * value[head.begin + (int64)s * head.stride + d];
            out[dense.begin + (int64)t * dense.stride + d] = sum;
        }
        __syncwarp();  // own is read
    }
}

// A warp writes its rows of a matrix [t][s] where all can read them.
template <typename T>
__device__ void spread(T (*tile)[SPAN + 1], const T (&own)[TURNS][HALVES], int length) {
    __syncthreads();  // what stood in the tile is read
#pragma unroll 1  // a warp's turns keep their rows in local memory: the code stays short
    for (int turn = 0; turn < TURNS; ++turn) {
        int t = warp_of_thread() + turn * WARPS;
        if (t < length)
            for (int half = 0; half < HALVES; ++half) tile[t][lane_of_thread() + half * WARP] = own[turn][half];
    }
    __syncthreads();
}

// out[s] = scale sum_t>=s tile[t][s] rows[t].
template <typename T>
__device__ void mix_later(T* out, const Head& head, T (*tile)[SPAN + 1], const T* rows, const Head& of_rows,
                          int channels, T scale) {
    for (int s = warp_of_thread(); s < head.length; s += WARPS)
        for (int d = lane_of_thread(); d < channels; d += WARP) {
            T sum = 0;
            for (int t = s; t < head.length; ++t) sum += tile[t][s] * rows[of_rows.begin + (int64)t * of_rows.stride + d];
            out[head.begin + (int64)s * head.stride + d] = scale * sum;
        }
}

template <typename T>
__global__ void attention_backward(T* dqkv, const T* dout, const T* qkv, const int64* starts, int heads,
                                   int channels, T scale) {
    __shared__ T tile[SPAN][SPAN + 1];
    Head head(starts, 3, heads, channels), dense(starts, 1, heads, channels);
    const T *query = qkv, *key = qkv + head.part, *value = qkv + 2 * head.part;
    T *dquery = dqkv, *dkey = dqkv + head.part, *dvalue = dqkv + 2 * head.part;
    T weights[TURNS][HALVES], dscores[TURNS][HALVES];
    stage(tile, key, head, channels);
    __syncthreads();
#pragma unroll 1
    for (int turn = 0; turn < TURNS; ++turn) {
        int t = warp_of_thread() + turn * WARPS;
        if (t < head.length) {
            products(weights[turn], query + head.begin + (int64)t * head.stride, tile, t, channels);
            softmax(weights[turn], t, scale);
        }
    }
    __syncthreads();  // the keys are read
    stage(tile, value, head, channels);
    __syncthreads();
#pragma unroll 1
    for (int turn = 0; turn < TURNS; ++turn) {
        int t = warp_of_thread() + turn * WARPS;
        if (t < head.length) {
            // forward: out = weights value
            products(dscores[turn], dout + dense.begin + (int64)t * dense.stride, tile, t, channels);
            T dot = 0;
            for (int half = 0; half < HALVES; ++half) dot += weights[turn][half] * dscores[turn][half];
            dot = warp_sum(dot);
            // forward: weights = softmax(scores)
            for (int half = 0; half < HALVES; ++half)
                dscores[turn][half] = weights[turn][half] * (dscores[turn][half] - dot);
        }
    }
    spread(tile, weights, head.length);
    mix_later(dvalue, head, tile, dout, dense, channels, T(1));
    spread(tile, dscores, head.length);
    // forward: scores = scale query . key
    mix_later(dkey, head, tile, query, head, channels, scale);
    for (int t = warp_of_thread(); t < head.length; t += WARPS)
        for (int d = lane_of_thread(); d < channels; d += WARP) {
            T sum = 0;
            for (int s = 0; s <= t; ++s) sum += tile[t][s] * key[head.begin + (int64)s * head.stride + d];
            dquery[head.begin + (int64)t * head.stride + d] = scale * sum;
        }
}
