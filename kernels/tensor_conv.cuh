// Convolution on tensor cores, as implicit matrix products: forward, input gradient (also the transposed convolution)
// and filter gradient, of float16, bfloat16 or tf32 numbers, summed in float32.
//
// Maps are [batch][row][column][lane], filters [tap][padded input channel][padded output channel], as in conv.cu. A
// block of four warps owns a tile of results of one sample, ROWS x COLUMNS, a warp a quarter of it. It walks the sum in
// slices of 64 bytes through a ring of stages in shared memory: while one is multiplied, the copies of the next are
// under way.
#pragma once

#include "convolution.cuh"
#include "primitives.cuh"

namespace {

constexpr int THREADS = 128;
constexpr int STAGES = 4;
/// Bytes that are copied, and swizzled, as one.
constexpr int CHUNK = 16;
/// Chunks of a row that lies along the sum, so of a slice.
constexpr int SLICE_CHUNKS = 4;

/// Where a slice of an operand lies in shared memory: EXTENT rows along the sum of four chunks each, or, where the
/// operand lies ACROSS the sum in memory, one row of EXTENT numbers for each number of the sum.
///
/// Chunks change places within their row, so that neither the copies nor the loads below meet in a bank.
template <class Element, int EXTENT, bool ACROSS>
struct Slice {
    static constexpr int BYTES = EXTENT * SLICE_CHUNKS * CHUNK;
    static constexpr int CHUNK_NUMBERS = CHUNK / int(sizeof(Element));
    /// Numbers of the sum in a slice.
    static constexpr int DEPTH = SLICE_CHUNKS * CHUNK_NUMBERS;
    static constexpr int ROW_CHUNKS = ACROSS ? EXTENT / CHUNK_NUMBERS : SLICE_CHUNKS;
    /// Chunks of a slice that a thread copies: those numbered thread, thread + THREADS, and so on, row by row.
    static constexpr int COPIES = EXTENT * SLICE_CHUNKS / THREADS;

    static __device__ __forceinline__ int copied_row(int copy) {
        return (static_cast<int>(threadIdx.x) + copy * THREADS) / ROW_CHUNKS;
    }
    static __device__ __forceinline__ int copied_chunk() {
        return static_cast<int>(threadIdx.x) % ROW_CHUNKS;  // THREADS is a multiple of ROW_CHUNKS
    }

    /// Byte offset of a chunk.
    static __device__ __forceinline__ int place(int row, int chunk) {
        // Matrix loads read eight rows' chunks at once; 32-bit numbers across the sum are read four rows by two chunks.
        int swizzle = ROW_CHUNKS == 4 ? row / 2 % 4 : ACROSS && sizeof(Element) == 4 ? row % 4 * 2 : row % 8;
        return (row * ROW_CHUNKS + (chunk ^ swizzle)) * CHUNK;
    }

    static __device__ __forceinline__ void copy(unsigned char* slice, int i, const Element* from, bool valid) {
        cp_async16(slice + place(copied_row(i), copied_chunk()), from, valid);
    }

    /// Loads 16 rows (or columns) of the tile, from `first` on, by half `half` of the slice. The registers are ordered as
    /// operand a of `mma_tile`, or else b.
    static __device__ __forceinline__ void load(uint32_t (&registers)[4], const unsigned char* slice, int first,
                                                int half, bool is_a) {
        int lane = static_cast<int>(threadIdx.x) % 32;
        if constexpr (ACROSS && sizeof(Element) == 4) {
            for (int i = 0; i < 4; i++) {
                int later = is_a ? i / 2 : i % 2, column = first + 8 * (is_a ? i % 2 : i / 2) + lane / 4;
                int row = 8 * half + 4 * later + lane % 4;
                const unsigned char* chunk = slice + place(row, column / CHUNK_NUMBERS);
                registers[i] = reinterpret_cast<const uint32_t*>(chunk)[column % CHUNK_NUMBERS];
            }
        } else {
            // Lane i points at a row of matrix i / 8: of the lower or the upper eight, earlier or later in the sum.
            int upper = is_a ? lane / 8 % 2 : lane / 16, later = is_a ? lane / 16 : lane / 8 % 2;
            if constexpr (ACROSS) {
                int row = 16 * half + 8 * later + lane % 8;
                load_matrices_transposed(registers, slice + place(row, first / CHUNK_NUMBERS + upper));
            } else {
                load_matrices(registers, slice + place(first + 8 * upper + lane % 8, 2 * half + later));
            }
        }
        if constexpr (sizeof(Element) == 4) {
            for (uint32_t& number : registers) number = rounded_to_tf32(number);
        }
    }
};

/// A block's tile of results. Its warps stand two by two.
template <class Element, int ROWS, int COLUMNS, bool A_ACROSS, bool B_ACROSS>
struct Tile {
    using A = Slice<Element, ROWS, A_ACROSS>;
    using B = Slice<Element, COLUMNS, B_ACROSS>;
    static constexpr int WARP_ROWS = ROWS / 2, WARP_COLUMNS = COLUMNS / 2;
    static constexpr int STAGE_BYTES = A::BYTES + B::BYTES;
    /// Of the ring, in chunks. Statistics take it over in the end.
    static constexpr int RING = STAGES * STAGE_BYTES / CHUNK;
    static_assert(sizeof(Moments) * THREADS <= RING * CHUNK && 2 * COLUMNS <= THREADS, "there is room for statistics");

