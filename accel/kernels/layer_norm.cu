// scale (x - mean) rstd + bias, a warp a row. stats[row]: mean, rstd.
template <typename T>
__global__ void layer_norm_forward(T* out, T* stats, const T* x, const T* scale, const T* bias, int64 rows,
                                   int columns, T eps) {
    int64 row = warp_of_grid();
    if (row >= rows) return;
    x += row * columns;
    out += row * columns;
    T sum = 0, squares = 0;
    for (int c = lane_of_thread(); c < columns; c += WARP) sum += x[c];
    T mean = warp_sum(sum) / columns;
    for (int c = lane_of_thread(); c < columns; c += WARP) squares += (x[c] - mean) * (x[c] - mean);
    T rstd = 1 / sqrt(warp_sum(squares) / columns + eps);
    for (int c = lane_of_thread(); c < columns; c += WARP) out[c] = (x[c] - mean) * rstd * scale[c] + bias[c];
    if (lane_of_thread() == 0) {
        stats[2 * row] = mean;
        stats[2 * row + 1] = rstd;
    }
}

// dx = rstd (dnorm - mean(dnorm) - norm mean(dnorm norm)), dnorm = dout scale, norm = (x - mean) rstd: a warp a row.
// onto is added to it where `adds`.
template <typename T>
__global__ void layer_norm_backward(T* dx, const T* dout, const T* x, const T* stats, const T* scale, const T* onto,
                                    int64 rows, int columns, int adds) {
    int64 row = warp_of_grid();
    if (row >= rows) return;
    x += row * columns;
    dout += row * columns;
    dx += row * columns;
    onto += row * columns;
    T mean = stats[2 * row], rstd = stats[2 * row + 1], sum = 0, dot = 0;
    for (int c = lane_of_thread(); c < columns; c += WARP) {
        T dnorm = dout[c] * scale[c];
        sum += dnorm;
        dot += dnorm * ((x[c] - mean) * rstd);
    }
    sum = warp_sum(sum) / columns;
    dot = warp_sum(dot) / columns;
    for (int c = lane_of_thread(); c < columns; c += WARP) {
        T value = (dout[c] * scale[c] - sum - (x[c] - mean) * rstd * dot) * rstd;
        dx[c] = adds ? value + onto[c] : value;
    }
}

// The parts of dscale = sum(dout norm) and, after them in each row of parts, of dbias = sum(dout).
template <typename T>
__global__ void layer_norm_params(T* parts, const T* dout, const T* x, const T* stats, int64 rows, int columns) {
    __shared__ T scale_lanes[STRIP_WARPS][WARP], bias_lanes[STRIP_WARPS][WARP];
    Strip strip(rows, columns);
    T dscale = 0, dbias = 0;
    if (strip.inside)
        for (int64 row = strip.first; row < strip.last; row += STRIP_WARPS) {
            int64 i = row * columns + strip.column;
            dscale += dout[i] * ((x[i] - stats[2 * row]) * stats[2 * row + 1]);
            dbias += dout[i];
        }
    dscale = strip_sum(dscale, scale_lanes);
    dbias = strip_sum(dbias, bias_lanes);
    if (strip.inside && warp_of_thread() == 0) {
        parts[2 * strip.chunk * columns + strip.column] = dscale;
        parts[(2 * strip.chunk + 1) * columns + strip.column] = dbias;
    }
}
