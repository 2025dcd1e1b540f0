// Bilinear resize with half-pixel centres and clamped edges, and its gradient.
//
// Output i reads position max((i + 0.5) source / target - 0.5, 0), which is a fraction of whole numbers: positions and
// weights are exact up to one division. A thread owns a number of the result, so the gradient gathers.

#include "block.cuh"

namespace {

constexpr int THREADS = 256;

/// The two inputs of an output row or column, and the second one's weight.
struct Taps {
    int low, high;
    float fraction;
};

__device__ __forceinline__ Taps taps(int output, int source, int target) {
    int position = max((2 * output + 1) * source - target, 0);  // in units of 1 / (2 target)
    int low = position / (2 * target);
    float fraction = static_cast<float>(position % (2 * target)) / static_cast<float>(2 * target);
    return {low, min(low + 1, source - 1), fraction};
}

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
    unsigned index = blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= static_cast<unsigned>(length)) return;
    int i = static_cast<int>(index), pixel = i / lanes;
    Taps row = taps(pixel / columns % rows, height, rows), column = taps(pixel % columns, width, columns);
    const float* sample = x + pixel / columns / rows * height * width * lanes + i % lanes;
    const float* upper = sample + row.low * width * lanes;
    const float* lower = sample + row.high * width * lanes;
    float top = (1.0f - column.fraction) * upper[column.low * lanes] + column.fraction * upper[column.high * lanes];
    float bottom = (1.0f - column.fraction) * lower[column.low * lanes] + column.fraction * lower[column.high * lanes];
    y[i] = (1.0f - row.fraction) * top + row.fraction * bottom;
}

/// dx[input] = sum over the outputs that read it of weight times dy, in scan order. Shapes as in `resize`.
extern "C" __global__ void __launch_bounds__(THREADS)
    resize_grad(const float* dy, float* dx, int length, int height, int width, int rows, int columns, int lanes) {
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
