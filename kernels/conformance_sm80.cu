// Kernels that tests/conformance.rs compares between GPU and emulator: the primitives that sm_80 brought.
//
// needs sm_80

#include "conformance.cuh"

/// As `conform_mma`, of bfloat16.
extern "C" __global__ void __launch_bounds__(32) conform_mma_bfloat16(const uint32_t* a, const uint32_t* b, float* sums) {
    wait_for_launches_before();
    conform_mma<BFloat16>(a, b, sums);
}

/// As `conform_mma`, of tf32.
extern "C" __global__ void __launch_bounds__(32) conform_mma_tf32(const uint32_t* a, const uint32_t* b, float* sums) {
    wait_for_launches_before();
    conform_mma<Tf32>(a, b, sums);
}

/// y[i] = x[i] rounded to tf32. One block.
extern "C" __global__ void __launch_bounds__(1024) conform_round_tf32(const uint32_t* x, uint32_t* y) {
    wait_for_launches_before();
    y[threadIdx.x] = rounded_to_tf32(x[threadIdx.x]);
}
