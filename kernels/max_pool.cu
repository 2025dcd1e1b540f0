// Max pooling and its gradient. Cells outside the map never win; a tie goes to the first in scan order.
//
// Maps are [batch][row][column][lane]. A thread owns numbers of the result, four of the maximum and one of the gradient,
// which so gathers: it asks each cell that holds its pixel who won. Padding lanes hold zeros, whose maximum and gradient
// are zeros.

#include "numbers.cuh"

namespace {

constexpr int THREADS = 256;

/// A pooling from `height` x `width` maps to `rows` x `columns` cells.
struct Pool {
    int height, width, rows, columns, lanes;
    int kernel, stride, padding;
};

/// Where what a thread owns lies, its lane counted in what a thread owns.
struct Place {
    int sample, row, column, lane;
};

__device__ __forceinline__ Place place(int index, int rows, int columns, int lanes) {
    int pixel = index / lanes;
    return {pixel / columns / rows, pixel / columns % rows, pixel % columns, index % lanes};
}

/// The winner of a cell: its index into x.
__device__ __forceinline__ int winner(const float* x, const Pool& pool, int sample, int row, int column, int lane) {
    int top = row * pool.stride - pool.padding, left = column * pool.stride - pool.padding;
    int best = -1;
    float most = 0.0f;
    for (int y = max(top, 0); y < min(top + pool.kernel, pool.height); y++) {
        for (int xx = max(left, 0); xx < min(left + pool.kernel, pool.width); xx++) {
            int index = ((sample * pool.height + y) * pool.width + xx) * pool.lanes + lane;
            if (best < 0 || x[index] > most) {
                best = index;
                most = x[index];
            }
        }
    }
    return best;
}

/// The larger number; the earlier one of equals, and if either is NaN.
__device__ __forceinline__ float larger(float earlier, float later) { return later > earlier ? later : earlier; }

/// The body of `max_pool`.
template <class Number>
__device__ __forceinline__ void pool_cells(const Number* x, Number* y, int quads, const Pool& pool) {
    unsigned index = blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= static_cast<unsigned>(quads)) return;
    Place cell = place(static_cast<int>(index), pool.rows, pool.columns, pool.lanes / 4);
    int top = cell.row * pool.stride - pool.padding, left = cell.column * pool.stride - pool.padding;
    const Number* maps = x + cell.sample * pool.height * pool.width * pool.lanes + 4 * cell.lane;
    int first_row = max(top, 0), first_column = max(left, 0);
    float4 most = four(maps + (first_row * pool.width + first_column) * pool.lanes);
    for (int row = first_row; row < min(top + pool.kernel, pool.height); row++) {
        for (int column = first_column; column < min(left + pool.kernel, pool.width); column++) {
            float4 later = four(maps + (row * pool.width + column) * pool.lanes);
            most = make_float4(larger(most.x, later.x), larger(most.y, later.y), larger(most.z, later.z),
                               larger(most.w, later.w));
        }
    }
    put(y + 4 * static_cast<int>(index), most);
}

}  // namespace

/// y[cell] = max of x over the cell. A thread owns four lanes of a cell.
extern "C" __global__ void __launch_bounds__(THREADS) max_pool(const float* x, float* y, int quads, Pool pool) {
    wait_for_launches_before();
    pool_cells(x, y, quads, pool);
}

/// As `max_pool`, of float16.
extern "C" __global__ void __launch_bounds__(THREADS)
    max_pool_float16(const Float16* x, Float16* y, int quads, Pool pool) {
    wait_for_launches_before();
    pool_cells(x, y, quads, pool);
}

/// dx[pixel] = sum of dy over the cells that the pixel won, in scan order
extern "C" __global__ void __launch_bounds__(THREADS)
    max_pool_grad(const float* x, const float* dy, float* dx, int length, Pool pool) {
    wait_for_launches_before();
    unsigned index = blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= static_cast<unsigned>(length)) return;
    Place pixel = place(static_cast<int>(index), pool.height, pool.width, pool.lanes);
    // Cell i holds rows i stride - padding to i stride - padding + kernel - 1.
    int y = pixel.row + pool.padding, xx = pixel.column + pool.padding;
    int first_row = max(0, (y - pool.kernel + pool.stride) / pool.stride);
    int first_column = max(0, (xx - pool.kernel + pool.stride) / pool.stride);
    float sum = 0.0f;
    for (int row = first_row; row <= min(y / pool.stride, pool.rows - 1); row++) {
        for (int column = first_column; column <= min(xx / pool.stride, pool.columns - 1); column++) {
            if (winner(x, pool, pixel.sample, row, column, pixel.lane) != static_cast<int>(index)) continue;
            sum += dy[((pixel.sample * pool.rows + row) * pool.columns + column) * pool.lanes + pixel.lane];
        }
    }
    dx[index] = sum;
}
