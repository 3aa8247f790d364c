// out[chunk][column] = the sum of CHUNK rows of x: [rows, columns] -> [chunks, columns].
template <typename T> __global__ void column_sum(T* out, const T* x, int64 rows, int columns) {
    __shared__ T lanes[STRIP_WARPS][WARP];
    Strip strip(rows, columns);
    T sum = 0;
    if (strip.inside)
        for (int64 row = strip.first; row < strip.last; row += STRIP_WARPS) sum += x[row * columns + strip.column];
    sum = strip_sum(sum, lanes);
    if (strip.inside && warp_of_thread() == 0) out[strip.chunk * columns + strip.column] = sum;
}
