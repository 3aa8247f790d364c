// Products of small matrices of float32 by the tensor cores of sm_80 and later, a warp together.
//
// A warp's matrix of 16 rows stands in its lanes: lane 4 g + t holds rows g and g + 8, of each eight columns the
// columns 2 t and 2 t + 1. What a product gives is held as its left factor needs it: no lane asks another.

#ifdef __CUDA_ARCH__
#define SHARED_NUMBERS(name) extern __shared__ float name[]  // of the size that the launch gives

// The nearest number of 10 bits behind the point.
__device__ inline float to_tf32(float x) {
    uint32 bits;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(x));
    return __uint_as_float(bits);
}

// sums += a b: [16, 8] [8, 8]. The cores read columns t and t + 4 where columns 2 t and 2 t + 1 are meant, of both
// factors: the order of the terms. They drop the bits that tf32 does not have.
__device__ inline void add_product(float (&sums)[4], const float (&a)[4], const float (&b)[2]) {
    asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
        : "r"(__float_as_uint(a[0])), "r"(__float_as_uint(a[2])), "r"(__float_as_uint(a[1])),
          "r"(__float_as_uint(a[3])), "r"(__float_as_uint(b[0])), "r"(__float_as_uint(b[1])));
}
#endif  // else: by who compiles for a CPU

// What float32 factors become: PARTS numbers of tf32, the first of them high(x).
struct Tf32 {
    static const int PARTS = 1;
    __device__ static float high(float x) { return to_tf32(x); }
};
// x is high(x) and what is left of it, of which the cores take 11 bits: 2^-21 of a term is lost (Ootomo and Yokota, 2022,
// "Recovering single precision accuracy from Tensor Cores"). What is no number is none in what is left.
struct Split {
    static const int PARTS = 2;
    __device__ static float high(float x) { return __uint_as_float((__float_as_uint(x) + 0x1000u) & 0xffffe000u); }
};

// COUNT factors, part by part.
template <typename Arithmetic, int COUNT> struct Factors {
    float part[Arithmetic::PARTS][COUNT];

    __device__ void set(int i, float x) {
        part[0][i] = Arithmetic::high(x);
        if (Arithmetic::PARTS == 2) part[Arithmetic::PARTS - 1][i] = x - part[0][i];
    }
};

// sums[i] += a b[i] over 8 terms, i < TILES. Products of one i stand apart, so that none waits for another.
template <int TILES>
__device__ void add_products(float (&sums)[TILES][4], const Factors<Tf32, 4>& a, const Factors<Tf32, 2> (&b)[TILES]) {
#pragma unroll
    for (int i = 0; i < TILES; ++i) add_product(sums[i], a.part[0], b[i].part[0]);
}

// The small products first. The cores cut what they add off instead of rounding it: so the 8 terms alone are theirs.
template <int TILES>
__device__ void add_products(float (&sums)[TILES][4], const Factors<Split, 4>& a, const Factors<Split, 2> (&b)[TILES]) {
    float terms[TILES][4] = {};
#pragma unroll
    for (int i = 0; i < TILES; ++i) add_product(terms[i], a.part[1], b[i].part[0]);
#pragma unroll
    for (int i = 0; i < TILES; ++i) add_product(terms[i], a.part[0], b[i].part[1]);
#pragma unroll
    for (int i = 0; i < TILES; ++i) add_product(terms[i], a.part[0], b[i].part[0]);
#pragma unroll
    for (int i = 0; i < TILES; ++i)
#pragma unroll
        for (int q = 0; q < 4; ++q) sums[i][q] += terms[i][q];
}
