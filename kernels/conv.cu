// Convolution in float32 as implicit matrix products: forward, input gradient (also the transposed convolution) and
// filter gradient.
//
// Maps are [batch][row][column][lane], filters [tap][padded input channel][padded output channel]; padding holds zeros,
// so sums run over it unharmed. A block owns a tile of 64 x 64 results of one sample, a thread 4 x 4 of them. It walks
// the sum in slices of 8: the next slice is copied to shared memory while this one is multiplied.

#include "convolution.cuh"
#include "primitives.cuh"

namespace {

constexpr int TILE = 64;
constexpr int SLICE = 8;
constexpr int SIDE = 16;
constexpr int THREADS = SIDE * SIDE;
constexpr int WARPS = THREADS / 32;

/// sums += column x row
__device__ __forceinline__ void add_outer(float (&sums)[4][4], float4 column, float4 row) {
    const float a[4] = {column.x, column.y, column.z, column.w}, b[4] = {row.x, row.y, row.z, row.w};
    for (int i = 0; i < 4; i++) {
        for (int j = 0; j < 4; j++) sums[i][j] += a[i] * b[j];
    }
}

// A block's part of a slice, as threads copy it: the first half of them pixels, the other weights, each four
// neighbouring numbers.
// pixels: [pixel][k]. weights, as they lie in memory: [k][lane], backwards [lane][k].

/// Copies the thread's four channels of its pixel from `first` on; zeros where `offset`, that of the pixel, is negative.
__device__ __forceinline__ void copy_pixels(float* pixels, const float* source, int offset, int first) {
    int part = static_cast<int>(threadIdx.x), k = part % 2 * 4;
    bool valid = offset >= 0;
    cp_async16(pixels + part / 2 * SLICE + k, valid ? source + offset + first + k : source, valid);
}

/// Copies four of the weights between source channels from `first` on and result lanes from `first_lane` on.
template <bool backward>
__device__ __forceinline__ void copy_weights(float* weights, const float* filter, int tap, int first, int first_lane,
                                             const Geometry& g) {
    int part = static_cast<int>(threadIdx.x) % (THREADS / 2);
    int k = backward ? part % 2 * 4 : part / SIDE, lane = backward ? part / 2 : part % SIDE * 4;
    bool valid = first_lane + lane < g.lanes;
    int row = backward ? tap * g.lanes + first_lane + lane : tap * g.source_lanes + first + k;
    int offset = backward ? row * g.source_lanes + first + k : row * g.lanes + first_lane + lane;
    cp_async16(weights + (backward ? lane * SLICE + k : k * TILE + lane), valid ? filter + offset : filter, valid);
}

/// sums += the thread's four pixels times its four lanes, over a slice.
template <bool backward>
__device__ __forceinline__ void multiply_slice(float (&sums)[4][4], const float* pixels, const float* weights) {
    const float* p = pixels + static_cast<int>(threadIdx.x) / SIDE * 4 * SLICE;
    const float* w = weights + static_cast<int>(threadIdx.x) % SIDE * 4 * (backward ? SLICE : 1);
    for (int k = 0; k < SLICE; k++) {
        float4 column = make_float4(p[k], p[SLICE + k], p[2 * SLICE + k], p[3 * SLICE + k]);
        float4 row =
            backward ? make_float4(w[k], w[SLICE + k], w[2 * SLICE + k], w[3 * SLICE + k]) : four(w + k * TILE);
        add_outer(sums, column, row);
    }
}

/// results += bias, then ReLU if wanted; y = results for the thread's first `count` pixels.
__device__ __forceinline__ void write_results(float (&results)[4][4], const float* bias, float* y, bool rectify,
                                              int count, int lanes) {
    float4 b = bias != nullptr ? four(bias) : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    const float added[4] = {b.x, b.y, b.z, b.w};
    for (int i = 0; i < 4; i++) {
        for (int j = 0; j < 4; j++) results[i][j] = rectified(results[i][j] + added[j], rectify);
        if (i >= count) continue;
        *reinterpret_cast<float4*>(y + i * lanes) =
            make_float4(results[i][0], results[i][1], results[i][2], results[i][3]);
    }
}

/// The moments of the block's tile, of whose pixels the first `count` exist, for the first TILE threads, a lane each.
/// `parts` is room for WARPS * TILE in shared memory. Every thread must call it.
__device__ __forceinline__ Moments tile_moments(const float (&results)[4][4], int count, Moments* parts) {
    int thread = static_cast<int>(threadIdx.x), warp = thread / 32;
    for (int j = 0; j < 4; j++) {
        const float mine[4] = {results[0][j], results[1][j], results[2][j], results[3][j]};
        // The other half of the warp has the next four pixels of the same lanes.
        Moments both = merged_with_lane(moments_of(mine, count - thread / SIDE * 4), SIDE);
        if (thread % 32 < SIDE) parts[warp * TILE + thread % SIDE * 4 + j] = both;
    }
    __syncthreads();
    Moments tile{0.0f, 0.0f, 0.0f};
    for (int row = 0; row < WARPS && thread < TILE; row++) tile = merged(tile, parts[row * TILE + thread]);
    return tile;
}

/// y[pixel][lane] = bias[lane] + sum over taps and source lanes of source[pixel at tap][k] weight, then ReLU if there
/// is nothing else to finish, in a tile. The weight is filter[tap][k][lane], backwards filter[tap][lane][k].
template <bool backward>
__device__ __forceinline__ void convolve_tile(const PixelTile& tile, const float* source, const float* filter,
                                              const float* bias, float* y, const Finish& finish,
                                              const StatisticsTo& statistics, const Geometry& g) {
    // Two stages each: one is filled while the other is read.
    SHARED_ARRAY(float4, ring, TILE * SLICE);
    static_assert(sizeof(Moments) * WARPS * TILE <= sizeof(float4) * TILE * SLICE, "statistics take over the ring");
    float* pixels = reinterpret_cast<float*>(ring);
    float* weights = pixels + 2 * TILE * SLICE;
    int thread = static_cast<int>(threadIdx.x), first_lane = static_cast<int>(blockIdx.y) * TILE;
    int copied = thread / 2;  // by the first half of the threads
    Pixel pixel = pixel_at(tile.first + copied, g.rows, g.columns);
    int taps = g.kernel_rows * g.kernel_columns, steps = taps * (g.source_lanes / SLICE);
    int tap = 0, first = 0;
    auto offset_at = [&](int tap) { return copied < tile.count ? source_offset<backward>(pixel, tap, g) : -1; };
    int offset = offset_at(0);
    auto copy_slice = [&](int stage) {
        if (thread < THREADS / 2) {
            copy_pixels(pixels + stage, source, offset, first);
        } else {
            copy_weights<backward>(weights + stage, filter, tap, first, first_lane, g);
        }
        cp_async_commit();
        first += SLICE;
        if (first < g.source_lanes) return;
        first = 0;
        if (++tap < taps) offset = offset_at(tap);
    };

    int lane = first_lane + thread % SIDE * 4;
    float sums[4][4] = {};
    copy_slice(0);
    for (int step = 0; step < steps; step++) {
        int stage = step % 2 * TILE * SLICE;
        cp_async_wait<0>();
        __syncthreads();
        // The stage written here was last read before the barrier.
        if (step + 1 < steps) copy_slice(TILE * SLICE - stage);
        if (lane < g.lanes) multiply_slice<backward>(sums, pixels + stage, weights + stage);
    }
    int row = thread / SIDE * 4;
    if (lane < g.lanes) {
        write_results(sums, bias != nullptr ? bias + lane : nullptr, y + (tile.first + row) * g.lanes + lane,
                      finish.rectifies_at_once(), tile.count - row, g.lanes);
    }
    if (statistics.statistics == nullptr) return;
    __syncthreads();  // the ring is read no more
    auto* scratch = reinterpret_cast<Moments*>(ring);
    Moments moments = tile_moments(sums, tile.count, scratch);
    take_statistics<THREADS, TILE>(statistics, moments, tile.sample, tile.number, pixel_tiles(TILE, g), first_lane, g.lanes,
                                   scratch);
}

/// The block's tiles, and the norm that may follow.
template <bool backward>
__device__ __forceinline__ void convolve(const float* source, const float* filter, const float* bias, float* y,
                                         const Finish& finish, const StatisticsTo& statistics, const Geometry& g) {
    for_my_tiles<THREADS, TILE, TILE>(finish, statistics, y, g, [&](const PixelTile& tile) {
        convolve_tile<backward>(tile, source, filter, bias, y, finish, statistics, g);
    });
}

}  // namespace

