// Rows [R, heads, channels] of packed sequences; sequence i has rows starts[i].. of them. A block has one head in one
// sequence of at most SPAN tokens, with at most SPAN channels. Queries, keys and values are one array
// [R, 3, heads, channels], and so are their gradients.

const int SPAN = 64;

// Where a block's head begins in [R, parts, heads, channels], in its first part; how far it is to the next row and part,
// and how long the sequence is.
struct Head {
    int64 begin;
    int length, stride, part;

    __device__ Head(const int64* starts, int parts, int heads, int channels)
        : stride(parts * heads * channels), part(heads * channels) {
        int64 sequence = blockIdx.x / heads;
        length = (int)(starts[sequence + 1] - starts[sequence]);
        begin = starts[sequence] * stride + (int64)(blockIdx.x % heads) * channels;
    }
};
