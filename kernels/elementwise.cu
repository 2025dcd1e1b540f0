// Operators that treat every number alike: sums, ReLU, scaling, sigmoid, the optimiser's step.
//
// A value is `length` numbers, padding lanes included. A thread owns four neighbours, read before any of them is
// written, so that a result may lie over its operand. Where 0 does not map to 0, padding lanes are written as zeros.

#include "numbers.cuh"

namespace {

constexpr int THREADS = 256;

/// The four numbers of a thread, or what is left of the value.
struct Quad {
    int first;
    int count;
};

__device__ __forceinline__ Quad my_quad(int length) {
    // At most 2^31 numbers, so the last quads of the grid may start past what an int holds.
    unsigned first = 4 * (blockIdx.x * blockDim.x + threadIdx.x);
    if (first >= static_cast<unsigned>(length)) return {0, 0};
    return {static_cast<int>(first), min(4, length - static_cast<int>(first))};
}

// Loops run over all four, whatever the count, so that the numbers stay in registers.

/// Values lie at multiples of 64 bytes, so that whole quads are read as one.
__device__ __forceinline__ void load(const float* from, Quad quad, float (&numbers)[4]) {
    if (quad.count == 4) {
        float4 four = *reinterpret_cast<const float4*>(from + quad.first);
        numbers[0] = four.x, numbers[1] = four.y, numbers[2] = four.z, numbers[3] = four.w;
    } else {
        for (int i = 0; i < 4; i++) numbers[i] = i < quad.count ? from[quad.first + i] : 0.0f;
    }
}

__device__ __forceinline__ void store(float* to, Quad quad, const float (&numbers)[4]) {
    if (quad.count == 4) {
        *reinterpret_cast<float4*>(to + quad.first) = make_float4(numbers[0], numbers[1], numbers[2], numbers[3]);
    } else {
        for (int i = 0; i < 4; i++) {
            if (i < quad.count) to[quad.first + i] = numbers[i];
        }
    }
}

/// y[i] = f(x[i])
template <class Function>
__device__ __forceinline__ void map(const float* x, float* y, int length, Function f) {
    Quad quad = my_quad(length);
    float a[4];
    load(x, quad, a);
    for (int i = 0; i < 4; i++) a[i] = f(a[i]);
    store(y, quad, a);
}

/// y[i] = f(a[i], b[i])
template <class Function>
__device__ __forceinline__ void map(const float* a, const float* b, float* y, int length, Function f) {
    Quad quad = my_quad(length);
    float p[4], q[4];
    load(a, quad, p);
    load(b, quad, q);
    for (int i = 0; i < 4; i++) p[i] = f(p[i], q[i]);
    store(y, quad, p);
}

/// max(x, 0); NaN stays.
__device__ __forceinline__ float rectified(float x) { return x < 0.0f ? 0.0f : x; }

/// y[i] = max(x[i], 0) + residual[i]
template <class Half>
__device__ __forceinline__ void rectify_halves(const Half* x, const Half* residual, Half* y, int length) {
    Quad quad = my_quad(length);
    if (quad.count == 0) return;
    float4 a = four(x + quad.first), b = four(residual + quad.first);
    put(y + quad.first, make_float4(rectified(a.x) + b.x, rectified(a.y) + b.y, rectified(a.z) + b.z, rectified(a.w) + b.w));
}

}  // namespace

/// y = a + b
extern "C" __global__ void __launch_bounds__(THREADS) add(const float* a, const float* b, float* y, int length) {
    wait_for_launches_before();
    map(a, b, y, length, [](float a, float b) { return a + b; });
}

/// y = max(a + b, 0)
extern "C" __global__ void __launch_bounds__(THREADS) add_relu(const float* a, const float* b, float* y, int length) {
    wait_for_launches_before();
    map(a, b, y, length, [](float a, float b) { return rectified(a + b); });
}

/// y = max(x, 0)
extern "C" __global__ void __launch_bounds__(THREADS) relu(const float* x, float* y, int length) {
    wait_for_launches_before();
    map(x, y, length, [](float x) { return rectified(x); });
}

/// y = max(x, 0) + residual
extern "C" __global__ void __launch_bounds__(THREADS)
    relu_residual(const float* x, const float* residual, float* y, int length) {
    wait_for_launches_before();
    map(x, residual, y, length, [](float x, float residual) { return rectified(x) + residual; });
}

/// As `relu_residual`, of float16; `length` is a multiple of 4.
extern "C" __global__ void __launch_bounds__(THREADS)
    relu_residual_float16(const Float16* x, const Float16* residual, Float16* y, int length) {
    wait_for_launches_before();
    rectify_halves(x, residual, y, length);
}

