// Convolution of bfloat16 numbers by patches, see patch_conv.cuh: the patches that there are.
//
// needs sm_80

#include "patch_conv.cuh"

CONV_PATCHES_KERNEL(conv_patches_bfloat16_128x64, BFloat16, float, 128, 64)
CONV_PATCHES_KERNEL(conv_patches_bfloat16_128x32, BFloat16, float, 128, 32)
