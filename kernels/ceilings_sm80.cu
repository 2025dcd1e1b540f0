// As ceilings.cu, of what sm_80 brought.
//
// needs sm_80

#include "ceilings.cuh"

/// As `multiply_in_registers`, of bfloat16.
extern "C" __global__ void __launch_bounds__(THREADS) ceiling_bfloat16(float* y, int rounds) {
    wait_for_launches_before();
    multiply_in_registers<BFloat16>(y, rounds);
}

/// As `multiply_in_registers`, of tf32.
extern "C" __global__ void __launch_bounds__(THREADS) ceiling_tf32(float* y, int rounds) {
    wait_for_launches_before();
    multiply_in_registers<Tf32>(y, rounds);
}
