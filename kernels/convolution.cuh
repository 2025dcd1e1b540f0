// What the kernels of convolutions share: how a result's pixel finds those it is made of, and the epilogue.
#pragma once

#include "block.cuh"

/// How the pixels of a result find the pixels of its source, for the two directions of one convolution.
struct Geometry {
    /// The result's maps.
    int batch, rows, columns, lanes;
    /// The source's maps.
    int source_rows, source_columns, source_lanes;
    int kernel_rows, kernel_columns, stride, padding, dilation;
};

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

/// That of the block, with tiles of `pixels` pixels in x.
__device__ __forceinline__ PixelTile my_pixel_tile(int pixels, const Geometry& g) {
    int area = g.rows * g.columns, tiles = (area + pixels - 1) / pixels, block = static_cast<int>(blockIdx.x);
    int sample = block / tiles, number = block % tiles;
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

/// max(x, 0) if wanted; NaN stays.
__device__ __forceinline__ float rectified(float x, int rectify) { return rectify && x < 0.0f ? 0.0f : x; }
