// Convolution on the tensor cores of sm_90a, of 16-bit numbers, by patches, where those read operands from shared memory by
// themselves: the same as patch_conv.cuh for strides of 1, with as few instructions as can be between products.
//
// A block owns a patch of 16 rows of 8 pixels by COLUMNS lanes. Eight warps multiply, two groups of four, each of 8 rows; two
// copy. The source's channels go by slices of 64, of which patch and halo lie in shared memory as
// [chunk of 8 channels][halo row][halo column][8 channels]. There 8 neighbouring pixels are a block of 8 x 16 bytes as tensor
// cores take it, wherever they begin: what a tap reads is the same matrix, only moved. The weights of a slice and tap lie in a
// stage of a ring as [chunk of 8 lanes][channel][8 lanes]. A stage has two barriers: one that says that it is filled, to which
// the warps come that copy, and one that says that it is read, to which those come that multiply.
#pragma once

#include "patch_conv.cuh"

namespace {

/// Of a block: eight warps that multiply, two that copy. With more there would not be registers for two blocks.
constexpr int WARPGROUP_THREADS = 320;

/// A block's warps, and what its stages hold.
template <class Element, int COLUMNS_>
struct Warpgroups : Sums<128, COLUMNS_, 16, COLUMNS_, WARPGROUP_THREADS> {
    using Mine = Sums<128, COLUMNS_, 16, COLUMNS_, WARPGROUP_THREADS>;
    using Mine::BLOCK_THREADS, Mine::COLUMNS, Mine::SUMMING;
    /// Pixels of a patch's row, and rows of a group of warps.
    static constexpr int WIDTH = 8, GROUP_ROWS = 8;
    static constexpr int COPYING = BLOCK_THREADS - SUMMING;
    static constexpr int STAGES = 6;
    /// Stages are said to be filled so many steps after they have been asked for.
    static constexpr int LAG = 3;
    /// Numbers of a chunk, channels of a slice and of a product.
    static constexpr int CHUNK_NUMBERS = CHUNK / int(sizeof(Element)), DEPTH = 64, PRODUCT = 16;
    static constexpr int SLICE_CHUNKS = DEPTH / CHUNK_NUMBERS, ROW_CHUNKS = COLUMNS / CHUNK_NUMBERS;
    /// From a chunk of lanes to the next, so that those of a channel or two, which a quarter of a warp copies, meet in no bank.
    static constexpr int WEIGHTS_PITCH = (DEPTH + 8 / ROW_CHUNKS) * CHUNK;
    static constexpr int STAGE_BYTES = ROW_CHUNKS * WEIGHTS_PITCH;
    static_assert(8 % ROW_CHUNKS == 0, "chunks of a row are copied by a quarter of a warp at most");

    /// From a chunk of channels to the next, so that those of a pixel meet in no bank.
    static __device__ __forceinline__ int halo_pitch(const Patches& p) { return (p.halo_pixels | 1) * CHUNK; }
    static __device__ __forceinline__ int halo_bytes(const Patches& p) { return SLICE_CHUNKS * halo_pitch(p); }
    static __device__ __forceinline__ int slices(const Geometry& g) { return (g.source_lanes + DEPTH - 1) / DEPTH; }
};

/// A place in the ring, and the parity of the phases that fill it for this round.
template <int STAGES>
struct Turn {
    int stage = 0;
    unsigned parity = 0;

    __device__ __forceinline__ void next() {
        if (++stage < STAGES) return;
        stage = 0;
        parity ^= 1;
    }
};

/// The barriers of the stages, in shared memory.
template <int STAGES>
struct Barriers {
    uint64_t* both;

    __device__ __forceinline__ uint64_t* filled(int stage) const { return both + stage; }
    __device__ __forceinline__ uint64_t* read(int stage) const { return both + STAGES + stage; }
};

/// What a thread that copies copies of a slice, round by round: a chunk of every 8th pixel of the halo.
template <class Block, class Element>
struct HaloCopies {
    static constexpr int STEP = Block::COPYING / Block::SLICE_CHUNKS;
    /// The next one: its pixel in the halo, and where that lies in the source.
    int pixel, row, column;

    __device__ __forceinline__ void start(int thread, const Patches& p) {
        pixel = thread / Block::SLICE_CHUNKS;
        row = pixel / p.halo_columns, column = pixel % p.halo_columns;
    }

