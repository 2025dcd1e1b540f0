// What the kernels of convolutions share: how a result's pixel finds those it is made of, and what becomes of tiles.
#pragma once

#include "finish.cuh"
#include "statistics.cuh"

/// How the pixels of a result find the pixels of its source, for the two directions of one convolution.
struct Geometry {
    /// The result's maps.
    int batch, rows, columns, lanes;
    /// The source's maps.
    int source_rows, source_columns, source_lanes;
    int kernel_rows, kernel_columns, stride, padding, dilation;
};

/// Of a filter [tap][source lane][lane].
template <class Element>
__device__ __forceinline__ int filter_bytes(const Geometry& g) {
    return g.kernel_rows * g.kernel_columns * g.source_lanes * g.lanes * int(sizeof(Element));
}

struct Pixel {
    int sample, row, column;
};

/// Pixels of a result that a block owns, all of one sample.
struct PixelTile {
    int sample;
    /// Among the sample's tiles.
    int number;
    /// The first pixel among those of all samples, and how many of the tile's exist.
    int first, count;
};

/// Tiles of `pixels` pixels in a sample.
__device__ __forceinline__ int pixel_tiles(int pixels, const Geometry& g) {
    return (g.rows * g.columns + pixels - 1) / pixels;
}

/// Tile `index` of tiles of `pixels` pixels.
__device__ __forceinline__ PixelTile pixel_tile(int index, int pixels, const Geometry& g) {
    int area = g.rows * g.columns, tiles = pixel_tiles(pixels, g);
    int sample = index / tiles, number = index % tiles;
    return {sample, number, sample * area + number * pixels, min(pixels, area - number * pixels)};
}

__device__ __forceinline__ Pixel pixel_at(int index, int rows, int columns) {
    return {index / columns / rows, index / columns % rows, index % columns};
}

/// The source row (or column) that result row `at` reads through tap `tap`; negative where it reads a zero.
template <bool backward>
__device__ __forceinline__ int source_of(int at, int tap, int size, const Geometry& g) {
    int position = backward ? at + g.padding - tap * g.dilation : at * g.stride - g.padding + tap * g.dilation;
    if (backward) {
        if (position % g.stride != 0) return -1;
        position /= g.stride;
    }
    return position < size ? position : -1;
}

/// Offset of the pixel of the source that a result pixel reads through a tap, or -1 where it reads a zero.
template <bool backward>
__device__ __forceinline__ int source_offset(Pixel pixel, int tap, const Geometry& g) {
    int row = source_of<backward>(pixel.row, tap / g.kernel_columns, g.source_rows, g);
    int column = source_of<backward>(pixel.column, tap % g.kernel_columns, g.source_columns, g);
    if (row < 0 || column < 0) return -1;
    return ((pixel.sample * g.source_rows + row) * g.source_columns + column) * g.source_lanes;
}

/// y = y finished, in a tile's pixels and COLUMNS lanes from `first_lane` on.
template <int THREADS, int COLUMNS>
__device__ __forceinline__ void finish_tile(const Finish& finish, const float* statistics, float* y,
                                            const PixelTile& tile, int first_lane, int lanes) {
    constexpr int QUADS = COLUMNS / 4;
    int thread = static_cast<int>(threadIdx.x), lane = first_lane + thread % QUADS * 4;
    if (lane >= lanes) return;
    QuadNorm norm{};
    if (finish.has_norm()) norm = QuadNorm::at(statistics + 2 * tile.sample * lanes, finish, lane, lanes);
    for (int pixel = thread / QUADS; pixel < tile.count; pixel += THREADS / QUADS) {
        int at = (tile.first + pixel) * lanes + lane;
        float4 numbers = four(y + at);
        if (finish.has_norm()) numbers = norm.of(numbers);
        *reinterpret_cast<float4*>(y + at) = finished<float>(numbers, finish, at, lane);
    }
}

/// Calls `convolve(tile)`, which writes sums and takes their statistics, for each of the block's tiles of PIXELS x COLUMNS
/// results, then finishes them, after waiting for the statistics where there is a norm. The grid is tiles of pixels, or as
/// many as are there at once, by tiles of lanes.
template <int THREADS, int PIXELS, int COLUMNS, class Convolve>
__device__ __forceinline__ void for_my_tiles(const Finish& finish, const StatisticsTo& to, float* y, const Geometry& g,
                                             Convolve convolve) {
    int tiles = pixel_tiles(PIXELS, g), end = g.batch * tiles;
    int start = static_cast<int>(blockIdx.x), step = static_cast<int>(gridDim.x);
    auto launches = [&](const PixelTile& tile) {
        return StatisticsPlace::of(to, tile.sample, tiles, g.lanes).launches();
    };
    unsigned before = 0;
    // As often for every sample; and nobody can write those of the block's first tile before the block has.
    if (finish.has_norm() && threadIdx.x == 0) before = counter_now(launches(pixel_tile(start, PIXELS, g)));
    // Several only where there is a norm, and statistics end with a barrier: the next tile finds shared memory free.
    for (int index = start; index < end; index += step) convolve(pixel_tile(index, PIXELS, g));
    if (finish.is_at_once()) return;
    __syncthreads();  // the sums are written
    for (int index = start; index < end; index += step) {
        PixelTile tile = pixel_tile(index, PIXELS, g);
        if (finish.has_norm()) wait_for_statistics(launches(tile), before);
        finish_tile<THREADS, COLUMNS>(finish, to.statistics, y, tile, static_cast<int>(blockIdx.y) * COLUMNS, g.lanes);
    }
}
