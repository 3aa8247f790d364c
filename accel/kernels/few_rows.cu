// out = the column sums of x: [rows, columns] -> [columns], for few rows.
template <typename T> __global__ void few_rows_sum(T* out, const T* x, int rows, int columns) {
    __shared__ T lanes[STRIP_WARPS][WARP];
    int column = blockIdx.x * WARP + lane_of_thread();
    T sum = column_total(x, rows, columns, column, lanes);
    if (column < columns && warp_of_thread() == 0) out[column] = sum;
}
