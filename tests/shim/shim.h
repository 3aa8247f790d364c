// Runs CUDA kernels on the CPU: the threads of a block are fibers of one OS thread, blocks come one after another.
//
// A fiber runs until it waits (__syncthreads, __syncwarp, a shuffle) or ends; `order` decides who goes next:
// 0 thread after thread, 1 the same backwards, 2 the first warp as far as it comes, 3 the last warp. What a missing
// barrier leaves to chance differs between them. Waiting at two different barriers, or at one that another thread
// cannot reach any more, is an error. Shared memory holds NaNs (all bits set) when a block begins.

#pragma once
#include <setjmp.h>
#include <ucontext.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#define __global__
#define __device__
#define __shared__ static
#define __forceinline__ inline

using std::exp;
using std::fabs;
using std::fma;
using std::log;
using std::log1p;
using std::sqrt;
using std::tanh;

namespace shim {

struct Index { unsigned x, y, z; };
enum Wait { NONE, BLOCK, WARP_SYNC, DONE };
const int LANES = 32, LARGEST = 1024;
const size_t STACK = 1 << 17;

struct Fiber {
    ucontext_t context;
    jmp_buf jump;
    bool started;
    Wait wait;
    int line;
    unsigned mask;
    unsigned long long sent, received[LANES];
};

struct State {
    int marked = 1;  // not 0: the state stands in .data, and poison() spares it
    Index thread{}, block{}, threads{}, blocks{};
    int current = 0, count = 0;
    void (*body)(void*) = nullptr;
    void* arguments = nullptr;
    Fiber* fibers = nullptr;
    char* stacks = nullptr;
    ucontext_t scheduler{};
    jmp_buf back{};
    char error[200] = "";
    unsigned char* shared = nullptr;  // of a size that the launch gives, with a guard behind it
    size_t bytes = 0;
};
inline State state;
const size_t GUARD = 4096;

#ifdef __SANITIZE_ADDRESS__
inline void leave() { swapcontext(&state.fibers[state.current].context, &state.scheduler); }
inline void resume(Fiber& fiber) { swapcontext(&state.scheduler, &fiber.context); }
#else  // after its first start a fiber is switched without the system calls of swapcontext
inline void leave() {
    if (!_setjmp(state.fibers[state.current].jump)) _longjmp(state.back, 1);
}
inline void resume(Fiber& fiber) {
    if (_setjmp(state.back)) return;
    if (fiber.started) _longjmp(fiber.jump, 1);
    fiber.started = true;
    setcontext(&fiber.context);
}
#endif

inline void start() {
    for (;;) {  // a fiber serves one block after another
        state.body(state.arguments);
        state.fibers[state.current].wait = DONE;
        leave();
    }
}

inline void fail(const char* what, int line) {
    if (!state.error[0])
        snprintf(state.error, sizeof state.error, "%s, line %d, block %u, thread %d", what, line, state.block.x,
                 state.current);
}

inline void wait_for(Wait wait, int line, unsigned mask) {
    Fiber& fiber = state.fibers[state.current];
    fiber.wait = wait;
    fiber.line = line;
    fiber.mask = mask;
    leave();
}

template <typename T> T exchange(unsigned mask, T value, int lane, int line) {
    Fiber& fiber = state.fibers[state.current];
    static_assert(sizeof value <= sizeof fiber.sent, "a shuffle moves at most 8 bytes");
    memcpy(&fiber.sent, &value, sizeof value);
    wait_for(WARP_SYNC, line, mask);
    if (lane < 0 || lane >= LANES || !(mask >> lane & 1)) return value;
    memcpy(&value, &state.fibers[state.current].received[lane], sizeof value);
    return value;
}

// The fibers first..last-1 that stand in mask, all waiting for the same: then they go on.
inline bool release(Wait wait, int first, int last, unsigned mask) {
    int line = -1;
    for (int i = first; i < last; ++i) {
        Fiber& fiber = state.fibers[i];
        if (wait == WARP_SYNC && !(mask >> (i - first) & 1)) continue;
        if (fiber.wait != wait) return false;
        if (line < 0) line = fiber.line;
        if (fiber.line != line || (wait == WARP_SYNC && fiber.mask != mask)) return false;
    }
    for (int i = first; i < last; ++i) {
        if (wait == WARP_SYNC && !(mask >> (i - first) & 1)) continue;
        if (wait == WARP_SYNC)
            for (int j = first; j < last; ++j) state.fibers[i].received[j - first] = state.fibers[j].sent;
        state.fibers[i].wait = NONE;
    }
    return line >= 0;
}

inline bool release_warp(int warp) {
    int first = warp * LANES, last = first + LANES < state.count ? first + LANES : state.count;
    for (int i = first; i < last; ++i)
        if (state.fibers[i].wait == WARP_SYNC && release(WARP_SYNC, first, last, state.fibers[i].mask)) return true;
    return false;
}

inline void run_fiber(int i) {
    if (state.fibers[i].wait != NONE) return;
    state.current = i;
    state.thread.x = (unsigned)i;
    resume(state.fibers[i]);
}

inline void run_warp(int warp, bool backwards) {
    int first = warp * LANES, last = first + LANES < state.count ? first + LANES : state.count;
    for (int k = first; k < last; ++k) run_fiber(backwards ? first + last - 1 - k : k);
}

inline bool run_block(int order) {
    int warps = (state.count + LANES - 1) / LANES;
    bool backwards = order & 1, greedy = order & 2;
    for (;;) {
        for (int k = 0; k < warps; ++k) {
            int warp = backwards ? warps - 1 - k : k;
            run_warp(warp, backwards);
            while (greedy && release_warp(warp)) run_warp(warp, backwards);
        }
        bool released = false, waiting = false;
        for (int warp = 0; warp < warps; ++warp) released |= release_warp(warp);
        released |= release(BLOCK, 0, state.count, 0);
        for (int i = 0; i < state.count && !released; ++i)
            if (state.fibers[i].wait == BLOCK || state.fibers[i].wait == WARP_SYNC) {
                waiting = true;
                state.current = i;
                fail("divergent barrier", state.fibers[i].line);
            }
        if (!released) return !waiting;
    }
}

extern "C" char __bss_start[] __attribute__((visibility("hidden")));
extern "C" char _end[] __attribute__((visibility("hidden")));

__attribute__((no_sanitize("address"))) inline void poison() {
#ifndef __SANITIZE_ADDRESS__
    for (char* at = __bss_start; at < _end; ++at) *at = (char)0xff;
#endif
}

// Shared memory of the launch's size: NaNs, and a guard that holds 0.
inline void give_shared() {
    memset(state.shared, 0xff, state.bytes);
    memset(state.shared + state.bytes, 0, GUARD);
}

inline void check_guard() {
    for (size_t i = 0; i < GUARD; ++i)
        if (state.shared[state.bytes + i]) return fail("wrote behind shared memory", 0);
}

// 0, or 1 with a line in state.error. bytes: of shared memory, for kernels that ask at the launch.
inline int run(void (*body)(void*), void* arguments, unsigned blocks, int threads, int order, size_t bytes) {
    if (!state.fibers) {
        state.fibers = (Fiber*)calloc(LARGEST, sizeof(Fiber));
        state.stacks = (char*)malloc(STACK * LARGEST);
    }
    state.body = body;
    state.arguments = arguments;
    state.count = threads;
    state.threads = {(unsigned)threads, 1, 1};
    state.blocks = {blocks, 1, 1};
    state.error[0] = 0;
    if (state.bytes != bytes || !state.shared) {
        free(state.shared);
        state.shared = (unsigned char*)aligned_alloc(64, (bytes + GUARD + 63) / 64 * 64);
        state.bytes = bytes;
    }
    for (unsigned k = 0; k < blocks; ++k) {
        state.block = {order & 1 ? blocks - 1 - k : k, 0, 0};
        poison();
        if (bytes) give_shared();
        for (int i = 0; i < threads; ++i) {
            Fiber& fiber = state.fibers[i];
            bool ready = fiber.wait == DONE;
            fiber.wait = NONE;
            if (ready) continue;
            fiber.started = false;
            getcontext(&fiber.context);
            fiber.context.uc_stack.ss_sp = state.stacks + STACK * i;
            fiber.context.uc_stack.ss_size = STACK;
            fiber.context.uc_link = nullptr;
            makecontext(&fiber.context, start, 0);
        }
        if (!run_block(order)) return 1;
        if (bytes) check_guard();
    }
    return state.error[0] != 0;
}

}  // namespace shim

