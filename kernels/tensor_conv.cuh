// Convolution on tensor cores, as implicit matrix products: forward, input gradient (also the transposed convolution)
// and filter gradient, of float16, bfloat16 or tf32 numbers, summed in float32.
//
// Maps are [batch][row][column][lane], filters [tap][padded input channel][padded output channel], as in conv.cu. A
// block of four warps owns a tile of results of one sample, ROWS x COLUMNS, a warp a quarter of it. It walks the sum in
// slices of 64 bytes through a ring of stages in shared memory: while one is multiplied, the copies of the next are
// under way. Results are float32 or of the same 16 bits as the operands.
#pragma once

#include "tensor_tile.cuh"

namespace {

/// The longest stride that classes of pixels are made for.
constexpr int MOST_STEP = 4;

/// How a sample is cut into tiles of pixels in a row. Backwards by a stride, pixels that lie a stride apart go together: only
/// they read the same taps. So a tile is one of a class of pixels, those of rows `row` + i step and columns `column` + j step.
template <int ROWS, bool backward>
struct PixelCut {
    const Geometry& g;
    /// From one pixel of a class to the next, and tiles of a sample.
    int step, tiles;

    static __device__ __forceinline__ PixelCut of(const Geometry& g) {
        PixelCut cut{g, backward && g.stride <= MOST_STEP ? g.stride : 1, 0};
        for (int row = 0; row < cut.step; row++) {
            for (int column = 0; column < cut.step; column++) cut.tiles += cut.tiles_of(row, column);
        }
        return cut;
    }

    __device__ __forceinline__ int rows_from(int row) const { return (g.rows - row + step - 1) / step; }
    __device__ __forceinline__ int columns_from(int column) const { return (g.columns - column + step - 1) / step; }
    __device__ __forceinline__ int tiles_of(int row, int column) const {
        return (rows_from(row) * columns_from(column) + ROWS - 1) / ROWS;
    }

    struct Place {
        const Geometry& g;
        int sample, number;
        /// The class, and its columns.
        int row, column, columns, step;
        /// Of the class's pixels the tile's first, and how many it has.
        int first, count;

        /// The tile's pixel `index`, which exists.
        __device__ __forceinline__ Pixel at(int index) const {
            return {sample, row + (first + index) / columns * step, column + (first + index) % columns * step};
        }
        __device__ __forceinline__ int pixel(int index) const {
            if (index >= count) return -1;
            Pixel pixel = at(index);
            return (sample * g.rows + pixel.row) * g.columns + pixel.column;
        }
        /// The tap after `tap`, of which none is before the first, that the tile's pixels read; or how many taps there are.
        __device__ __forceinline__ int next_tap(int tap) const {
            int taps = g.kernel_rows * g.kernel_columns;
            if (step == 1) return tap + 1;
            int u = (tap + 1) / g.kernel_columns, v = (tap + 1) % g.kernel_columns;
            for (tap++; tap < taps; tap++) {
                if (reads(row, u) && reads(column, v)) break;
                if (++v == g.kernel_columns) v = 0, u++;
            }
            return tap;
        }
        /// Whether rows (or columns) from `first` on read row (or column) `at` of the kernel.
        __device__ __forceinline__ bool reads(int first, int at) const {
            return (first + g.padding - at * g.dilation) % step == 0;
        }
        /// How many taps they read.
        __device__ __forceinline__ int taps() const {
            if (step == 1) return g.kernel_rows * g.kernel_columns;
            int u = 0, v = 0;
            for (int at = 0; at < g.kernel_rows; at++) u += reads(row, at);
            for (int at = 0; at < g.kernel_columns; at++) v += reads(column, at);
            return u * v;
        }
    };

