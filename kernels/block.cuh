// Shared memory, and sums over warps and blocks: what every kernel may use beyond plain CUDA C++, the same on every
// architecture.
#pragma once

#include <cstdint>

#ifdef __CUDACC__

// `name` is the block's dynamic shared memory, aligned to 1024 bytes.
#define SHARED_MEMORY(type, name)                                         \
    extern __shared__ __align__(1024) unsigned char coronet_shared[];     \
    type* name = reinterpret_cast<type*>(coronet_shared)
// `name` is an array of `count` in shared memory, which 16 bytes may be copied to at once.
#define SHARED_ARRAY(type, name, count) __shared__ __align__(16) type name[count]

/// First in a kernel, for every thread of it: a launch may begin before those before it are done, and until they are, no thread
/// touches device memory. From here on it may, and the next launch may begin, to wait here in its turn.
__device__ __forceinline__ void wait_for_launches_before() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

/// Has the device's cache fetch 128 bytes, which the launches before may still write: nobody looks at them yet.
__device__ __forceinline__ void fetch_line(const unsigned char* line) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("prefetch.global.L2 [%0];" ::"l"(line));
#endif
}

/// The threads of the launch fetch the lines of `bytes` bytes, each line once; the emulator looks whether they do.
__device__ __forceinline__ void expect_fetched(const void*, int) {}

/// Orders what the thread has done in device memory before what it does there later, for all of the device.
__device__ __forceinline__ void fence() { asm volatile("fence.acq_rel.gpu;" ::: "memory"); }

/// What a number that blocks count by is now.
__device__ __forceinline__ unsigned counter_now(const unsigned* address) {
    return *static_cast<const volatile unsigned*>(address);
}

/// Waits until another block has changed such a number from what it was. All blocks of the launch must be there at once.
__device__ __forceinline__ void wait_for_change(const unsigned* address, unsigned from) {
    while (counter_now(address) == from) __nanosleep(20);
}

#else

#include "emulator/cuda.h"

__forceinline__ void wait_for_launches_before() { emulator::Multiprocessor::current().wait_for_launches_before(); }

__forceinline__ void fetch_line(const unsigned char* line) { emulator::Multiprocessor::current().fetch_line(line); }

__forceinline__ void expect_fetched(const void* start, int bytes) {
    emulator::Multiprocessor::current().expect_fetched(start, bytes);
}

__forceinline__ void fence() { __threadfence(); }

#define SHARED_MEMORY(type, name) \
    type* name = static_cast<type*>(emulator::Multiprocessor::current().dynamic_shared())
#define SHARED_ARRAY(type, name, count) \
    static const char name##_site = 0; \
    type* name = static_cast<type*>(   \
        emulator::Multiprocessor::current().static_shared(&name##_site, sizeof(type) * (count)))

#endif

constexpr unsigned WHOLE_WARP = 0xffffffffu;

/// Has the device's cache fetch `bytes` bytes while the launches before may still be at work: each thread of the launch, whose
/// blocks are threads in x, sees to a share. For what no launch shortly before has written.
__device__ __forceinline__ void fetch_ahead(const void* start, int bytes) {
    constexpr int LINE = 128;
    expect_fetched(start, bytes);
    int block = static_cast<int>((blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x);
    int blocks = static_cast<int>(gridDim.x * gridDim.y * gridDim.z), threads = static_cast<int>(blockDim.x);
    for (int line = block * threads + static_cast<int>(threadIdx.x); line < (bytes + LINE - 1) / LINE; line += blocks * threads) {
        fetch_line(static_cast<const unsigned char*>(start) + line * LINE);
    }
}

/// Four neighbouring numbers, the first at a multiple of 16 bytes.
__device__ __forceinline__ float4 four(const float* from) { return *reinterpret_cast<const float4*>(from); }

/// Writes four neighbouring numbers, the first to a multiple of 16 bytes.
__device__ __forceinline__ void put(float* to, float4 numbers) { *reinterpret_cast<float4*>(to) = numbers; }

/// Whether the block is the last of `count` to come to `counter`, and so may read what all of them have written.
/// Every thread must call it.
__device__ __forceinline__ bool comes_last(unsigned* counter, int count) {
    __syncthreads();  // the block has written all that others may read
    bool is_last = false;
    if (threadIdx.x == 0) {
        unsigned last = static_cast<unsigned>(count - 1);
        fence();
        is_last = atomicInc(counter, last) == last;
        fence();
    }
    return __syncthreads_or(is_last);
}

/// Waits until all blocks of the launch, which must be there at once, have come here; each may then read what the others
/// have written. `counters`: how many have come, 0 before and after, and how often all have. The grid is blocks in x. Every
/// thread must call it.
__device__ __forceinline__ void wait_for_all_blocks(unsigned* counters) {
    __syncthreads();  // the block has written all that others may read
    if (threadIdx.x == 0) {
        unsigned last = gridDim.x - 1, before = counter_now(counters + 1);
        fence();
        if (atomicInc(counters, last) == last) {
            fence();
            atomicInc(counters + 1, ~0u);
        } else {
            wait_for_change(counters + 1, before);
        }
        fence();
    }
    __syncthreads();
}

/// The sum over a warp, for every lane, always added in the same order.
template <class Number>
__device__ __forceinline__ Number warp_sum(Number value) {
    for (int distance = 16; distance > 0; distance /= 2) value += __shfl_xor_sync(WHOLE_WARP, value, distance);
    return value;
}

/// The sum over a block of whole warps, for thread 0, always added in the same order. Every thread must call it.
template <class Number>
__device__ __forceinline__ Number block_sum(Number value) {
    SHARED_ARRAY(Number, sums, 32);
    Number sum = warp_sum(value);
    __syncthreads();  // an earlier sum may still be read
    if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = sum;
    __syncthreads();
    sum = 0;
    if (threadIdx.x == 0) {
        for (unsigned warp = 0; warp < blockDim.x / 32; warp++) sum += sums[warp];
    }
    return sum;
}

/// The sum of `count` numbers in double precision, for thread 0, always added in the same order. Every thread of the block
/// must call it.
__device__ __forceinline__ double block_sum_of(const float* numbers, int count) {
    double sum = 0.0;
    for (int i = static_cast<int>(threadIdx.x); i < count; i += static_cast<int>(blockDim.x)) {
        sum += static_cast<double>(numbers[i]);
    }
    return block_sum(sum);
}
