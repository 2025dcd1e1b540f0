// Reductions over pixels, lane by lane: a block owns eight lanes of a band of pixels, with 32 rows of threads, so that
// each pixel is read as one 32-byte sector. Bands are merged by a later kernel; everything in a fixed order.
#pragma once

#include "block.cuh"

constexpr int COLUMN_LANES = 8;
constexpr int COLUMN_ROWS = 32;
constexpr int COLUMN_THREADS = COLUMN_LANES * COLUMN_ROWS;

/// The block's part of the maps, and the thread's place in it. The grid is bands, lanes / 8, samples.
struct Column {
    int lane;
    /// The thread's first pixel within the sample; the next one is `COLUMN_ROWS` further.
    int first;
    /// The end of the band within the sample.
    int end;
};

__device__ __forceinline__ Column my_column(int area, int band_pixels) {
    int band = static_cast<int>(blockIdx.x) * band_pixels;
    return {static_cast<int>(blockIdx.y) * COLUMN_LANES + static_cast<int>(threadIdx.x) % COLUMN_LANES,
            band + static_cast<int>(threadIdx.x) / COLUMN_LANES, min(area, band + band_pixels)};
}

/// Merges what the rows of a block have found, as a tree; row 0 gets the result. Every thread must call it, once.
template <class Part, class Merge>
__device__ __forceinline__ Part merge_rows(Part mine, Merge merge) {
    SHARED_ARRAY(Part, parts, COLUMN_THREADS);
    int thread = static_cast<int>(threadIdx.x);
    parts[thread] = mine;
    for (int distance = COLUMN_ROWS / 2; distance > 0; distance /= 2) {
        __syncthreads();
        int other = thread + distance * COLUMN_LANES;
        if (thread < distance * COLUMN_LANES) parts[thread] = mine = merge(mine, parts[other]);
    }
    return mine;
}
