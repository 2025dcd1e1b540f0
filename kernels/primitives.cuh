// Instructions that CUDA C++ has no name for: asynchronous copies, matrix loads, tensor cores, conversions.
//
// Every PTX instruction of Coronet stands here or in block.cuh, behind a function with two bodies: inline assembly for the
// device, plain C++ for the emulator. `CORONET_ARCH` says which architecture's path is compiled: 75, 80 or 90. Kernels never
// ask the device compiler's own macro, so that the emulator can compile every path; it compiles the files that include this
// one once for each. tests/conformance.rs compares the two bodies wherever there is a GPU.
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

/// Makes a barrier, of 8 bytes in shared memory, to which `count` threads come in each of its phases. Others may use it after
/// a barrier of the block.
__device__ __forceinline__ void barrier_init(uint64_t* barrier, int count) {
    auto address = static_cast<uint32_t>(__cvta_generic_to_shared(barrier));
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(address), "r"(count) : "memory");  // from sm_80 on
}

/// The thread comes to a barrier: who waits for the phase sees what it has done. The last of `count` ends the phase.
__device__ __forceinline__ void barrier_arrive(uint64_t* barrier) {
    auto address = static_cast<uint32_t>(__cvta_generic_to_shared(barrier));
    asm volatile("mbarrier.arrive.release.cta.shared::cta.b64 _, [%0];" ::"r"(address) : "memory");  // from sm_90 on
}

/// Waits for the end of the phase of this parity, which is the one that runs or the one before: phases are numbered from 0 on,
/// and at first the one before 0, of parity 1, counts as ended.
__device__ __forceinline__ void barrier_wait(uint64_t* barrier, unsigned parity) {
    auto address = static_cast<uint32_t>(__cvta_generic_to_shared(barrier));
    uint32_t is_over = 0;
    while (!is_over) {  // from sm_90 on; the hardware lets a thread wait for a while
        asm volatile(
            "{\n"
            ".reg .pred over;\n"
            "mbarrier.try_wait.parity.acquire.cta.shared::cta.b64 over, [%1], %2;\n"
            "selp.u32 %0, 1, 0, over;\n"
            "}\n"
            : "=r"(is_over)
            : "r"(address), "r"(parity)
            : "memory");
    }
}

/// Orders what the thread has written to shared memory, and the copies that it has waited for, before what tensor cores read
/// there by themselves, once who has them read has been told.
__device__ __forceinline__ void fence_for_tensor_cores() {
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");  // from sm_90 on
}

/// What tells tensor cores where in shared memory a matrix lies that they read by themselves, without swizzle: its blocks of
/// 8 x 16 bytes, which lie `leading` bytes apart along the sum, and `stride` bytes across it. All are multiples of 16.
__device__ __forceinline__ uint64_t shared_matrix(const void* start, int leading, int stride) {
    auto address = static_cast<uint32_t>(__cvta_generic_to_shared(start));
    uint32_t low = (address & 0x3ffffu) >> 4 | static_cast<uint32_t>(leading) >> 4 << 16;
    return static_cast<uint64_t>(static_cast<uint32_t>(stride) >> 4) << 32 | low;
}

/// Orders the thread's use of registers before products that take sums there: before the first ones, and after each use.
__device__ __forceinline__ void warpgroup_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }

/// sums += a b of four warps, as `warpgroup_mma` describes it.
template <class Element, int N>
struct WarpgroupMma;

template <>
struct WarpgroupMma<Float16, 64> {
    static __device__ __forceinline__ void add(float (&sums)[8][4], uint64_t a, uint64_t b) {
        asm volatile(
            "wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 "
            "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
            "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
            "%32, %33, 1, 1, 1, 0, 1;"
            : "+f"(sums[0][0]), "+f"(sums[0][1]), "+f"(sums[0][2]), "+f"(sums[0][3]),
              "+f"(sums[1][0]), "+f"(sums[1][1]), "+f"(sums[1][2]), "+f"(sums[1][3]),
              "+f"(sums[2][0]), "+f"(sums[2][1]), "+f"(sums[2][2]), "+f"(sums[2][3]),
              "+f"(sums[3][0]), "+f"(sums[3][1]), "+f"(sums[3][2]), "+f"(sums[3][3]),
              "+f"(sums[4][0]), "+f"(sums[4][1]), "+f"(sums[4][2]), "+f"(sums[4][3]),
              "+f"(sums[5][0]), "+f"(sums[5][1]), "+f"(sums[5][2]), "+f"(sums[5][3]),
              "+f"(sums[6][0]), "+f"(sums[6][1]), "+f"(sums[6][2]), "+f"(sums[6][3]),
              "+f"(sums[7][0]), "+f"(sums[7][1]), "+f"(sums[7][2]), "+f"(sums[7][3])
            : "l"(a), "l"(b));
    }
};

