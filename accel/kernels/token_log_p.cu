// The log-probability of one token a row; probabilities are never stored. logits are without bias.
// stats[row]: the largest logit, and the sum of e^(logit - largest).

// out = log softmax(logits + bias)[target]: [rows, columns], [columns], [rows] -> [rows]. A block a row, one pass.
template <typename T>
__global__ void token_log_p_forward(T* out, T* stats, const T* logits, const T* bias, const int64* targets,
                                    int columns) {
    __shared__ T maxima[8], sums[8];
    int64 row = blockIdx.x;
    logits += row * columns;
    T top = Limits<T>::lowest(), sum = 0;  // of this thread's columns
    for (int c = threadIdx.x; c < columns; c += blockDim.x) {
        T value = logits[c] + bias[c];
        if (value > top) {
            sum = sum * exp(top - value) + 1;
            top = value;
        } else {
            sum += exp(value - top);
        }
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
    __shared__ T lanes[STRIP_WARPS][WARP];
    Strip strip(rows, columns);
    T sum = 0;
    if (strip.inside) {
        T shift = bias[strip.column];
        for (int64 row = strip.first; row < strip.last; row += STRIP_WARPS) {
            int64 i = row * columns + strip.column;
            T value = exp(logits[i] + shift - stats[2 * row]) * (-dout[row] / stats[2 * row + 1]);
            if (targets[row] == strip.column) value += dout[row];
            dlogits[i] = value;
            sum += value;
        }
    }
    sum = strip_sum(sum, lanes);
    if (strip.inside && warp_of_thread() == 0) parts[strip.chunk * columns + strip.column] = sum;
}
