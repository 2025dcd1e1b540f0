// Instructions that CUDA C++ has no name for: asynchronous copies, matrix loads, tensor cores, conversions.
//
// Every PTX instruction of Coronet stands here, behind a function with two bodies: inline assembly for the device,
// plain C++ for the emulator. `CORONET_ARCH` says which architecture's path is compiled: 75, 80 or 90. The device
// compiler's own macro is asked only here, so that the emulator can compile every path; it compiles the files that
// include this one once for each. tests/conformance.rs compares the two bodies wherever there is a GPU.
#pragma once

#include "block.cuh"

#if !defined(CORONET_ARCH) && defined(__CUDA_ARCH__)
#if __CUDA_ARCH__ >= 900
#define CORONET_ARCH 90
#elif __CUDA_ARCH__ >= 800
#define CORONET_ARCH 80
#else
#define CORONET_ARCH 75
#endif
#endif

/// IEEE 754 binary16.
struct Float16 {
    uint16_t bits;
};
/// The upper half of a float32.
struct BFloat16 {
    uint16_t bits;
};
/// A float32 of which tensor cores read the upper 19 bits.
struct Tf32 {
    float number;
};

#ifdef __CUDACC__

/// Copies 16 bytes from global to shared memory, or writes zeros unless `valid`; finished by `cp_async_wait`.
__device__ __forceinline__ void cp_async16(void* shared, const void* global, bool valid) {
#if CORONET_ARCH >= 80
    auto target = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
    int source_bytes = valid ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(target), "l"(global), "r"(source_bytes)
                 : "memory");
#else
    *static_cast<float4*>(shared) = valid ? *static_cast<const float4*>(global) : make_float4(0, 0, 0, 0);
#endif
}

/// Makes a group of the thread's copies so far.
__device__ __forceinline__ void cp_async_commit() {
#if CORONET_ARCH >= 80
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

/// Waits until at most `pending` of the thread's groups are unfinished. Other threads see the copies after a barrier.
template <int pending>
__device__ __forceinline__ void cp_async_wait() {
#if CORONET_ARCH >= 80
    asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
#endif
}

/// Loads four matrices of 8 rows of 16 bytes from shared memory: lane i gives the address of row i % 8 of matrix
/// i / 8. `registers[m]` gets four bytes of matrix m: row lane / 4, from byte 4 (lane % 4) on.
__device__ __forceinline__ void load_matrices(uint32_t (&registers)[4], const void* row) {
    auto address = static_cast<uint32_t>(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(registers[0]), "=r"(registers[1]), "=r"(registers[2]), "=r"(registers[3])
                 : "r"(address)
                 : "memory");
}

/// As `load_matrices`, each matrix of 8 x 8 16-bit numbers transposed: the lane gets column lane / 4 of rows
/// 2 (lane % 4) and the next.
__device__ __forceinline__ void load_matrices_transposed(uint32_t (&registers)[4], const void* row) {
    auto address = static_cast<uint32_t>(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(registers[0]), "=r"(registers[1]), "=r"(registers[2]), "=r"(registers[3])
                 : "r"(address)
                 : "memory");
}

/// The nearest float16, ties to even.
__device__ __forceinline__ Float16 to_float16(float number) {
    Float16 rounded;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(rounded.bits) : "f"(number));
    return rounded;
}

/// The number that 16 bits stand for.
__device__ __forceinline__ float to_float(Float16 number) {
    float wide;
    asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(number.bits));
    return wide;
}

/// The bits of the nearest number that tensor cores tell apart, ties away from zero. A NaN that only its 13 lowest bits
/// tell from an infinity becomes that infinity: no arithmetic makes one, and no finite weights and frames hold one, so
/// that an instruction more for each operand would find nothing.
__device__ __forceinline__ uint32_t rounded_to_tf32(uint32_t bits) {
    uint32_t rounded;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(rounded) : "f"(__uint_as_float(bits)));  // from sm_80 on
    return rounded;
}

/// sums += a b on tensor cores, a: 16 x 32 bytes, b: 32 bytes x 8, as `mma_tile` describes them.
template <class Element>
struct Mma;