template <>
struct WarpgroupMma<Float16, 32> {
    static __device__ __forceinline__ void add(float (&sums)[4][4], uint64_t a, uint64_t b) {
        asm volatile(
            "wgmma.mma_async.sync.aligned.m64n32k16.f32.f16.f16 "
            "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15}, "
            "%16, %17, 1, 1, 1, 0, 1;"
            : "+f"(sums[0][0]), "+f"(sums[0][1]), "+f"(sums[0][2]), "+f"(sums[0][3]),
              "+f"(sums[1][0]), "+f"(sums[1][1]), "+f"(sums[1][2]), "+f"(sums[1][3]),
              "+f"(sums[2][0]), "+f"(sums[2][1]), "+f"(sums[2][2]), "+f"(sums[2][3]),
              "+f"(sums[3][0]), "+f"(sums[3][1]), "+f"(sums[3][2]), "+f"(sums[3][3])
            : "l"(a), "l"(b));
    }
};

/// Asks for sums += a b, a: 64 x 16, b: 16 x N numbers of 16 bits in shared memory as `shared_matrix` describes them: the rows
/// of a block of a lie along the sum, those of b across it. Four warps ask for the same, the first of them a multiple of four;
/// each has 16 rows of the sums, in registers as `mma_tile` has them. Nobody touches those, nor changes what lies in shared
/// memory, before `warpgroup_wait`.
template <class Element, int N>
__device__ __forceinline__ void warpgroup_mma(float (&sums)[N / 8][4], uint64_t a, uint64_t b) {
    WarpgroupMma<Element, N>::add(sums, a, b);
}

/// Makes a group of the products asked for so far.
__device__ __forceinline__ void warpgroup_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

/// Waits until at most `pending` groups are unfinished.
template <int pending>
__device__ __forceinline__ void warpgroup_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(pending) : "memory");
}

/// Waits for all, and may use the sums from then on.
template <int COUNT>
__device__ __forceinline__ void warpgroup_wait_for(float (&sums)[COUNT][4]) {
    warpgroup_wait<0>();
#pragma unroll
    for (int i = 0; i < COUNT; i++) {
        // Nothing that uses them comes before the wait.
        asm volatile("" : "+f"(sums[i][0]), "+f"(sums[i][1]), "+f"(sums[i][2]), "+f"(sums[i][3])::"memory");
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

__forceinline__ void barrier_init(uint64_t* barrier, int count) {
    emulator::Multiprocessor::current().init_barrier(barrier, static_cast<unsigned>(count));
}
__forceinline__ void barrier_arrive(uint64_t* barrier) { emulator::Multiprocessor::current().arrive(barrier); }
__forceinline__ void barrier_wait(uint64_t* barrier, unsigned parity) {
    emulator::Multiprocessor::current().wait_for_phase(barrier, parity);
}
__forceinline__ void fence_for_tensor_cores() { emulator::Multiprocessor::current().fence_for_tensor_cores(); }

__forceinline__ uint64_t shared_matrix(const void* start, int leading, int stride) {
    return emulator::Multiprocessor::current().shared_matrix(start, leading, stride);
}
__forceinline__ void warpgroup_fence() { emulator::Multiprocessor::current().fence_sums(); }
template <class Element, int N>
__forceinline__ void warpgroup_mma(float (&sums)[N / 8][4], uint64_t a, uint64_t b) {
    emulator::Multiprocessor::current().ask_for_product(format_of(Element{}), N, &sums[0][0], a, b);
}
__forceinline__ void warpgroup_commit() { emulator::Multiprocessor::current().commit_products(); }
template <int pending>
__forceinline__ void warpgroup_wait() {
    emulator::Multiprocessor::current().wait_for_products(pending);
}
template <int COUNT>
__forceinline__ void warpgroup_wait_for(float (&)[COUNT][4]) {
    warpgroup_wait<0>();
}

}  // namespace CORONET_PATH

#endif

/// The same matrix `bytes` further on, a multiple of 16.
__device__ __forceinline__ uint64_t moved(uint64_t matrix, int bytes) {
    // No carry leaves the address: shared memory ends before.
    uint32_t low = static_cast<uint32_t>(matrix) + static_cast<uint32_t>(bytes >> 4);
    return matrix >> 32 << 32 | low;
}

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
