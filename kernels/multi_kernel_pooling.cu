// Residual multi-kernel pooling (Gu et al. 2019): max pools of several kernels, each projected to one channel by the same
// filter, resized bilinearly to the size of the maps and put in front of their channels.
//
// Maps are [batch][row][column][lane], the filter [padded input channel][8 lanes], of which the first counts.

#include "finish.cuh"
#include "resize.cuh"

/// The pools of a sample: their cells touch but do not overlap.
struct Pools {
    static constexpr int MOST = 4;
    int batch, height, width, channels, lanes, result_lanes;
    int count, kernels[MOST];

    /// kernels[pool], by numbers that are known when this is compiled, so that they stay in registers.
    __device__ __forceinline__ int kernel(int pool) const {
        int found = kernels[0];
#pragma unroll
        for (int other = 1; other < MOST; other++) {
            if (pool == other) found = kernels[other];
        }
        return found;
    }
    __device__ __forceinline__ int rows(int pool) const { return height / kernel(pool); }
    __device__ __forceinline__ int columns(int pool) const { return width / kernel(pool); }
    __device__ __forceinline__ int cells(int pool) const { return rows(pool) * columns(pool); }
    /// The cells of the pools before `pool`.
    __device__ __forceinline__ int start(int pool) const {
        int start = 0;
        for (int before = 0; before < pool; before++) start += cells(before);
        return start;
    }
};

namespace {

constexpr int THREADS = 128;

/// sum over channels of weight times the largest of x in a cell, for the first thread. Every thread must call it.
template <class Number>
__device__ __forceinline__ float projected_cell(const Number* x, const float* filter, const Pools& pools, int sample,
                                                int top, int left, int kernel) {
    float sum = 0.0f;
    for (int lane = 4 * static_cast<int>(threadIdx.x); lane < pools.lanes; lane += 4 * THREADS) {
        const Number* first = x + ((sample * pools.height + top) * pools.width + left) * pools.lanes + lane;
        float4 most = four(first);
        for (int pixel = 1; pixel < kernel * kernel; pixel++) {
            float4 other = four(first + (pixel / kernel * pools.width + pixel % kernel) * pools.lanes);
            // As the pool does: a NaN that is not the first loses.
            most = make_float4(other.x > most.x ? other.x : most.x, other.y > most.y ? other.y : most.y,
                               other.z > most.z ? other.z : most.z, other.w > most.w ? other.w : most.w);
        }
        const float* weights = filter + lane * 8;
        sum += most.x * weights[0] + most.y * weights[8] + most.z * weights[16] + most.w * weights[24];
    }
    return block_sum(sum);
}

/// What becomes of a number as it is written.
__device__ __forceinline__ float kept(float number, float) { return number; }
template <class Half>
__device__ __forceinline__ Half kept(float number, Half) {
    return to_half<Half>(number);
}
__device__ __forceinline__ float to_float(float number) { return number; }

/// The body of `multi_kernel_pooling`.
template <class Number>
__device__ __forceinline__ void pool_by_all_kernels(const Number* x, const float* filter, const float* bias, Number* y,
                                                    float* projected, unsigned* counters, const Pools& pools) {
    int block = static_cast<int>(blockIdx.x), blocks = static_cast<int>(gridDim.x);
    int of_sample = pools.start(pools.count), area = pools.height * pools.width;
    for (int cell = block; cell < pools.batch * of_sample; cell += blocks) {
        int pool = 0, place = cell % of_sample;
        for (; place >= pools.cells(pool); pool++) place -= pools.cells(pool);
        int kernel = pools.kernel(pool), columns = pools.columns(pool);
        float sum = projected_cell(x, filter, pools, cell / of_sample, place / columns * kernel,
                                   place % columns * kernel, kernel);
        if (threadIdx.x == 0) projected[cell] = sum + (bias != nullptr ? *bias : 0.0f);
    }
    wait_for_all_blocks(counters);
    int length = pools.batch * area * pools.result_lanes;
    for (int i = block * THREADS + static_cast<int>(threadIdx.x); i < length; i += blocks * THREADS) {
        int lane = i % pools.result_lanes, pixel = i / pools.result_lanes, channel = lane - pools.count;
        float number = 0.0f;
        if (lane < pools.count) {
            int columns = pools.columns(lane);
            const float* numbers = projected + pixel / area * of_sample + pools.start(lane);
            number = interpolated(taps(pixel / pools.width % pools.height, pools.rows(lane), pools.height),
                                  taps(pixel % pools.width, columns, pools.width),
                                  [&](int row, int column) { return numbers[row * columns + column]; });
        } else if (channel < pools.channels) {
            number = to_float(x[pixel * pools.lanes + channel]);
        }
        y[i] = kept(number, Number{});
    }
}

}  // namespace

/// y[pixel] = (the pools' numbers, bias included, resized to the pixel; x[pixel]; zeros). `projected` is room for the pools'
/// numbers, [sample][pool][row][column]; `counters` are two, the first 0; `bias` may be null. The blocks, which must all be
/// there at once, share the cells, and then the numbers of y.
extern "C" __global__ void __launch_bounds__(THREADS, 8)
    multi_kernel_pooling(const float* x, const float* filter, const float* bias, float* y, float* projected,
                         unsigned* counters, Pools pools) {
    wait_for_launches_before();
    pool_by_all_kernels(x, filter, bias, y, projected, counters, pools);
}

/// As `multi_kernel_pooling`, of float16.
extern "C" __global__ void __launch_bounds__(THREADS, 8)
    multi_kernel_pooling_float16(const Float16* x, const float* filter, const float* bias, Float16* y, float* projected,
                                 unsigned* counters, Pools pools) {
    wait_for_launches_before();
    pool_by_all_kernels(x, filter, bias, y, projected, counters, pools);
}
