// The network of the density experiments, all layers forward and backward for TILE rows a block: at most WIDE wide,
// any number of layers, one output. Activations stand in shared memory; weights come by slices.
//
// params: kernel [in][out] and bias [out] of each layer, one after the other. widths: layers + 1 numbers. inputs of
// layer i of a tile: saved[i][TILE][WIDE], in global memory. A thread owns rows y + 16 i and columns x + 16 j of each
// product, x = thread % 16, y = thread / 16; i, j < 4.

const int TILE = 64;
const int WIDE = 64;
const int SLICE = 16;  // of a product's inner dimension at a time
const int SIDE = 16;
const int OWN = 4;
const int QUAD = 4;  // threads that share one sum

template <typename T> struct Shared {
    T rows[TILE][WIDE + 1];
    T slice[SLICE][WIDE];
    T omega[TILE];  // the outputs, then the loss's gradient in them
};

// The sum over the four threads of a quad, in each of them.
template <typename T> __device__ T quad_sum(T value) {
    value += __shfl_xor_sync(ALL_LANES, value, 1);
    return value + __shfl_xor_sync(ALL_LANES, value, 2);
}

// sums[i][j] += sum_k rows[y + 16 i][k] load(k, x + 16 j), k < inner.
template <typename T, typename Load>
__device__ void multiply(T (&sums)[OWN][OWN], Shared<T>& shared, int inner, Load load) {
    int x = threadIdx.x % SIDE, y = threadIdx.x / SIDE;
    for (int begin = 0; begin < inner; begin += SLICE) {
        __syncthreads();  // the rows are written, the slice before is read
        int depth = inner - begin < SLICE ? inner - begin : SLICE;
        for (int i = threadIdx.x; i < depth * WIDE; i += blockDim.x)
            shared.slice[i / WIDE][i % WIDE] = load(begin + i / WIDE, i % WIDE);
        __syncthreads();
#pragma unroll 4
        for (int k = 0; k < depth; ++k) {
            T left[OWN], right[OWN];
            for (int i = 0; i < OWN; ++i) left[i] = shared.rows[y + SIDE * i][begin + k];
            for (int j = 0; j < OWN; ++j) right[j] = shared.slice[k][x + SIDE * j];
            for (int i = 0; i < OWN; ++i)
                for (int j = 0; j < OWN; ++j) sums[i][j] += left[i] * right[j];
        }
    }
}

// sums[i][j] += sum_r load(r, y + 16 i) rows[r][x + 16 j].
template <typename T, typename Load>
__device__ void multiply_transposed(T (&sums)[OWN][OWN], Shared<T>& shared, Load load) {
    int x = threadIdx.x % SIDE, y = threadIdx.x / SIDE;
    for (int begin = 0; begin < TILE; begin += SLICE) {
        __syncthreads();  // the rows are written, the slice before is read
        for (int i = threadIdx.x; i < SLICE * WIDE; i += blockDim.x)
            shared.slice[i / WIDE][i % WIDE] = load(begin + i / WIDE, i % WIDE);
        __syncthreads();
#pragma unroll 4
        for (int r = 0; r < SLICE; ++r) {
            T left[OWN], right[OWN];
            for (int i = 0; i < OWN; ++i) left[i] = shared.slice[r][y + SIDE * i];
            for (int j = 0; j < OWN; ++j) right[j] = shared.rows[begin + r][x + SIDE * j];
            for (int i = 0; i < OWN; ++i)
                for (int j = 0; j < OWN; ++j) sums[i][j] += left[i] * right[j];
        }
    }
}

// Row r of a tile takes load(r, k) as its inputs, k < width.
template <typename T, typename Load>
__device__ void enter(Shared<T>& shared, T* saved, int width, Load load) {
    __syncthreads();  // the tile before is done
    for (int i = threadIdx.x; i < TILE * width; i += blockDim.x) {
        int r = i / width, k = i % width;
        T value = load(r, k);
        shared.rows[r][k] = value;
        saved[r * WIDE + k] = value;
    }
}