    __device__ __forceinline__ Place at(int index) const {
        int number = index % tiles, left = number, row = 0, column = 0;
        while (left >= tiles_of(row, column)) {
            left -= tiles_of(row, column);
            if (++column < step) continue;
            column = 0;
            row++;
        }
        int columns = columns_from(column), first = left * ROWS;
        return {g, index / tiles, number, row, column, columns, step, first, min(ROWS, rows_from(row) * columns - first)};
    }
};

/// Sums over taps and source lanes of source[pixel at tap][k] weight, in a tile. The weight is filter[tap][k][lane], backwards
/// filter[tap][lane][k].
template <class Block, class Element, bool backward, class Place>
__device__ __forceinline__ void tensor_convolve_tile(Block& tile, float4* ring, const Place& mine,
                                                     const Element* source, const Element* filter, const Geometry& g) {
    using A = typename Block::A;
    using B = typename Block::B;
    int first_lane = static_cast<int>(blockIdx.y) * Block::COLUMNS, taps = g.kernel_rows * g.kernel_columns;
    int slices = mine.taps() * ((g.source_lanes + A::DEPTH - 1) / A::DEPTH);

    Pixel pixels[A::COPIES];
    int offsets[A::COPIES];
#pragma unroll
    for (int i = 0; i < A::COPIES; i++) {
        pixels[i] = mine.at(A::copied_row(i));
    }
    auto find_offsets = [&](int tap) {
#pragma unroll
        for (int i = 0; i < A::COPIES; i++) {
            bool exists = A::copied_row(i) < mine.count;
            offsets[i] = exists ? source_offset<backward>(pixels[i], tap, g) : -1;
        }
    };

    int tap = mine.next_tap(-1), first = 0;
    find_offsets(tap);
    auto copy = [&](unsigned char* stage) {
#pragma unroll
        for (int i = 0; i < A::COPIES; i++) {
            int k = first + A::copied_chunk() * A::CHUNK_NUMBERS;
            bool valid = offsets[i] >= 0 && k < g.source_lanes;
            A::copy(stage, i, valid ? source + offsets[i] + k : source, valid);
        }
#pragma unroll
        for (int i = 0; i < B::COPIES; i++) {
            int row = B::copied_row(i), chunk = B::copied_chunk() * B::CHUNK_NUMBERS;
            int k = first + (backward ? chunk : row), lane = first_lane + (backward ? row : chunk);
            bool valid = k < g.source_lanes && lane < g.lanes;
            int offset = backward ? (tap * g.lanes + lane) * g.source_lanes + k
                                  : (tap * g.source_lanes + k) * g.lanes + lane;
            B::copy(stage + A::BYTES, i, valid ? filter + offset : filter, valid);
        }
        first += A::DEPTH;
        if (first < g.source_lanes) return;
        first = 0;
        tap = mine.next_tap(tap);
        if (tap < taps) find_offsets(tap);
    };

    tile.sum(ring, slices, copy);
}

/// y[pixel][lane] = bias[lane] + those sums, finished, in the block's tiles.
template <class Element, class Result, int ROWS, int COLUMNS, bool backward>
__device__ __forceinline__ void tensor_convolve(const Element* source, const Element* filter, const float* bias,
                                                Result* y, const Finish& finish, const StatisticsTo& statistics,
                                                const Geometry& g) {
    using Block = Tile<Element, ROWS, COLUMNS, false, !backward>;
    SHARED_ARRAY(float4, ring, Block::RING);
    auto cut = PixelCut<ROWS, backward>::of(g);
    convolve_tiles<Block>(cut, g.batch, g.lanes, ring, bias, y, finish, statistics, [&](Block& tile, const auto& mine) {
        tensor_convolve_tile<Block, Element, backward>(tile, ring, mine, source, filter, g);
        return true;
    });
}

/// parts[part][tap][c][o] = sum over the part's pixels of x[pixel at tap][c] dy[pixel][o]. `g` is that of the
/// convolution. The grid is tiles of (c, o), taps, parts; a part is `part_pixels` pixels.
template <class Element, int ROWS, int COLUMNS>
__device__ __forceinline__ void tensor_filter_grad(const Element* x, const Element* dy, float* parts, int part_pixels,
                                                   const Geometry& g) {
    using Block = Tile<Element, ROWS, COLUMNS, true, true>;
    using A = typename Block::A;
    using B = typename Block::B;
    int column_tiles = (g.lanes + COLUMNS - 1) / COLUMNS;
    int first_input = static_cast<int>(blockIdx.x) / column_tiles * ROWS;
    int first_output = static_cast<int>(blockIdx.x) % column_tiles * COLUMNS;
    int tap = static_cast<int>(blockIdx.y), start = static_cast<int>(blockIdx.z) * part_pixels;
    int end = min(start + part_pixels, g.batch * g.rows * g.columns), slices = (end - start + A::DEPTH - 1) / A::DEPTH;

    int first = start;
    auto copy = [&](unsigned char* stage) {
#pragma unroll
        for (int i = 0; i < A::COPIES; i++) {
            int pixel = first + A::copied_row(i), input = first_input + A::copied_chunk() * A::CHUNK_NUMBERS;
            int offset = source_offset<false>(pixel_at(pixel, g.rows, g.columns), tap, g);
            bool valid = pixel < end && offset >= 0 && input < g.source_lanes;
            A::copy(stage, i, valid ? x + offset + input : x, valid);
        }
#pragma unroll
        for (int i = 0; i < B::COPIES; i++) {
            int pixel = first + B::copied_row(i), output = first_output + B::copied_chunk() * B::CHUNK_NUMBERS;
            bool valid = pixel < end && output < g.lanes;
            B::copy(stage + A::BYTES, i, valid ? dy + pixel * g.lanes + output : dy, valid);
        }
        first += A::DEPTH;
    };

    SHARED_ARRAY(float4, ring, Block::RING);
    Block tile;
    tile.clear();
    tile.sum(ring, slices, copy);
    int filter = (static_cast<int>(blockIdx.z) * g.kernel_rows * g.kernel_columns + tap) * g.source_lanes;
    tile.for_each_pair([&](int row, int j, float left, float right) {
        int input = first_input + row, output = first_output + Block::my_column(j);
        if (input >= g.source_lanes || output >= g.lanes) return;
        *reinterpret_cast<float2*>(parts + (filter + input) * g.lanes + output) = make_float2(left, right);
    });
}

}  // namespace

