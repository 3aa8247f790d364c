// Drawing a token from logits: the first at which the cumulated softmax passes a number in [0, 1). No probability is
// stored.

const int DRAWING = 256;  // threads of a block, each with neighbouring columns

// logits [columns] without bias -> give(token, log softmax(logits + bias)[token]), called by one thread of the block. The
// threads' sums are added in their order, so that they tile [0, total]: one thread has the number.
template <typename T, typename Give>
__device__ void draw(const T* logits, const T* bias, double uniform, int columns, Give give) {
    __shared__ T maxima[DRAWING / WARP];
    __shared__ double sums[DRAWING];
    int thread = threadIdx.x;
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
#pragma unroll 16
    for (int other = 0; other < DRAWING; ++other) {
        if (other == thread) before = total;
        total += sums[other];
    }
    double target = uniform * total;
    // the total itself is the last thread's; what is no number is the first one's, and token 0
    if (!(thread == 0 || before <= target) || (before + sum <= target && thread < DRAWING - 1)) return;
    int chosen = first;
    while (chosen < end - 1 && (before += weight(chosen)) <= target) ++chosen;
    chosen = chosen < columns ? chosen : columns - 1;
    give(chosen, (double)(logits[chosen] + bias[chosen] - highest) - log(total));
}
