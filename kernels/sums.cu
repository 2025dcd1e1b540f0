// Sums: over pixels for each channel (the gradient of a bias), and of the squares of all numbers (weight decay's loss).
//
// Both in two steps: blocks write partial sums, which one kernel adds in double precision, in the order of the blocks.

#include "columns.cuh"

namespace {

constexpr int THREADS = 256;
/// Numbers of a block.
constexpr int BLOCK = 8192;

}  // namespace

/// bands[band][lane] = sum of x[pixel][lane] over the band's pixels. x: [pixels][lanes].
extern "C" __global__ void __launch_bounds__(COLUMN_THREADS)
    channel_sum_bands(const float* x, float* bands, int pixels, int lanes, int band_pixels) {
    wait_for_launches_before();
    Column column = my_column(pixels, band_pixels);
    float sum = 0.0f;
    for (int pixel = column.first; pixel < column.end; pixel += COLUMN_ROWS) sum += x[pixel * lanes + column.lane];
    sum = merge_rows(sum, [](float a, float b) { return a + b; });
    if (threadIdx.x < COLUMN_LANES) bands[static_cast<int>(blockIdx.x) * lanes + column.lane] = sum;
}

/// sums[lane] = sum of bands[band][lane]. A thread owns a lane.
extern "C" __global__ void __launch_bounds__(THREADS)
    channel_sum_merge(const float* bands, float* sums, int band_count, int lanes) {
    wait_for_launches_before();
    int lane = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
    if (lane >= lanes) return;
    double sum = 0.0;
    for (int band = 0; band < band_count; band++) sum += static_cast<double>(bands[band * lanes + lane]);
    sums[lane] = static_cast<float>(sum);
}

/// parts[block] = sum of x[i]^2 over the block's 8192 numbers.
extern "C" __global__ void __launch_bounds__(THREADS) square_sum_parts(const float* x, float* parts, int length) {
    wait_for_launches_before();
    int start = static_cast<int>(blockIdx.x) * BLOCK, end = min(length - start, BLOCK);
    float sum = 0.0f;
    for (int i = static_cast<int>(threadIdx.x); i < end; i += THREADS) sum += x[start + i] * x[start + i];
    sum = block_sum(sum);
    if (threadIdx.x == 0) parts[blockIdx.x] = sum;
}

/// total = sum of parts[i]. One block.
extern "C" __global__ void __launch_bounds__(THREADS) square_sum_merge(const float* parts, float* total, int count) {
    wait_for_launches_before();
    double sum = block_sum_of(parts, count);
    if (threadIdx.x == 0) *total = static_cast<float>(sum);
}
