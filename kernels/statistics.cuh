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
__device__ __forceinline__ float reciprocal_deviation(float m2, float count, float epsilon) {
    return 1.0f / sqrtf(m2 / count + epsilon);
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
    /// [sample][tiles, then groups][count, mean, M2][lane].
    float* parts;
    /// [sample][block of lanes][groups, their sample, launches]: how many tiles of each group are there and how many groups,
    /// 0 before and after a launch, and how often the statistics have been written.
    unsigned* counters;
    int channels;
    float epsilon;
};

/// Tiles of a group.
constexpr int GROUP = 32;

/// The moments of some parts together, which differ little from each other.
template <int N>
__device__ __forceinline__ Moments merged_all(const Moments (&parts)[N]) {
    float count = 0.0f, excess = 0.0f, m2 = 0.0f;
#pragma unroll
    for (int i = 0; i < N; i++) {
        count += parts[i].count;
        excess += parts[i].count * (parts[i].mean - parts[0].mean);
    }
    float mean = count > 0.0f ? parts[0].mean + excess / count : 0.0f;
#pragma unroll
    for (int i = 0; i < N; i++) {
        float delta = parts[i].mean - mean;
        m2 += parts[i].m2 + parts[i].count * delta * delta;
    }
    return {count, mean, m2};
}

/// Merges parts `first` to `end` for the first COLUMNS threads; `lane` is that of thread % COLUMNS, `exists` whether
/// there is one. parts: [part][count, mean, M2][lane]. `rows` is room for THREADS in shared memory. Every thread of the
/// block must call it.
template <int THREADS, int COLUMNS>
__device__ __forceinline__ Moments merged_parts(const float* parts, int first, int end, int lane, int lanes, bool exists,
                                                Moments* rows) {
    // So many are read before the first is used: fewer where there are more who read.
    constexpr int ROWS = THREADS / COLUMNS, BATCH = ROWS > 4 ? 4 : 8;
    int thread = static_cast<int>(threadIdx.x);
    Moments mine{0.0f, 0.0f, 0.0f};
    for (int start = first + thread / COLUMNS; exists && start < end; start += ROWS * BATCH) {
        Moments batch[BATCH];
#pragma unroll
        for (int i = 0; i < BATCH; i++) {
            int part = start + i * ROWS;
            const float* moments = parts + 3 * (part < end ? part : start) * lanes + lane;
            batch[i] = {part < end ? moments[0] : 0.0f, moments[lanes], moments[2 * lanes]};
            if (part >= end) batch[i].m2 = 0.0f;
        }
        mine = merged(mine, merged_all(batch));
    }
    rows[thread] = mine;
    __syncthreads();
    for (int row = 1; row < ROWS && thread < COLUMNS; row++) mine = merged(mine, rows[row * COLUMNS + thread]);
    return mine;
}

/// A sample's part of the scratch memory and the counters, for the block's lanes.
struct StatisticsPlace {
    int tiles, groups;
    float* of_tiles;
    float* of_groups;
    unsigned* counters;

    /// Of samples of `tiles` tiles.
    static __device__ __forceinline__ StatisticsPlace of(const StatisticsTo& to, int sample, int tiles, int lanes) {
        int groups = (tiles + GROUP - 1) / GROUP;
        float* of_tiles = to.parts + 3 * sample * (tiles + groups) * lanes;
        int row = sample * static_cast<int>(gridDim.y) + static_cast<int>(blockIdx.y);
        return {tiles, groups, of_tiles, of_tiles + 3 * tiles * lanes, to.counters + row * (groups + 2)};
    }

    /// Those of a tile: [count, mean, M2][lane].
    __device__ __forceinline__ float* moments(int tile, int lanes) const { return of_tiles + 3 * tile * lanes; }

    /// How often they have been written.
    __device__ __forceinline__ unsigned* launches() const { return counters + groups + 1; }
};