/// y[n][i][j][o] = bias[o] + sum over u, v, c of w[u][v][c][o] x[n][i s + u d - p][j s + v d - p][c], finished. `bias` may
/// be null; `statistics` are those of what comes before a norm, where somebody asks for them.
extern "C" __global__ void __launch_bounds__(THREADS, 3)
    conv(const float* x, const float* filter, const float* bias, float* y, Finish finish, StatisticsTo statistics,
         Geometry g) {
    wait_for_launches_before();
    convolve<false>(x, filter, bias, y, finish, statistics, g);
}

/// dx[n][i s + u d - p][j s + v d - p][c] += w[u][v][c][o] dy[n][i][j][o], gathered; then bias and the rest as in `conv`.
extern "C" __global__ void __launch_bounds__(THREADS)
    conv_backward(const float* dy, const float* filter, const float* bias, float* dx, Finish finish,
                  StatisticsTo statistics, Geometry g) {
    wait_for_launches_before();
    convolve<true>(dy, filter, bias, dx, finish, statistics, g);
}

/// parts[part][tap][c][o] = sum over the part's pixels of x[pixel at tap][c] dy[pixel][o]. `g` is that of `conv`: its
/// result is dy. The grid is tiles of (c, o), taps, parts; a part is `part_pixels` pixels, a multiple of 8.
extern "C" __global__ void __launch_bounds__(THREADS)
    conv_filter_grad(const float* x, const float* dy, float* parts, int part_pixels, Geometry g) {
    wait_for_launches_before();
    // [stage][pixel][channel]
    SHARED_ARRAY(float, inputs, 2 * TILE * SLICE);
    SHARED_ARRAY(float, cotangents, 2 * TILE * SLICE);
    int thread = static_cast<int>(threadIdx.x), output_tiles = (g.lanes + TILE - 1) / TILE;
    int first_input = static_cast<int>(blockIdx.x) / output_tiles * TILE;
    int first_output = static_cast<int>(blockIdx.x) % output_tiles * TILE;
    int tap = static_cast<int>(blockIdx.y), start = static_cast<int>(blockIdx.z) * part_pixels;
    int end = min(start + part_pixels, g.batch * g.rows * g.columns), steps = (end - start + SLICE - 1) / SLICE;

    // Half of the threads copy the input, half the cotangent, each four channels of a pixel.
    bool copies_inputs = thread < THREADS / 2;
    int part = thread % (THREADS / 2), mine = part / SIDE, channel = part % SIDE * 4;
    auto copy_slice = [&](int step) {
        int index = start + step * SLICE + mine, place = step % 2 * TILE * SLICE + mine * TILE + channel;
        if (copies_inputs) {
            int offset = source_offset<false>(pixel_at(index, g.rows, g.columns), tap, g);
            bool valid = index < end && offset >= 0 && first_input + channel < g.source_lanes;
            cp_async16(inputs + place, valid ? x + offset + first_input + channel : x, valid);
        } else {
            bool valid = index < end && first_output + channel < g.lanes;
            cp_async16(cotangents + place, valid ? dy + index * g.lanes + first_output + channel : dy, valid);
        }
        cp_async_commit();
    };

    int my_input = thread / SIDE * 4, my_output = thread % SIDE * 4;
    bool is_needed = first_input + my_input < g.source_lanes && first_output + my_output < g.lanes;
    float sums[4][4] = {};
    copy_slice(0);
    for (int step = 0; step < steps; step++) {
        cp_async_wait<0>();
        __syncthreads();
        if (step + 1 < steps) copy_slice(step + 1);
        int stage = step % 2 * TILE * SLICE;
        if (!is_needed) continue;
        for (int k = 0; k < SLICE; k++) {
            const float* row = cotangents + stage + k * TILE + my_output;
            add_outer(sums, four(inputs + stage + k * TILE + my_input), four(row));
        }
    }

    if (!is_needed) return;
    int taps = g.kernel_rows * g.kernel_columns;
    int row = (static_cast<int>(blockIdx.z) * taps + tap) * g.source_lanes + first_input + my_input;
    float* to = parts + row * g.lanes + first_output + my_output;
    for (int i = 0; i < 4; i++) {
        *reinterpret_cast<float4*>(to + i * g.lanes) = make_float4(sums[i][0], sums[i][1], sums[i][2], sums[i][3]);
    }
}

/// filter[i] = sum over the parts of parts[part][i], first part first. A thread owns a number.
extern "C" __global__ void __launch_bounds__(THREADS)
    merge_filter_parts(const float* parts, float* filter, int length, int part_count) {
    wait_for_launches_before();
    unsigned index = blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= static_cast<unsigned>(length)) return;
    float sum = 0.0f;
    for (int part = 0; part < part_count; part++) sum += parts[part * length + static_cast<int>(index)];
    filter[index] = sum;
}
