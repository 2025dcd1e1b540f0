// Soft Dice loss (Milletari et al. 2016) and its gradient: the mean over the batch of
// 1 - (2 sum(p y) + s) / (sum p + sum y + s), with p a probability, y a mask, s the smoothing.
//
// Maps have one channel in eight lanes: [batch][pixel][8]; sums are [batch][sum(p y), sum p, sum y][8].

#include "block.cuh"

namespace {

constexpr int THREADS = 256;
constexpr int LANES = 8;

}  // namespace

/// The three sums of each sample, 0 in padding lanes. A block owns a sample.
extern "C" __global__ void __launch_bounds__(THREADS)
    soft_dice_sums(const float* p, const float* y, float* sums, int area) {
    wait_for_launches_before();
    const float* sample_p = p + static_cast<int>(blockIdx.x) * area * LANES;
    const float* sample_y = y + static_cast<int>(blockIdx.x) * area * LANES;
    float both = 0.0f, sum_p = 0.0f, sum_y = 0.0f;
    for (int pixel = static_cast<int>(threadIdx.x); pixel < area; pixel += THREADS) {
        float probability = sample_p[pixel * LANES], mask = sample_y[pixel * LANES];
        both += probability * mask;
        sum_p += probability;
        sum_y += mask;
    }
    both = block_sum(both);
    sum_p = block_sum(sum_p);
    sum_y = block_sum(sum_y);
    float* entries = sums + static_cast<int>(blockIdx.x) * 3 * LANES;
    if (threadIdx.x < 3 * LANES && threadIdx.x % LANES != 0) entries[threadIdx.x] = 0.0f;
    if (threadIdx.x == 0) {
        entries[0] = both;
        entries[LANES] = sum_p;
        entries[2 * LANES] = sum_y;
    }
}

/// The loss, from the sums. One thread.
extern "C" __global__ void soft_dice_loss(const float* sums, float* loss, int batch, float smoothing) {
    wait_for_launches_before();
    double total = 0.0, s = static_cast<double>(smoothing);
    for (int sample = 0; sample < batch; sample++) {
        const float* entries = sums + sample * 3 * LANES;
        double both = static_cast<double>(entries[0]);
        double sum_p = static_cast<double>(entries[LANES]), sum_y = static_cast<double>(entries[2 * LANES]);
        total += 1.0 - (2.0 * both + s) / (sum_p + sum_y + s);
    }
    *loss = static_cast<float>(total / batch);
}

/// dp = dloss / batch ((2 sum(p y) + s) / union^2 - 2 y / union) with union = sum p + sum y + s; 0 in padding lanes.
/// A thread owns a number.
extern "C" __global__ void __launch_bounds__(THREADS)
    soft_dice_grad(const float* y, const float* sums, const float* dloss, float* dp, int length, int area, int batch,
                   float smoothing) {
    wait_for_launches_before();
    unsigned index = blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= static_cast<unsigned>(length)) return;
    const float* entries = sums + static_cast<int>(index) / LANES / area * 3 * LANES;
    float whole = entries[LANES] + entries[2 * LANES] + smoothing, share = *dloss / static_cast<float>(batch);
    float everywhere = share * ((2.0f * entries[0] + smoothing) / whole) / whole;
    dp[index] = index % LANES == 0 ? everywhere - share * 2.0f * y[index] / whole : 0.0f;
}
