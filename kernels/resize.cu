// Bilinear resize with half-pixel centres and clamped edges, and its gradient.
//
// A thread owns a number of the result, so the gradient gathers.

#include "resize.cuh"

namespace {

constexpr int THREADS = 256;

/// The weight of input `input` in output `output`: 0 where it is neither tap, all where it is both.
__device__ __forceinline__ float weight(int input, int output, int source, int target) {
    Taps t = taps(output, source, target);
    return (t.low == input ? 1.0f - t.fraction : 0.0f) + (t.high == input ? t.fraction : 0.0f);
}

/// The outputs from `first` to `last` are the only ones that read an input.
struct Readers {
    int first, last;
};

__device__ __forceinline__ Readers readers(int input, int source, int target) {
    // Those whose position lies between input - 1 and input + 1, both excluded. What lies before the first input or
    // behind the last one is clamped to it, and so is its output's number.
    int first = max(((2 * input - 1) * target + source) / (2 * source), 0);
    return {first, min(((2 * input + 3) * target - source - 1) / (2 * source), target - 1)};
}

}  // namespace

/// y[row][column] = sum over both taps of row and column of their weights times x.
/// x: [batch][height][width][lanes], y: [batch][rows][columns][lanes].
extern "C" __global__ void __launch_bounds__(THREADS)
    resize(const float* x, float* y, int length, int height, int width, int rows, int columns, int lanes) {
    wait_for_launches_before();
    unsigned index = blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= static_cast<unsigned>(length)) return;
    int i = static_cast<int>(index), pixel = i / lanes;
    Taps row = taps(pixel / columns % rows, height, rows), column = taps(pixel % columns, width, columns);
    const float* sample = x + pixel / columns / rows * height * width * lanes + i % lanes;
    y[i] = interpolated(row, column, [&](int row, int column) { return sample[(row * width + column) * lanes]; });
}

/// dx[input] = sum over the outputs that read it of weight times dy, in scan order. Shapes as in `resize`.
extern "C" __global__ void __launch_bounds__(THREADS)
    resize_grad(const float* dy, float* dx, int length, int height, int width, int rows, int columns, int lanes) {
    wait_for_launches_before();
    unsigned index = blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= static_cast<unsigned>(length)) return;
    int i = static_cast<int>(index), pixel = i / lanes;
    int y = pixel / width % height, x = pixel % width;
    const float* sample = dy + pixel / width / height * rows * columns * lanes + i % lanes;
    Readers across = readers(x, width, columns), down = readers(y, height, rows);
    float sum = 0.0f;
    for (int row = down.first; row <= down.last; row++) {
        float row_weight = weight(y, row, height, rows), row_sum = 0.0f;
        for (int column = across.first; column <= across.last; column++) {
            row_sum += weight(x, column, width, columns) * sample[(row * columns + column) * lanes];
        }
        sum += row_weight * row_sum;
    }
    dx[i] = sum;
}
