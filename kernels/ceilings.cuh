// The arithmetic that a GPU can do where nothing else holds it up.
#pragma once

#include "primitives.cuh"

namespace {

constexpr int THREADS = 256;

/// y[thread] = a sum of all that the thread's warp has summed: `rounds` times a tile of 32 x 32, from numbers that lie in
/// registers. The sums of a tile are independent, eight instructions of the tensor cores.
template <class Element>
__device__ __forceinline__ void multiply_in_registers(float* y, int rounds) {
    // Numbers near 1 of either sign that differ from thread to thread: power, and so speed, depends on the bits that change.
    uint32_t bits = 0x3c003c00u ^ (threadIdx.x * 0x9e3779b9u & 0x83ff83ffu);
    float sums[2][4][4] = {};
    uint32_t a[2][4], b[2][4];
#pragma unroll
    for (int i = 0; i < 2; i++) {
#pragma unroll
        for (int j = 0; j < 4; j++) a[i][j] = b[i][j] = bits;
    }
    for (int round = 0; round < rounds; round++) mma_tile<Element, 32, 32>(sums, a, b);
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < 32; i++) sum += sums[i / 16][i / 4 % 4][i % 4];
    y[blockIdx.x * blockDim.x + threadIdx.x] = sum;
}

}  // namespace