/// Takes the moments of tile `tile` of a sample of `tiles`, which the first COLUMNS threads have, a lane each from
/// `first_lane` on, to the statistics of its sample. The last block of a group merges its tiles, the last of all the
/// groups: who that is differs from run to run, what it computes does not. `scratch` is room for THREADS in shared memory.
/// Every thread of the block must call it.
template <int THREADS, int COLUMNS>
__device__ __forceinline__ void take_statistics(const StatisticsTo& to, Moments mine, int sample, int tile, int tiles,
                                                int first_lane, int lanes, Moments* scratch) {
    StatisticsPlace place = StatisticsPlace::of(to, sample, tiles, lanes);
    int thread = static_cast<int>(threadIdx.x), lane = first_lane + thread % COLUMNS;
    bool exists = lane < lanes, is_mine = exists && thread < COLUMNS;
    auto keep = [&](float* parts, int part) {
        if (!is_mine) return;
        float* moments = parts + 3 * part * lanes + lane;
        moments[0] = mine.count, moments[lanes] = mine.mean, moments[2 * lanes] = mine.m2;
    };

    keep(place.of_tiles, tile);
    int group = tile / GROUP, first = group * GROUP, end = min(first + GROUP, tiles);
    if (!comes_last(place.counters + group, end - first)) return;
    mine = merged_parts<THREADS, COLUMNS>(place.of_tiles, first, end, lane, lanes, exists, scratch);
    if (place.groups > 1) {
        keep(place.of_groups, group);
        if (!comes_last(place.counters + place.groups, place.groups)) return;
        mine = merged_parts<THREADS, COLUMNS>(place.of_groups, 0, place.groups, lane, lanes, exists, scratch);
    }
    if (is_mine) {
        float* statistics = to.statistics + 2 * sample * lanes + lane;
        statistics[0] = mine.mean;
        statistics[lanes] = lane < to.channels ? reciprocal_deviation(mine.m2, mine.count, to.epsilon) : 0.0f;
    }
    __syncthreads();  // the block has written all that others wait for
    if (threadIdx.x != 0) return;
    fence();
    atomicInc(place.launches(), ~0u);
}

/// Takes them to where every block of the sample can merge them by `statistics_of`: as `take_statistics`, but for the last
/// step, for which the blocks that wait for it would have to wait once more. Every thread of the block must call it.
template <int THREADS, int COLUMNS>
__device__ __forceinline__ void hand_in_moments(const StatisticsTo& to, Moments mine, int sample, int tile, int tiles,
                                                int first_lane, int lanes, Moments* scratch) {
    StatisticsPlace place = StatisticsPlace::of(to, sample, tiles, lanes);
    int thread = static_cast<int>(threadIdx.x), lane = first_lane + thread % COLUMNS;
    bool exists = lane < lanes;
    auto keep = [&](float* parts, int part) {
        if (!exists || thread >= COLUMNS) return;
        float* moments = parts + 3 * part * lanes + lane;
        moments[0] = mine.count, moments[lanes] = mine.mean, moments[2 * lanes] = mine.m2;
    };
    keep(place.of_tiles, tile);
    unsigned *counter = place.counters, last = static_cast<unsigned>(tiles - 1);
    if (place.groups > 1) {
        int group = tile / GROUP, first = group * GROUP, end = min(first + GROUP, tiles);
        if (!comes_last(place.counters + group, end - first)) return;
        mine = merged_parts<THREADS, COLUMNS>(place.of_tiles, first, end, lane, lanes, exists, scratch);
        keep(place.of_groups, group);
        counter = place.counters + place.groups, last = static_cast<unsigned>(place.groups - 1);
    }
    __syncthreads();  // the block has written all that others may read
    if (thread != 0) return;
    fence();
    if (atomicInc(counter, last) != last) return;
    fence();
    atomicInc(place.launches(), ~0u);
}

/// statistics = [mean, 1 / deviation][column] of the block's lanes of a sample, of which all moments have been handed in;
/// the block that `tells` writes them for others, too. `scratch` is room for THREADS, `statistics` for 2 * COLUMNS in
/// shared memory. Every thread of the block must call it.
template <int THREADS, int COLUMNS>
__device__ __forceinline__ void statistics_of(float* statistics, const StatisticsTo& to, int sample, int tiles,
                                              int first_lane, int lanes, bool tells, Moments* scratch) {
    StatisticsPlace place = StatisticsPlace::of(to, sample, tiles, lanes);
    int thread = static_cast<int>(threadIdx.x), lane = first_lane + thread % COLUMNS;
    bool exists = lane < lanes;
    const float* parts = place.groups > 1 ? place.of_groups : place.of_tiles;
    int count = place.groups > 1 ? place.groups : tiles;
    Moments all = merged_parts<THREADS, COLUMNS>(parts, 0, count, lane, lanes, exists, scratch);
    if (thread < COLUMNS) {
        float r = lane < to.channels ? reciprocal_deviation(all.m2, all.count, to.epsilon) : 0.0f;
        statistics[thread] = all.mean, statistics[COLUMNS + thread] = r;
        if (tells && exists) {
            float* told = to.statistics + 2 * sample * lanes + lane;
            told[0] = all.mean, told[lanes] = r;
        }
    }
    __syncthreads();  // all threads see them, and the scratch memory is free
}

/// Waits until a sample's statistics are there for the block's lanes. `launches` is where that shows, and `before` what it
/// was when the launch began; the first thread's counts. Every thread of the block must call it; all blocks must be there
/// at once.
__device__ __forceinline__ void wait_for_statistics(const unsigned* launches, unsigned before) {
    if (threadIdx.x == 0) {
        wait_for_change(launches, before);
        fence();
    }
    __syncthreads();
}
