// Convolution of float16 numbers by patches, see patch_conv.cuh: the patches that there are.
#include "patch_conv.cuh"

CONV_PATCHES_KERNEL(conv_patches_float16_128x64, Float16, float, 128, 64)
CONV_PATCHES_KERNEL(conv_patches_float16_128x32, Float16, float, 128, 32)

CONV_PATCHES_KERNEL(conv_patches_float16_128x64_to_float16, Float16, Float16, 128, 64)
CONV_PATCHES_KERNEL(conv_patches_float16_128x32_to_float16, Float16, Float16, 128, 32)
