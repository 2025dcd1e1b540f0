// A tile of results that a block of four warps computes on tensor cores: its slices of operands in shared memory, its sums
// in registers, and what becomes of them.
#pragma once

#include "convolution.cuh"

namespace {

constexpr int THREADS = 128;
constexpr int STAGES = 4;
/// Blocks that a multiprocessor shall hold at once, for a tile of so many results: as many as have registers enough. Operands
/// of 32 bits take more; Turing has no shared memory for several.
template <class Element>
constexpr int blocks_of(int results) {
#if CORONET_ARCH >= 80
    return (results > 64 * 64 ? 4 : 5) - static_cast<int>(sizeof(Element)) / 2;
#else
    return 1;
#endif
}
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

/// A tile's sums, which the first warps of a block hold in registers, WARP_ROWS x WARP_COLUMNS each, side by side and then
/// below each other; and what the results take of shared memory. The block has BLOCK_THREADS threads.
template <int ROWS_, int COLUMNS_, int WARP_ROWS_, int WARP_COLUMNS_, int BLOCK_THREADS_>
struct Sums {
    static constexpr int ROWS = ROWS_, COLUMNS = COLUMNS_, WARP_ROWS = WARP_ROWS_, WARP_COLUMNS = WARP_COLUMNS_;
    static constexpr int BLOCK_THREADS = BLOCK_THREADS_, ACROSS = COLUMNS / WARP_COLUMNS;
    /// Threads that have sums.
    static constexpr int SUMMING = ROWS / WARP_ROWS * ACROSS * 32;
    /// Bytes that results, their places, moments and statistics take once the sums are complete.
    static constexpr int RESULT_BYTES =
        (ROWS * (COLUMNS + 1) + 2 * COLUMNS) * 4 + int(sizeof(Moments)) * BLOCK_THREADS;
    static_assert(SUMMING <= BLOCK_THREADS && COLUMNS <= BLOCK_THREADS, "there are threads for sums and columns");

    float sums[WARP_ROWS / 16][WARP_COLUMNS / 8][4];

    static __device__ __forceinline__ bool has_sums() {
        return SUMMING == BLOCK_THREADS || static_cast<int>(threadIdx.x) < SUMMING;
    }
    static __device__ __forceinline__ int warp_row() {
        return static_cast<int>(threadIdx.x / (32 * ACROSS)) * WARP_ROWS;
    }
    static __device__ __forceinline__ int warp_column() {
        return static_cast<int>(threadIdx.x / 32 % ACROSS) * WARP_COLUMNS;
    }

    __device__ __forceinline__ void clear() {
#pragma unroll
        for (int i = 0; i < WARP_ROWS / 16; i++) {
#pragma unroll
            for (int j = 0; j < WARP_COLUMNS / 8; j++) {
                for (float& sum : sums[i][j]) sum = 0.0f;
            }
        }
    }

    /// Where the sum of a row and column lies in shared memory. Numbers change places within their row so that neither the
    /// fragments of warps nor rows and columns meet in a bank.
    static __device__ __forceinline__ int place(int row, int column) {
        // In bits, of which the compiler sees that rows 8 apart and columns 32 apart share an address.
        return row * COLUMNS + (column & ~31) + ((column & 31) ^ (row & 3) * 8);
    }

    /// The first of the two neighbouring columns that the thread has of the warp's 8 from 8 j on.
    static __device__ __forceinline__ int my_column(int j) {
        return warp_column() + 8 * j + static_cast<int>(threadIdx.x % 4) * 2;
    }

    /// Calls `take(row, j, first sum, second sum)` for the thread's pairs of neighbouring columns.
    template <class Take>
    __device__ __forceinline__ void for_each_pair(Take take) const {
        int lane = static_cast<int>(threadIdx.x % 32);
#pragma unroll
        for (int j = 0; j < WARP_COLUMNS / 8; j++) {
#pragma unroll
            for (int i = 0; i < WARP_ROWS / 16; i++) {
                int row = warp_row() + 16 * i + lane / 4;
                take(row, j, sums[i][j][0], sums[i][j][1]);
                take(row + 8, j, sums[i][j][2], sums[i][j][3]);
            }
        }
    }

