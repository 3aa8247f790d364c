// Columns that a thread has under way together.
const int AHEAD = 4;

// The log-probability of one token a row; probabilities are never stored. logits are without bias.
// stats[row]: the largest logit, and the sum of e^(logit - largest).

// out = log softmax(logits + bias)[target]: [rows, columns], [columns], [rows] -> [rows]. A block a row, one pass.
template <typename T>
__global__ void token_log_p_forward(T* out, T* stats, const T* logits, const T* bias, const int64* targets,
                                    int columns) {
    __shared__ T maxima[8], sums[8];
    int64 row = blockIdx.x;
    logits += row * columns;
    T top = Limits<T>::lowest(), sum = 0;  // of this thread's columns, AHEAD at a time
    for (int c = threadIdx.x; c < columns; c += AHEAD * blockDim.x) {
        T values[AHEAD], higher = top;
#pragma unroll
        for (int i = 0; i < AHEAD; ++i) {
            int column = c + i * blockDim.x;
            values[i] = column < columns ? logits[column] + bias[column] : Limits<T>::lowest();
            if (values[i] > higher) higher = values[i];
        }
        sum *= exp(top - higher);
        top = higher;
#pragma unroll
        for (int i = 0; i < AHEAD; ++i)
            if (c + i * blockDim.x < columns) sum += exp(values[i] - top);
    }
    T highest = block_max(top, maxima);
    T total = block_sum(sum * exp(top - highest), sums);
    if (threadIdx.x == 0) {
        int64 target = targets[row];
        out[row] = logits[target] + bias[target] - highest - log(total);
        stats[2 * row] = highest;
        stats[2 * row + 1] = total;
    }
}

// dlogits = dout (onehot(target) - softmax) and the parts of dbias = its column sums.
template <typename T>
__global__ void token_log_p_backward(T* dlogits, T* parts, const T* dout, const T* logits, const T* bias,
                                     const T* stats, const int64* targets, int64 rows, int columns) {
    __shared__ T lanes[AHEAD][STRIP_WARPS][WARP];
    Strip strip(rows, (columns + AHEAD - 1) / AHEAD);  // of AHEAD x 32 columns
    int first = (strip.column - lane_of_thread()) * AHEAD + lane_of_thread();
    T sums[AHEAD] = {}, shifts[AHEAD];
#pragma unroll
    for (int i = 0; i < AHEAD; ++i) shifts[i] = first + i * WARP < columns ? bias[first + i * WARP] : T(0);
    for (int64 row = strip.first; row < strip.last; row += STRIP_WARPS) {
        T highest = stats[2 * row], slope = dout[row], scale = -slope / stats[2 * row + 1];
        int64 target = targets[row];
#pragma unroll
        for (int i = 0; i < AHEAD; ++i) {
            int column = first + i * WARP;
            if (column >= columns) continue;
            T value = exp(logits[row * columns + column] + shifts[i] - highest) * scale;
            if (target == column) value += slope;
            dlogits[row * columns + column] = value;
            sums[i] += value;
        }
    }
#pragma unroll
    for (int i = 0; i < AHEAD; ++i) {
        T sum = strip_sum(sums[i], lanes[i]);
        int column = first + i * WARP;
        if (column < columns && warp_of_thread() == 0) parts[strip.chunk * columns + column] = sum;
    }
}
