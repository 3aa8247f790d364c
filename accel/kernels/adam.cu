// b mean + c value with c = 1 - b, both rounded from double: 1 - b of a rounded b is off by eps / (1 - b). Of the two
// the larger one, which rounding takes away from 1, is not used.
template <typename T> __device__ T averaged(T mean, T value, T b, T c) {
    return c < b ? fma(c, value - mean, mean) : fma(b, mean - value, value);
}

// Adam in place on number i. c1 = 1 - b1, c2 = 1 - b2, unbias_m = 1 / (1 - b1^t), unbias_v = 1 / (1 - b2^t). What a
// compiler may fuse or not is written as fma: the same bits in every kernel.
template <typename T>
__device__ void adam_update(int64 i, T* params, T* m, T* v, T grad, T lr, T b1, T c1, T b2, T c2, T eps,
                            T unbias_m, T unbias_v) {
    T first = averaged(m[i], grad, b1, c1), second = averaged(v[i], grad * grad, b2, c2);
    m[i] = first;
    v[i] = second;
    params[i] = fma(-lr, first * unbias_m / (sqrt(second * unbias_v) + eps), params[i]);
}

// One step, its numbers from the host.
template <typename T>
__global__ void adam_step(T* params, T* m, T* v, const T* grads, int64 size, T lr, T b1, T c1, T b2, T c2, T eps,
                          T unbias_m, T unbias_v) {
    int64 i = thread_of_grid();
    if (i >= size) return;
    adam_update(i, params, m, v, grads[i], lr, b1, c1, b2, c2, eps, unbias_m, unbias_v);
}

// The same with grads the column sums of parts [rows][size], and its numbers from row *step of schedule [steps][3]: lr,
// unbias_m, unbias_v. A block has 32 numbers.
template <typename T>
__global__ void adam_scheduled(T* params, T* m, T* v, const T* parts, const T* schedule, const int64* step, int rows,
                               int size, T b1, T c1, T b2, T c2, T eps) {
    __shared__ T lanes[STRIP_WARPS][WARP];
    int i = blockIdx.x * WARP + lane_of_thread();
    T grad = column_total(parts, rows, size, i, lanes);
    const T* now = schedule + 3 * *step;
    if (i < size && warp_of_thread() == 0)
        adam_update(i, params, m, v, grad, now[0], b1, c1, b2, c2, eps, now[1], now[2]);
}