    /// Writes the sums plus `bias`, if there is one, to `numbers` in shared memory.
    __device__ __forceinline__ void put_down(float* numbers, const float* bias, int first_lane, int lanes) const {
        if (!has_sums()) return;
        float2 added[WARP_COLUMNS / 8];
#pragma unroll
        for (int j = 0; j < WARP_COLUMNS / 8; j++) {
            int lane = first_lane + my_column(j);
            added[j] = bias != nullptr && lane < lanes ? two(bias + lane) : make_float2(0.0f, 0.0f);
        }
        for_each_pair([&](int row, int j, float left, float right) {
            put(numbers + place(row, my_column(j)), make_float2(left + added[j].x, right + added[j].y));
        });
    }
};

/// A block's tile of results. Its warps stand two by two.
template <class Element, int ROWS_, int COLUMNS_, bool A_ACROSS, bool B_ACROSS>
struct Tile : Sums<ROWS_, COLUMNS_, ROWS_ / 2, COLUMNS_ / 2, THREADS> {
    using Mine = Sums<ROWS_, COLUMNS_, ROWS_ / 2, COLUMNS_ / 2, THREADS>;
    using Mine::COLUMNS, Mine::ROWS, Mine::WARP_COLUMNS, Mine::WARP_ROWS, Mine::sums, Mine::warp_column, Mine::warp_row;
    using A = Slice<Element, ROWS, A_ACROSS>;
    using B = Slice<Element, COLUMNS, B_ACROSS>;
    static constexpr int STAGE_BYTES = A::BYTES + B::BYTES;
    /// Of the ring, in chunks. Results take it over in the end.
    static constexpr int RING = STAGES * STAGE_BYTES / CHUNK;
    static_assert(Mine::RESULT_BYTES <= RING * CHUNK, "there is room for results");

    /// sums += a b over the first `halves` halves of a slice; `load_a(registers, i, half)` loads the warp's rows from 16 i
    /// on.
    template <class LoadA>
    __device__ __forceinline__ void multiply(LoadA load_a, const unsigned char* slice_of_b, int halves) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            if (half == halves) break;
            uint32_t a[WARP_ROWS / 16][4], b[WARP_COLUMNS / 16][4];
#pragma unroll
            for (int i = 0; i < WARP_ROWS / 16; i++) load_a(a[i], i, half);
#pragma unroll
            for (int i = 0; i < WARP_COLUMNS / 16; i++) {
                B::load(b[i], slice_of_b, warp_column() + 16 * i, half, false);
            }
            mma_tile<Element, WARP_ROWS, WARP_COLUMNS>(sums, a, b);
        }
    }

    /// sums += a b over one stage.
    __device__ __forceinline__ void multiply(const unsigned char* stage) {
        multiply([&](uint32_t (&registers)[4], int i, int half) {
            A::load(registers, stage, warp_row() + 16 * i, half, true);
        }, stage + A::BYTES, 2);
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
};

/// A tile of results, put down in shared memory, and its place in maps of numbers of one kind.
template <class Block, class Number>
struct TileInMaps {
    static constexpr int QUADS = Block::COLUMNS / 4;
    float* numbers;
    /// Where its rows lie, or -1; in shared memory.
    int* offsets;
    Number* maps;
    int first_lane, lanes;

    /// Finds them; `place.pixel(row)` is the pixel of a row of the tile, or -1. Other threads see them after a barrier.
    template <class Place>
    __device__ __forceinline__ void find_rows(const Place& place) const {
        for (int row = static_cast<int>(threadIdx.x); row < Block::ROWS; row += Block::BLOCK_THREADS) {
            int pixel = place.pixel(row);
            offsets[row] = pixel < 0 ? -1 : pixel * lanes;
        }
    }

