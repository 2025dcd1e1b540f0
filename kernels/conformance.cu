// Kernels that tests/conformance.rs compares between GPU and emulator: one for each primitive of all architectures.

#include "conformance.cuh"

/// y[i] = x[i] for the lanes of `valid`, else 0, by 16 bytes a lane, through shared memory. One warp.
extern "C" __global__ void __launch_bounds__(32) conform_copy(const uint32_t* x, uint32_t* y, unsigned valid) {
    wait_for_launches_before();
    SHARED_ARRAY(float4, tile, 32);
    unsigned lane = threadIdx.x;
    cp_async16(&tile[lane], x + 4 * lane, valid >> lane & 1);
    cp_async_commit();
    cp_async_wait<0>();
    reinterpret_cast<float4*>(y)[lane] = tile[lane];
}

/// y[lane][m] = what `load_matrices`, or the transposed one, gives the lane of matrix m; lane i points at row rows[i] of
/// the 32 rows of x. One warp.
extern "C" __global__ void __launch_bounds__(32)
    conform_load(const uint32_t* x, const uint32_t* rows, uint32_t* y, int transposed) {
    wait_for_launches_before();
    SHARED_ARRAY(float4, tile, 32);
    unsigned lane = threadIdx.x;
    tile[lane] = reinterpret_cast<const float4*>(x)[lane];
    __syncthreads();
    uint32_t registers[4];
    if (transposed) {
        load_matrices_transposed(registers, &tile[rows[lane]]);
    } else {
        load_matrices(registers, &tile[rows[lane]]);
    }
    for (unsigned m = 0; m < 4; m++) y[4 * lane + m] = registers[m];
}

/// As `conform_mma`, of float16.
extern "C" __global__ void __launch_bounds__(32) conform_mma_float16(const uint32_t* a, const uint32_t* b, float* sums) {
    wait_for_launches_before();
    conform_mma<Float16>(a, b, sums);
}

/// y[i] = the bits of x[i] as float16 and, above them, as bfloat16. One block.
extern "C" __global__ void __launch_bounds__(1024) conform_convert(const float* x, uint32_t* y) {
    wait_for_launches_before();
    unsigned i = threadIdx.x;
    y[i] = to_float16(x[i]).bits | static_cast<uint32_t>(to_bfloat16(x[i]).bits) << 16;
}