// omega[r] = the network's output for row r. Writes saved[1..].
template <typename T>
__device__ void forward_tile(Shared<T>& shared, T* saved, const T* params, const int64* widths, int layers) {
    int x = threadIdx.x % SIDE, y = threadIdx.x / SIDE;
    for (int layer = 0; layer < layers - 1; ++layer) {
        int in = (int)widths[layer], out = (int)widths[layer + 1];
        T sums[OWN][OWN];
        for (int i = 0; i < OWN; ++i)
            for (int j = 0; j < OWN; ++j) sums[i][j] = x + SIDE * j < out ? params[in * out + x + SIDE * j] : T(0);
        multiply(sums, shared, in, [&](int k, int c) { return c < out ? params[k * out + c] : T(0); });
        __syncthreads();  // the rows are read
        saved += TILE * WIDE;
        for (int i = 0; i < OWN; ++i)
            for (int j = 0; j < OWN; ++j) shared.rows[y + SIDE * i][x + SIDE * j] = sums[i][j];
#pragma unroll 1  // one tanh in the code, not sixteen
        for (int own = 0; own < OWN * OWN; ++own) {
            int r = y + SIDE * (own / OWN), c = x + SIDE * (own % OWN);
            T value = tanh(shared.rows[r][c]);  // 0 where there is no such unit
            shared.rows[r][c] = value;
            saved[r * WIDE + c] = value;
        }
        params += (in + 1) * out;
    }
    __syncthreads();
    int in = (int)widths[layers - 1], r = threadIdx.x / QUAD;
    T sum = 0;
    for (int k = threadIdx.x % QUAD; k < in; k += QUAD) sum += shared.rows[r][k] * params[k];
    sum = quad_sum(sum) + params[in];
    if (threadIdx.x % QUAD == 0) shared.omega[r] = sum;
    __syncthreads();
}

// A gradient is written by the block's first tile and added to by the others; each number belongs to one thread.
template <typename T> __device__ void put(T& grad, T value, bool first) { grad = first ? value : grad + value; }

// grads (+)= the gradient of sum_r omega[r] output(r); params and grads: at their ends.
template <typename T>
__device__ void backward_tile(Shared<T>& shared, const T* saved, const T* params, T* grads, const int64* widths,
                              int layers, bool first) {
    int x = threadIdx.x % SIDE, y = threadIdx.x / SIDE, quad = threadIdx.x / QUAD, part = threadIdx.x % QUAD;
    int in = (int)widths[layers - 1];
    params -= in + 1;
    grads -= in + 1;
    saved += (layers - 1) * TILE * WIDE;
    // forward: output = rows kernel + bias
    T weight = 0, bias = 0;
    for (int r = part; r < TILE; r += QUAD) {
        if (quad < in) weight += saved[r * WIDE + quad] * shared.omega[r];
        bias += shared.omega[r];
    }
    weight = quad_sum(weight);
    bias = quad_sum(bias);
    if (part == 0 && quad < in) put(grads[quad], weight, first);
    if (threadIdx.x == 0) put(grads[in], bias, first);
    if (layers == 1) return;
    for (int i = threadIdx.x; i < TILE * WIDE; i += blockDim.x) {
        int r = i / WIDE, k = i % WIDE;
        // forward: rows = tanh(...)
        shared.rows[r][k] = k < in ? shared.omega[r] * params[k] * (1 - saved[i] * saved[i]) : T(0);
    }
    for (int layer = layers - 2; layer >= 0; --layer) {
        int out = in;
        in = (int)widths[layer];
        params -= (in + 1) * out;
        grads -= (in + 1) * out;
        saved -= TILE * WIDE;
        // forward: next = rows kernel + bias
        T sums[OWN][OWN] = {};
        multiply_transposed(sums, shared, [&](int r, int k) { return k < in ? saved[r * WIDE + k] : T(0); });
        for (int i = 0; i < OWN; ++i)
            for (int j = 0; j < OWN; ++j) {
                int k = y + SIDE * i, c = x + SIDE * j;
                if (k < in && c < out) put(grads[k * out + c], sums[i][j], first);
            }
        bias = 0;
        for (int r = part; r < TILE; r += QUAD) bias += shared.rows[r][quad];
        bias = quad_sum(bias);
        if (part == 0 && quad < out) put(grads[in * out + quad], bias, first);
        if (layer == 0) return;
        T back[OWN][OWN] = {};
        multiply(back, shared, out, [&](int c, int k) { return k < in ? params[k * out + c] : T(0); });
        __syncthreads();  // the rows are read
        for (int i = 0; i < OWN; ++i)
            for (int j = 0; j < OWN; ++j) {
                int r = y + SIDE * i, k = x + SIDE * j;
                T tanh_of = k < in ? saved[r * WIDE + k] : T(0);
                // forward: rows = tanh(...)
                shared.rows[r][k] = back[i][j] * (1 - tanh_of * tanh_of);
            }
    }
}