    /// Calls `change(numbers, offset, lane)` for the thread's quads of lanes that exist.
    template <class Change>
    __device__ __forceinline__ void for_each_quad(Change change) const {
        int thread = static_cast<int>(threadIdx.x), column = thread % QUADS * 4, lane = first_lane + column;
        if (lane >= lanes) return;
#pragma unroll 1
        for (int row = thread / QUADS; row < Block::ROWS; row += Block::BLOCK_THREADS / QUADS) {
            int offset = offsets[row];
            if (offset < 0) continue;
            change(*reinterpret_cast<float4*>(numbers + Block::place(row, column)), offset + lane, lane);
        }
    }

    /// What is taken from a lane's numbers for the time that they wait in maps of 16 bits, so that a mean far from zero costs
    /// nothing: the tile's mean. `moments` are its parts among those of the statistics.
    __device__ __forceinline__ float4 origin(const float* moments) const {
        if constexpr (sizeof(Number) == 4) return make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        int lane = first_lane + static_cast<int>(threadIdx.x) % QUADS * 4;
        return lane < lanes ? four(moments + lanes + lane) : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    }

    /// The maps' numbers = the tile's, less their origin.
    __device__ __forceinline__ void write(const float* moments) const {
        float4 less = origin(moments);
        for_each_quad([&](const float4& quad, int at, int) {
            put(maps + at, make_float4(quad.x - less.x, quad.y - less.y, quad.z - less.z, quad.w - less.w));
        });
    }

    /// The maps' numbers = the tile's, finished; `statistics` are the sample's, [mean, r][column], where there is a norm. The tile's are
    /// those in shared memory, or, where `moments` are given, those that `write` has written. The tile in shared memory has
    /// them, too, if it `keeps` them.
    __device__ __forceinline__ void finish(const Finish& finish, const float* statistics, const float* moments,
                                           bool keeps) const {
        float4 more = moments != nullptr ? origin(moments) : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        QuadNorm norm{};
        int column = static_cast<int>(threadIdx.x) % QUADS * 4;
        if (finish.has_norm() && first_lane + column < lanes) {
            norm = QuadNorm::of(statistics + column, statistics + Block::COLUMNS + column, finish, first_lane + column);
        }
        for_each_quad([&](float4& quad, int at, int lane) {
            float4 numbers = quad;
            if (moments != nullptr) {
                numbers = four(static_cast<const Number*>(maps + at));
                numbers = make_float4(numbers.x + more.x, numbers.y + more.y, numbers.z + more.z, numbers.w + more.w);
            }
            if (finish.has_norm()) numbers = norm.of(numbers);
            numbers = finished<Number, true>(numbers, finish, at, lane);
            put(maps + at, numbers);
            if (keeps) quad = numbers;
        });
    }

    /// The moments of the tile's columns for the first COLUMNS threads, a column each. `parts` is room for a
    /// block's threads in shared memory. Every thread must call it.
    __device__ __forceinline__ Moments column_moments(Moments* parts) const {
        // As many as divide the rows; threads that are left over have none.
        constexpr int MOST = Block::BLOCK_THREADS / Block::COLUMNS, PARTS = MOST >= 8 ? 8 : MOST >= 4 ? 4 : MOST >= 2 ? 2 : 1;
        constexpr int ROWS = Block::ROWS / PARTS;
        int thread = static_cast<int>(threadIdx.x), column = thread % Block::COLUMNS, first = thread / Block::COLUMNS * ROWS;
        // Relative to a number of the column: the first row exists.
        float origin = numbers[Block::place(0, column)], count = 0.0f, sum = 0.0f, squares = 0.0f;
#pragma unroll 4
        for (int row = first; row < min(first + ROWS, Block::ROWS); row++) {
            if (offsets[row] < 0) continue;
            float more = numbers[Block::place(row, column)] - origin;
            count += 1.0f;
            sum += more;
            squares += more * more;
        }
        float excess = count > 0.0f ? sum / count : 0.0f;
        float mean = origin + excess, m2 = fmaxf(squares - sum * excess, 0.0f);
        Moments mine{count, mean, m2};
        parts[thread] = mine;
        __syncthreads();
        for (int part = 1; part < PARTS && thread < Block::COLUMNS; part++) {
            mine = merged(mine, parts[part * Block::COLUMNS + thread]);
        }
        return mine;
    }
};

