// Sums over the entries that one target has: deterministic scatter-adds. Segment i: order[starts[i]..starts[i + 1] - 1].

// out[i] = the sum of its values, in double; entry e >= size stands for -values[e - size]. A warp a segment.
template <typename T>
__global__ void segment_sum(T* out, const T* values, const int64* order, const int64* starts, int64 size,
                            int64 segments) {
    int64 segment = warp_of_grid();
    if (segment >= segments) return;
    double sum = 0;
    for (int64 i = starts[segment] + lane_of_thread(); i < starts[segment + 1]; i += WARP)
        sum += order[i] < size ? (double)values[order[i]] : -(double)values[order[i] - size];
    sum = warp_sum(sum);
    if (lane_of_thread() == 0) out[segment] = (T)sum;
}

// dtable[v] = the sum of the rows of dout where token v stands: [R, channels] -> [V, channels]. A block a token.
template <typename T>
__global__ void embedding_backward(T* dtable, const T* dout, const int64* order, const int64* starts, int channels) {
    int64 token = blockIdx.x;
    for (int c = threadIdx.x; c < channels; c += blockDim.x) {
        double sum = 0;  // of a frequent token's many rows
        for (int64 i = starts[token]; i < starts[token + 1]; ++i) sum += (double)dout[order[i] * channels + c];
        dtable[token * channels + c] = (T)sum;
    }
}