#define threadIdx shim::state.thread
#define blockIdx shim::state.block
#define blockDim shim::state.threads
#define gridDim shim::state.blocks
#define __syncthreads() shim::wait_for(shim::BLOCK, __LINE__, 0)
#define __syncwarp() shim::wait_for(shim::WARP_SYNC, __LINE__, 0xffffffffu)
#define __shfl_sync(mask, value, lane) shim::exchange(mask, value, lane, __LINE__)
#define __shfl_xor_sync(mask, value, bits) \
    shim::exchange(mask, value, (int)(threadIdx.x % shim::LANES) ^ (bits), __LINE__)
#define __shfl_down_sync(mask, value, by) \
    shim::exchange(mask, value, (int)(threadIdx.x % shim::LANES) + (by), __LINE__)

#define SHARED_NUMBERS(name) float* name = (float*)shim::state.shared

inline unsigned __float_as_uint(float x) {
    unsigned bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}
inline float __uint_as_float(unsigned bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}
inline float to_tf32(float x) { return x == x ? __uint_as_float((__float_as_uint(x) + 0x1000u) & 0xffffe000u) : x; }

namespace shim {
inline float of_tensor_core[LARGEST][6];  // a and b of each thread, without the bits that tf32 does not have

// sums += a b, [16, 8] [8, 8], as tensor.cuh lays them out.
inline void product(float (&sums)[4], const float (&a)[4], const float (&b)[2], int line) {
    float* own = of_tensor_core[state.current];
    for (int i = 0; i < 6; ++i) own[i] = __uint_as_float(__float_as_uint(i < 4 ? a[i] : b[i - 4]) & 0xffffe000u);
    wait_for(WARP_SYNC, line, 0xffffffffu);
    int first = state.current / LANES * LANES, g = state.current % LANES / 4, t = state.current % 4;
    for (int q = 0; q < 4; ++q)
        for (int k = 0; k < 8; ++k) {
            const float* left = of_tensor_core[first + 4 * g + k / 2];
            const float* right = of_tensor_core[first + 4 * (2 * t + q % 2) + k / 2];
            sums[q] += left[2 * (q / 2) + k % 2] * right[4 + k % 2];
        }
    wait_for(WARP_SYNC, line, 0xffffffffu);
}
}  // namespace shim
#define add_product(sums, a, b) shim::product(sums, a, b, __LINE__)

// One fiber runs at a time: what a GPU does in one piece is one piece here.
template <typename T> T atomicAdd(T* at, T value) {
    T before = *at;
    *at = before + value;
    return before;
}
template <typename T> T atomicCAS(T* at, T expected, T value) {
    T before = *at;
    if (before == expected) *at = value;
    return before;
}
