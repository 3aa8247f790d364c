// The kernels of attention.cu for float32 on tensor cores. Tokens beyond the sequence and channels beyond the head's are
// 0. A warp has 16 queries: their scores, weights and outputs go from product to product in its lanes.

// A head's rows as a matrix in shared memory.
__device__ inline void stage(float* matrix, const float* rows, const Head& head, int channels) {
    fill(matrix, [&](int s, int d) -> float {
        return s < head.length && d < channels ? rows[head.begin + (int64)s * head.stride + d] : 0;
    });
}

// This warp's rows of a matrix.
__device__ inline void take(Rows& rows, float* matrix, const Lane& lane) {
    each(rows, [&](int i, int j, int k, float& x) {
        Pair two = pair_at(matrix, lane.row(j), lane.column(i, 0));
        x = k ? two.second : two.first;
    });
}

// The head's rows = scale sums, of this warp.
__device__ inline void put(float* rows, Rows& sums, const Head& head, int channels, float scale, const Lane& lane) {
    each(sums, [&](int i, int j, int k, float& sum) {
        if (lane.row(j) < head.length && lane.column(i, k) < channels)
            rows[head.begin + (int64)lane.row(j) * head.stride + lane.column(i, k)] = scale * sum;
    });
}

// The head's rows = scale sums, of this warp's quarter of them.
__device__ inline void put(float* rows, Quarter& sums, const Head& head, int channels, float scale, const Lane& lane) {
    each(sums, lane, [&](float& sum, int s, int d) {
        if (s < head.length && d < channels) rows[head.begin + (int64)s * head.stride + d] = scale * sum;
    });
}

// The scores of the keys s <= t become their softmax; 0 beyond.
__device__ inline void softmax(Rows& scores, float scale, const Lane& lane) {
    float top[2] = {Limits<float>::lowest(), Limits<float>::lowest()}, sum[2] = {};
    each(scores, [&](int i, int j, int k, float& score) {
        score *= scale;
        if (lane.column(i, k) <= lane.row(j) && score > top[j]) top[j] = score;
    });
#pragma unroll
    for (int j = 0; j < 2; ++j) top[j] = max_of_t(top[j]);
    each(scores, [&](int i, int j, int k, float& score) {
        score = lane.column(i, k) <= lane.row(j) ? exp(score - top[j]) : 0;
        sum[j] += score;
    });
#pragma unroll
    for (int j = 0; j < 2; ++j) sum[j] = 1 / sum_of_t(sum[j]);
    each(scores, [&](int, int j, int, float& score) { score *= sum[j]; });
}

// weights = softmax(scale query key^T).
template <typename Arithmetic>
__device__ void weigh(Rows& weights, const Rows& query, float* key, float scale, const Lane& lane) {
    each(weights, [](int, int, int, float& x) { x = 0; });
    multiply<Arithmetic>(weights, query, lane, [&](int d, int s) { return pair_at(key, s, d); });
    softmax(weights, scale, lane);
}

// out = softmax(scale query key^T) value.
template <typename T, typename Arithmetic>
__global__ void attention_forward_tensor(T* out, const T* qkv, const int64* starts, int heads, int channels,
                                         T scale) {
    SHARED_NUMBERS(shared);
    float *keys = shared, *values = shared + MATRIX;
    const Head head(starts, 3, heads, channels), dense(starts, 1, heads, channels);
    const T *query = qkv, *key = qkv + head.part, *value = qkv + 2 * head.part;
    const Lane lane;
    stage(keys, key, head, channels);
    stage(values, value, head, channels);
    Rows rows, weights, sums = {};
    each(rows, [&](int i, int j, int k, float& x) {
        int64 row = head.begin + (int64)lane.row(j) * head.stride;
        x = lane.row(j) < head.length && lane.column(i, k) < channels ? query[row + lane.column(i, k)] : 0;
    });
    __syncthreads();
    weigh<Arithmetic>(weights, rows, keys, scale, lane);
    multiply<Arithmetic>(sums, weights, lane, [&](int s, int d) -> Pair {
        return {values[place(s, d)], values[place(s + 1, d)]};
    });
    put(out, sums, dense, channels, 1, lane);
}

template <typename T, typename Arithmetic>
__global__ void attention_backward_tensor(T* dqkv, const T* dout, const T* qkv, const int64* starts, int heads,
                                          int channels, T scale) {
    SHARED_NUMBERS(shared);
    float *queries = shared, *keys = queries + MATRIX, *values = keys + MATRIX, *douts = values + MATRIX;
    const Head head(starts, 3, heads, channels), dense(starts, 1, heads, channels);
    const T *query = qkv, *key = qkv + head.part, *value = qkv + 2 * head.part;
    T *dquery = dqkv, *dkey = dqkv + head.part, *dvalue = dqkv + 2 * head.part;
    const Lane lane;
    stage(queries, query, head, channels);
    stage(keys, key, head, channels);
    stage(values, value, head, channels);
    stage(douts, dout, dense, channels);
    __syncthreads();
    Rows rows, weights, dscores = {};
    take(rows, queries, lane);
    weigh<Arithmetic>(weights, rows, keys, scale, lane);
    // forward: out = weights value
    take(rows, douts, lane);
    multiply<Arithmetic>(dscores, rows, lane, [&](int d, int s) { return pair_at(values, s, d); });
    // forward: weights = softmax(scores)
    float dot[2] = {};
    each(dscores, [&](int i, int j, int k, float& x) { dot[j] += weights[i][2 * j + k] * x; });
#pragma unroll
    for (int j = 0; j < 2; ++j) dot[j] = sum_of_t(dot[j]);
    each(dscores, [&](int i, int j, int k, float& x) { x = weights[i][2 * j + k] * (x - dot[j]); });
    // forward: scores = scale query key^T
    Rows drows = {};
    multiply<Arithmetic>(drows, dscores, lane, [&](int s, int d) -> Pair {
        return {keys[place(s, d)], keys[place(s + 1, d)]};
    });
    put(dquery, drows, head, channels, scale, lane);
    __syncthreads();  // keys and values are read
    keep(keys, dscores, lane);
    keep(values, weights, lane);
    __syncthreads();
    Quarter dkeys = {}, dvalues = {};
    multiply_transposed<Arithmetic>(dkeys, keys, queries, lane);
    put(dkey, dkeys, head, channels, scale, lane);
    // forward: out = weights value
    multiply_transposed<Arithmetic>(dvalues, values, douts, lane);
    put(dvalue, dvalues, head, channels, 1, lane);
}
