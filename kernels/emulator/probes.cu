// Kernels for the emulator's own tests: some are right, the rest wrong on purpose, each in one way.

#include "primitives.cuh"

/// Sums 64 numbers a block over two warps, through shared memory: y[block] = sum of x[64 block + i].
extern "C" __global__ void probe_block_sum(const float* x, float* y) {
    wait_for_launches_before();
    SHARED_ARRAY(float, sums, 2);
    float sum = warp_sum(x[64 * blockIdx.x + threadIdx.x]);
    if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = sum;
    __syncthreads();
    if (threadIdx.x == 0) y[blockIdx.x] = sums[0] + sums[1];
}

/// As `probe_block_sum`, but the reader does not wait for the other warp.
extern "C" __global__ void probe_missing_barrier(const float* x, float* y) {
    wait_for_launches_before();
    SHARED_ARRAY(float, sums, 2);
    float sum = warp_sum(x[64 * blockIdx.x + threadIdx.x]);
    if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = sum;
    if (threadIdx.x == 0) y[blockIdx.x] = sums[0] + sums[1];
}

/// y[i] = x[i], counted, once `fetched` bytes of x are asked for. Right only where `early` is 0: at 1 the kernel reads, at 2 it
/// copies, at 3 it counts before it waits for the launches before it, and at 4 its first thread never waits; at 5 all threads
/// fetch the first line.
extern "C" __global__ void probe_turn(const float* x, float* y, unsigned* counter, int fetched, int early) {
    SHARED_MEMORY(float4, tile);
    fetch_ahead(x, fetched);
    float number = early == 1 ? x[threadIdx.x] : 0.0f;
    if (early == 2) {
        cp_async16(&tile[threadIdx.x], x, true);
        cp_async_wait<0>();
    }
    if (early == 3) atomicAdd(counter, 1);
    if (early == 4 && threadIdx.x == 0) return;
    if (early == 5) fetch_line(reinterpret_cast<const unsigned char*>(x));
    wait_for_launches_before();
    if (early == 0) {
        number = x[threadIdx.x];
        atomicAdd(counter, 1);
    }
    y[threadIdx.x] = number;
}

/// Counts threads: y[thread] = 1 where another one has come between its look at the number and its addition.
extern "C" __global__ void probe_outdated_look(unsigned* number, float* y) {
    wait_for_launches_before();
    unsigned look = counter_now(number);
    y[threadIdx.x] = atomicAdd(number, 1) == look ? 0.0f : 1.0f;
}

/// y = the least of `numbers`.
extern "C" __global__ void probe_least(const unsigned* numbers, unsigned* y) {
    wait_for_launches_before();
    atomicMin(y, numbers[threadIdx.x]);
}

/// Copies four numbers a thread through shared memory into the neighbour's place; `valid` of them, then zeros.
extern "C" __global__ void probe_copy(const float* x, float* y, int valid) {
    wait_for_launches_before();
    SHARED_MEMORY(float4, tile);
    int i = static_cast<int>(threadIdx.x);
    cp_async16(&tile[i], x + 4 * i, i < valid);
    cp_async_commit();
    cp_async_wait<0>();
    __syncthreads();
    int neighbour = i ^ 1;
    reinterpret_cast<float4*>(y)[i] = tile[neighbour];
}

/// Reads what was copied before the wait.
extern "C" __global__ void probe_early_read(const float* x, float* y) {
    wait_for_launches_before();
    SHARED_MEMORY(float4, tile);
    int i = static_cast<int>(threadIdx.x);
    cp_async16(&tile[i], x + 4 * i, true);
    cp_async_commit();
    reinterpret_cast<float4*>(y)[i] = tile[i];
    cp_async_wait<0>();
}

