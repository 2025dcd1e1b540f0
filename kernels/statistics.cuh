// Mean and variance of many numbers: how parts are merged, and how the blocks of a convolution take the statistics of
// the maps that they make, for the instance norm that follows.
//
// Parts are merged as (count, mean, M2) in a fixed order (Chan, Golub, LeVeque 1983), M2 being the sum of squared
// deviations; where there are many, relative to the first one's mean, so that a mean far from zero costs nothing.
#pragma once

#include "block.cuh"

struct Moments {
    float count, mean, m2;
};

__device__ __forceinline__ Moments merged(Moments a, Moments b) {
    float count = a.count + b.count;
    if (count == 0.0f) return a;
    float delta = b.mean - a.mean, share = b.count / count;
    return {count, a.mean + delta * share, a.m2 + b.m2 + delta * delta * a.count * share};
}

/// 1 / standard deviation, of `count` numbers.
__device__ __forceinline__ float reciprocal_deviation(float m2, int count, float epsilon) {
    return 1.0f / sqrtf(m2 / static_cast<float>(count) + epsilon);
}

/// The moments of the first `count` of some numbers; none if it is 0 or less.
template <int N>
__device__ __forceinline__ Moments moments_of(const float (&numbers)[N], int count) {
    if (count <= 0) return {0.0f, 0.0f, 0.0f};
    float size = static_cast<float>(min(count, N)), excess = 0.0f, m2 = 0.0f;
#pragma unroll
    for (int i = 1; i < N; i++) {
        if (i < count) excess += numbers[i] - numbers[0];
    }
    float mean = numbers[0] + excess / size;
#pragma unroll
    for (int i = 0; i < N; i++) {
        if (i < count) m2 += (numbers[i] - mean) * (numbers[i] - mean);
    }
    return {size, mean, m2};
}

/// Merged with those of lane `lane ^ distance`; the lower of the two lanes has its own first.
__device__ __forceinline__ Moments merged_with_lane(Moments mine, int distance) {
    Moments other{__shfl_xor_sync(WHOLE_WARP, mine.count, distance), __shfl_xor_sync(WHOLE_WARP, mine.mean, distance),
                  __shfl_xor_sync(WHOLE_WARP, mine.m2, distance)};
    return merged(mine, other);
}

/// Where a convolution's statistics go, and the scratch memory for them. Maps are cut into tiles of pixels, each of one
/// sample, and those into groups.
struct StatisticsTo {
    /// [sample][mean, 1 / deviation][lane]; null where nobody asks for them.
    float* statistics;
    /// [sample][tiles, then groups][mean, M2][lane].
    float* parts;
    /// [sample][block of lanes][groups, their sample, launches]: how many tiles of each group are there and how many groups,
    /// 0 before and after a launch, and how often the statistics have been written.
    unsigned* counters;
    int channels;
    float epsilon;
};

/// Tiles of a group.
constexpr int GROUP = 32;

/// Merges parts `first` to `end` for the first COLUMNS threads; `lane` is that of thread % COLUMNS, `exists` whether
/// there is one. parts: [part][mean, M2][lane], each of `pixels` but the last of all, which has what is left of `area`.
/// `rows` is room for THREADS in shared memory. Every thread of the block must call it.
template <int THREADS, int COLUMNS>
__device__ __forceinline__ Moments merged_parts(const float* parts, int first, int end, int pixels, int area, int lane,
                                                int lanes, bool exists, Moments* rows) {
    constexpr int ROWS = THREADS / COLUMNS;
    int thread = static_cast<int>(threadIdx.x);
    float origin = exists ? parts[2 * first * lanes + lane] : 0.0f;
    Moments mine{0.0f, 0.0f, 0.0f};
    for (int part = first + thread / COLUMNS; exists && part < end; part += ROWS) {
        const float* moments = parts + 2 * part * lanes + lane;
        float count = static_cast<float>(min(pixels, area - part * pixels));
        mine = merged(mine, {count, moments[0] - origin, moments[lanes]});
    }
    rows[thread] = mine;
    __syncthreads();
    for (int row = 1; row < ROWS && thread < COLUMNS; row++) mine = merged(mine, rows[row * COLUMNS + thread]);
    mine.mean += origin;
    return mine;
}

