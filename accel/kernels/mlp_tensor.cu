// The training step of mlp.cu for float32 on tensor cores: a tile of 64 rows a block, all weights and the activations
// of all layers in shared memory. A warp takes its rows from layer to layer without waiting for the others; only a
// layer's gradient, a sum over all rows of the tile, is the block's.

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

// The network and the tile that a block works on. params: kernel and bias of layer after layer. Of shared memory: the
// activations of the hidden layers, the weights between them, and omega (the outputs, then the loss's gradient in them).
struct Network {
    const float* params;
    const int64* widths;
    int hidden;  // layers, >= 1
    float *activations, *weights, *omega;

    __device__ Network(const float* params, const int64* widths, int layers, float* shared)
        : params(params), widths(widths), hidden(layers - 1), activations(shared),
          weights(shared + hidden * MATRIX), omega(weights + (hidden - 1) * MATRIX) {}
    __device__ int width(int layer) const { return (int)widths[layer]; }
    __device__ int size(int layer) const { return (width(layer) + 1) * width(layer + 1); }  // parameters
    __device__ float* rows(int layer) const { return activations + layer * MATRIX; }
    __device__ float* kernel(int layer) const { return weights + (layer - 1) * MATRIX; }

    // The weights between hidden layers into shared memory, 0 where there is no such unit. Where the output's begin.
    __device__ int fetch() const {
        int begin = size(0);
        for (int layer = 1; layer < hidden; ++layer) {
            int in = width(layer), out = width(layer + 1);
            fill(kernel(layer), [&](int row, int column) {
                return row < in && column < out ? params[begin + row * out + column] : 0;
            });
            begin += size(layer);
        }
        return begin;
    }
};

__device__ inline void set_bias(Rows& rows, const float* bias, int width, const Lane& lane) {
    each(rows, [&](int i, int, int k, float& z) { z = lane.column(i, k) < width ? bias[lane.column(i, k)] : 0; });
}

// rows = point x W + b of the first layer. point(row): the inputs of a row of the tile, or null.
template <typename Point> __device__ void first_layer(Rows& rows, const Network& net, const Lane& lane, Point point) {
    int in = net.width(0), out = net.width(1);
    const float* x[2] = {point(lane.row(0)), point(lane.row(1))};
    set_bias(rows, net.params + in * out, out, lane);
    for (int c = 0; c < in; ++c) {
        float at[2] = {x[0] ? x[0][c] : 0, x[1] ? x[1][c] : 0};
        each(rows, [&](int i, int j, int k, float& z) {
            if (lane.column(i, k) < out) z += at[j] * net.params[c * out + lane.column(i, k)];
        });
    }
}

// From the first layer's sums to the activations of the last hidden layer; all are kept.
template <typename Arithmetic> __device__ void hidden_layers(Rows& rows, const Network& net, const Lane& lane) {
    const float* bias = net.params + net.size(0);
    for (int layer = 1;; ++layer) {
        each(rows, [](int, int, int, float& z) { z = tanh(z); });  // 0 where there is no such unit
        keep(net.rows(layer - 1), rows, lane);
        if (layer == net.hidden) return;
        int out = net.width(layer + 1);
        bias += net.width(layer) * out;
        Rows next;
        set_bias(next, bias, out, lane);
        bias += out;
        const float* kernel = net.kernel(layer);
        multiply<Arithmetic>(next, rows, lane, [&](int c, int n) -> Pair {
            return {kernel[place(c, n)], kernel[place(c + 1, n)]};
        });
        each(rows, [&](int i, int j, int k, float& z) { z = next[i][2 * j + k]; });
    }
}

// omega = rows W + b; last: W and b.
__device__ inline void output(Rows& rows, const float* last, const Network& net, const Lane& lane) {
    int width = net.width(net.hidden);
    float sums[2] = {};
    each(rows, [&](int i, int j, int k, float& z) {
        if (lane.column(i, k) < width) sums[j] += z * last[lane.column(i, k)];
    });
#pragma unroll
    for (int j = 0; j < 2; ++j) {
        sums[j] = sum_of_t(sums[j]);
        if (lane.t == 0) net.omega[lane.row(j)] = sums[j] + last[width];
    }
}

