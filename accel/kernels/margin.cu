// dmargin = weight slope and values[block] = the block's sum of weight loss, in double, of omega[a] - omega[b].
template <typename T, typename Loss>
__global__ void margin_loss(T* dmargin, double* values, const T* omega, const int64* x_a, const int64* x_b,
                            const T* y, const T* weight, int64 count) {
    __shared__ double parts[8];
    int64 k = thread_of_grid();
    double value = 0;
    if (k < count) {
        T slope;
        value = weight[k] * Loss::of(omega[x_a[k]] - omega[x_b[k]], y[k], slope);
        dmargin[k] = weight[k] * slope;
    }
    value = block_sum(value, parts);
    if (threadIdx.x == 0) values[blockIdx.x] = value;
}
