// Matrices of 64 x 64 float32 in shared memory, and their products by the 4 warps of a block.
//
// A matrix stands in rows of 64 numbers, each row's columns moved by a multiple of 8 (`place`): whether a warp reads
// along rows or columns, its lanes find their numbers in 32 different banks. A warp's own 16 rows of a matrix stand in
// its lanes (`Rows`), from product to product without waiting for the other warps.

const int WIDE = 64;
const int TILE_WARPS = 4;
const int ROWS = 16;  // of a warp
const int OCTETS = WIDE / 8;
const int MATRIX = WIDE * WIDE;
const int QUARTER = 4;  // octets of a side of a warp's quarter of a matrix

typedef float Rows[OCTETS][4];  // [i][2 j + k] is row g + 8 j, column 8 i + 2 t + k, of lane 4 g + t
typedef float Quarter[2][QUARTER][4];

struct alignas(8) Pair {
    float first, second;
};

__device__ inline int place(int row, int column) {
    return row * WIDE + (column ^ (((row & 3) ^ (row >> 2 & 1)) << 3));
}

struct Lane {
    int warp, g, t;
    __device__ Lane() : warp(warp_of_thread()), g(lane_of_thread() / 4), t(lane_of_thread() % 4) {}
    __device__ int row(int j) const { return ROWS * warp + g + 8 * j; }
    __device__ int column(int i, int k) const { return 8 * i + 2 * t + k; }
    // of a quarter: rows above.., columns left..
    __device__ int above() const { return 32 * (warp / 2); }
    __device__ int left() const { return 32 * (warp % 2); }
};

// The sum over the lanes that share g, in each of them.
template <typename T> __device__ T sum_of_t(T value) {
    value += __shfl_xor_sync(ALL_LANES, value, 1);
    return value + __shfl_xor_sync(ALL_LANES, value, 2);
}

template <typename T> __device__ T max_of_t(T value) {
#pragma unroll
    for (int bits = 1; bits <= 2; bits *= 2) {
        T other = __shfl_xor_sync(ALL_LANES, value, bits);
        value = other > value ? other : value;
    }
    return value;
}

// f(i, j, k, number) for all numbers of rows; f may change them.
template <typename F> __device__ void each(Rows& rows, F f) {
#pragma unroll
    for (int i = 0; i < OCTETS; ++i)
#pragma unroll
        for (int j = 0; j < 2; ++j)
#pragma unroll
            for (int k = 0; k < 2; ++k) f(i, j, k, rows[i][2 * j + k]);
}

// Two numbers of a matrix in one row, the first of them in an even column.
__device__ inline Pair& pair_at(float* matrix, int row, int column) { return *(Pair*)(matrix + place(row, column)); }

__device__ inline void keep(float* matrix, const Rows& rows, const Lane& lane) {
#pragma unroll
    for (int i = 0; i < OCTETS; ++i)
#pragma unroll
        for (int j = 0; j < 2; ++j)
            pair_at(matrix, lane.row(j), lane.column(i, 0)) = {rows[i][2 * j], rows[i][2 * j + 1]};
}

// matrix = load(row, column), by all threads: all loads before any is needed.
template <typename Load> __device__ void fill(float* matrix, Load load) {
#pragma unroll
    for (int own = 0; own < MATRIX / (TILE_WARPS * WARP); ++own) {
        int i = own * TILE_WARPS * WARP + threadIdx.x;
        matrix[place(i / WIDE, i % WIDE)] = load(i / WIDE, i % WIDE);
    }
}

// sums += rows b. load(c, n): the numbers of b in rows c, c + 1 and column n.
template <typename Arithmetic, typename Load>
__device__ void multiply(Rows& sums, const Rows& rows, const Lane& lane, Load load) {
#pragma unroll
    for (int o = 0; o < OCTETS; ++o) {
        Factors<Arithmetic, 4> a;
        Factors<Arithmetic, 2> b[OCTETS];
#pragma unroll
        for (int q = 0; q < 4; ++q) a.set(q, rows[o][q]);
#pragma unroll
        for (int i = 0; i < OCTETS; ++i) {
            Pair two = load(lane.column(o, 0), 8 * i + lane.g);
            b[i].set(0, two.first);
            b[i].set(1, two.second);
        }
        add_products(sums, a, b);
    }
}

// f(number, row, column) for the numbers of this lane in its warp's quarter of a matrix.
template <typename F> __device__ void each(Quarter& sums, const Lane& lane, F f) {
#pragma unroll
    for (int half = 0; half < 2; ++half)
#pragma unroll
        for (int i = 0; i < QUARTER; ++i)
#pragma unroll
            for (int q = 0; q < 4; ++q)
                f(sums[half][i][q], lane.above() + 16 * half + lane.g + 8 * (q / 2), lane.left() + lane.column(i, q % 2));
}

// sums += this warp's quarter of x^T d.
template <typename Arithmetic>
__device__ void multiply_transposed(Quarter& sums, const float* x, const float* d, const Lane& lane) {
#pragma unroll 2
    for (int o = 0; o < OCTETS; ++o) {
        Factors<Arithmetic, 2> b[QUARTER];
#pragma unroll
        for (int i = 0; i < QUARTER; ++i)
#pragma unroll
            for (int k = 0; k < 2; ++k) b[i].set(k, d[place(lane.column(o, k), lane.left() + 8 * i + lane.g)]);
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            Factors<Arithmetic, 4> a;
#pragma unroll
            for (int j = 0; j < 2; ++j)
#pragma unroll
                for (int k = 0; k < 2; ++k)
                    a.set(2 * j + k, x[place(lane.column(o, k), lane.above() + 16 * half + lane.g + 8 * j)]);
            add_products(sums[half], a, b);
        }
    }
}