/// Computes the block's tiles: `sum(tile, place)` takes a tile's sums in shared memory `ring`, and says whether the block is
/// the one that goes on with them; then come bias and statistics, the norm once those are known, and whatever else there
/// is to finish. The last tile waits in shared memory, others in y. `cut` says how samples are cut: `tiles`, and
/// `at(index)`, a place with `sample`, `number` and `pixel(row)`. The grid is tiles of pixels, or as many as are there at
/// once where there is a norm, by tiles of lanes. The ring has room for RESULT_BYTES.
template <class Block, class Result, class Cut, class Sum>
__device__ __forceinline__ void convolve_tiles(const Cut& cut, int batch, int lanes, void* ring, const float* bias,
                                               Result* y, const Finish& finish, const StatisticsTo& to, Sum sum) {
    constexpr int THREADS = Block::BLOCK_THREADS;
    int end = batch * cut.tiles, start = static_cast<int>(blockIdx.x), step = static_cast<int>(gridDim.x);
    int first_lane = static_cast<int>(blockIdx.y) * Block::COLUMNS;
    auto* numbers = static_cast<float*>(ring);
    auto* offsets = reinterpret_cast<int*>(numbers + Block::ROWS * Block::COLUMNS);
    auto* statistics = reinterpret_cast<float*>(offsets + Block::ROWS);
    auto* scratch = reinterpret_cast<Moments*>(statistics + 2 * Block::COLUMNS);
    auto launches = [&](int sample) { return StatisticsPlace::of(to, sample, cut.tiles, lanes).launches(); };
    using Place = decltype(cut.at(0));
    TileInMaps<Block, Result> tile{numbers, offsets, y, first_lane, lanes};
    auto moments_of = [&](const Place& place) {
        return StatisticsPlace::of(to, place.sample, cut.tiles, lanes).moments(place.number, lanes);
    };
    unsigned before = 0;
    // As often for every sample; and nobody can write those of the block's first tile before the block has.
    if (finish.has_norm() && threadIdx.x == 0) before = counter_now(launches(start / cut.tiles));
    int index = start;
    for (;; index += step) {
        Place place = cut.at(index);
        {
            Block block;
            block.clear();
            if (!sum(block, place)) return;  // has no other tile
            __syncthreads();  // the ring is read no more
            block.put_down(numbers, bias, first_lane, lanes);
        }
        tile.find_rows(place);
        __syncthreads();
        bool is_last = index + step >= end, takes = to.statistics != nullptr;
        if (!finish.has_norm()) {
            tile.finish(finish, nullptr, nullptr, takes);
            __syncthreads();
        }
        if (takes) {
            Moments moments = tile.column_moments(scratch);
            if (finish.has_norm()) {
                hand_in_moments<THREADS, Block::COLUMNS>(to, moments, place.sample, place.number, cut.tiles, first_lane,
                                                         lanes, scratch);
            } else {
                take_statistics<THREADS, Block::COLUMNS>(to, moments, place.sample, place.number, cut.tiles, first_lane,
                                                         lanes, scratch);
            }
        }
        if (is_last) break;
        if (finish.has_norm()) tile.write(moments_of(place));
        __syncthreads();  // the tile is read no more
    }
    if (!finish.has_norm()) return;
    int known = -1;  // the sample whose statistics the block has
    for (bool is_here = true; index >= start; index -= step, is_here = false) {
        Place place = cut.at(index);
        if (place.sample != known) {
            known = place.sample;
            wait_for_statistics(launches(known), before);
            // The block that has the sample's first tile.
            int first = known * cut.tiles;
            bool tells = first >= start && (first - start) % step == 0;
            statistics_of<THREADS, Block::COLUMNS>(statistics, to, known, cut.tiles, first_lane, lanes, tells, scratch);
        }
        if (!is_here) {
            tile.find_rows(place);
            __syncthreads();
        }
        tile.finish(finish, statistics, is_here ? nullptr : moments_of(place), false);
        __syncthreads();  // the rows are read no more
    }
}

}  // namespace
