// What surrounds the network: a grey frame becomes a float32 plane of its window, a probability an 8-bit mask.
//
// Both resize bilinearly as `media::BilinearResize` does, the triangle widened where an axis shrinks: first across,
// then down, each number a weighted sum in float64 rounded to float32. The host computes the weights
// (`resampling.rs`): `taps[i]` says which inputs output i reads, `weights[most * i + k]` is the weight of the k-th of
// them. Every product and sum is rounded by itself, in the order of the CPU's AVX2 code, so the bits are the CPU's.

#include "block.cuh"

/// The inputs of an output: `count` of them, from `first` on.
struct Taps {
    int first, count;
};

/// Which planes of a ring make a window, oldest first.
struct Slots {
    int of[7];
};

/// A number that is NaN or infinite, and where.
struct NotFinite {
    int at;
    float number;
};

namespace {

constexpr int THREADS = 256;
/// Pixels that a thread looks at for numbers that are not finite.
constexpr int PIXELS = 8;

/// What the CPU makes of a 16-bit sample: 0..65535 onto 0..255, rounded to nearest.
__device__ __forceinline__ float eight_bits(uint8_t sample) { return sample; }
__device__ __forceinline__ float eight_bits(uint16_t sample) { return static_cast<float>((sample + 128) / 257); }

__device__ __forceinline__ double add_product(double sum, float x, double weight) {
    return __dadd_rn(sum, __dmul_rn(static_cast<double>(x), weight));
}

/// sum over k of weights[k] read(k), in four sums as AVX2 has them: of what is left over, two go to the first two and
/// one to the first.
template <class Read>
__device__ __forceinline__ float sum_in_lanes(int count, const double* weights, Read read) {
    double a = 0, b = 0, c = 0, d = 0;
    int k = 0;
    for (; k + 4 <= count; k += 4) {
        a = add_product(a, read(k), weights[k]);
        b = add_product(b, read(k + 1), weights[k + 1]);
        c = add_product(c, read(k + 2), weights[k + 2]);
        d = add_product(d, read(k + 3), weights[k + 3]);
    }
    if (k + 2 <= count) {
        a = add_product(a, read(k), weights[k]);
        b = add_product(b, read(k + 1), weights[k + 1]);
        k += 2;
    }
    if (k < count) a = add_product(a, read(k), weights[k]);
    return static_cast<float>(__dadd_rn(__dadd_rn(a, c), __dadd_rn(b, d)));
}

/// y[row][column] = sum over the column's taps of weight times read(position in x), for `length` numbers y.
template <class Read>
__device__ __forceinline__ void across(float* y, const Taps* taps, const double* weights, int most, int length,
                                       int width, int columns, Read read) {
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= static_cast<unsigned>(length)) return;
    int row = static_cast<int>(i) / columns, column = static_cast<int>(i) % columns;
    Taps t = taps[column];
    int first = row * width + t.first;
    y[i] = sum_in_lanes(t.count, weights + column * most, [=](int k) { return read(first + k); });
}

/// sum over the taps of row i / columns of weight times x[tap][i % columns], in order.
__device__ __forceinline__ float down(const float* x, const Taps* taps, const double* weights, int most, int i,
                                      int columns) {
    int row = i / columns, column = i % columns;
    Taps t = taps[row];
    double sum = 0;
    for (int k = 0; k < t.count; k++) {
        sum = add_product(sum, x[(t.first + k) * columns + column], weights[row * most + k]);
    }
    return static_cast<float>(sum);
}

/// The least of the block's numbers, for the first thread. Every thread must call it.
__device__ __forceinline__ int block_min(int number) {
    SHARED_ARRAY(int, numbers, THREADS);
    int thread = static_cast<int>(threadIdx.x);
    __syncthreads();  // an earlier one may still be read
    numbers[thread] = number;
    for (int half = THREADS / 2; half > 0; half /= 2) {
        __syncthreads();
        if (thread < half) numbers[thread] = number = min(number, numbers[thread + half]);
    }
    return number;
}

}  // namespace

/// The first half of frame to tensor: y = x resized across. x: [rows][width], y: [rows][columns], `length` numbers.
/// A thread owns a number of y.
extern "C" __global__ void __launch_bounds__(THREADS)
    frame8_across(const uint8_t* x, float* y, const Taps* taps, const double* weights, int most, int length, int width,
                  int columns) {
    wait_for_launches_before();
    across(y, taps, weights, most, length, width, columns, [=](int at) { return eight_bits(x[at]); });
}

