// The training step of mlp.cu for float32 on tensor cores: a tile of 64 rows and 4 warps a block, all weights and the
// activations of all layers in shared memory. A warp has 16 rows from layer to layer without waiting for the others;
// only a layer's gradient, a sum over all rows of the tile, is the block's.
//
// A matrix of 64 columns stands in shared memory in rows of 64, each row's columns moved by a multiple of 8 (`place`):
// whether a warp reads along rows or columns, its lanes find their numbers in 32 different banks.

const int TILE = 64;
const int WIDE = 64;
const int WARPS = 4;
const int ROWS = 16;         // of a warp
const int OCTETS = WIDE / 8;
const int MATRIX = TILE * WIDE;

typedef float Rows[OCTETS][4];  // a warp's rows: [i][2 j + k] is row g + 8 j, column 8 i + 2 t + k, of lane 4 g + t

// tanh to 2 ulp without a branch: an odd polynomial (a minimax fit, 2e-8) below 1/2, (1 - e^-2|x|) / (1 + e^-2|x|) above.
__device__ inline float tanh_of(float x) {
    float size = fabs(x), square = x * x, decay = __expf(-2 * size);
    float series = fma(fma(fma(0.01724149f, square, -0.05304550f), square, 0.13325879f), square, -0.33333144f);
    float large = __fdividef(1 - decay, 1 + decay);
    return size < 0.5f ? fma(x * square, series, x) : x < 0 ? -large : large;
}

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
};

// The sum over the lanes that share g, in each of them.
template <typename T> __device__ T sum_of_t(T value) {
    value += __shfl_xor_sync(ALL_LANES, value, 1);
    return value + __shfl_xor_sync(ALL_LANES, value, 2);
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

// A gradient is written by the block's first tile and added to by the others; each number belongs to one thread.
__device__ inline void put(float& grad, float value, bool first) { grad = first ? value : grad + value; }

// f(number, row, column) for a thread's numbers of a product of 32 x 32 numbers.
template <int SIDE, typename F> __device__ void each_of_square(float (&sums)[2][SIDE][4], const Lane& lane, F f) {
#pragma unroll
    for (int half = 0; half < 2; ++half)
#pragma unroll
        for (int i = 0; i < SIDE; ++i)
#pragma unroll
            for (int q = 0; q < 4; ++q)
                f(sums[half][i][q], 16 * half + lane.g + 8 * (q / 2), lane.column(i, q % 2));
}

// grads (+)= x^T d, bias (+)= the column sums of d; x, d: the tile's matrices. A warp has 32 of x's columns and 32 of d's.
template <typename Arithmetic>
__device__ void layer_gradient(float* grads, const float* x, const float* d, int in, int out, bool first,
                               const Lane& lane) {
    const int SIDE = 4;  // octets
    int above = 32 * (lane.warp / 2), left = 32 * (lane.warp % 2);
    float sums[2][SIDE][4] = {}, bias[SIDE] = {};
    if (!first)  // all are read before any is needed
        each_of_square(sums, lane, [&](float& sum, int row, int column) {
            if (above + row < in && left + column < out) sum = grads[(above + row) * out + left + column];
        });
#pragma unroll 2
    for (int o = 0; o < OCTETS; ++o) {
        Factors<Arithmetic, 2> b[SIDE];
#pragma unroll
        for (int i = 0; i < SIDE; ++i)
#pragma unroll
            for (int k = 0; k < 2; ++k) {
                float value = d[place(lane.column(o, k), left + 8 * i + lane.g)];
                bias[i] += value;
                b[i].set(k, value);
            }
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            Factors<Arithmetic, 4> a;
#pragma unroll
            for (int j = 0; j < 2; ++j)
#pragma unroll
                for (int k = 0; k < 2; ++k)
                    a.set(2 * j + k, x[place(lane.column(o, k), above + 16 * half + lane.g + 8 * j)]);
            add_products(sums[half], a, b);
        }
    }
    each_of_square(sums, lane, [&](float& sum, int row, int column) {
        if (above + row < in && left + column < out) grads[(above + row) * out + left + column] = sum;
    });
#pragma unroll
    for (int i = 0; i < SIDE; ++i) {
        bias[i] = sum_of_t(bias[i]);
        int column = left + 8 * i + lane.g;
        if (above == 0 && lane.t == 0 && column < out) put(grads[in * out + column], bias[i], first);
    }
}

