// What kernels are written in beyond plain CUDA C++: shared memory, asynchronous copies, sums over warps and blocks.
//
// Every PTX instruction of Coronet stands here, behind a function with two bodies: inline assembly for the device,
// plain C++ for the emulator. `CORONET_ARCH` says which architecture's path is compiled: 75, 80 or 90. The device
// compiler's own macro is asked only here, so that the emulator can compile every path.
#pragma once

#ifdef __CUDACC__

#include <cstdint>

#if !defined(CORONET_ARCH) && defined(__CUDA_ARCH__)
#if __CUDA_ARCH__ >= 800
#define CORONET_ARCH 80
#else
#define CORONET_ARCH 75
#endif
#endif

// `name` is the block's dynamic shared memory, aligned to 1024 bytes.
#define SHARED_MEMORY(type, name)                                         \
    extern __shared__ __align__(1024) unsigned char coronet_shared[];     \
    type* name = reinterpret_cast<type*>(coronet_shared)
// `name` is an array of `count` in shared memory.
#define SHARED_ARRAY(type, name, count) __shared__ type name[count]

/// Copies 16 bytes from global to shared memory, or writes zeros unless `valid`; finished by `cp_async_wait`.
__device__ __forceinline__ void cp_async16(void* shared, const void* global, bool valid) {
#if CORONET_ARCH >= 80
    auto target = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
    int source_bytes = valid ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(target), "l"(global), "r"(source_bytes)
                 : "memory");
#else
    *static_cast<float4*>(shared) = valid ? *static_cast<const float4*>(global) : make_float4(0, 0, 0, 0);
#endif
}

/// Makes a group of the thread's copies so far.
__device__ __forceinline__ void cp_async_commit() {
#if CORONET_ARCH >= 80
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

/// Waits until at most `pending` of the thread's groups are unfinished. Other threads see the copies after a barrier.
template <int pending>
__device__ __forceinline__ void cp_async_wait() {
#if CORONET_ARCH >= 80
    asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
#endif
}

#else

#include "emulator/cuda.h"

#define SHARED_MEMORY(type, name) \
    type* name = static_cast<type*>(emulator::Multiprocessor::current().dynamic_shared())
#define SHARED_ARRAY(type, name, count) \
    static const char name##_site = 0; \
    type* name = static_cast<type*>(   \
        emulator::Multiprocessor::current().static_shared(&name##_site, sizeof(type) * (count)))

__forceinline__ void cp_async16(void* shared, const void* global, bool valid) {
    emulator::Multiprocessor::current().copy_async(shared, global, 16, valid ? 16 : 0);
}
__forceinline__ void cp_async_commit() { emulator::Multiprocessor::current().commit_copies(); }
template <int pending>
__forceinline__ void cp_async_wait() {
    emulator::Multiprocessor::current().wait_copies(pending);
}

#endif

constexpr unsigned WHOLE_WARP = 0xffffffffu;

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
