// Numbers of maps as they lie in memory: float32, or the 16 bits that tensor cores multiply. Kernels compute with float32
// whatever they read and write.
#pragma once

#include "primitives.cuh"

/// Two neighbouring numbers, the first at an even place.
__device__ __forceinline__ float2 two(const float* from) { return *reinterpret_cast<const float2*>(from); }

template <class Half>
__device__ __forceinline__ float2 two(const Half* from) {
    auto bits = *reinterpret_cast<const uint32_t*>(from);
    return make_float2(to_float(Half{static_cast<uint16_t>(bits)}), to_float(Half{static_cast<uint16_t>(bits >> 16)}));
}

__device__ __forceinline__ void put(float* to, float2 numbers) { *reinterpret_cast<float2*>(to) = numbers; }

template <class Half>
__device__ __forceinline__ void put(Half* to, float2 numbers) {
    *reinterpret_cast<uint32_t*>(to) = packed<Half>(numbers.x, numbers.y);
}

/// Four neighbouring numbers, the first at a multiple of four.
template <class Half>
__device__ __forceinline__ float4 four(const Half* from) {
    auto bits = *reinterpret_cast<const uint2*>(from);
    auto number = [](uint32_t half) { return to_float(Half{static_cast<uint16_t>(half)}); };
    return make_float4(number(bits.x), number(bits.x >> 16), number(bits.y), number(bits.y >> 16));
}

template <class Half>
__device__ __forceinline__ void put(Half* to, float4 numbers) {
    *reinterpret_cast<uint2*>(to) =
        make_uint2(packed<Half>(numbers.x, numbers.y), packed<Half>(numbers.z, numbers.w));
}
