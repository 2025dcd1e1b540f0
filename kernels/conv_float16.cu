// Convolution of float16 numbers on tensor cores, see tensor_conv.cuh: the tiles that there are.
#include "tensor_conv.cuh"

CONV_KERNEL(conv_float16_64x64, Float16, float, 64, 64)
CONV_KERNEL(conv_float16_64x32, Float16, float, 64, 32)

CONV_KERNEL(conv_float16_64x64_to_float16, Float16, Float16, 64, 64)
CONV_KERNEL(conv_float16_64x32_to_float16, Float16, Float16, 64, 32)

CONV_BACKWARD_KERNEL(conv_backward_float16_64x64, Float16, float, 64, 64)
CONV_BACKWARD_KERNEL(conv_backward_float16_64x32, Float16, float, 64, 32)

CONV_BACKWARD_KERNEL(conv_backward_float16_64x64_to_float16, Float16, Float16, 64, 64)
CONV_BACKWARD_KERNEL(conv_backward_float16_64x32_to_float16, Float16, Float16, 64, 32)

CONV_FILTER_GRAD_KERNEL(conv_filter_grad_float16_64x64, Float16, 64, 64)
CONV_FILTER_GRAD_KERNEL(conv_filter_grad_float16_64x32, Float16, 64, 32)
