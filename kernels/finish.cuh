// What convolutions and norms do to a result as they write it: an instance norm, a residual, ReLU or a sigmoid.
#pragma once

#include "block.cuh"

/// What becomes of a number and its residual: ReLU of their sum, or the residual added to ReLU, or the sum's sigmoid.
enum Activation : int { NONE, RELU, RELU_THEN_RESIDUAL, SIGMOID };

struct Finish {
    /// Scale and shift of an instance norm, which comes first; null where there is none.
    const float* gamma;
    const float* beta;
    /// What is added, laid out as the result; null where nothing is.
    const float* residual;
    int activation;
    /// Lanes that are no padding.
    int channels;

    __device__ __forceinline__ bool has_norm() const { return gamma != nullptr; }
    /// Whether there is no more to do than ReLU.
    __device__ __forceinline__ bool is_at_once() const {
        return gamma == nullptr && residual == nullptr && activation != SIGMOID;
    }
    __device__ __forceinline__ bool rectifies_at_once() const { return is_at_once() && activation != NONE; }
};

/// max(x, 0) if wanted; NaN stays.
__device__ __forceinline__ float rectified(float x, bool rectify) { return rectify && x < 0.0f ? 0.0f : x; }

/// A number with its residual and activation; `exists` unless it is padding, which must stay 0.
__device__ __forceinline__ float finished(float x, float residual, int activation, bool exists) {
    x = rectified(x, activation == RELU_THEN_RESIDUAL) + residual;
    if (activation == SIGMOID) return exists ? 1.0f / (1.0f + expf(-x)) : 0.0f;
    return rectified(x, activation == RELU);
}

/// As above, of the four lanes from `lane` on that lie at `at`.
__device__ __forceinline__ float4 finished(float4 x, const Finish& finish, int at, int lane) {
    float4 other = finish.residual != nullptr ? four(finish.residual + at) : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    int kind = finish.activation, left = finish.channels - lane;
    return make_float4(finished(x.x, other.x, kind, left > 0), finished(x.y, other.y, kind, left > 1),
                       finished(x.z, other.z, kind, left > 2), finished(x.w, other.w, kind, left > 3));
}

/// The norm of four lanes of a sample: gamma (x - mean) r + beta.
struct QuadNorm {
    float4 mean, r, gamma, beta;

    /// That of the lanes from `lane` on; `statistics` are the sample's, [mean, r][lane].
    static __device__ __forceinline__ QuadNorm at(const float* statistics, const Finish& finish, int lane, int lanes) {
        return {four(statistics + lane), four(statistics + lanes + lane), four(finish.gamma + lane),
                four(finish.beta + lane)};
    }

    __device__ __forceinline__ float4 of(float4 x) const {
        return make_float4(gamma.x * ((x.x - mean.x) * r.x) + beta.x, gamma.y * ((x.y - mean.y) * r.y) + beta.y,
                           gamma.z * ((x.z - mean.z) * r.z) + beta.z, gamma.w * ((x.w - mean.w) * r.w) + beta.w);
    }
};