    float sums[WARP_ROWS / 16][WARP_COLUMNS / 8][4] = {};

    static __device__ __forceinline__ int warp_row() { return static_cast<int>(threadIdx.x) / 64 * WARP_ROWS; }
    static __device__ __forceinline__ int warp_column() {
        return static_cast<int>(threadIdx.x) / 32 % 2 * WARP_COLUMNS;
    }

    /// sums += a b over one stage.
    __device__ __forceinline__ void multiply(const unsigned char* stage) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            uint32_t a[WARP_ROWS / 16][4], b[WARP_COLUMNS / 16][4];
#pragma unroll
            for (int i = 0; i < WARP_ROWS / 16; i++) A::load(a[i], stage, warp_row() + 16 * i, half, true);
#pragma unroll
            for (int i = 0; i < WARP_COLUMNS / 16; i++) {
                B::load(b[i], stage + A::BYTES, warp_column() + 16 * i, half, false);
            }
            mma_tile<Element, WARP_ROWS, WARP_COLUMNS>(sums, a, b);
        }
    }

    /// Sums over all slices; `copy(stage)` asks for the next one. `ring` are RING chunks in shared memory.
    template <class Copy>
    __device__ __forceinline__ void sum(float4* ring, int slices, Copy copy) {
        auto stage = [&](int slice) { return reinterpret_cast<unsigned char*>(ring) + slice % STAGES * STAGE_BYTES; };
        for (int slice = 0; slice < STAGES - 1; slice++) {
            if (slice < slices) copy(stage(slice));
            cp_async_commit();
        }
        for (int slice = 0; slice < slices; slice++) {
            cp_async_wait<STAGES - 2>();
            __syncthreads();
            // Into the stage that was last read before the barrier. Groups may be empty, so that the count is right.
            if (slice + STAGES - 1 < slices) copy(stage(slice + STAGES - 1));
            cp_async_commit();
            multiply(stage(slice));
        }
    }

    /// The moments of the tile's columns, of whose rows the first `count` exist, for the first COLUMNS threads, a column
    /// each. `halves` is room for 2 * COLUMNS in shared memory. Every thread must call it.
    __device__ __forceinline__ Moments column_moments(int count, Moments* halves) const {
        int thread = static_cast<int>(threadIdx.x), lane = thread % 32;
        // Of the thread's rows, eight apart, so many exist.
        int mine = (count - warp_row() - lane / 4 + 7) / 8;
#pragma unroll
        for (int j = 0; j < WARP_COLUMNS / 8; j++) {
#pragma unroll
            for (int side = 0; side < 2; side++) {
                float rows[WARP_ROWS / 8];
#pragma unroll
                for (int i = 0; i < WARP_ROWS / 8; i++) rows[i] = sums[i / 2][j][i % 2 * 2 + side];
                Moments moments = moments_of(rows, mine);
                for (int distance = 4; distance < 32; distance *= 2) moments = merged_with_lane(moments, distance);
                int column = warp_column() + 8 * j + lane % 4 * 2 + side;
                if (lane < 4) halves[thread / 64 * COLUMNS + column] = moments;
            }
        }
        __syncthreads();
        return thread < COLUMNS ? merged(halves[thread], halves[COLUMNS + thread]) : Moments{0.0f, 0.0f, 0.0f};
    }

    /// Calls `write(row, column, first sum, second sum)` for the thread's pairs of neighbouring columns; it may change the
    /// sums.
    template <class Write>
    __device__ __forceinline__ void for_each_pair(Write write) {
        int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
        for (int i = 0; i < WARP_ROWS / 16; i++) {
#pragma unroll
            for (int j = 0; j < WARP_COLUMNS / 8; j++) {
                int row = warp_row() + 16 * i + lane / 4, column = warp_column() + 8 * j + lane % 4 * 2;
                write(row, column, sums[i][j][0], sums[i][j][1]);
                write(row + 8, column, sums[i][j][2], sums[i][j][3]);
            }
        }
    }
};

