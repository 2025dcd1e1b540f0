// Temporal convolution (Wang et al. 2020): a window of frames becomes one stack of maps, all frames and channels of
// the window at once, 3 x 3 in space with one row and column of zeros around. And its two gradients.
//
// Windows are planar, [batch][plane][row][column], a plane being a frame of a channel; maps [batch][row][column][lane];
// filters [plane][3][3][lane]. Windows have few planes and filters few outputs: too little for tensor cores.

#include "columns.cuh"
#include "numbers.cuh"

namespace {

constexpr int THREADS = 256;
constexpr int KERNEL = 3;
/// Neighbouring pixels of a thread of `temporal_conv`.
constexpr int RUN = 8;

struct Sizes {
    int batch, planes, rows, columns, lanes;
};

/// Offset of a pixel in a plane; negative outside, as it is above the first row by itself.
__device__ __forceinline__ int offset_of(int row, int column, const Sizes& s) {
    return row < s.rows && column >= 0 && column < s.columns ? row * s.columns + column : -1;
}

/// sums += weight times (four lanes) x
__device__ __forceinline__ void add_product(float4& sums, float4 weights, float x) {
    sums.x += weights.x * x;
    sums.y += weights.y * x;
    sums.z += weights.z * x;
    sums.w += weights.w * x;
}

/// sum + bias, then ReLU if `rectify`; NaN stays.
__device__ __forceinline__ float finished(float sum, float bias, int rectify) {
    sum += bias;
    return rectify && sum < 0.0f ? 0.0f : sum;
}

/// The body of `temporal_conv`: a thread owns four lanes of a run of pixels in a row, so that what it reads of a row
/// serves three taps of all its pixels, and a weight all of them. Neighbouring threads own neighbouring lanes: together
/// they read whole taps of the filter, which stays in the first cache, and write whole sectors.
template <class Result>
__device__ __forceinline__ void convolve_window(const float* x, const float* filter, const float* bias, Result* y,
                                                int threads, int rectify, const Sizes& s) {
    unsigned index = blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= static_cast<unsigned>(threads)) return;
    int quads = s.lanes / 4, runs = (s.columns + RUN - 1) / RUN, run = static_cast<int>(index) / quads;
    int lane = static_cast<int>(index) % quads * 4, column = run % runs * RUN;
    int row = run / runs % s.rows, sample = run / runs / s.rows;
    const float* planes = x + sample * s.planes * s.rows * s.columns;
    const float* weights = filter + lane;
    float4 sums[RUN];
#pragma unroll
    for (int i = 0; i < RUN; i++) sums[i] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    for (int plane = 0; plane < s.planes; plane++) {
        for (int u = 0; u < KERNEL; u++, weights += KERNEL * s.lanes) {
            int from = row + u - 1;
            if (from < 0 || from >= s.rows) continue;
            // The run, and one pixel on either side of it.
            int first = (plane * s.rows + from) * s.columns + column - 1;
            float pixels[RUN + KERNEL - 1];
#pragma unroll
            for (int i = 0; i < RUN + KERNEL - 1; i++) {
                bool is_inside = static_cast<unsigned>(column + i - 1) < static_cast<unsigned>(s.columns);
                pixels[i] = is_inside ? planes[first + i] : 0.0f;
            }
#pragma unroll
            for (int v = 0; v < KERNEL; v++) {
                float4 tap = four(weights + v * s.lanes);
#pragma unroll
                for (int i = 0; i < RUN; i++) add_product(sums[i], tap, pixels[i + v]);
            }
        }
    }
    float4 biases = bias != nullptr ? four(bias + lane) : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    Result* to = y + ((sample * s.rows + row) * s.columns + column) * s.lanes + lane;
#pragma unroll
    for (int i = 0; i < RUN; i++) {
        if (column + i >= s.columns) return;
        float4 sum = sums[i];
        put(to + i * s.lanes, make_float4(finished(sum.x, biases.x, rectify), finished(sum.y, biases.y, rectify),
                                          finished(sum.z, biases.z, rectify), finished(sum.w, biases.w, rectify)));
    }
}

}  // namespace

/// y[n][i][j][o] = bias[o] + sum over p, u, v of w[p][u][v][o] x[n][p][i + u - 1][j + v - 1], then ReLU if `rectify`.
/// A thread owns four lanes of up to eight neighbouring pixels, a block 256 such; `bias` may be null.
extern "C" __global__ void __launch_bounds__(THREADS)
    temporal_conv(const float* x, const float* filter, const float* bias, float* y, int threads, int rectify, Sizes s) {
    wait_for_launches_before();
    convolve_window(x, filter, bias, y, threads, rectify, s);
}

/// As `temporal_conv`, y kept as float16.
extern "C" __global__ void __launch_bounds__(THREADS)
    temporal_conv_to_float16(const float* x, const float* filter, const float* bias, Float16* y, int threads, int rectify,
                         Sizes s) {
    wait_for_launches_before();
    convolve_window(x, filter, bias, y, threads, rectify, s);
}

/// dx[n][p][i][j] = sum over u, v, o of w[p][u][v][o] dy[n][i - u + 1][j - v + 1][o]. A thread owns a number.
extern "C" __global__ void __launch_bounds__(THREADS)
    temporal_conv_input_grad(const float* dy, const float* filter, float* dx, int length, Sizes s) {
    wait_for_launches_before();
    unsigned index = blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= static_cast<unsigned>(length)) return;
    int i = static_cast<int>(index), area = s.rows * s.columns, pixel = i % area, plane = i / area % s.planes;
    const float* maps = dy + i / area / s.planes * area * s.lanes;
    float sum = 0.0f;
    for (int tap = 0; tap < KERNEL * KERNEL; tap++) {
        int offset = offset_of(pixel / s.columns - tap / KERNEL + 1, pixel % s.columns - tap % KERNEL + 1, s);
        if (offset < 0) continue;
        const float* weights = filter + (plane * KERNEL * KERNEL + tap) * s.lanes;
        for (int lane = 0; lane < s.lanes; lane++) sum += weights[lane] * maps[offset * s.lanes + lane];
    }
    dx[i] = sum;
}

/// parts[part][p][u][v][o] = sum over the part's pixels of x[n][p][i + u - 1][j + v - 1] dy[n][i][j][o], all samples
/// taken as one list of pixels. The grid is parts, lanes / 8, filter rows (p, u, v).
extern "C" __global__ void __launch_bounds__(COLUMN_THREADS)
    temporal_conv_filter_grad(const float* x, const float* dy, float* parts, int part_pixels, Sizes s) {
    wait_for_launches_before();
    int area = s.rows * s.columns, k = static_cast<int>(blockIdx.z), plane = k / (KERNEL * KERNEL);
    Column column = my_column(s.batch * area, part_pixels);
    float sum = 0.0f;
    for (int pixel = column.first; pixel < column.end; pixel += COLUMN_ROWS) {
        int row = pixel / s.columns % s.rows + k / KERNEL % KERNEL - 1;
        int offset = offset_of(row, pixel % s.columns + k % KERNEL - 1, s);
        if (offset < 0) continue;
        sum += x[(pixel / area * s.planes + plane) * area + offset] * dy[pixel * s.lanes + column.lane];
    }
    sum = merge_rows(sum, [](float a, float b) { return a + b; });
    int part = static_cast<int>(blockIdx.x) * s.planes * KERNEL * KERNEL + k;
    if (threadIdx.x < COLUMN_LANES) parts[part * s.lanes + column.lane] = sum;
}
