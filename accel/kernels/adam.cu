// One step of Adam, in place. unbias_m = 1 / (1 - b1^t), unbias_v = 1 / (1 - b2^t).
template <typename T>
__global__ void adam_step(T* params, T* m, T* v, const T* grads, int64 size, T lr, T b1, T b2, T eps, T unbias_m,
                          T unbias_v) {
    int64 i = thread_of_grid();
    if (i >= size) return;
    T grad = grads[i], first = b1 * m[i] + (1 - b1) * grad, second = b2 * v[i] + (1 - b2) * (grad * grad);
    m[i] = first;
    v[i] = second;
    params[i] -= lr * (first * unbias_m / (sqrt(second * unbias_v) + eps));
}
