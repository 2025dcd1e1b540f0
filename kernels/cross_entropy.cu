// Binary cross entropy of each pixel, from logits, and its gradient: the mean over batch and pixels of
// max(x, 0) - x y + log(1 + exp(-|x|)), with x a logit and y a mask.
//
// Maps have one channel in eight lanes: [batch and pixel][8]. Blocks write partial sums, which one kernel adds in double
// precision, in the order of the blocks.

#include "block.cuh"

namespace {

constexpr int THREADS = 256;
constexpr int LANES = 8;
/// Pixels of a block.
constexpr int BLOCK = 1024;

}  // namespace

/// parts[block] = the sum over the block's 1024 pixels.
extern "C" __global__ void __launch_bounds__(THREADS)
    cross_entropy_parts(const float* x, const float* y, float* parts, int pixels) {
    wait_for_launches_before();
    int start = static_cast<int>(blockIdx.x) * BLOCK, end = min(pixels, start + BLOCK);
    float sum = 0.0f;
    for (int pixel = start + static_cast<int>(threadIdx.x); pixel < end; pixel += THREADS) {
        float logit = x[pixel * LANES], mask = y[pixel * LANES];
        sum += fmaxf(logit, 0.0f) - logit * mask + log1pf(expf(-fabsf(logit)));
    }
    sum = block_sum(sum);
    if (threadIdx.x == 0) parts[blockIdx.x] = sum;
}

/// loss = the sum of parts[i], divided by the number of pixels. One block.
extern "C" __global__ void __launch_bounds__(THREADS)
    cross_entropy_merge(const float* parts, float* loss, int count, int pixels) {
    wait_for_launches_before();
    double sum = block_sum_of(parts, count);
    if (threadIdx.x == 0) *loss = static_cast<float>(sum / pixels);
}

/// dx = dloss / pixels (sigmoid(x) - y), without a difference of two numbers near 1; 0 in padding lanes. A thread owns a
/// number.
extern "C" __global__ void __launch_bounds__(THREADS)
    cross_entropy_grad(const float* x, const float* y, const float* dloss, float* dx, int length, int pixels) {
    wait_for_launches_before();
    unsigned index = blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= static_cast<unsigned>(length)) return;
    float gradient = 0.0f;
    if (index % LANES == 0) {
        float logit = x[index], mask = y[index], e = expf(-fabsf(logit)), rest = e / (1.0f + e);
        float excess = logit < 0.0f ? rest - mask : 1.0f - mask - rest;
        gradient = *dloss / static_cast<float>(pixels) * excess;
    }
    dx[index] = gradient;
}