template <>
struct Mma<Float16> {
    static __device__ __forceinline__ void add(float (&sums)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
#if CORONET_ARCH >= 80
        asm volatile(
            "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
            "{%0, %1, %2, %3};"
            : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else
        // Turing multiplies 8 deep: the two halves one after the other.
        for (int half = 0; half < 2; half++) {
            asm volatile(
                "mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, "
                "{%0, %1, %2, %3};"
                : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
                : "r"(a[2 * half]), "r"(a[2 * half + 1]), "r"(half == 0 ? b0 : b1));
        }
#endif
    }
};

#if CORONET_ARCH >= 80

template <>
struct Mma<BFloat16> {
    static __device__ __forceinline__ void add(float (&sums)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
        asm volatile(
            "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
            "{%0, %1, %2, %3};"
            : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
    }
};

template <>
struct Mma<Tf32> {
    static __device__ __forceinline__ void add(float (&sums)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
        asm volatile(
            "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
            "{%0, %1, %2, %3};"
            : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
    }
};

#endif

/// sums += a b for a tile of M x N that a warp owns, over 32 bytes of the sum: 16 numbers of 16 bits or 8 of 32.
///
/// With g = lane / 4 and t = lane % 4 a lane holds of each 16 rows of a the bytes from 4 t on of rows g and g + 8, then
/// from 16 + 4 t on; of each 16 columns of b the bytes from 4 t and from 16 + 4 t on of column g, then of column g + 8;
/// of each 16 x 8 sums columns 2 t and 2 t + 1 of rows g and g + 8.
template <class Element, int M, int N>
__device__ __forceinline__ void mma_tile(float (&sums)[M / 16][N / 8][4], const uint32_t (&a)[M / 16][4],
                                         const uint32_t (&b)[N / 16][4]) {
#pragma unroll
    for (int i = 0; i < M / 16; i++) {
#pragma unroll
        for (int j = 0; j < N / 8; j++) Mma<Element>::add(sums[i][j], a[i], b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]);
    }
}

#else

#include "emulator/matrix.h"

// A namespace for each path: the linker would take any one of several inline functions of the same name.
inline namespace CORONET_PATH {

__forceinline__ void cp_async16(void* shared, const void* global, bool valid) {
#if CORONET_ARCH >= 80
    emulator::Multiprocessor::current().copy_async(shared, global, 16, valid ? 16 : 0);
#else
    *static_cast<float4*>(shared) = valid ? *static_cast<const float4*>(global) : make_float4(0, 0, 0, 0);
#endif
}
__forceinline__ void cp_async_commit() {
#if CORONET_ARCH >= 80
    emulator::Multiprocessor::current().commit_copies();
#endif
}
template <int pending>
__forceinline__ void cp_async_wait() {
#if CORONET_ARCH >= 80
    emulator::Multiprocessor::current().wait_copies(pending);
#endif
}

__forceinline__ void load_matrices(uint32_t (&registers)[4], const void* row) { emulator::load_matrices(registers, row, false); }
__forceinline__ void load_matrices_transposed(uint32_t (&registers)[4], const void* row) {
    emulator::load_matrices(registers, row, true);
}

__forceinline__ Float16 to_float16(float number) { return {emulator::float16_bits(number)}; }
__forceinline__ float to_float(Float16 number) { return emulator::float16_number(number.bits); }
__forceinline__ uint32_t rounded_to_tf32(uint32_t bits) { return emulator::rounded_to_tf32(bits); }

inline emulator::Format format_of(Float16) { return emulator::Format::Float16; }
inline emulator::Format format_of(BFloat16) { return emulator::Format::BFloat16; }
inline emulator::Format format_of(Tf32) { return emulator::Format::Tf32; }

template <class Element, int M, int N>
__forceinline__ void mma_tile(float (&sums)[M / 16][N / 8][4], const uint32_t (&a)[M / 16][4], const uint32_t (&b)[N / 16][4]) {
    emulator::mma_tile(format_of(Element{}), M, N, &sums[0][0][0], &a[0][0], &b[0][0]);
}

}  // namespace CORONET_PATH

#endif

/// The nearest bfloat16, ties to even; NaN stays NaN.
__device__ __forceinline__ BFloat16 to_bfloat16(float number) {
    uint32_t bits = __float_as_uint(number);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return {static_cast<uint16_t>(bits >> 16 | 0x40u)};
    return {static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16)};
}

/// The number that 16 bits stand for.
__device__ __forceinline__ float to_float(BFloat16 number) {
    return __uint_as_float(static_cast<uint32_t>(number.bits) << 16);
}

/// The nearest number of a format of 16 bits.
template <class Half>
__device__ __forceinline__ Half to_half(float number);
template <>
__device__ __forceinline__ Float16 to_half<Float16>(float number) {
    return to_float16(number);
}
template <>
__device__ __forceinline__ BFloat16 to_half<BFloat16>(float number) {
    return to_bfloat16(number);
}

/// Two such numbers, the first in the lower half.
template <class Half>
__device__ __forceinline__ uint32_t packed(float low, float high) {
    return static_cast<uint32_t>(to_half<Half>(low).bits) | static_cast<uint32_t>(to_half<Half>(high).bits) << 16;
}
#if defined(__CUDACC__) && CORONET_ARCH >= 80
template <>
__device__ __forceinline__ uint32_t packed<Float16>(float low, float high) {
    uint32_t both;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
    return both;
}
template <>
__device__ __forceinline__ uint32_t packed<BFloat16>(float low, float high) {
    uint32_t both;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
    return both;
}
#endif
