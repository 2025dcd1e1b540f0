// The part of CUDA C++ that the kernels use, for the host compiler: qualifiers, vector types, built-in variables,
// barriers and warp intrinsics. What a thread asks of its block goes to the `Multiprocessor` that runs it.
#pragma once

#include "multiprocessor.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)

struct alignas(8) float2 {
    float x, y;
};
#ifdef CORONET_CHECKED
// clang's vectors: four numbers are read and written at once, as on a GPU, not one by one or by memcpy.
using float4 = float __attribute__((ext_vector_type(4)));
#else
struct alignas(16) float4 {
    float x, y, z, w;
};
#endif
struct alignas(8) uint2 {
    unsigned x, y;
};
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

#define threadIdx (::emulator::here.thread)
#define blockIdx (::emulator::here.block)
#define blockDim (::emulator::here.block_size)
#define gridDim (::emulator::here.grid_size)

using std::max;
using std::min;
inline uint32_t __float_as_uint(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof x);
    return bits;
}
inline float __uint_as_float(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}
inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
// Compilers may join a product and a sum to one rounding, but not across a volatile.
inline float __fmul_rn(float a, float b) {
    volatile float product = a * b;
    return product;
}
inline double __dmul_rn(double a, double b) {
    volatile double product = a * b;
    return product;
}
inline float __fadd_rn(float a, float b) { return a + b; }
inline double __dadd_rn(double a, double b) { return a + b; }
template <class T>
T __ldg(const T* from) {
    return *from;
}

// What calls the multiprocessor is inlined always, so that the call returns into the kernel: findings name that line.
__forceinline__ void __syncthreads() { emulator::Multiprocessor::current().barrier(); }

/// Whether any thread of the block says yes.
__forceinline__ int __syncthreads_or(int yes) { return emulator::Multiprocessor::current().barrier_or(yes != 0); }

__forceinline__ void __threadfence() { emulator::Multiprocessor::current().fence(); }

/// The number before; it becomes one more, or 0 after `most`.
__forceinline__ unsigned atomicInc(unsigned* address, unsigned most) {
    return emulator::Multiprocessor::current().increment(address, most);
}

/// The number before; it becomes the sum.
__forceinline__ unsigned atomicAdd(unsigned* address, unsigned number) {
    return emulator::Multiprocessor::current().add(address, number);
}

/// The number before; it becomes the lesser of both.
__forceinline__ unsigned atomicMin(unsigned* address, unsigned number) {
    return emulator::Multiprocessor::current().lower(address, number);
}

/// What a number that blocks count by is now.
__forceinline__ unsigned counter_now(const unsigned* address) {
    return emulator::Multiprocessor::current().counter(address);
}

/// Waits until another block has changed such a number from what it was.
__forceinline__ void wait_for_change(const unsigned* address, unsigned from) {
    emulator::Multiprocessor::current().wait_for_change(address, from);
}

__forceinline__ void __syncwarp(unsigned mask = 0xffffffffu) {
    emulator::Multiprocessor::current().collective("__syncwarp", mask, nullptr, nullptr);
}

namespace emulator {

/// What a lane brings to a shuffle, and takes away.
struct Exchange {
    uint64_t value;
    uint64_t result;
    unsigned source;
};

inline void exchange_all(void* const* lanes, unsigned mask) {
    for (unsigned lane = 0; lane < WARP; lane++) {
        if (!(mask >> lane & 1)) continue;
        auto* mine = static_cast<Exchange*>(lanes[lane]);
        if (!(mask >> mine->source & 1)) {
            Multiprocessor::current().fail("a shuffle reads lane %u, which takes no part", mine->source);
        }
        mine->result = static_cast<Exchange*>(lanes[mine->source])->value;
    }
}

/// The value that lane `source` brings.
template <class T>
__forceinline__ T exchange(const char* name, unsigned mask, T value, unsigned source) {
    static_assert(sizeof(T) <= sizeof(uint64_t), "shuffles move at most 8 bytes");
    Exchange lane{0, 0, source};
    memcpy(&lane.value, &value, sizeof(T));
    Multiprocessor::current().collective(name, mask, &lane, exchange_all);
    memcpy(&value, &lane.result, sizeof(T));
    return value;
}

/// What a lane brings to a vote, and the lanes that voted yes.
struct Vote {
    bool yes;
    unsigned result;
};

inline void vote_all(void* const* lanes, unsigned mask) {
    unsigned yes = 0;
    for (unsigned lane = 0; lane < WARP; lane++) {
        if (mask >> lane & 1 && static_cast<Vote*>(lanes[lane])->yes) yes |= 1u << lane;
    }
    for (unsigned lane = 0; lane < WARP; lane++) {
        if (mask >> lane & 1) static_cast<Vote*>(lanes[lane])->result = yes;
    }
}

}  // namespace emulator

template <class T>
__forceinline__ T __shfl_sync(unsigned mask, T value, unsigned source) {
    return emulator::exchange("__shfl_sync", mask, value, source % emulator::WARP);
}

template <class T>
__forceinline__ T __shfl_xor_sync(unsigned mask, T value, unsigned with) {
    return emulator::exchange("__shfl_xor_sync", mask, value, (emulator::here.lane() ^ with) % emulator::WARP);
}

/// Lanes whose source lies past the end keep their own value.
template <class T>
__forceinline__ T __shfl_down_sync(unsigned mask, T value, unsigned by) {
    unsigned lane = emulator::here.lane(), source = lane + by;
    return emulator::exchange("__shfl_down_sync", mask, value, source < emulator::WARP ? source : lane);
}

/// Lanes whose source lies before the start keep their own value.
template <class T>
__forceinline__ T __shfl_up_sync(unsigned mask, T value, unsigned by) {
    unsigned lane = emulator::here.lane();
    return emulator::exchange("__shfl_up_sync", mask, value, lane >= by ? lane - by : lane);
}

__forceinline__ unsigned __ballot_sync(unsigned mask, int predicate) {
    emulator::Vote vote{predicate != 0, 0};
    emulator::Multiprocessor::current().collective("__ballot_sync", mask, &vote, emulator::vote_all);
    return vote.result;
}

__forceinline__ int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
__forceinline__ int __all_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) == mask; }