/// y = sum of what all blocks have written to `parts`, one number a thread, by the last block. It is right only with both
/// fences and the barrier before the count, which `order` stands for: 1, 2 and 4.
extern "C" __global__ void probe_last_block(float* parts, unsigned* counter, float* y, int order) {
    wait_for_launches_before();
    parts[blockIdx.x * blockDim.x + threadIdx.x] = 1.0f;
    if (order & 4) __syncthreads();
    bool is_last = false;
    if (threadIdx.x == 0) {
        if (order & 1) __threadfence();
        is_last = atomicInc(counter, gridDim.x - 1) == gridDim.x - 1;
        if (order & 2) __threadfence();
    }
    if (!__syncthreads_or(is_last) || threadIdx.x != 1) return;
    float sum = 0.0f;
    for (unsigned i = 0; i < gridDim.x * blockDim.x; i++) sum += parts[i];
    *y = sum;
}

/// Each thread writes a number; y[block] = the sum of what all blocks have written.
extern "C" __global__ void probe_all_blocks(float* parts, unsigned* counters, float* y) {
    wait_for_launches_before();
    parts[blockIdx.x * blockDim.x + threadIdx.x] = 1.0f;
    wait_for_all_blocks(counters);
    if (threadIdx.x != 1) return;
    float sum = 0.0f;
    for (unsigned i = 0; i < gridDim.x * blockDim.x; i++) sum += parts[i];
    y[blockIdx.x] = sum;
}

/// As `probe_all_blocks`, right only with all of what `order` stands for: a barrier before and after, 1 and 2; a fence before
/// the count, 4, after it in the block that counts last, 8, and after the wait, 16.
extern "C" __global__ void probe_some_order(float* parts, unsigned* counters, float* y, int order) {
    wait_for_launches_before();
    parts[blockIdx.x * blockDim.x + threadIdx.x] = 1.0f;
    if (order & 1) __syncthreads();
    if (threadIdx.x == 0) {
        unsigned last = gridDim.x - 1, before = counter_now(counters + 1);
        if (order & 4) __threadfence();
        if (atomicInc(counters, last) == last) {
            if (order & 8) __threadfence();
            atomicInc(counters + 1, ~0u);
        } else {
            wait_for_change(counters + 1, before);
        }
        if (order & 16) __threadfence();
    }
    if (order & 2) __syncthreads();
    if (threadIdx.x != 1) return;
    float sum = 0.0f;
    for (unsigned i = 0; i < gridDim.x * blockDim.x; i++) sum += parts[i];
    y[blockIdx.x] = sum;
}

/// The first thread of each block waits for what no block does.
extern "C" __global__ void probe_endless_wait(unsigned* counter) {
    wait_for_launches_before();
    if (threadIdx.x == 0) wait_for_change(counter, 0);
    __syncthreads();
}

/// Never waits.
extern "C" __global__ void probe_forgotten_wait(const float* x) {
    wait_for_launches_before();
    SHARED_MEMORY(float4, tile);
    cp_async16(&tile[threadIdx.x], x + 4 * threadIdx.x, true);
}

/// Reads shared memory that nobody has written.
extern "C" __global__ void probe_unwritten(float* y) {
    wait_for_launches_before();
    SHARED_MEMORY(float, tile);
    y[threadIdx.x] = tile[threadIdx.x];
}

/// Writes `past` numbers behind its dynamic shared memory of one number a thread.
extern "C" __global__ void probe_overrun(int past) {
    wait_for_launches_before();
    SHARED_MEMORY(float, tile);
    tile[threadIdx.x + past] = 1.0f;
}

/// Half of the threads end before the barrier.
extern "C" __global__ void __launch_bounds__(64) probe_early_end() {
    wait_for_launches_before();
    if (threadIdx.x < blockDim.x / 2) return;
    __syncthreads();
}

/// The two halves of a warp wait in different places.
extern "C" __global__ void probe_divergence(float* y) {
    wait_for_launches_before();
    float sum = threadIdx.x < 16 ? warp_sum(1.0f) : __shfl_sync(WHOLE_WARP, 1.0f, 0);
    y[threadIdx.x] = sum;
}

/// Declares more shared memory than a block may have.
extern "C" __global__ void probe_large_array(float* y) {
    wait_for_launches_before();
    SHARED_ARRAY(float, tile, 16 * 1024);
    tile[threadIdx.x] = 1.0f;
    y[threadIdx.x] = tile[threadIdx.x];
}