/// dx = dy where y > 0, else 0
extern "C" __global__ void __launch_bounds__(THREADS)
    relu_grad(const float* y, const float* dy, float* dx, int length) {
    wait_for_launches_before();
    map(y, dy, dx, length, [](float y, float dy) { return y > 0.0f ? dy : 0.0f; });
}

/// y = factor x
extern "C" __global__ void __launch_bounds__(THREADS) scale(const float* x, float* y, int length, float factor) {
    wait_for_launches_before();
    map(x, y, length, [factor](float x) { return factor * x; });
}

/// dx = 2 cotangent x, with the cotangent a scalar in device memory
extern "C" __global__ void __launch_bounds__(THREADS)
    square_grad(const float* x, const float* cotangent, float* dx, int length) {
    wait_for_launches_before();
    float factor = 2.0f * *cotangent;
    map(x, dx, length, [factor](float x) { return factor * x; });
}

/// y = value where the layout has elements, else 0: number i is lane `i % lanes` of row `i / lanes`, and elements are
/// the first `channels` lanes of the first `rows_used` of every `rows` rows.
extern "C" __global__ void __launch_bounds__(THREADS)
    fill(float* y, int length, float value, int lanes, int channels, int rows, int rows_used) {
    wait_for_launches_before();
    Quad quad = my_quad(length);
    float numbers[4];
    for (int i = 0; i < 4; i++) {
        int lane = (quad.first + i) % lanes, row = (quad.first + i) / lanes;
        numbers[i] = lane < channels && row % rows < rows_used ? value : 0.0f;
    }
    store(y, quad, numbers);
}

/// y = 1 / (1 + exp(-x)) in the first `channels` of every `lanes` lanes, else 0
extern "C" __global__ void __launch_bounds__(THREADS)
    sigmoid(const float* x, float* y, int length, int lanes, int channels) {
    wait_for_launches_before();
    Quad quad = my_quad(length);
    float numbers[4];
    load(x, quad, numbers);
    for (int i = 0; i < 4; i++) {
        numbers[i] = (quad.first + i) % lanes < channels ? 1.0f / (1.0f + expf(-numbers[i])) : 0.0f;
    }
    store(y, quad, numbers);
}

/// dx = dy y (1 - y)
extern "C" __global__ void __launch_bounds__(THREADS)
    sigmoid_grad(const float* y, const float* dy, float* dx, int length) {
    wait_for_launches_before();
    map(y, dy, dx, length, [](float y, float dy) { return dy * y * (1.0f - y); });
}

/// v' = momentum v + g + decay w; w' = w - rate v'. The rate is a scalar in device memory.
extern "C" __global__ void __launch_bounds__(THREADS)
    sgd(const float* w, const float* v, const float* g, const float* rate, float* new_w, float* new_v, int length,
        float momentum, float decay) {
    wait_for_launches_before();
    Quad quad = my_quad(length);
    float weight[4], velocity[4], gradient[4];
    load(w, quad, weight);
    load(v, quad, velocity);
    load(g, quad, gradient);
    float step = *rate;
    for (int i = 0; i < 4; i++) {
        velocity[i] = momentum * velocity[i] + gradient[i] + decay * weight[i];
        weight[i] -= step * velocity[i];
    }
    store(new_v, quad, velocity);
    store(new_w, quad, weight);
}

/// AdamW (Loshchilov and Hutter 2019): m' = beta1 m + (1 - beta1) g; v' = beta2 v + (1 - beta2) g^2;
/// w' = (1 - rate decay) w - rate (m' / correction1) / (sqrt(v' / correction2) + epsilon).
/// Rate and corrections are scalars in device memory; epsilon is above 0, so that padding lanes stay 0.
extern "C" __global__ void __launch_bounds__(THREADS)
    adamw(const float* w, const float* m, const float* v, const float* g, const float* rate, const float* correction1,
          const float* correction2, float* new_w, float* new_m, float* new_v, int length, float beta1, float beta2,
          float epsilon, float decay) {
    wait_for_launches_before();
    Quad quad = my_quad(length);
    float weight[4], first[4], second[4], gradient[4];
    load(w, quad, weight);
    load(m, quad, first);
    load(v, quad, second);
    load(g, quad, gradient);
    float step = *rate, by_first = *correction1, by_second = *correction2;
    float kept = 1.0f - step * decay;
    for (int i = 0; i < 4; i++) {
        first[i] = beta1 * first[i] + (1.0f - beta1) * gradient[i];
        second[i] = beta2 * second[i] + (1.0f - beta2) * gradient[i] * gradient[i];
        weight[i] = kept * weight[i] - step * (first[i] / by_first) / (sqrtf(second[i] / by_second) + epsilon);
    }
    store(new_m, quad, first);
    store(new_v, quad, second);
    store(new_w, quad, weight);
}