    /// Copies it and goes on; `first` is the slice's first channel.
    template <class Place>
    __device__ __forceinline__ void copy(int thread, unsigned char* halo, const Element* source, int first, const Place& at,
                                         const Geometry& g, const Patches& p) {
        if (pixel >= p.halo_pixels) return;
        int chunk = thread % Block::SLICE_CHUNKS, k = first + chunk * Block::CHUNK_NUMBERS;
        int y = at.top - g.padding + row, x = at.left - g.padding + column;
        bool valid = static_cast<unsigned>(y) < static_cast<unsigned>(g.source_rows) &&
                     static_cast<unsigned>(x) < static_cast<unsigned>(g.source_columns) && k < g.source_lanes;
        int offset = ((at.sample * g.source_rows + y) * g.source_columns + x) * g.source_lanes + k;
        cp_async16(halo + chunk * Block::halo_pitch(p) + pixel * CHUNK, valid ? source + offset : source, valid);
        pixel += STEP;
        column += STEP;
        while (column >= p.halo_columns) {
            column -= p.halo_columns;
            row++;
        }
    }
};

/// Copies the block's share of the channels of a patch, and of the weights of its lanes, step by step, for those who multiply.
template <class Block, class Element, class Place>
__device__ __forceinline__ void copy_patch(Turn<Block::STAGES>& turn, unsigned char* memory, Barriers<Block::STAGES> barriers,
                                           const Place& at, const Element* source, const Element* filter,
                                           const Geometry& g, const Patches& p) {
    constexpr int STAGES = Block::STAGES, LAG = Block::LAG, DEPTH = Block::DEPTH;
    int thread = static_cast<int>(threadIdx.x) - Block::SUMMING;
    int first_lane = static_cast<int>(blockIdx.y) * Block::COLUMNS, taps = g.kernel_rows * g.kernel_columns;
    int slices = Block::slices(g), share = static_cast<int>(blockIdx.z);
    int begin = slices * share / p.shares, end = slices * (share + 1) / p.shares, steps = (end - begin) * taps;
    unsigned char* halos = memory + STAGES * Block::STAGE_BYTES;
    auto halo_of = [&](int slice) { return halos + (slice - begin) % 2 * Block::halo_bytes(p); };

    // The next weights to copy: the thread's chunk of their first row, and the rows that there are.
    constexpr int ROW_STEP = Block::COPYING / Block::ROW_CHUNKS;
    int chunk = thread % Block::ROW_CHUNKS, weights_row = thread / Block::ROW_CHUNKS;
    int lane_of_weights = first_lane + chunk * Block::CHUNK_NUMBERS;
    int weights_left = lane_of_weights < g.lanes ? g.source_lanes - begin * DEPTH - weights_row : 0;
    int tap_size = g.source_lanes * g.lanes, next_slice = DEPTH * g.lanes - taps * tap_size;
    const Element* weights = filter + (begin * DEPTH + weights_row) * g.lanes + lane_of_weights;
    unsigned char* weights_place = memory + chunk * Block::WEIGHTS_PITCH + weights_row * CHUNK;

    // A slice's halo is copied in the steps of the slice before, once those who multiply have left the one before that: when
    // the last of its stages is filled anew.
    int rounds = (p.halo_pixels + HaloCopies<Block, Element>::STEP - 1) / HaloCopies<Block, Element>::STEP;
    int rounds_a_step = (rounds + taps - STAGES) / (taps - STAGES + 1);
    HaloCopies<Block, Element> copies;
    copies.start(thread, p);
#pragma unroll 1
    for (int round = 0; round < rounds; round++) {
        copies.copy(thread, halo_of(begin), source, begin * DEPTH, at, g, p);
    }
    copies.start(thread, p);

    int slice = begin, tap = 0;
    Turn<STAGES> told = turn;
#pragma unroll 1
    for (int step = 0; step < steps + LAG; step++) {
        if (step < steps) {
            barrier_wait(barriers.read(turn.stage), turn.parity ^ 1);
#pragma unroll
            for (int i = 0; i < DEPTH / ROW_STEP; i++) {
                bool valid = i * ROW_STEP < weights_left;
                cp_async16(weights_place + turn.stage * Block::STAGE_BYTES + i * ROW_STEP * CHUNK,
                           valid ? weights + i * ROW_STEP * g.lanes : filter, valid);
            }
            if (slice + 1 < end && tap >= STAGES - 1) {
#pragma unroll 1
                for (int i = 0; i < rounds_a_step; i++) {
                    copies.copy(thread, halo_of(slice + 1), source, (slice + 1) * DEPTH, at, g, p);
                }
            }
            weights += tap_size;
            if (++tap == taps) {
                tap = 0;
                slice++;
                weights += next_slice;
                weights_left -= DEPTH;
                copies.start(thread, p);
            }
            turn.next();
        }
        cp_async_commit();
        if (step < LAG) continue;
        cp_async_wait<LAG>();
        fence_for_tensor_cores();
        __syncwarp();
        if (thread % 32 == 0) barrier_arrive(barriers.filled(told.stage));
        told.next();
    }
}

/// The sums of a thread that multiplies, over the block's share of the channels, and all taps, of
/// source[pixel at tap][k] filter[tap][k][lane].
template <class Block, class Element>
__device__ __forceinline__ void sum_copied(Block& tile, Turn<Block::STAGES>& turn, unsigned char* memory,
                                           Barriers<Block::STAGES> barriers, const Geometry& g, const Patches& p) {
    int slices = Block::slices(g), share = static_cast<int>(blockIdx.z);
    int begin = slices * share / p.shares, end = slices * (share + 1) / p.shares;
    int halo_row = p.halo_columns * CHUNK, halo_pitch = Block::halo_pitch(p), halo_bytes = Block::halo_bytes(p);
    // The same for a warp, which the compiler does not know.
    int group = __shfl_sync(WHOLE_WARP, static_cast<int>(threadIdx.x) / 128, 0);
    bool tells = threadIdx.x % 32 == 0;
    unsigned char* halos = memory + Block::STAGES * Block::STAGE_BYTES;
    uint64_t pixels = shared_matrix(halos + group * Block::GROUP_ROWS * halo_row, halo_pitch, halo_row);
    uint64_t weights = shared_matrix(memory, 8 * CHUNK, Block::WEIGHTS_PITCH);
    int before = -1;
#pragma unroll 1
    for (int slice = begin; slice < end; slice++) {
        int products = min(g.source_lanes - slice * Block::DEPTH + Block::PRODUCT - 1, Block::DEPTH) / Block::PRODUCT;
        uint64_t halo = moved(pixels, (slice - begin) % 2 * halo_bytes);
#pragma unroll 1
        for (int row = 0; row < g.kernel_rows; row++) {
#pragma unroll 1
            for (int column = 0; column < g.kernel_columns; column++) {
                barrier_wait(barriers.filled(turn.stage), turn.parity);
                warpgroup_fence();
                uint64_t a = moved(halo, (row * halo_row + column * CHUNK) * g.dilation);
                uint64_t b = moved(weights, turn.stage * Block::STAGE_BYTES);
                auto multiply = [&](int i) {
                    warpgroup_mma<Element, Block::COLUMNS>(tile.sums[0], moved(a, 2 * i * halo_pitch),
                                                           moved(b, i * Block::PRODUCT * CHUNK));
                };
                // Apart, so that nothing is asked between the products of a whole slice.
                if (products == Block::DEPTH / Block::PRODUCT) {
#pragma unroll
                    for (int i = 0; i < Block::DEPTH / Block::PRODUCT; i++) multiply(i);
                    warpgroup_commit();
                } else {
#pragma unroll 1
                    for (int i = 0; i < products; i++) multiply(i);
                    warpgroup_commit();
                }
                // The step before is done when only this one is not.
                warpgroup_wait<1>();
                if (before >= 0 && tells) barrier_arrive(barriers.read(before));
                before = turn.stage;
                turn.next();
            }
        }
    }
    warpgroup_wait_for(tile.sums[0]);
    if (before >= 0 && tells) barrier_arrive(barriers.read(before));
}

/// y[pixel][lane] = bias[lane] + sum over taps and source lanes of source[pixel at tap][k] filter[tap][k][lane], finished, in
/// the block's patches. Dynamic shared memory has room for the ring of weights and two halos, and for RESULT_BYTES.
template <class Element, class Result, int COLUMNS>
__device__ __forceinline__ void warpgroup_convolve(const Element* source, const Element* filter, const float* bias,
                                                   Result* y, const Finish& finish, const StatisticsTo& statistics,
                                                   const Geometry& g, const Patches& p) {
    using Block = Warpgroups<Element, COLUMNS>;
    SHARED_MEMORY(unsigned char, memory);
    SHARED_ARRAY(uint64_t, both, 2 * Block::STAGES);
    Barriers<Block::STAGES> barriers{both};
    if (threadIdx.x == 0) {
        for (int stage = 0; stage < Block::STAGES; stage++) {
            barrier_init(barriers.filled(stage), Block::COPYING / 32);
            barrier_init(barriers.read(stage), Block::SUMMING / 32);
        }
    }
    __syncthreads();
    fetch_ahead(filter, filter_bytes<Element>(g));
    wait_for_launches_before();
    // Tile after tile, the ring goes on where it is.
    Turn<Block::STAGES> turn;
    PatchCut<Block::ROWS> cut{g, p, p.across * p.down};
    convolve_tiles<Block>(cut, g.batch, g.lanes, memory, bias, y, finish, statistics, [&](Block& tile, const auto& at) {
        if (Block::has_sums()) {
            sum_copied<Block, Element>(tile, turn, memory, barriers, g, p);
        } else {
            copy_patch<Block>(turn, memory, barriers, at, source, filter, g, p);
        }
        int index = at.sample * cut.tiles + at.number;
        return gather_shares(tile, index, p);
    });
}

}  // namespace