/// Turns a warp's numbers round through shared memory, ordered by `__syncwarp` alone.
extern "C" __global__ void probe_warp_order(float* y) {
    wait_for_launches_before();
    SHARED_ARRAY(float, numbers, 32);
    numbers[threadIdx.x] = y[threadIdx.x];
    __syncwarp();
    y[threadIdx.x] = numbers[31 - threadIdx.x];
}

/// As `probe_warp_order` without the order.
extern "C" __global__ void probe_warp_race(float* y) {
    wait_for_launches_before();
    SHARED_ARRAY(float, numbers, 32);
    numbers[threadIdx.x] = y[threadIdx.x];
    y[threadIdx.x] = numbers[threadIdx.x ^ 1];
}

/// Every block writes the same number to the same place: right on every run, and still a race.
extern "C" __global__ void probe_block_race(float* y) {
    wait_for_launches_before();
    *y = 1.0f;
}

/// Two turns through one buffer; the refill does not wait for the other threads' reads.
extern "C" __global__ void probe_early_refill(const float* x, float* y) {
    wait_for_launches_before();
    SHARED_MEMORY(float4, tile);
    int i = static_cast<int>(threadIdx.x);
    float sum = 0.0f;
    for (int turn = 0; turn < 2; turn++) {
        cp_async16(&tile[i], x + 4 * i, true);
        cp_async_commit();
        cp_async_wait<0>();
        __syncthreads();
        sum += tile[i ^ 1].x;
    }
    y[i] = sum;
}

/// Writes four numbers at once from number `offset` on.
extern "C" __global__ void probe_misaligned(float* y, int offset) {
    wait_for_launches_before();
    *reinterpret_cast<float4*>(y + offset) = make_float4(1.0f, 1.0f, 1.0f, 1.0f);
}

/// Squares an integer.
extern "C" __global__ void probe_overflow(float* y, int x) {
    wait_for_launches_before();
    *y = static_cast<float>(x * x);
}

/// Reads number `threadIdx.x * stride` of shared memory, once it is written.
extern "C" __global__ void probe_banks(float* y, int stride) {
    wait_for_launches_before();
    SHARED_MEMORY(float, tile);
    int i = static_cast<int>(threadIdx.x);
    for (int k = i; k < 1024; k += 32) tile[k] = 1.0f;
    __syncthreads();
    y[i] = tile[i * stride];
}

/// Reads four numbers at once from number `threadIdx.x * stride` of shared memory, once they are written.
extern "C" __global__ void probe_wide_banks(float* y, int stride) {
    wait_for_launches_before();
    SHARED_MEMORY(float, tile);
    int i = static_cast<int>(threadIdx.x);
    for (int k = i; k < 1024; k += 32) tile[k] = 1.0f;
    __syncthreads();
    reinterpret_cast<float4*>(y)[i] = *reinterpret_cast<float4*>(tile + i * stride);
}

/// y[i] = x[stride i]
extern "C" __global__ void probe_stride(const float* x, float* y, int stride) {
    wait_for_launches_before();
    y[threadIdx.x] = x[static_cast<int>(threadIdx.x) * stride];
}

/// Lane i adds up the first i + 1 numbers: the loop's turns have ever fewer lanes.
extern "C" __global__ void probe_ragged(const float* x, float* y) {
    wait_for_launches_before();
    float sum = 0.0f;
    for (unsigned k = 0; k <= threadIdx.x; k++) sum += x[k];
    y[threadIdx.x] = sum;
}

struct Triple {
    float numbers[3];
};

/// Two threads copy each other's struct.
extern "C" __global__ void probe_struct_race(Triple* y) {
    wait_for_launches_before();
    y[threadIdx.x ^ 1] = y[threadIdx.x];
}

/// y[i] = x[i], three numbers each.
extern "C" __global__ void probe_struct_copy(const Triple* x, Triple* y) {
    wait_for_launches_before();
    y[threadIdx.x] = x[threadIdx.x];
}

