// Temporal convolution (Wang et al. 2020): a window of frames becomes one stack of maps, all frames and channels of
// the window at once, 3 x 3 in space with one row and column of zeros around. And its two gradients.
//
// Windows are planar, [batch][plane][row][column], a plane being a frame of a channel; maps [batch][row][column][lane];
// filters [plane][3][3][lane]. Windows have few planes and filters few outputs, so plain loops are enough.

#include "columns.cuh"

namespace {

constexpr int THREADS = 256;
constexpr int KERNEL = 3;

struct Sizes {
    int batch, planes, rows, columns, lanes;
};

/// Offset of a pixel in a plane; negative outside, as it is above the first row by itself.
__device__ __forceinline__ int offset_of(int row, int column, const Sizes& s) {
    return row < s.rows && column >= 0 && column < s.columns ? row * s.columns + column : -1;
}

}  // namespace

/// y[n][i][j][o] = bias[o] + sum over p, u, v of w[p][u][v][o] x[n][p][i + u - 1][j + v - 1], then ReLU if `rectify`.
/// A thread owns a number; `bias` may be null.
extern "C" __global__ void __launch_bounds__(THREADS)
    temporal_conv(const float* x, const float* filter, const float* bias, float* y, int length, int rectify, Sizes s) {
    unsigned index = blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= static_cast<unsigned>(length)) return;
    int lane = static_cast<int>(index) % s.lanes, pixel = static_cast<int>(index) / s.lanes, area = s.rows * s.columns;
    int row = pixel / s.columns % s.rows, column = pixel % s.columns;
    const float* planes = x + pixel / area * s.planes * area;
    float sum = 0.0f;
    for (int k = 0; k < s.planes * KERNEL * KERNEL; k++) {
        int offset = offset_of(row + k / KERNEL % KERNEL - 1, column + k % KERNEL - 1, s);
        if (offset >= 0) sum += filter[k * s.lanes + lane] * planes[k / (KERNEL * KERNEL) * area + offset];
    }
    if (bias != nullptr) sum += bias[lane];
    y[index] = rectify && sum < 0.0f ? 0.0f : sum;
}

/// dx[n][p][i][j] = sum over u, v, o of w[p][u][v][o] dy[n][i - u + 1][j - v + 1][o]. A thread owns a number.
extern "C" __global__ void __launch_bounds__(THREADS)
    temporal_conv_input_grad(const float* dy, const float* filter, float* dx, int length, Sizes s) {
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
