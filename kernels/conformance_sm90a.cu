// Kernels that tests/conformance.rs compares between GPU and emulator: the primitives that sm_90a brought.
//
// needs sm_90a

#include "primitives.cuh"

/// sums += a b, a: [row][k], 64 x 16, b: [k][column], 16 x N, sums: [thread][N / 8][4] as `warpgroup_mma` has them. Both lie in
/// shared memory as convolutions have them: a's blocks start at no multiple of their size. Four warps.
template <class Element, int N>
__device__ __forceinline__ void conform_warpgroup(const float4* a, const float4* b, float* sums) {
    // In chunks of 16 bytes: where a starts, from one of its blocks to the next along the sum and across it; the same of b.
    constexpr int START = 3, LEADING = 83, STRIDE = 10, B_START = 171, B_LEADING = 9, B_STRIDE = 19;
    SHARED_MEMORY(float4, chunks);
    int thread = static_cast<int>(threadIdx.x);
    chunks[START + thread % 2 * LEADING + thread / 16 * STRIDE + thread / 2 % 8] = a[thread];
    for (int i = thread; i < 2 * N; i += 128) {
        int k = i / (N / 8), column = i % (N / 8);
        chunks[B_START + k / 8 * B_LEADING + column * B_STRIDE + k % 8] = b[i];
    }
    float mine[N / 8][4];
    for (int i = 0; i < N / 2; i++) mine[i / 4][i % 4] = sums[thread * (N / 2) + i];
    fence_for_tensor_cores();
    __syncthreads();
    warpgroup_fence();
    warpgroup_mma<Element, N>(mine, moved(shared_matrix(chunks, 16 * LEADING, 16 * STRIDE), 16 * START),
                              moved(shared_matrix(chunks, 16 * B_LEADING, 16 * B_STRIDE), 16 * B_START));
    warpgroup_commit();
    warpgroup_wait_for(mine);
    for (int i = 0; i < N / 2; i++) sums[thread * (N / 2) + i] = mine[i / 4][i % 4];
}

extern "C" __global__ void __launch_bounds__(128)
    conform_warpgroup_float16_32(const float4* a, const float4* b, float* sums) {
    wait_for_launches_before();
    conform_warpgroup<Float16, 32>(a, b, sums);
}

extern "C" __global__ void __launch_bounds__(128)
    conform_warpgroup_float16_64(const float4* a, const float4* b, float* sums) {
    wait_for_launches_before();
    conform_warpgroup<Float16, 64>(a, b, sums);
}

/// y[i] = x[i] of 512 numbers, through two stages of 32 in shared memory: the second warp fills them, the first reads them, and
/// each waits for the other by two barriers a stage.
extern "C" __global__ void __launch_bounds__(64) conform_barriers(const uint32_t* x, uint32_t* y) {
    wait_for_launches_before();
    SHARED_ARRAY(uint32_t, stages, 64);
    SHARED_ARRAY(uint64_t, filled, 2);
    SHARED_ARRAY(uint64_t, read, 2);
    int lane = static_cast<int>(threadIdx.x) % 32;
    if (threadIdx.x == 0) {
        for (int stage = 0; stage < 2; stage++) {
            barrier_init(filled + stage, 32);
            barrier_init(read + stage, 1);
        }
    }
    __syncthreads();
    for (int step = 0; step < 16; step++) {
        int stage = step % 2;
        unsigned parity = static_cast<unsigned>(step / 2 % 2);
        if (threadIdx.x < 32) {
            barrier_wait(filled + stage, parity);
            y[32 * step + lane] = stages[32 * stage + (lane ^ 1)];
            __syncwarp();
            if (lane == 0) barrier_arrive(read + stage);
        } else {
            barrier_wait(read + stage, parity ^ 1);
            stages[32 * stage + (lane ^ 1)] = x[32 * step + lane];
            barrier_arrive(filled + stage);
        }
    }
}
