// The training step of mlp.cu for float32 on tensor cores: a tile of 64 rows a block, all weights and the activations
// of all layers in shared memory. A warp takes its rows from layer to layer without waiting for the others; only a
// layer's gradient, a sum over all rows of the tile, is the block's.

// tanh to 2 ulp without a branch: an odd polynomial (a minimax fit, 2e-8) below 1/2, (1 - e^-2|x|) / (1 + e^-2|x|) above.
__device__ inline float tanh_of(float x) {
    float size = fabs(x), square = x * x, decay = __expf(-2 * size);
    float series = fma(fma(fma(0.01724149f, square, -0.05304550f), square, 0.13325879f), square, -0.33333144f);
    float large = __fdividef(1 - decay, 1 + decay);
    return size < 0.5f ? fma(x * square, series, x) : x < 0 ? -large : large;
}

// A gradient is written by the block's first tile and added to by the others; each number belongs to one thread.
__device__ inline void put(float& grad, float value, bool first) { grad = first ? value : grad + value; }

// grads (+)= x^T d; x, d: the tile's matrices.
template <typename Arithmetic>
__device__ void kernel_gradient(float* grads, const float* x, const float* d, int in, int out, bool first,
                                const Lane& lane) {
    Quarter sums = {};
    if (!first)  // all are read before any is needed
        each(sums, lane, [&](float& sum, int row, int column) {
            if (row < in && column < out) sum = grads[row * out + column];
        });
    multiply_transposed<Arithmetic>(sums, x, d, lane);
    each(sums, lane, [&](float& sum, int row, int column) {
        if (row < in && column < out) grads[row * out + column] = sum;
    });
}

// grads (+)= the sums over the tile's rows of load(row) x[row][column].
template <typename Load>
__device__ void weighted_sums(float* grads, const float* x, int width, bool first, const Lane& lane, Load load) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        int column = ROWS * lane.warp + 8 * half + lane.g;
        float sum = 0;
#pragma unroll
        for (int o = 0; o < OCTETS; ++o)
#pragma unroll
            for (int k = 0; k < 2; ++k) sum += load(lane.column(o, k)) * x[place(lane.column(o, k), column)];
        sum = sum_of_t(sum);
        if (lane.t == 0 && column < width) put(grads[column], sum, first);
    }
}

// As mlp_margin_step. layers >= 2: there is a hidden layer.
template <typename T, typename Loss, typename Arithmetic>
__global__ void mlp_margin_tensor(T* parts, double* values, const T* params, const T* x_a, const T* x_b, const T* y,
                                  const int64* widths, int layers, int64 count, int size) {
    SHARED_NUMBERS(shared);  // a tile's activations, layer by layer; the weights between hidden layers; omega
    const int HALF = WIDE / 2;  // the tile has as many rows as columns
    const Lane lane;
    const int hidden = layers - 1, inputs = (int)widths[0];
    float *weights = shared + hidden * MATRIX, *omega = weights + (hidden - 1) * MATRIX;
    T* grads = parts + (int64)blockIdx.x * size;
    double value = 0;

    int begins = (inputs + 1) * (int)widths[1];  // of the layers' parameters
    for (int layer = 1; layer < hidden; ++layer) {
        int in = (int)widths[layer], out = (int)widths[layer + 1];
fill(weights + (layer - 1) * MATRIX, [&](int row, int column) {
            return row < in && column < out ? params[begins + row * out + column] : 0;
        });
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
        weighted_sums(grads + (last - params), top, width, first, lane, [&](int row) { return omega[row]; });
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
            // forward: next = rows kernel + bias
            weighted_sums(grads + at + in * out, d, out, first, lane, [](int) { return 1.0f; });
            if (layer == 0) {
                for (int c = 0; c < inputs; ++c)
                    weighted_sums(grads + at + c * out, d, out, first, lane, [&](int row) -> float {
                        const T* x = point(row);
                        return x ? x[c] : 0;
                    });
                break;
            }
            float *before = shared + (layer - 1) * MATRIX, *kernel = weights + (layer - 1) * MATRIX;
            kernel_gradient<Arithmetic>(grads + at, before, d, in, out, first, lane);
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
