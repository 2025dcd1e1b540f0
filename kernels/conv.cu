// Convolution in float32 as implicit matrix products: forward, input gradient (also the transposed convolution) and
// filter gradient.
//
// Maps are [batch][row][column][lane], filters [tap][padded input channel][padded output channel]; padding holds zeros,
// so sums run over it unharmed. A block owns a tile of 64 x 64 results, a thread 4 x 4 of them. It walks the sum in
// slices of 8: the next slice is copied to shared memory while this one is multiplied.

#include "convolution.cuh"
#include "primitives.cuh"

namespace {

constexpr int TILE = 64;
constexpr int SLICE = 8;
constexpr int SIDE = 16;
constexpr int THREADS = SIDE * SIDE;

__device__ __forceinline__ float4 four(const float* from) { return *reinterpret_cast<const float4*>(from); }

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

/// Copies the thread's four channels of its pixel from `first` on; zeros where the tap lies outside.
template <bool backward>
__device__ __forceinline__ void copy_pixels(float* pixels, const float* source, Pixel pixel, bool exists, int tap,
                                            int first, const Geometry& g) {
    int part = static_cast<int>(threadIdx.x), k = part % 2 * 4;
    int offset = source_offset<backward>(pixel, tap, g);
    bool valid = exists && offset >= 0;
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

/// y = sums + bias, then ReLU if wanted, for the thread's pixels that exist.
__device__ __forceinline__ void write_results(const float (&sums)[4][4], const float* bias, float* y, int rectify,
                                              int first_pixel, int lane, const Geometry& g) {
    float4 b = bias != nullptr ? four(bias + lane) : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    for (int i = 0; i < 4; i++) {
        if (first_pixel + i >= g.batch * g.rows * g.columns) return;
        *reinterpret_cast<float4*>(y + (first_pixel + i) * g.lanes + lane) =
            make_float4(rectified(sums[i][0] + b.x, rectify), rectified(sums[i][1] + b.y, rectify),
                        rectified(sums[i][2] + b.z, rectify), rectified(sums[i][3] + b.w, rectify));
    }
}

/// y[pixel][lane] = bias[lane] + sum over taps and source lanes of source[pixel at tap][k] weight, then ReLU if wanted.
/// The weight is filter[tap][k][lane], backwards filter[tap][lane][k]. The grid is pixel tiles, lane tiles.
template <bool backward>
__device__ __forceinline__ void convolve(const float* source, const float* filter, const float* bias, float* y,
                                         int rectify, const Geometry& g) {
    // Two stages each: one is filled while the other is read.
    SHARED_ARRAY(float, pixels, 2 * TILE * SLICE);
    SHARED_ARRAY(float, weights, 2 * TILE * SLICE);
    int thread = static_cast<int>(threadIdx.x), first_pixel = static_cast<int>(blockIdx.x) * TILE;
    int first_lane = static_cast<int>(blockIdx.y) * TILE, pixel_count = g.batch * g.rows * g.columns;
    int copied = first_pixel + thread / 2;  // by the first half of the threads
    Pixel pixel = pixel_at(copied, g.rows, g.columns);
    int slices = g.source_lanes / SLICE, steps = g.kernel_rows * g.kernel_columns * slices;
    auto copy_slice = [&](int step) {
        int tap = step / slices, first = step % slices * SLICE, stage = step % 2 * TILE * SLICE;
        if (thread < THREADS / 2) {
            copy_pixels<backward>(pixels + stage, source, pixel, copied < pixel_count, tap, first, g);
        } else {
            copy_weights<backward>(weights + stage, filter, tap, first, first_lane, g);
        }
        cp_async_commit();
    };

    int lane = first_lane + thread % SIDE * 4;
    float sums[4][4] = {};
    copy_slice(0);
    for (int step = 0; step < steps; step++) {
        cp_async_wait<0>();
        __syncthreads();
        // The stage written here was last read before the barrier.
        if (step + 1 < steps) copy_slice(step + 1);
        int stage = step % 2 * TILE * SLICE;
        if (lane < g.lanes) multiply_slice<backward>(sums, pixels + stage, weights + stage);
    }
    if (lane < g.lanes) write_results(sums, bias, y, rectify, first_pixel + thread / SIDE * 4, lane, g);
}

}  // namespace

/// y[n][i][j][o] = bias[o] + sum over u, v, c of w[u][v][c][o] x[n][i s + u d - p][j s + v d - p][c], then ReLU if
/// `rectify`. `bias` may be null.
extern "C" __global__ void __launch_bounds__(THREADS)
    conv(const float* x, const float* filter, const float* bias, float* y, int rectify, Geometry g) {
    convolve<false>(x, filter, bias, y, rectify, g);
}

/// dx[n][i s + u d - p][j s + v d - p][c] += w[u][v][c][o] dy[n][i][j][o], gathered; then bias and ReLU as in `conv`.
extern "C" __global__ void __launch_bounds__(THREADS)
    conv_backward(const float* dy, const float* filter, const float* bias, float* dx, int rectify, Geometry g) {
    convolve<true>(dy, filter, bias, dx, rectify, g);
}

/// parts[part][tap][c][o] = sum over the part's pixels of x[pixel at tap][c] dy[pixel][o]. `g` is that of `conv`: its
/// result is dy. The grid is tiles of (c, o), taps, parts; a part is `part_pixels` pixels, a multiple of 8.
extern "C" __global__ void __launch_bounds__(THREADS)
    conv_filter_grad(const float* x, const float* dy, float* parts, int part_pixels, Geometry g) {
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
    unsigned index = blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= static_cast<unsigned>(length)) return;
    float sum = 0.0f;
    for (int part = 0; part < part_count; part++) sum += parts[part * length + static_cast<int>(index)];
    filter[index] = sum;
}
