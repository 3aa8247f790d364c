// What all kernels share. It stands before every kernel source; no header is included, so that NVRTC alone compiles
// it. Reductions add in an order that the launch shape fixes: the same bits in every run. No float atomics.

typedef long long int64;  // of index arrays
typedef unsigned long long uint64;
typedef unsigned int uint32;

const int WARP = 32;
const unsigned ALL_LANES = 0xffffffffu;

template <typename T> struct Limits;
template <> struct Limits<float> {
    __device__ static float lowest() { return -3.402823466e+38f; }
};
template <> struct Limits<double> {
    __device__ static double lowest() { return -1.7976931348623157e+308; }
};

__device__ inline int warp_of_thread() { return threadIdx.x / WARP; }
__device__ inline int lane_of_thread() { return threadIdx.x % WARP; }
__device__ inline int64 warp_of_grid() { return ((int64)blockIdx.x * blockDim.x + threadIdx.x) / WARP; }
__device__ inline int64 thread_of_grid() { return (int64)blockIdx.x * blockDim.x + threadIdx.x; }

// The same bits in every lane: a + b is b + a.
template <typename T> __device__ T warp_sum(T value) {
    for (int step = WARP / 2; step > 0; step /= 2) value += __shfl_xor_sync(ALL_LANES, value, step);
    return value;
}

template <typename T> __device__ T warp_max(T value) {
    for (int step = WARP / 2; step > 0; step /= 2) {
        T other = __shfl_xor_sync(ALL_LANES, value, step);
        value = other > value ? other : value;
    }
    return value;
}

// The sum of a block's values in every thread. parts: one number a warp, shared, used by nothing else.
template <typename T> __device__ T block_sum(T value, T* parts) {
    value = warp_sum(value);
    if (lane_of_thread() == 0) parts[warp_of_thread()] = value;
    __syncthreads();
    T total = parts[0];
    for (int warp = 1; warp < blockDim.x / WARP; ++warp) total += parts[warp];
    return total;
}

template <typename T> __device__ T block_max(T value, T* parts) {
    value = warp_max(value);
    if (lane_of_thread() == 0) parts[warp_of_thread()] = value;
    __syncthreads();
    T top = parts[0];
    for (int warp = 1; warp < blockDim.x / WARP; ++warp) top = parts[warp] > top ? parts[warp] : top;
    return top;
}

// ----- Strips: sums over rows -----
// A block of 8 warps walks down a strip of 32 columns, CHUNK rows of it, each warp every eighth row. What it adds up
// goes to parts[chunk][column]; `column_sum` adds the chunks.

const int STRIP_WARPS = 8;
const int CHUNK = 128;

struct Strip {
    int column;
    bool inside;  // whether there is such a column
    int64 chunk, first, last;

    __device__ Strip(int64 rows, int columns) {
        int strips = (columns + WARP - 1) / WARP;
        chunk = blockIdx.x / strips;
        column = (int)(blockIdx.x % strips) * WARP + lane_of_thread();
        inside = column < columns;
        first = chunk * CHUNK + warp_of_thread();
        last = (chunk + 1) * CHUNK < rows ? (chunk + 1) * CHUNK : rows;
    }
};

// The sum of a column over the block's warps, in every thread of the column. lanes: used by nothing else.
template <typename T> __device__ T strip_sum(T value, T (*lanes)[WARP]) {
    lanes[warp_of_thread()][lane_of_thread()] = value;
    __syncthreads();
    T total = lanes[0][lane_of_thread()];
    for (int warp = 1; warp < STRIP_WARPS; ++warp) total += lanes[warp][lane_of_thread()];
    return total;
}

// The sum of one column of x: [rows, columns], by a block of STRIP_WARPS warps for 32 columns, in all its threads.
template <typename T> __device__ T column_total(const T* x, int rows, int columns, int column, T (*lanes)[WARP]) {
    T sum = 0;
    if (column < columns)
#pragma unroll 8
        for (int row = warp_of_thread(); row < rows; row += STRIP_WARPS) sum += x[(int64)row * columns + column];
    return strip_sum(sum, lanes);
}
