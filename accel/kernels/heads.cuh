// Rows [R, heads, channels] of packed sequences; sequence i has rows starts[i].. of them. A block has one head in one
// sequence of at most SPAN tokens, with at most SPAN channels.

const int SPAN = 64;

// Where a block's head begins in [R, heads, channels], and how long its sequence is.
struct Head {
    int64 begin;
    int length, stride;

    __device__ Head(const int64* starts, int heads, int channels) {
        int64 sequence = blockIdx.x / heads;
        length = (int)(starts[sequence + 1] - starts[sequence]);
        stride = heads * channels;
        begin = starts[sequence] * stride + (int64)(blockIdx.x % heads) * channels;
    }
};