/// As `frame8_across`, each 16-bit sample narrowed to 8 bits before.
extern "C" __global__ void __launch_bounds__(THREADS)
    frame16_across(const uint16_t* x, float* y, const Taps* taps, const double* weights, int most, int length,
                   int width, int columns) {
    wait_for_launches_before();
    across(y, taps, weights, most, length, width, columns, [=](int at) { return eight_bits(x[at]); });
}

/// The second half: plane = (x resized down) / 255 * 3.2 - 1.6, the network's range. x: [height][columns],
/// plane: [rows][columns], `length` numbers. A thread owns a number of the plane.
extern "C" __global__ void __launch_bounds__(THREADS)
    frame_down(const float* x, float* plane, const Taps* taps, const double* weights, int most, int length,
               int columns) {
    wait_for_launches_before();
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= static_cast<unsigned>(length)) return;
    float sample = down(x, taps, weights, most, static_cast<int>(i), columns);
    plane[i] = __fadd_rn(__fmul_rn(sample / 255.0f, 3.2f), -1.6f);
}

/// window[frame] = ring[slots.of[frame]], for as many frames, `area` numbers each, as the grid has in y. A thread owns a
/// number.
extern "C" __global__ void __launch_bounds__(THREADS)
    gather_window(const float* ring, float* window, Slots slots, int area) {
    wait_for_launches_before();
    int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x), frame = static_cast<int>(blockIdx.y);
    if (i < area) window[frame * area + i] = ring[slots.of[frame] * area + i];
}

/// The first half of probability to mask: y = lane 0 of x resized across. x: [rows][width][lanes], y: [rows][columns],
/// `length` numbers. A thread owns a number of y.
extern "C" __global__ void __launch_bounds__(THREADS)
    probability_across(const float* x, float* y, const Taps* taps, const double* weights, int most, int length,
                       int width, int columns, int lanes) {
    wait_for_launches_before();
    across(y, taps, weights, most, length, width, columns, [=](int at) { return x[at * lanes]; });
}

/// The second half: mask = 255 where x resized down is at least the threshold, else 0. x: [height][columns],
/// mask: [rows][columns], `length` pixels and zeros up to a whole word. A thread owns four pixels, written as one word.
extern "C" __global__ void __launch_bounds__(THREADS)
    mask_down(const float* x, uint32_t* mask, const Taps* taps, const double* weights, int most, int length,
              int columns, float threshold) {
    wait_for_launches_before();
    unsigned word = blockIdx.x * blockDim.x + threadIdx.x;
    if (4 * word >= static_cast<unsigned>(length)) return;
    uint32_t pixels = 0;
    for (int j = 0; j < 4; j++) {
        int i = static_cast<int>(4 * word) + j;
        bool vessel = i < length && down(x, taps, weights, most, i, columns) >= threshold;
        pixels |= vessel ? 255u << 8 * j : 0u;  // the GPU's and the emulator's words are little-endian
    }
    mask[word] = pixels;
}

/// found = the first i whose x[i][0] is not finite, and that number; `length` and 0 where there is none.
/// x: [length][lanes]. A block owns THREADS x PIXELS of them and writes what it finds to parts[block]; the last one, told by
/// `counter`, 0 before and after, finds the first of all.
extern "C" __global__ void __launch_bounds__(THREADS)
    first_not_finite(const float* x, int* parts, unsigned* counter, NotFinite* found, int length, int lanes) {
    wait_for_launches_before();
    int thread = static_cast<int>(threadIdx.x), start = static_cast<int>(blockIdx.x) * THREADS * PIXELS + thread;
    int first = length;
    for (int pixel = 0; pixel < PIXELS; pixel++) {
        int i = start + pixel * THREADS;
        if (i >= length) continue;
        float number = x[i * lanes];
        if (!(number - number == 0.0f)) first = min(first, i);
    }
    first = block_min(first);
    if (thread == 0) parts[blockIdx.x] = first;
    if (!comes_last(counter, static_cast<int>(gridDim.x))) return;
    first = length;
    for (int part = thread; part < static_cast<int>(gridDim.x); part += THREADS) first = min(first, parts[part]);
    first = block_min(first);
    if (thread == 0) *found = {first, first < length ? x[first * lanes] : 0.0f};
}
