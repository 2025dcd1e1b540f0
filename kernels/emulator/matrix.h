// What the lanes of a warp do together on matrices, for the emulator: matrix loads, tensor cores, their number formats.
// The kernels' side, with its descriptions, is primitives.cuh.
#pragma once

#include "multiprocessor.h"

#include <cstdint>

namespace emulator {

/// What tensor cores multiply.
enum class Format { Float16, BFloat16, Tf32 };

/// Four 8 x 8 matrices of 16-bit numbers, one row of 16 bytes by each lane.
void load_matrices(uint32_t* registers, const void* row, bool transposed);

/// sums += a b over 32 bytes of the sum; `rows` and `columns` are multiples of 16. As on an A100 a sum and the next few
/// exact products, eight of 16 bits or four of tf32, are cut off, not rounded, one bit behind the 24 bits of the largest of
/// them, and what they add up to behind its own 24 bits (Fasi, Higham, Mikaitis and Pranesh 2021; Khattak and Mikaitis
/// 2025). An H100 adds twice as many at once and keeps one bit more: it loses less.
void mma_tile(Format format, unsigned rows, unsigned columns, float* sums, const uint32_t* a, const uint32_t* b);

/// A matrix in shared memory: where it starts, and bytes between its blocks of 8 x 16 bytes along and across the sum.
struct SharedMatrix {
    const unsigned char* start;
    size_t leading, stride;
};

/// As `mma_tile`, of the 16 rows of a warp by up to 64 columns: a and b, numbers of 16 bits, lie in shared memory, a's along
/// the sum and b's across it.
void multiply_shared(Format format, unsigned columns, const SharedMatrix& a, const SharedMatrix& b,
                     float* const (&sums)[WARP]);

/// The nearest float16, ties to even.
uint16_t float16_bits(float number);

/// The float16 of these bits.
float float16_number(uint16_t bits);

/// The nearest float32 whose lower 13 bits are zero, ties away from zero. Of infinities and NaNs these bits are dropped,
/// as in the machine code that nvcc makes of `cvt.rna.tf32.f32`.
uint32_t rounded_to_tf32(uint32_t bits);

}  // namespace emulator
