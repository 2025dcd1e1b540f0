// Convolution of bfloat16 numbers on tensor cores, see tensor_conv.cuh: the tiles that there are.
//
// needs sm_80

#include "tensor_conv.cuh"

CONV_KERNEL(conv_bfloat16_64x64, BFloat16, float, 64, 64)
CONV_KERNEL(conv_bfloat16_64x32, BFloat16, float, 64, 32)

CONV_BACKWARD_KERNEL(conv_backward_bfloat16_64x64, BFloat16, float, 64, 64)
CONV_BACKWARD_KERNEL(conv_backward_bfloat16_64x32, BFloat16, float, 64, 32)

CONV_FILTER_GRAD_KERNEL(conv_filter_grad_bfloat16_64x64, BFloat16, 64, 64)
CONV_FILTER_GRAD_KERNEL(conv_filter_grad_bfloat16_64x32, BFloat16, 64, 32)
