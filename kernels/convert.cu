// Conversion from float32 to the 16-bit formats that tensor cores multiply.

#include "primitives.cuh"

namespace {

constexpr int THREADS = 256;

/// Four numbers as two words.
template <class Convert>
__device__ __forceinline__ void convert_four(const float* x, uint16_t* y, int length, Convert convert) {
    unsigned index = (blockIdx.x * blockDim.x + threadIdx.x) * 4;
    if (index >= static_cast<unsigned>(length)) return;
    float4 four = *reinterpret_cast<const float4*>(x + index);
    auto pair = [&](float low, float high) {
        return static_cast<uint32_t>(convert(low).bits) | static_cast<uint32_t>(convert(high).bits) << 16;
    };
    *reinterpret_cast<uint2*>(y + index) = make_uint2(pair(four.x, four.y), pair(four.z, four.w));
}

}  // namespace

/// y[i] = x[i] as float16, to the nearest, ties to even; from 65520 on infinite. A thread owns four numbers; `length` is a
/// multiple of 4.
extern "C" __global__ void __launch_bounds__(THREADS) to_float16s(const float* x, uint16_t* y, int length) {
    wait_for_launches_before();
    convert_four(x, y, length, [](float number) { return to_float16(number); });
}

/// y[i] = x[i] as bfloat16, to the nearest, ties to even. A thread owns four numbers; `length` is a multiple of 4.
extern "C" __global__ void __launch_bounds__(THREADS) to_bfloat16s(const float* x, uint16_t* y, int length) {
    wait_for_launches_before();
    convert_four(x, y, length, [](float number) { return to_bfloat16(number); });
}
