// A token a row, drawn by its number: the first at which the cumulated softmax passes it. No probability is stored.

const int DRAWING = 256;  // threads of a block, each with neighbouring columns

// logits [rows, columns] without bias, uniform [rows] in [0, 1) -> token and log softmax(logits + bias)[token], [rows].
// A block a row. The threads' sums are added in their order, so that they tile [0, total]: one thread has the number.
template <typename T>
__global__ void next_token(int64* token, double* log_p, const T* logits, const T* bias, const double* uniform,
                           int columns) {
    __shared__ T maxima[DRAWING / WARP];
    __shared__ double sums[DRAWING];
    int64 row = blockIdx.x;
    int thread = threadIdx.x;
    logits += row * columns;
    T top = Limits<T>::lowest();
    for (int c = thread; c < columns; c += DRAWING) top = logits[c] + bias[c] > top ? logits[c] + bias[c] : top;
    T highest = block_max(top, maxima);
    auto weight = [&](int c) -> double { return exp(logits[c] + bias[c] - highest); };

    int span = (columns + DRAWING - 1) / DRAWING;
    int first = thread * span, end = first + span < columns ? first + span : columns;
    double sum = 0;
    for (int c = first; c < end; ++c) sum += weight(c);
    sums[thread] = sum;
    __syncthreads();
    double before = 0, total = 0;
    for (int other = 0; other < DRAWING; ++other) {
        if (other == thread) before = total;
        total += sums[other];
    }
    double target = uniform[row] * total;
    // the total itself is the last thread's; what is no number is the first one's, and token 0
    if (!(thread == 0 || before <= target) || (before + sum <= target && thread < DRAWING - 1)) return;
    int chosen = first;
    while (chosen < end - 1 && (before += weight(chosen)) <= target) ++chosen;
    chosen = chosen < columns ? chosen : columns - 1;
    token[row] = chosen;
    log_p[row] = (double)(logits[chosen] + bias[chosen] - highest) - log(total);
}