// The sum over the tile's rows of load(row) x[row][column], of the columns 16 warp + 8 half + g.
template <typename Load> __device__ float weighted(const float* x, int column, const Lane& lane, Load load) {
    float sum = 0;
#pragma unroll
    for (int o = 0; o < OCTETS; ++o)
#pragma unroll
        for (int k = 0; k < 2; ++k) sum += load(lane.column(o, k)) * x[place(lane.column(o, k), column)];
    return sum_of_t(sum);
}

// As mlp_margin_step. layers >= 2: there is a hidden layer.
template <typename T, typename Loss, typename Arithmetic>
__global__ void mlp_margin_tensor(T* parts, double* values, const T* params, const T* x_a, const T* x_b, const T* y,
                                  const int64* widths, int layers, int64 count, int size) {
    SHARED_NUMBERS(shared);  // a tile's activations, layer by layer; the weights between hidden layers; omega
    const int HALF = TILE / 2;
    const Lane lane;
    const int hidden = layers - 1, inputs = (int)widths[0];
    float *weights = shared + hidden * MATRIX, *omega = weights + (hidden - 1) * MATRIX;
    T* grads = parts + (int64)blockIdx.x * size;
    double value = 0;

    int begins = (inputs + 1) * (int)widths[1];  // of the layers' parameters
    for (int layer = 1; layer < hidden; ++layer) {
        int in = (int)widths[layer], out = (int)widths[layer + 1];
#pragma unroll
        for (int own = 0; own < MATRIX / (WARPS * WARP); ++own) {  // all loads before any is needed
            int i = own * WARPS * WARP + threadIdx.x;
            int row = i / WIDE, column = i % WIDE;
            weights[(layer - 1) * MATRIX + place(row, column)] =
                row < in && column < out ? params[begins + row * out + column] : 0;
        }
        begins += (in + 1) * out;
    }
    const T* last = params + begins;  // the output's weights, then its bias

    for (int64 tile = blockIdx.x; tile * HALF < count; tile += gridDim.x) {
        bool first = tile == blockIdx.x;
        auto point = [&](int row) -> const T* {  // the inputs of a row of the tile, or null
            int64 pair = tile * HALF + row % HALF;
            return pair < count ? (row < HALF ? x_a : x_b) + pair * inputs : nullptr;
        };
        __syncthreads();  // the weights are there; the tile before is done

        // ----- Forward: rows <- tanh(rows W + b), kept in shared -----
        Rows rows;
        {
            int out = (int)widths[1];
            const T *x[2] = {point(lane.row(0)), point(lane.row(1))}, *bias = params + inputs * out;
            each(rows, [&](int i, int, int k, float& z) { z = lane.column(i, k) < out ? bias[lane.column(i, k)] : 0; });
            for (int c = 0; c < inputs; ++c) {
                float at[2] = {x[0] ? x[0][c] : 0, x[1] ? x[1][c] : 0};
                each(rows, [&](int i, int j, int k, float& z) {
                    if (lane.column(i, k) < out) z += at[j] * params[c * out + lane.column(i, k)];
                });
            }
        }
        begins = (inputs + 1) * (int)widths[1];
        for (int layer = 1;; ++layer) {
            each(rows, [&](int, int, int, float& z) { z = tanh_of(z); });  // 0 where there is no such unit
            keep(shared + (layer - 1) * MATRIX, rows, lane);
            if (layer == hidden) break;
            int out = (int)widths[layer + 1];
            begins += (int)widths[layer] * out;
            const T* bias = params + begins;
            begins += out;
            Rows next;
            each(next, [&](int i, int, int k, float& z) { z = lane.column(i, k) < out ? bias[lane.column(i, k)] : 0; });
            float* kernel = weights + (layer - 1) * MATRIX;
            multiply<Arithmetic>(next, rows, lane, [&](int c, int n) -> Pair {
                return {kernel[place(c, n)], kernel[place(c + 1, n)]};
            });
            each(rows, [&](int i, int j, int k, float& z) { z = next[i][2 * j + k]; });
        }
        int width = (int)widths[hidden];
        float sums[2] = {};
        each(rows, [&](int i, int j, int k, float& z) {
            if (lane.column(i, k) < width) sums[j] += z * last[lane.column(i, k)];
        });
        for (int j = 0; j < 2; ++j) {
            sums[j] = sum_of_t(sums[j]);
            if (lane.t == 0) omega[lane.row(j)] = sums[j] + last[width];
        }
        __syncthreads();  // omega and all activations are there

        // ----- The loss; omega becomes its gradient -----
        if (threadIdx.x < HALF) {
            int64 pair = tile * HALF + threadIdx.x;
            T slope = 0;
            if (pair < count)
                value += Loss::of(omega[threadIdx.x] - omega[threadIdx.x + HALF], y[pair], slope);
            // forward: value = mean(loss(omega of x_a - omega of x_b))
            omega[threadIdx.x] = slope / count;
            omega[threadIdx.x + HALF] = -slope / count;
        }
        __syncthreads();

        // ----- Backward -----
        // forward: omega = rows last + bias
        const float* top = shared + (hidden - 1) * MATRIX;
        for (int half = 0; half < 2; ++half) {
            int column = ROWS * lane.warp + 8 * half + lane.g;
            float sum = weighted(top, column, lane, [&](int row) { return omega[row]; });
            if (lane.t == 0 && column < width) put(grads[last - params + column], sum, first);
        }
        if (lane.warp == 0) {
            float sum = warp_sum(omega[lane_of_thread()] + omega[lane_of_thread() + HALF]);
            if (lane_of_thread() == 0) put(grads[last - params + width], sum, first);
        }
        // forward: rows = tanh(...)
        each(rows, [&](int i, int j, int k, float& z) {
            int column = lane.column(i, k);
            z = column < width ? omega[lane.row(j)] * last[column] * (1 - z * z) : 0;
        });
        int at = (int)(last - params);
        for (int layer = hidden - 1;; --layer) {
            int in = (int)widths[layer], out = (int)widths[layer + 1];
            at -= (in + 1) * out;
            float* d = shared + layer * MATRIX;
            __syncthreads();  // d's place is read
            keep(d, rows, lane);
            __syncthreads();
            if (layer == 0) {
                // forward: next = x kernel + bias
                for (int half = 0; half < 2; ++half) {
                    int column = ROWS * lane.warp + 8 * half + lane.g;
                    for (int c = 0; c <= inputs; ++c) {
                        float sum = weighted(d, column, lane, [&](int row) -> float {
                            const T* x = point(row);
                            return c == inputs ? 1 : x ? x[c] : 0;
                        });
                        if (lane.t == 0 && column < out) put(grads[at + c * out + column], sum, first);
                    }
                }
                break;
            }
            // forward: next = rows kernel + bias
            float *before = shared + (layer - 1) * MATRIX, *kernel = weights + (layer - 1) * MATRIX;
            layer_gradient<Arithmetic>(grads + at, before, d, in, out, first, lane);
            Rows back = {};
            multiply<Arithmetic>(back, rows, lane, [&](int c, int n) { return pair_at(kernel, n, c); });
            // forward: rows = tanh(...)
            each(rows, [&](int i, int j, int k, float& z) {
                Pair two = pair_at(before, lane.row(j), lane.column(i, 0));
                float value = k ? two.second : two.first;
                z = back[i][2 * j + k] * (1 - value * value);
            });
        }
    }
    if (threadIdx.x < HALF) {
        value = warp_sum(value);
        if (threadIdx.x == 0) values[blockIdx.x] = value;
    }
}
