// Convolution on tensor cores, of 16-bit numbers, by patches: a block reads the pixels that its patch of results
// is made of once for all taps, where tensor_conv.cuh reads them once for each.
//
// Maps are [batch][row][column][lane], filters [tap][padded input channel][padded output channel]. A block of four warps
// owns a patch of ROWS pixels, as tall as they make it of the given width, by COLUMNS lanes. It walks the source's channels
// in slices of 32: the patch's pixels and those around it (the halo) lie in shared memory twice, one slice being multiplied
// while the next is copied; the weights of a slice and tap go through a ring of stages. Several blocks may share the
// channels: each leaves its sums in scratch memory, and the last one adds them up in order.
#pragma once

#include "tensor_tile.cuh"

/// How maps are cut into patches, and who shares a patch.
struct Patches {
    /// Of a patch: its width, a power of two of at least 8, as an exponent.
    int width_log2;
    /// Patches across and down a sample.
    int across, down;
    /// Pixels across the halo, and all of them.
    int halo_columns, halo_pixels;
    /// Blocks that share the channels of a patch; the grid's z.
    int shares;
    /// Where they leave their sums, [tile][share][ROWS x COLUMNS in the threads' order], tiles being patches by blocks of
    /// lanes; and how many have, 0 before and after.
    float* sums;
    unsigned* arrivals;
};

namespace {

template <int ROWS>
struct PatchCut {
    const Geometry& g;
    const Patches& p;
    int tiles;

    struct Place {
        const Geometry& g;
        int sample, number;
        /// The patch's first row and column, and its width as an exponent.
        int top, left, width_log2;

        __device__ __forceinline__ int pixel(int row) const {
            int y = top + (row >> width_log2), x = left + (row & ((1 << width_log2) - 1));
            return y < g.rows && x < g.columns ? (sample * g.rows + y) * g.columns + x : -1;
        }
    };
    __device__ __forceinline__ Place at(int index) const {
        int number = index % tiles;
        int top = number / p.across * (ROWS >> p.width_log2), left = (number % p.across) << p.width_log2;
        return {g, index / tiles, number, top, left, p.width_log2};
    }
};

/// The patch with its halo in shared memory, [pixel][32 channels], chunks swizzled as in `Slice`.
template <class Element>
struct Halo {
    static constexpr int PIXEL_BYTES = SLICE_CHUNKS * CHUNK;
    static constexpr int CHUNK_NUMBERS = CHUNK / int(sizeof(Element));
    static constexpr int DEPTH = SLICE_CHUNKS * CHUNK_NUMBERS;

    static __device__ __forceinline__ int place(int pixel, int chunk) {
        return pixel * PIXEL_BYTES + (chunk ^ (pixel >> 1 & 3)) * CHUNK;
    }

    /// What a thread copies of a slice, round by round: a chunk of every 32nd pixel of the halo.
    struct Copies {
        /// The next one: its pixel in the halo, and where that lies in the source.
        int pixel, row, column;

        __device__ __forceinline__ void start(const Patches& p) {
            pixel = static_cast<int>(threadIdx.x) / SLICE_CHUNKS;
            row = pixel / p.halo_columns, column = pixel % p.halo_columns;
        }

