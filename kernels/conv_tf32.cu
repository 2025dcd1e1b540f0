// Convolution of tf32 numbers on tensor cores, see tensor_conv.cuh: the tiles that there are.
//
// needs sm_80

#include "tensor_conv.cuh"

CONV_KERNEL(conv_tf32_128x64, Tf32, float, 128, 64)
CONV_KERNEL(conv_tf32_64x64, Tf32, float, 64, 64)
CONV_KERNEL(conv_tf32_64x32, Tf32, float, 64, 32)

CONV_BACKWARD_KERNEL(conv_backward_tf32_128x64, Tf32, float, 128, 64)
CONV_BACKWARD_KERNEL(conv_backward_tf32_64x64, Tf32, float, 64, 64)
CONV_BACKWARD_KERNEL(conv_backward_tf32_64x32, Tf32, float, 64, 32)

CONV_FILTER_GRAD_KERNEL(conv_filter_grad_tf32_64x64, Tf32, 64, 64)
CONV_FILTER_GRAD_KERNEL(conv_filter_grad_tf32_64x32, Tf32, 64, 32)