// The kernels of one number format and tile. What they compute stands above; the arguments are those of conv.cu.
#define CONV_KERNEL(NAME, ELEMENT, RESULT, ROWS, COLUMNS)                                                  \
    extern "C" __global__ void __launch_bounds__(THREADS, blocks_of<ELEMENT>(ROWS * COLUMNS))              \
        NAME(const ELEMENT* x, const ELEMENT* filter, const float* bias, RESULT* y, Finish finish,         \
             StatisticsTo statistics, Geometry g) {                                                        \
        fetch_ahead(filter, filter_bytes<ELEMENT>(g));                                                     \
        wait_for_launches_before();                                                                        \
        tensor_convolve<ELEMENT, RESULT, ROWS, COLUMNS, false>(x, filter, bias, y, finish, statistics, g); \
    }
#define CONV_BACKWARD_KERNEL(NAME, ELEMENT, RESULT, ROWS, COLUMNS)                                          \
    extern "C" __global__ void __launch_bounds__(THREADS, blocks_of<ELEMENT>(ROWS * COLUMNS))               \
        NAME(const ELEMENT* dy, const ELEMENT* filter, const float* bias, RESULT* dx, Finish finish,        \
             StatisticsTo statistics, Geometry g) {                                                         \
        fetch_ahead(filter, filter_bytes<ELEMENT>(g));                                                      \
        wait_for_launches_before();                                                                         \
        tensor_convolve<ELEMENT, RESULT, ROWS, COLUMNS, true>(dy, filter, bias, dx, finish, statistics, g); \
    }
#define CONV_FILTER_GRAD_KERNEL(NAME, ELEMENT, ROWS, COLUMNS)                                  \
    extern "C" __global__ void __launch_bounds__(THREADS)                                      \
        NAME(const ELEMENT* x, const ELEMENT* dy, float* parts, int part_pixels, Geometry g) { \
        wait_for_launches_before();                                                            \
        tensor_filter_grad<ELEMENT, ROWS, COLUMNS>(x, dy, parts, part_pixels, g);              \
    }