/// y[pixel][lane] = bias[lane] + sum over taps and source lanes of source[pixel at tap][k] weight, then ReLU if there
/// is nothing else to finish, in a tile. The weight is filter[tap][k][lane], backwards filter[tap][lane][k].
template <class Element, int ROWS, int COLUMNS, bool backward>
__device__ __forceinline__ void tensor_convolve_tile(const PixelTile& mine, const Element* source,
                                                     const Element* filter, const float* bias, float* y,
                                                     const Finish& finish, const StatisticsTo& statistics,
                                                     const Geometry& g) {
    using Block = Tile<Element, ROWS, COLUMNS, false, !backward>;
    using A = typename Block::A;
    using B = typename Block::B;
    int first_lane = static_cast<int>(blockIdx.y) * COLUMNS, taps = g.kernel_rows * g.kernel_columns;
    int slices = taps * ((g.source_lanes + A::DEPTH - 1) / A::DEPTH);

    Pixel pixels[A::COPIES];
    int offsets[A::COPIES];
#pragma unroll
    for (int i = 0; i < A::COPIES; i++) {
        pixels[i] = pixel_at(mine.first + A::copied_row(i), g.rows, g.columns);
    }
    auto find_offsets = [&](int tap) {
#pragma unroll
        for (int i = 0; i < A::COPIES; i++) {
            bool exists = A::copied_row(i) < mine.count;
            offsets[i] = exists ? source_offset<backward>(pixels[i], tap, g) : -1;
        }
    };

    int tap = 0, first = 0;
    find_offsets(0);
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
        if (++tap < taps) find_offsets(tap);
    };

    SHARED_ARRAY(float4, ring, Block::RING);
    Block tile;
    tile.sum(ring, slices, copy);
    bool rectify = finish.rectifies_at_once();
    tile.for_each_pair([&](int row, int column, float& left, float& right) {
        int lane = first_lane + column;
        if (row >= mine.count || lane >= g.lanes) return;
        if (bias != nullptr) left += bias[lane], right += bias[lane + 1];
        left = rectified(left, rectify), right = rectified(right, rectify);
        *reinterpret_cast<float2*>(y + (mine.first + row) * g.lanes + lane) = make_float2(left, right);
    });
    if (statistics.statistics == nullptr) return;
    __syncthreads();  // the ring is read no more
    auto* scratch = reinterpret_cast<Moments*>(ring);
    Moments moments = tile.column_moments(mine.count, scratch);
    take_statistics<THREADS, COLUMNS>(statistics, moments, mine.sample, mine.number, ROWS, g.rows * g.columns,
                                      first_lane, g.lanes, scratch);
}

/// The block's tiles, and the norm that may follow.
template <class Element, int ROWS, int COLUMNS, bool backward>
__device__ __forceinline__ void tensor_convolve(const Element* source, const Element* filter, const float* bias,
                                                float* y, const Finish& finish, const StatisticsTo& statistics,
                                                const Geometry& g) {
    for_my_tiles<THREADS, ROWS, COLUMNS>(finish, statistics, y, g, [&](const PixelTile& tile) {
        tensor_convolve_tile<Element, ROWS, COLUMNS, backward>(tile, source, filter, bias, y, finish, statistics, g);
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
    tile.sum(ring, slices, copy);
    int filter = (static_cast<int>(blockIdx.z) * g.kernel_rows * g.kernel_columns + tap) * g.source_lanes;
    tile.for_each_pair([&](int row, int column, float& left, float& right) {
        int input = first_input + row, output = first_output + column;
        if (input >= g.source_lanes || output >= g.lanes) return;
        *reinterpret_cast<float2*>(parts + (filter + input) * g.lanes + output) = make_float2(left, right);
    });
}

}  // namespace

// The kernels of one number format and tile. What they compute stands above; the arguments are those of conv.cu.
#define CONV_KERNEL(NAME, ELEMENT, ROWS, COLUMNS)                                                                \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                        \
        NAME(const ELEMENT* x, const ELEMENT* filter, const float* bias, float* y, Finish finish,                \
             StatisticsTo statistics, Geometry g) {                                                              \
        tensor_convolve<ELEMENT, ROWS, COLUMNS, false>(x, filter, bias, y, finish, statistics, g);               \
    }
#define CONV_BACKWARD_KERNEL(NAME, ELEMENT, ROWS, COLUMNS)                                                       \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                        \
        NAME(const ELEMENT* dy, const ELEMENT* filter, const float* bias, float* dx, Finish finish,              \
             StatisticsTo statistics, Geometry g) {                                                              \
        tensor_convolve<ELEMENT, ROWS, COLUMNS, true>(dy, filter, bias, dx, finish, statistics, g);              \
    }
#define CONV_FILTER_GRAD_KERNEL(NAME, ELEMENT, ROWS, COLUMNS)                                    \
    extern "C" __global__ void __launch_bounds__(THREADS)                                        \
        NAME(const ELEMENT* x, const ELEMENT* dy, float* parts, int part_pixels, Geometry g) {   \
        tensor_filter_grad<ELEMENT, ROWS, COLUMNS>(x, dy, parts, part_pixels, g);                \
    }