        /// Copies it and goes on; `first` is the slice's first channel.
        template <class Place>
        __device__ __forceinline__ void copy(unsigned char* halo, const Element* source, int first, const Place& at,
                                             const Geometry& g, const Patches& p) {
            if (pixel >= p.halo_pixels) return;
            int chunk = static_cast<int>(threadIdx.x) % SLICE_CHUNKS, k = first + chunk * CHUNK_NUMBERS;
            int y = at.top * g.stride - g.padding + row, x = at.left * g.stride - g.padding + column;
            bool valid = static_cast<unsigned>(y) < static_cast<unsigned>(g.source_rows) &&
                         static_cast<unsigned>(x) < static_cast<unsigned>(g.source_columns) && k < g.source_lanes;
            int offset = ((at.sample * g.source_rows + y) * g.source_columns + x) * g.source_lanes + k;
            cp_async16(halo + place(pixel, chunk), valid ? source + offset : source, valid);
            pixel += THREADS / SLICE_CHUNKS;
            column += THREADS / SLICE_CHUNKS;
            while (column >= p.halo_columns) {
                column -= p.halo_columns;
                row++;
            }
        }
    };
};

/// The block's sums over its share of the channels, and all taps, of source[pixel at tap][k] filter[tap][k][lane].
template <class Block, class Element, class Place>
__device__ __forceinline__ void sum_patch(Block& tile, unsigned char* memory, const Place& at, const Element* source,
                                          const Element* filter, const Geometry& g, const Patches& p) {
    using B = typename Block::B;
    using Source = Halo<Element>;
    int first_lane = static_cast<int>(blockIdx.y) * Block::COLUMNS, taps = g.kernel_rows * g.kernel_columns;
    int slices = (g.source_lanes + Source::DEPTH - 1) / Source::DEPTH, share = static_cast<int>(blockIdx.z);
    int begin = slices * share / p.shares, end = slices * (share + 1) / p.shares, steps = (end - begin) * taps;
    unsigned char* halos = memory + STAGES * B::BYTES;
    auto halo_of = [&](int slice) { return halos + (slice - begin) % 2 * p.halo_pixels * Source::PIXEL_BYTES; };

    // The next weights to copy: the thread's chunk of their first row, and the rows that there are.
    int lane_of_weights = first_lane + B::copied_chunk() * B::CHUNK_NUMBERS, weights_tap = 0;
    int weights_left = lane_of_weights < g.lanes ? g.source_lanes - begin * Source::DEPTH - B::copied_row(0) : 0;
    int tap_size = g.source_lanes * g.lanes, next_slice = Source::DEPTH * g.lanes - taps * tap_size;
    const Element* weights = filter + (begin * Source::DEPTH + B::copied_row(0)) * g.lanes + lane_of_weights;
    auto copy_weights = [&](int stage) {
#pragma unroll
        for (int i = 0; i < B::COPIES; i++) {
            constexpr int ROWS = THREADS / B::ROW_CHUNKS;
            bool valid = i * ROWS < weights_left;
            B::copy(memory + stage * B::BYTES, i, valid ? weights + i * ROWS * g.lanes : filter, valid);
        }
        weights += tap_size;
        if (++weights_tap < taps) return;
        weights_tap = 0;
        weights += next_slice;
        weights_left -= Source::DEPTH;
    };

    // A step asks for the weights of STAGES - 1 steps later. Those of the first step of a slice are waited for together with
    // all that was asked for before: so the slice's halo is asked for, in equal parts, in the steps until then.
    int rounds = (p.halo_pixels * SLICE_CHUNKS + THREADS - 1) / THREADS, windows = taps - STAGES + 2;
    int rounds_a_step = (rounds + windows - 1) / windows;
    typename Source::Copies copies;
    copies.start(p);
#pragma unroll 1
    for (int round = 0; round < rounds; round++) copies.copy(halo_of(begin), source, begin * Source::DEPTH, at, g, p);
    for (int step = 0; step < STAGES - 1; step++) {
        if (step < steps) copy_weights(step);
        cp_async_commit();
    }

    // The pixels in the halo of which the thread gives the addresses: rows of the tile at the first tap.
    int lane = static_cast<int>(threadIdx.x) % 32, upper = lane / 8 % 2, later = lane / 16;
    int pixels[Block::WARP_ROWS / 16];
#pragma unroll
    for (int i = 0; i < Block::WARP_ROWS / 16; i++) {
        int row = Block::warp_row() + 16 * i + 8 * upper + lane % 8;
        pixels[i] = ((row >> p.width_log2) * p.halo_columns + (row & ((1 << p.width_log2) - 1))) * g.stride;
    }

    static_assert((STAGES & (STAGES - 1)) == 0, "stages come round by masks");
    int step = 0, stage = 0;
#pragma unroll 1
    for (int slice = begin; slice < end; slice++) {
        const unsigned char* halo = halo_of(slice);
        copies.start(p);
        int halves = g.source_lanes - slice * Source::DEPTH > Source::DEPTH / 2 ? 2 : 1, row = 0, column = 0;
#pragma unroll 1
        for (int tap = 0; tap < taps; tap++, step++) {
            cp_async_wait<STAGES - 2>();
            __syncthreads();
            // Into what was last read before the barrier.
            if (step + STAGES - 1 < steps) copy_weights((stage + STAGES - 1) & (STAGES - 1));
            if (slice + 1 < end && tap < windows) {
#pragma unroll 1
                for (int i = 0; i < rounds_a_step; i++) {
                    copies.copy(halo_of(slice + 1), source, (slice + 1) * Source::DEPTH, at, g, p);
                }
            }
            cp_async_commit();
            int moved = (row * p.halo_columns + column) * g.dilation, places[Block::WARP_ROWS / 16];
#pragma unroll
            for (int i = 0; i < Block::WARP_ROWS / 16; i++) places[i] = Source::place(pixels[i] + moved, later);
            // The second half's chunks are the first half's but for one bit, also when they have changed places.
            tile.multiply([&](uint32_t (&registers)[4], int i, int half) {
                load_matrices(registers, halo + (places[i] ^ half * 2 * CHUNK));
            }, memory + stage * B::BYTES, halves);
            stage = (stage + 1) & (STAGES - 1);
            if (++column < g.kernel_columns) continue;
            column = 0;
            row++;
        }
    }
}

/// Whether the block is the last of those that share a patch, and so has the sums of them all. Every thread must call it.
template <class Block>
__device__ __forceinline__ bool gather_shares(Block& tile, int index, const Patches& p) {
    if (p.shares == 1) return true;
    constexpr int QUADS = sizeof(tile.sums) / sizeof(float4), SUMMING = Block::SUMMING;
    int thread = static_cast<int>(threadIdx.x);
    int number = index * static_cast<int>(gridDim.y) + static_cast<int>(blockIdx.y);
    auto* all = reinterpret_cast<float4*>(p.sums) + number * p.shares * QUADS * SUMMING + thread;
    auto* mine = all + static_cast<int>(blockIdx.z) * QUADS * SUMMING;
    if (Block::has_sums()) {
#pragma unroll
        for (int i = 0; i < Block::WARP_ROWS / 16; i++) {
#pragma unroll
            for (int j = 0; j < Block::WARP_COLUMNS / 8; j++) {
                const float(&sums)[4] = tile.sums[i][j];
                mine[(i * (Block::WARP_COLUMNS / 8) + j) * SUMMING] = make_float4(sums[0], sums[1], sums[2], sums[3]);
            }
        }
    }
    if (!comes_last(p.arrivals + number, p.shares)) return false;
    if (!Block::has_sums()) return true;
    tile.clear();
#pragma unroll 1
    for (int share = 0; share < p.shares; share++) {
#pragma unroll
        for (int i = 0; i < Block::WARP_ROWS / 16; i++) {
#pragma unroll
            for (int j = 0; j < Block::WARP_COLUMNS / 8; j++) {
                float4 sums = all[(share * QUADS + i * (Block::WARP_COLUMNS / 8) + j) * SUMMING];
                float(&total)[4] = tile.sums[i][j];
                total[0] += sums.x, total[1] += sums.y, total[2] += sums.z, total[3] += sums.w;
            }
        }
    }
    return true;
}

/// y[pixel][lane] = bias[lane] + sum over taps and source lanes of source[pixel at tap][k] filter[tap][k][lane], finished, in
/// the block's patches. Dynamic shared memory has room for the ring of weights and two halos, and for RESULT_BYTES.
template <class Element, class Result, int ROWS, int COLUMNS>
__device__ __forceinline__ void patch_convolve(const Element* source, const Element* filter, const float* bias,
                                               Result* y, const Finish& finish, const StatisticsTo& statistics,
                                               const Geometry& g, const Patches& p) {
    using Block = Tile<Element, ROWS, COLUMNS, false, true>;
    SHARED_MEMORY(unsigned char, memory);
    PatchCut<ROWS> cut{g, p, p.across * p.down};
    convolve_tiles<Block>(cut, g.batch, g.lanes, memory, bias, y, finish, statistics, [&](Block& tile, const auto& at) {
        sum_patch(tile, memory, at, source, filter, g, p);
        int index = at.sample * cut.tiles + at.number;
        return gather_shares(tile, index, p);
    });
}

}  // namespace

// The kernels of one number format, kind of results and patch.
#define CONV_PATCHES_KERNEL(NAME, ELEMENT, RESULT, ROWS, COLUMNS)                                     \
    extern "C" __global__ void __launch_bounds__(THREADS, blocks_of<ELEMENT>(ROWS * COLUMNS))         \
        NAME(const ELEMENT* x, const ELEMENT* filter, const float* bias, RESULT* y, Finish finish,    \
             StatisticsTo statistics, Geometry g, Patches p) {                                        \
        fetch_ahead(filter, filter_bytes<ELEMENT>(g));                                                \
        wait_for_launches_before();                                                                   \
        patch_convolve<ELEMENT, RESULT, ROWS, COLUMNS>(x, filter, bias, y, finish, statistics, g, p); \
    }
