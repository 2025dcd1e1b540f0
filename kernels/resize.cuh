// Where the output pixels of a bilinear resize lie between those of its input: half-pixel centres, clamped edges.
//
// Output i reads position max((i + 0.5) source / target - 0.5, 0), which is a fraction of whole numbers: positions and
// weights are exact up to one division.
#pragma once

#include "block.cuh"

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

/// The number between four neighbours: `read(row, column)` at both taps of row and column.
template <class Read>
__device__ __forceinline__ float interpolated(const Taps& row, const Taps& column, Read read) {
    float top = (1.0f - column.fraction) * read(row.low, column.low) + column.fraction * read(row.low, column.high);
    float bottom = (1.0f - column.fraction) * read(row.high, column.low) + column.fraction * read(row.high, column.high);
    return (1.0f - row.fraction) * top + row.fraction * bottom;
}