/// A sample's part of the scratch memory and the counters, for the block's lanes. Tiles are of `pixels` pixels.
struct StatisticsPlace {
    int tiles, groups;
    float* of_tiles;
    float* of_groups;
    unsigned* counters;

    static __device__ __forceinline__ StatisticsPlace of(const StatisticsTo& to, int sample, int pixels, int area,
                                                         int lanes) {
        int tiles = (area + pixels - 1) / pixels, groups = (tiles + GROUP - 1) / GROUP;
        float* of_tiles = to.parts + 2 * sample * (tiles + groups) * lanes;
        int row = sample * static_cast<int>(gridDim.y) + static_cast<int>(blockIdx.y);
        return {tiles, groups, of_tiles, of_tiles + 2 * tiles * lanes, to.counters + row * (groups + 2)};
    }

    /// How often they have been written.
    __device__ __forceinline__ unsigned* launches() const { return counters + groups + 1; }
};

/// Takes the moments of tile `tile` of `pixels` pixels, which the first COLUMNS threads have, a lane each from
/// `first_lane` on, to the statistics of its sample. The last block of a group merges its tiles, the last of all the
/// groups: who that is differs from run to run, what it computes does not. `scratch` is room for THREADS in shared memory.
/// Every thread of the block must call it.
template <int THREADS, int COLUMNS>
__device__ __forceinline__ void take_statistics(const StatisticsTo& to, Moments mine, int sample, int tile, int pixels,
                                                int area, int first_lane, int lanes, Moments* scratch) {
    StatisticsPlace place = StatisticsPlace::of(to, sample, pixels, area, lanes);
    int thread = static_cast<int>(threadIdx.x), lane = first_lane + thread % COLUMNS;
    bool exists = lane < lanes, is_mine = exists && thread < COLUMNS;
    auto keep = [&](float* parts, int part) {
        if (!is_mine) return;
        parts[2 * part * lanes + lane] = mine.mean;
        parts[(2 * part + 1) * lanes + lane] = mine.m2;
    };

    keep(place.of_tiles, tile);
    int group = tile / GROUP, first = group * GROUP, end = min(first + GROUP, place.tiles);
    if (!comes_last(place.counters + group, end - first)) return;
    mine = merged_parts<THREADS, COLUMNS>(place.of_tiles, first, end, pixels, area, lane, lanes, exists, scratch);
    keep(place.of_groups, group);
    if (!comes_last(place.counters + place.groups, place.groups)) return;
    mine = merged_parts<THREADS, COLUMNS>(place.of_groups, 0, place.groups, GROUP * pixels, area, lane, lanes, exists,
                                          scratch);
    if (is_mine) {
        float* statistics = to.statistics + 2 * sample * lanes + lane;
        statistics[0] = mine.mean;
        statistics[lanes] = lane < to.channels ? reciprocal_deviation(mine.m2, area, to.epsilon) : 0.0f;
    }
    __syncthreads();  // the block has written all that others wait for
    if (threadIdx.x != 0) return;
    __threadfence();
    atomicInc(place.launches(), ~0u);
}

/// Waits until a sample's statistics are there for the block's lanes. `launches` is where that shows, and `before` what it
/// was when the launch began; the first thread's counts. Every thread of the block must call it; all blocks must be there
/// at once.
__device__ __forceinline__ void wait_for_statistics(const unsigned* launches, unsigned before) {
    if (threadIdx.x == 0) {
        wait_for_change(launches, before);
        __threadfence();
    }
    __syncthreads();
}
