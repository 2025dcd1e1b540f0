// What convolutions and norms do to a result as they write it: an instance norm, a residual, ReLU or a sigmoid.
#pragma once

#include "numbers.cuh"

/// What becomes of a number and its residual: ReLU of their sum, or the residual added to ReLU, or the sum's sigmoid.
enum Activation : int { NONE, RELU, RELU_THEN_RESIDUAL, SIGMOID };

struct Finish {
    /// Scale and shift of an instance norm, which comes first; null where there is none.
    const float* gamma;
    const float* beta;
    /// What is added, laid out as the result and, but on tensor cores, of the same kind of numbers; null where nothing is.
    const void* residual;
    int activation;
    /// Lanes that are no padding.
    int channels;
    /// On tensor cores: whether the residual is float16, else it is float32. That of a float16 result always is.
    int residual_is_half;
    int unused;

    __device__ __forceinline__ bool has_norm() const { return gamma != nullptr; }
    /// Whether there is no more to do than ReLU.
    __device__ __forceinline__ bool is_at_once() const {
        return gamma == nullptr && residual == nullptr && activation != SIGMOID;
    }
    __device__ __forceinline__ bool rectifies_at_once() const { return is_at_once() && activation != NONE; }
};

/// max(x, 0) if wanted; NaN stays.
__device__ __forceinline__ float rectified(float x, bool rectify) { return rectify && x < 0.0f ? 0.0f : x; }

/// x, and 0 for what is below `floor`, which is 0 or minus infinity; NaN stays.
__device__ __forceinline__ float4 rectified(float4 x, float floor) {
    return make_float4(x.x < floor ? 0.0f : x.x, x.y < floor ? 0.0f : x.y, x.z < floor ? 0.0f : x.z,
                       x.w < floor ? 0.0f : x.w);
}

/// 1 / (1 + exp(-x)), or 0 for a number that is padding.
__device__ __forceinline__ float sigmoid(float x, bool exists) { return exists ? 1.0f / (1.0f + expf(-x)) : 0.0f; }

/// Four numbers, of the lanes from `lane` on, with their residuals and activation. They lie at `at` in maps of `Number`s, and
/// so do their residuals unless they `MAY_DIFFER`.
template <class Number, bool MAY_DIFFER = false>
__device__ __forceinline__ float4 finished(float4 x, const Finish& finish, int at, int lane) {
    float none = __uint_as_float(0xff800000u);
    x = rectified(x, finish.activation == RELU_THEN_RESIDUAL ? 0.0f : none);
    if (finish.residual != nullptr) {
        bool is_half = MAY_DIFFER && sizeof(Number) == 4 && finish.residual_is_half != 0;
        float4 other = is_half ? four(static_cast<const Float16*>(finish.residual) + at)
                               : four(static_cast<const Number*>(finish.residual) + at);
        x = make_float4(x.x + other.x, x.y + other.y, x.z + other.z, x.w + other.w);
    }
    if (finish.activation != SIGMOID) return rectified(x, finish.activation == RELU ? 0.0f : none);
    int left = finish.channels - lane;
    return make_float4(sigmoid(x.x, left > 0), sigmoid(x.y, left > 1), sigmoid(x.z, left > 2), sigmoid(x.w, left > 3));
}

/// The norm of four lanes of a sample: (x - mean) (r gamma) + beta.
struct QuadNorm {
    float4 mean, factor, beta;

    /// That of the lanes from `lane` on, of which `mean` and `r` are those of the sample.
    static __device__ __forceinline__ QuadNorm of(const float* mean, const float* reciprocal, const Finish& finish, int lane) {
        float4 r = four(reciprocal), gamma = four(finish.gamma + lane);
        return {four(mean), make_float4(r.x * gamma.x, r.y * gamma.y, r.z * gamma.z, r.w * gamma.w),
                four(finish.beta + lane)};
    }

    /// As above; `statistics` are the sample's, [mean, r][lane].
    static __device__ __forceinline__ QuadNorm at(const float* statistics, const Finish& finish, int lane, int lanes) {
        return of(statistics + lane, statistics + lanes + lane, finish, lane);
    }

    __device__ __forceinline__ float4 of(float4 x) const {
        return make_float4((x.x - mean.x) * factor.x + beta.x, (x.y - mean.y) * factor.y + beta.y,
                           (x.z - mean.z) * factor.z + beta.z, (x.w - mean.w) * factor.w + beta.w);
    }
};
