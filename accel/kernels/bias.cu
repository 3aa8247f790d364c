const int AHEAD = 4;  // numbers of a thread

// act(x + bias) and its gradient; out tells the slope.
struct Relu {
    template <typename T> __device__ static T of(T x) { return x < 0 ? T(0) : x; }  // NaN stays NaN
    template <typename T> __device__ static T slope(T out) { return out > 0 ? T(1) : T(0); }
};

struct Tanh {
    template <typename T> __device__ static T of(T x) { return tanh(x); }
    template <typename T> __device__ static T slope(T out) { return 1 - out * out; }
};

struct Identity {
    template <typename T> __device__ static T of(T x) { return x; }
    template <typename T> __device__ static T slope(T) { return T(1); }
};

// out = act(x + bias): [size / columns, columns], [columns].
template <typename T, typename Act>
__global__ void bias_act_forward(T* out, const T* x, const T* bias, int64 size, int columns) {
    int64 begin = (int64)blockIdx.x * AHEAD * blockDim.x;
    unsigned shift = (unsigned)(begin % columns);
    T values[AHEAD];
#pragma unroll
    for (int n = 0; n < AHEAD; ++n) {
        unsigned own = threadIdx.x + n * blockDim.x;
        if (begin + own < size) values[n] = x[begin + own] + bias[(shift + own) % columns];
    }
#pragma unroll
    for (int n = 0; n < AHEAD; ++n) {
        int64 i = begin + threadIdx.x + n * blockDim.x;
        if (i < size) out[i] = Act::of(values[n]);
    }
}

// dx = dout act'(x + bias) and the parts of dbias = its column sums.
template <typename T, typename Act>
__global__ void bias_act_backward(T* dx, T* parts, const T* dout, const T* out, int64 rows, int columns) {
    __shared__ T lanes[STRIP_WARPS][WARP];
    Strip strip(rows, columns);
    T sum = 0;
    if (strip.inside)
        for (int64 row = strip.first; row < strip.last; row += STRIP_WARPS) {
            int64 i = row * columns + strip.column;
            T value = dout[i] * Act::slope(out[i]);
            dx[i] = value;
            sum += value;
        }
    sum = strip_sum(sum, lanes);
    if (strip.inside && warp_of_thread() == 0) parts[strip.chunk * columns + strip.column] = sum;
}

// out = x + rows + bias: 2 [size / columns, columns], [columns].
template <typename T>
__global__ void residual(T* out, const T* x, const T* rows, const T* bias, int64 size, int columns) {
    int64 begin = (int64)blockIdx.x * AHEAD * blockDim.x;
    unsigned shift = (unsigned)(begin % columns);
#pragma unroll
    for (int n = 0; n < AHEAD; ++n) {
        unsigned own = threadIdx.x + n * blockDim.x;
        int64 i = begin + own;
        if (i < size) out[i] = x[i] + rows[i] + bias[(shift + own) % columns];
    }
}
