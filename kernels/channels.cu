// Copies of channels between maps: concatenation, one launch for each part, and slices.

#include "block.cuh"

namespace {

constexpr int THREADS = 256;

}  // namespace

/// target[pixel][target_start + j] = source[pixel][source_start + j] for j < channels, and 0 for channels <= j < span:
/// the last part of a target also writes its padding. A thread owns a number of the target.
extern "C" __global__ void __launch_bounds__(THREADS)
    copy_channels(const float* source, float* target, int pixels, int source_lanes, int source_start, int target_lanes,
                  int target_start, int channels, int span) {
    wait_for_launches_before();
    // At most 2^31 numbers, so the grid may end past what an int holds.
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= static_cast<unsigned>(pixels * span)) return;
    int pixel = static_cast<int>(i) / span, j = static_cast<int>(i) % span;
    float number = j < channels ? source[pixel * source_lanes + source_start + j] : 0.0f;
    target[pixel * target_lanes + target_start + j] = number;
}
