// The causal softmax of score matrices [.., length, length] in place, and its gradient: a warp a row; row t has t + 1
// entries, and 0 beyond.
template <typename T> __global__ void causal_softmax(T* scores, int64 rows, int length) {
    int64 row = warp_of_grid();
    if (row >= rows) return;
    int seen = (int)(row % length) + 1;
    scores += row * length;
    T top = Limits<T>::lowest(), sum = 0;
    for (int s = lane_of_thread(); s < seen; s += WARP) top = scores[s] > top ? scores[s] : top;
    top = warp_max(top);
    for (int s = lane_of_thread(); s < seen; s += WARP) sum += exp(scores[s] - top);
    sum = warp_sum(sum);
    for (int s = lane_of_thread(); s < length; s += WARP) scores[s] = s < seen ? exp(scores[s] - top) / sum : T(0);
}

// dscores = weights (dweights - sum(weights dweights)), written over dweights.
template <typename T>
__global__ void causal_softmax_backward(T* dweights, const T* weights, int64 rows, int length) {
    int64 row = warp_of_grid();
    if (row >= rows) return;
    int seen = (int)(row % length) + 1;
    weights += row * length;
    dweights += row * length;
    T dot = 0;
    for (int s = lane_of_thread(); s < seen; s += WARP) dot += weights[s] * dweights[s];
    dot = warp_sum(dot);
    for (int s = lane_of_thread(); s < length; s += WARP)
        dweights[s] = s < seen ? weights[s] * (dweights[s] - dot) : T(0);
}
