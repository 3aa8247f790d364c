// A token a row, drawn by its number: logits [rows, columns] without bias, uniform [rows] -> token and its log-probability,
// [rows]. A block a row.
template <typename T>
__global__ void next_token(int64* token, double* log_p, const T* logits, const T* bias, const double* uniform,
                           int columns) {
    int64 row = blockIdx.x;
    draw(logits + row * columns, bias, uniform[row], columns, [&](int chosen, double value) {
        token[row] = chosen;
        log_p[row] = value;
    });
}