/// What `probe_stages` leaves out, or does wrong.
enum Fault : int {
    NO_FENCE_FOR_TENSOR_CORES = 1,
    NO_WARPGROUP_FENCE = 2,
    EARLY_ARRIVAL = 4,
    WRONG_PARITY = 8,
    NO_WARP_BARRIER = 16,
    NO_WAIT_FOR_STAGE = 32,
    NO_BLOCK_BARRIER = 64,
    NO_WAIT_FOR_PRODUCTS = 128,
    NO_WAIT_FOR_COPIES = 256,
    NO_WAIT_FOR_READERS = 512,
    OVERWRITTEN_BARRIER = 1024,
    ANOTHER_PRODUCT = 2048,
    MISALIGNED = 4096,
    OUTSIDE = 8192,
    TOUCHED_SUMS = 16384,
};

/// y[thread][16] += a b of four warps, for which a fifth copies in `steps` steps of 16 numbers of the sum through two stages.
/// a: [step][2][64 rows][8], b: [step][4][16][8 columns], both as they lie in a stage. Right unless there are `faults`.
extern "C" __global__ void __launch_bounds__(160)
    probe_stages(const float4* a, const float4* b, float* y, int steps, int faults) {
    wait_for_launches_before();
    constexpr int A_CHUNKS = 128, CHUNKS = A_CHUNKS + 64;
    SHARED_MEMORY(float4, stages);
    SHARED_ARRAY(uint64_t, filled, 2);
    SHARED_ARRAY(uint64_t, read, 2);
    int thread = static_cast<int>(threadIdx.x), lane = thread % 32;
    if (thread == 0) {
        for (int stage = 0; stage < 2; stage++) {
            barrier_init(filled + stage, 1);
            barrier_init(read + stage, 4);
        }
    }
    if (!(faults & NO_BLOCK_BARRIER)) __syncthreads();
    if (thread >= 128) {
        for (int step = 0; step < steps; step++) {
            int stage = step % 2;
            if (!(faults & NO_WAIT_FOR_READERS)) barrier_wait(read + stage, step / 2 % 2 ^ 1);
            for (int i = lane; i < CHUNKS; i += 32) {
                const float4* from = i < A_CHUNKS ? a + step * A_CHUNKS + i : b + step * 64 + i - A_CHUNKS;
                cp_async16(stages + stage * CHUNKS + i, from, true);
            }
            cp_async_commit();
            if (!(faults & NO_WAIT_FOR_COPIES)) cp_async_wait<0>();
            if (!(faults & NO_FENCE_FOR_TENSOR_CORES)) fence_for_tensor_cores();
            if (!(faults & NO_WARP_BARRIER)) __syncwarp();
            if (faults & OVERWRITTEN_BARRIER) read[0] = 0;
            if (lane == 0) barrier_arrive(filled + stage);
        }
        cp_async_wait<0>();
        return;
    }
    float sums[4][4];
    for (int i = 0; i < 16; i++) sums[i / 4][i % 4] = y[thread * 16 + i];
    for (int step = 0; step < steps; step++) {
        int stage = step % 2;
        if (!(faults & NO_WAIT_FOR_STAGE)) barrier_wait(filled + stage, step / 2 % 2 ^ (faults & WRONG_PARITY ? 1 : 0));
        if (!(faults & NO_WARPGROUP_FENCE)) warpgroup_fence();
        float4* start = stages + stage * CHUNKS;
        if (faults & MISALIGNED) start = reinterpret_cast<float4*>(reinterpret_cast<float*>(start) + 1);
        if (faults & OUTSIDE) start += 2 * CHUNKS;
        uint64_t matrix = shared_matrix(start, 1024, 128);
        if (faults & ANOTHER_PRODUCT && thread == 64) matrix = moved(matrix, 16);
        warpgroup_mma<Float16, 32>(sums, matrix, shared_matrix(stages + stage * CHUNKS + A_CHUNKS, 128, 256));
        warpgroup_commit();
        if (faults & EARLY_ARRIVAL && lane == 0) barrier_arrive(read + stage);
        if (faults & TOUCHED_SUMS) sums[0][0] = 0.0f;
        if (!(faults & NO_WAIT_FOR_PRODUCTS)) warpgroup_wait_for(sums);
        if (!(faults & EARLY_ARRIVAL) && lane == 0) barrier_arrive(read + stage);
    }
    for (int i = 0; i < 16; i++) y[thread * 16 + i] = sums[i / 4][i % 4];
}
