// What the kernels of conformance.cu and conformance_sm80.cu share. Each hands what it is given to one primitive and
// writes down what comes back, so that the device's instruction can be compared with the emulator's C++.
#pragma once

#include "primitives.cuh"

/// sums[lane][i][j][4] += a[lane][i][4] b[lane][j][4] over a warp's tile of 32 x 32, as `mma_tile` lays it out. One warp.
template <class Element>
__device__ __forceinline__ void conform_mma(const uint32_t* a, const uint32_t* b, float* sums) {
    uint32_t mine_a[2][4], mine_b[2][4];
    float mine[2][4][4];
    unsigned lane = threadIdx.x;
    for (unsigned i = 0; i < 8; i++) {
        mine_a[i / 4][i % 4] = a[8 * lane + i];
        mine_b[i / 4][i % 4] = b[8 * lane + i];
    }
    for (unsigned i = 0; i < 32; i++) mine[i / 16][i / 4 % 4][i % 4] = sums[32 * lane + i];
    mma_tile<Element, 32, 32>(mine, mine_a, mine_b);
    for (unsigned i = 0; i < 32; i++) sums[32 * lane + i] = mine[i / 16][i / 4 % 4][i % 4];
}