// grads (+)= the gradient of sum_r omega[r] output(r) in the output's parameters; rows becomes that in the last layer's sums.
__device__ inline void output_gradient(float* grads, Rows& rows, const float* last, const Network& net, bool first,
                                       const Lane& lane) {
    int width = net.width(net.hidden), half = WIDE / 2;
    const float* omega = net.omega;
    // forward: omega = rows last + bias
    weighted_sums(grads, net.rows(net.hidden - 1), width, first, lane, [&](int row) { return omega[row]; });
    if (lane.warp == 0) {
        float sum = warp_sum(omega[lane_of_thread()] + omega[lane_of_thread() + half]);
        if (lane_of_thread() == 0) put(grads[width], sum, first);
    }
    // forward: rows = tanh(...)
    each(rows, [&](int i, int j, int k, float& z) {
        int column = lane.column(i, k);
        z = column < width ? omega[lane.row(j)] * last[column] * (1 - z * z) : 0;
    });
}

// rows, the gradient in a layer's sums, becomes that in the sums of the layer before.
template <typename Arithmetic>
__device__ void rows_gradient(Rows& rows, float* kernel, float* before, const Lane& lane) {
    Rows back = {};
    multiply<Arithmetic>(back, rows, lane, [&](int c, int n) { return pair_at(kernel, n, c); });
    // forward: rows = tanh(...)
    each(rows, [&](int i, int j, int k, float& z) {
        Pair two = pair_at(before, lane.row(j), lane.column(i, 0));
        float value = k ? two.second : two.first;
        z = back[i][2 * j + k] * (1 - value * value);
    });
}

// grads (+)= the gradient in all parameters before the output's; grads: where the output's begin.
template <typename Arithmetic, typename Point>
__device__ void hidden_gradients(float* grads, Rows& rows, const Network& net, bool first, const Lane& lane,
                                 Point point) {
    for (int layer = net.hidden - 1;; --layer) {
        int in = net.width(layer), out = net.width(layer + 1);
        grads -= net.size(layer);
        float* d = net.rows(layer);
        __syncthreads();  // d's place is read
        keep(d, rows, lane);
        __syncthreads();
        // forward: next = rows kernel + bias
        weighted_sums(grads + in * out, d, out, first, lane, [](int) { return 1.0f; });
        if (layer > 0) {
            kernel_gradient<Arithmetic>(grads, net.rows(layer - 1), d, in, out, first, lane);
            rows_gradient<Arithmetic>(rows, net.kernel(layer), net.rows(layer - 1), lane);
            continue;
        }
        for (int c = 0; c < in; ++c)
            weighted_sums(grads + c * out, d, out, first, lane, [&](int row) -> float {
                const float* x = point(row);
                return x ? x[c] : 0;
            });
        return;
    }
}

// As mlp_margin_step; layers >= 2. A tile: WIDE / 2 left sides above their right sides.
template <typename T, typename Loss, typename Arithmetic>
__global__ void mlp_margin_tensor(T* parts, double* values, const T* params, const T* x_a, const T* x_b, const T* y,
                                  const int64* widths, int layers, int64 count, int size) {
    SHARED_NUMBERS(shared);
    const int HALF = WIDE / 2;
    const Lane lane;
    const Network net(params, widths, layers, shared);
    int inputs = net.width(0), end = net.fetch();
    const T* last = params + end;
    T* grads = parts + (int64)blockIdx.x * size;
    double value = 0;
    for (int64 tile = blockIdx.x; tile * HALF < count; tile += gridDim.x) {
        bool first = tile == blockIdx.x;
        auto point = [&](int row) -> const T* {
            int64 pair = tile * HALF + row % HALF;
            return pair < count ? (row < HALF ? x_a : x_b) + pair * inputs : nullptr;
        };
        Rows rows;
        __syncthreads();  // the weights are there; the tile before is done
        first_layer(rows, net, lane, point);
        hidden_layers<Arithmetic>(rows, net, lane);
        output(rows, last, net, lane);
        __syncthreads();  // omega and all activations are there
        if (threadIdx.x < HALF) {
            int64 pair = tile * HALF + threadIdx.x;
            T slope = 0, margin = net.omega[threadIdx.x] - net.omega[threadIdx.x + HALF];
            if (pair < count) value += Loss::of(margin, y[pair], slope);
            // forward: value = mean(loss(omega of x_a - omega of x_b))
            net.omega[threadIdx.x] = slope / count;
            net.omega[threadIdx.x + HALF] = -slope / count;
        }
        __syncthreads();
        output_gradient(grads + end, rows, last, net, first, lane);
        hidden_gradients<Arithmetic>(grads + end, rows, net, first, lane, point);
    }
    if (threadIdx.x < HALF) {
        value = warp_sum(value);
        if (threadIdx.x == 0) values[blockIdx.x] = value;
    }
}
