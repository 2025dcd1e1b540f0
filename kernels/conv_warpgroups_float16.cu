// Convolution of float16 numbers on the tensor cores of sm_90a, see warpgroup_conv.cuh: the patches that there are.
//
// needs sm_90a
#include "warpgroup_conv.cuh"

extern "C" __global__ void __launch_bounds__(WARPGROUP_THREADS, 2)
    conv_warpgroups_float16_128x64(const Float16* x, const Float16* filter, const float* bias, float* y, Finish finish,
                                   StatisticsTo statistics, Geometry g, Patches p) {
    warpgroup_convolve<Float16, float, 64>(x, filter, bias, y, finish, statistics, g, p);
}

extern "C" __global__ void __launch_bounds__(WARPGROUP_THREADS, 2)
    conv_warpgroups_float16_128x32(const Float16* x, const Float16* filter, const float* bias, float* y, Finish finish,
                                   StatisticsTo statistics, Geometry g, Patches p) {
    warpgroup_convolve<Float16, float, 32>(x, filter, bias, y, finish, statistics, g, p);
}

extern "C" __global__ void __launch_bounds__(WARPGROUP_THREADS, 2)
    conv_warpgroups_float16_128x64_to_float16(const Float16* x, const Float16* filter, const float* bias, Float16* y,
                                              Finish finish, StatisticsTo statistics, Geometry g, Patches p) {
    warpgroup_convolve<Float16, Float16, 64>(x, filter, bias, y, finish, statistics, g, p);
}

extern "C" __global__ void __launch_bounds__(WARPGROUP_THREADS, 2)
    conv_warpgroups_float16_128x32_to_float16(const Float16* x, const Float16* filter, const float* bias, Float16* y,
                                              Finish finish, StatisticsTo statistics, Geometry g, Patches p) {
    warpgroup_convolve<Float16, Float16, 32>(x, filter, bias, y, finish, statistics, g, p);
}
