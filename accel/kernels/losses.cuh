// The margin losses of accel/losses.py, to be inlined: of(margin, y, slope) gives the value and sets the slope.

struct Logistic {
    template <typename T> __device__ static T of(T margin, T y, T& slope) {
        T decay = exp(-fabs(margin)), upset = margin > 0 ? 1 - y : y, excess = upset - decay / (1 + decay);
        slope = margin > 0 ? excess : -excess;
        return upset * fabs(margin) + log1p(decay);
    }
};

struct Squared {
    template <typename T> __device__ static T of(T margin, T y, T& slope) {
        T direction = 2 * y - 1;
        slope = 2 * (margin - direction);
        return margin * margin - 2 * direction * margin + 1;
    }
};

template <typename T> __device__ T positive(T x) { return x < 0 ? T(0) : x; }  // NaN stays NaN

struct Hinge {
    template <typename T> __device__ static T of(T margin, T y, T& slope) {
        slope = (1 - y) * (margin > -1) - y * (margin < 1);
        return y * positive(1 - margin) + (1 - y) * positive(1 + margin);
    }
};

struct Ranking {
    template <typename T> __device__ static T of(T margin, T y, T& slope) {
        slope = (1 - y) * (margin > 0) - y * (margin < 0);
        return y * positive(-margin) + (1 - y) * positive(margin);
    }
};