// out = the network at x: [count, width] -> [count]. A block a tile; saved [tiles][layers][TILE][WIDE].
template <typename T>
__global__ void mlp_forward(T* out, T* saved, const T* params, const T* x, const int64* widths, int layers,
                            int64 count) {
    __shared__ Shared<T> shared;
    int64 begin = (int64)blockIdx.x * TILE;
    int width = (int)widths[0];
    saved += (int64)blockIdx.x * layers * TILE * WIDE;
    enter(shared, saved, width, [&](int r, int k) { return begin + r < count ? x[(begin + r) * width + k] : T(0); });
    forward_tile(shared, saved, params, widths, layers);
    if (threadIdx.x < TILE && begin + threadIdx.x < count) out[begin + threadIdx.x] = shared.omega[threadIdx.x];
}

// parts[block] = the gradient of sum(dout out) over the block's tiles: block, block + blocks, ...
template <typename T>
__global__ void mlp_backward(T* parts, const T* dout, const T* saved, const T* params, const int64* widths,
                             int layers, int64 count, int size) {
    __shared__ Shared<T> shared;
    for (int64 tile = blockIdx.x; tile * TILE < count; tile += gridDim.x) {
        __syncthreads();  // the tile before is done
        int64 row = tile * TILE + threadIdx.x;
        if (threadIdx.x < TILE) shared.omega[threadIdx.x] = row < count ? dout[row] : T(0);
        __syncthreads();
        backward_tile(shared, saved + tile * layers * TILE * WIDE, params + size,
                      parts + (int64)(blockIdx.x + 1) * size, widths, layers, tile == blockIdx.x);
    }
}

// The mean loss of comparisons and its gradient: x_a, x_b [count, width], y [count]. A tile: TILE / 2 left sides above
// their right sides. values[block]: its sum of losses; saved [blocks][layers][TILE][WIDE]: scratch.
template <typename T, typename Loss>
__global__ void mlp_margin_step(T* parts, double* values, T* saved, const T* params, const T* x_a, const T* x_b,
                                const T* y, const int64* widths, int layers, int64 count, int size) {
    __shared__ Shared<T> shared;
    const int HALF = TILE / 2;
    int width = (int)widths[0];
    double value = 0;
    saved += (int64)blockIdx.x * layers * TILE * WIDE;
    for (int64 tile = blockIdx.x; tile * HALF < count; tile += gridDim.x) {
        int64 begin = tile * HALF;
        enter(shared, saved, width, [&](int r, int k) {
            int64 pair = begin + r % HALF;
            return pair < count ? (r < HALF ? x_a : x_b)[pair * width + k] : T(0);
        });
        forward_tile(shared, saved, params, widths, layers);
        if (threadIdx.x < HALF) {
            int64 pair = begin + threadIdx.x;
            T slope = 0;
            if (pair < count)
                value += Loss::of(shared.omega[threadIdx.x] - shared.omega[threadIdx.x + HALF], y[pair], slope);
            // forward: value = mean(loss(omega of x_a - omega of x_b))
            shared.omega[threadIdx.x] = slope / count;
            shared.omega[threadIdx.x + HALF] = -slope / count;
        }
        __syncthreads();
        backward_tile(shared, saved, params + size, parts + (int64)(blockIdx.x + 1) * size, widths, layers,
                      tile == blockIdx.x);
    }
    if (threadIdx.x < HALF) {
        value = warp_sum(value);
        if (threadIdx.x == 0) values[blockIdx.x] = value;
    }
}

// losses[*step] = the mean loss of count comparisons, out of the blocks' sums; then the step is counted. One warp.
template <typename T>
__global__ void record_loss(T* losses, int64* step, const double* values, int blocks, int64 count) {
    double value = 0;
    for (int i = threadIdx.x; i < blocks; i += WARP) value += values[i];
    value = warp_sum(value);
    if (threadIdx.x == 0) {
        losses[*step] = (T)(value / count);
        *step += 1;
    }
}
