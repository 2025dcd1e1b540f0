// What the steps of a network are measured by: the fastest copy, and the fastest arithmetic.

#include "ceilings.cuh"

/// y = x, of `quads` times four numbers. A thread owns four neighbours.
extern "C" __global__ void __launch_bounds__(THREADS) ceiling_copy(const float* x, float* y, int quads) {
    wait_for_launches_before();
    unsigned index = blockIdx.x * blockDim.x + threadIdx.x;
    if (index < static_cast<unsigned>(quads)) put(y + 4 * index, four(x + 4 * index));
}

/// y[thread] = the total of 16 sums, each `rounds` times s = s / 2 + 1 / 2, from the thread's number and its own on. They are
/// independent, so that no multiply-add waits for the one before it; and what threads had in common would be done once for all
/// of a warp.
extern "C" __global__ void __launch_bounds__(THREADS) ceiling_float32(float* y, int rounds) {
    wait_for_launches_before();
    float sums[16];
#pragma unroll
    for (int i = 0; i < 16; i++) sums[i] = static_cast<float>(threadIdx.x + i);
    for (int round = 0; round < rounds; round++) {
#pragma unroll
        for (float& sum : sums) sum = sum * 0.5f + 0.5f;
    }
    float total = 0.0f;
#pragma unroll
    for (float sum : sums) total += sum;
    y[blockIdx.x * blockDim.x + threadIdx.x] = total;
}

/// As `multiply_in_registers`, of float16.
extern "C" __global__ void __launch_bounds__(THREADS) ceiling_float16(float* y, int rounds) {
    wait_for_launches_before();
    multiply_in_registers<Float16>(y, rounds);
}
