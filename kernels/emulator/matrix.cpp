// Matrix loads and tensor cores, as PTX lays their numbers out over the lanes of a warp (PTX ISA, "Matrix Fragments for
// mma.m16n8k16", "ldmatrix").

#include "matrix.h"

#include <cstring>

namespace emulator {

// Before its users, which are to have it inline.
float float16_number(uint16_t bits) {
    uint32_t sign = uint32_t(bits & 0x8000u) << 16, magnitude = uint32_t(bits & 0x7fffu) << 13;
    float number;
    if (magnitude >= 0x0f800000u) {
        magnitude |= sign | 0x7f800000u;  // infinity and NaN
        memcpy(&number, &magnitude, 4);
        return number;
    }
    // As float32 the bits mean 2^-112 of the number, subnormals included.
    magnitude |= sign;
    memcpy(&number, &magnitude, 4);
    return number * 0x1p112f;
}

namespace {

constexpr unsigned WHOLE_WARP = ~0u;
/// The largest tile of a warp, in rows and in columns.
constexpr unsigned MOST = 64;
/// Numbers of the sum in a product of 16-bit numbers.
constexpr unsigned DEPTH = 16;

struct Load {
    uint32_t* registers;
    const unsigned char* row;
};

void load_all(void* const* lanes, unsigned) {
    for (unsigned lane = 0; lane < WARP; lane++) {
        for (unsigned matrix = 0; matrix < 4; matrix++) {
            const auto* load = static_cast<const Load*>(lanes[8 * matrix + lane / 4]);
            memcpy(&static_cast<Load*>(lanes[lane])->registers[matrix], load->row + 4 * (lane % 4), 4);
        }
    }
}

void load_all_transposed(void* const* lanes, unsigned) {
    for (unsigned lane = 0; lane < WARP; lane++) {
        for (unsigned matrix = 0; matrix < 4; matrix++) {
            uint16_t column[2];
            for (unsigned i = 0; i < 2; i++) {
                const auto* load = static_cast<const Load*>(lanes[8 * matrix + 2 * (lane % 4) + i]);
                memcpy(&column[i], load->row + 2 * (lane / 4), 2);
            }
            memcpy(&static_cast<Load*>(lanes[lane])->registers[matrix], column, 4);
        }
    }
}

/// What a lane brings to a product.
struct Product {
    unsigned rows, columns;
    float* sums;
    const uint32_t *a, *b;
};

/// The one or two numbers of a register, from `numbers` on.
template <Format format>
void unpack(uint32_t bits, float* numbers) {
    uint32_t low = bits << 16, high = bits & 0xffff0000u, exact = bits & 0xffffe000u;
    switch (format) {
        case Format::Float16:
            numbers[0] = float16_number(static_cast<uint16_t>(bits));
            numbers[1] = float16_number(static_cast<uint16_t>(bits >> 16));
            break;
        case Format::BFloat16:
            memcpy(numbers, &low, 4);
            memcpy(numbers + 1, &high, 4);
            break;
        case Format::Tf32: memcpy(numbers, &exact, 4); break;
    }
}

constexpr unsigned numbers_in_register(Format format) { return format == Format::Tf32 ? 1 : 2; }

/// Calls `store(row, k, number)` for each number of an operand, `k` along the sum, from the lanes' registers.
template <Format format, typename Store>
void gather(void* const* lanes, bool is_a, unsigned extent, Store store) {
    constexpr unsigned AT_ONCE = numbers_in_register(format);
    for (unsigned lane = 0; lane < WARP; lane++) {
        const auto* product = static_cast<const Product*>(lanes[lane]);
        const uint32_t* registers = is_a ? product->a : product->b;
        for (unsigned tile = 0; tile < extent / 16; tile++) {
            for (unsigned r = 0; r < 4; r++) {
                // a: rows g and g + 8, then the second half of the sum; b the other way round.
                unsigned lower = is_a ? r % 2 : r / 2, later = is_a ? r / 2 : r % 2;
                float numbers[2];
                unpack<format>(registers[4 * tile + r], numbers);
                for (unsigned i = 0; i < AT_ONCE; i++) {
                    store(16 * tile + 8 * lower + lane / 4, AT_ONCE * (4 * later + lane % 4) + i, numbers[i]);
                }
            }
        }
    }
}

/// Calls `move(mine, sums)` for what a lane has of a warp's sums: two neighbours in a row of a tile of 16 x 8, and two eight
/// rows below, tile after tile.
template <typename Move>
void for_each_pair(unsigned lane, unsigned rows, unsigned columns, float* mine, float (*sums)[MOST], Move move) {
    for (unsigned row = lane / 4; row < rows; row += 16) {
        for (unsigned column = 2 * (lane % 4); column < columns; column += 8, mine += 4) {
            move(mine, &sums[row][column]);
            move(mine + 2, &sums[row + 8][column]);
        }
    }
}

void take_pair(float* mine, float* sums) { memcpy(sums, mine, 2 * sizeof *mine); }
void give_pair(float* mine, float* sums) { memcpy(mine, sums, 2 * sizeof *mine); }

/// Bits of float32 behind the first, and the one that tensor cores add.
constexpr int KEPT = 23 + 1;
constexpr int32_t INFINITE = 0x7f800000;
/// Of 2^-100: where all numbers are smaller they are cut off as if one were not, so that no factor is subnormal.
constexpr int32_t LEAST = 27 << 23;

/// Neighbouring columns at once, as many as there are at least.
constexpr unsigned AT_ONCE = 8;
using Floats = float __attribute__((vector_size(4 * AT_ONCE)));
using Ints = int32_t __attribute__((vector_size(4 * AT_ONCE)));

#define IN_ANY __attribute__((always_inline)) inline

/// sums[j] += the products a[k] b[k][j] of a group, all at once and cut off, for AT_ONCE columns j.
template <int group>
IN_ANY void add_group(float* sums, const float* a, const float (*b)[MOST]) {
    Floats terms[group + 1];
    memcpy(&terms[group], sums, sizeof terms[group]);
    Ints largest = reinterpret_cast<Ints>(terms[group]) & 0x7fffffff;
    for (int k = 0; k < group; k++) {
        memcpy(&terms[k], b[k], sizeof terms[k]);
        terms[k] *= a[k];
        Ints size = reinterpret_cast<Ints>(terms[k]) & 0x7fffffff;
        largest = size > largest ? size : largest;
    }
    largest = LEAST > largest ? LEAST + Ints{} : largest;
    Ints infinite = largest >= INFINITE;
    Floats plain{};
    int any = 0;
    for (unsigned i = 0; i < AT_ONCE; i++) any |= infinite[i];
    if (any != 0) {
        for (int k = 0; k < group + 1; k++) {
            plain += terms[k];
            terms[k] = infinite ? Floats{} : terms[k];
        }
        largest = infinite ? LEAST + Ints{} : largest;
    }
    Ints exponent = largest & INFINITE, total{};
    Floats down = reinterpret_cast<Floats>(((2 * 127 + KEPT) << 23) - exponent);
    // Conversions cut off. What is converted has at most 25 bits, so that nine of them have less than 31.
    for (int k = 0; k < group + 1; k++) total += __builtin_convertvector(terms[k] * down, Ints);
    Ints size = total < 0 ? -total : total;
    // The nearest number of 24 bits, or, where that is larger, the one before it: true is -1.
    Floats nearest = __builtin_convertvector(size, Floats);
    Ints bits = reinterpret_cast<Ints>(nearest) + (__builtin_convertvector(nearest, Ints) > size);
    Floats sum = reinterpret_cast<Floats>(bits) * reinterpret_cast<Floats>(exponent - (KEPT << 23));
    sum = total < 0 ? -sum : sum;
    if (any != 0) sum = infinite ? plain : sum;
    memcpy(sums, &sum, sizeof sum);
}

/// sums[i][j] += sum over k of a[i][k] b[k][j], group after group.
template <int group, int depth>
IN_ANY void add_products(unsigned rows, unsigned columns, float (*sums)[MOST], const float (*a)[16], const float (*b)[MOST]) {
    for (unsigned i = 0; i < rows; i++) {
        for (unsigned j = 0; j < columns; j += AT_ONCE) {
            for (int k = 0; k < depth; k += group) {
                add_group<group>(&sums[i][j], &a[i][k], reinterpret_cast<const float(*)[MOST]>(&b[k][j]));
            }
        }
    }
}

// A copy for every kind of x86 vector, chosen when the program starts; most of a test run's time is spent here.
#if defined(__x86_64__) && !defined(__clang__) && !defined(CORONET_ADDRESS)
#define FOR_EACH_PROCESSOR __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define FOR_EACH_PROCESSOR
#endif

FOR_EACH_PROCESSOR void add_products_of_halves(unsigned rows, unsigned columns, float (*sums)[MOST], const float (*a)[16],
                                               const float (*b)[MOST]) {
    add_products<8, 16>(rows, columns, sums, a, b);
}
FOR_EACH_PROCESSOR void add_products_of_tf32(unsigned rows, unsigned columns, float (*sums)[MOST], const float (*a)[16],
                                             const float (*b)[MOST]) {
    add_products<4, 8>(rows, columns, sums, a, b);
}

template <Format format>
void multiply_all(void* const* lanes, unsigned) {
    static thread_local float a[MOST][16], b[16][MOST], sums[MOST][MOST];
    const Product& first = *static_cast<const Product*>(lanes[0]);
    gather<format>(lanes, true, first.rows, [](unsigned row, unsigned k, float number) { a[row][k] = number; });
    gather<format>(lanes, false, first.columns, [](unsigned row, unsigned k, float number) { b[k][row] = number; });
    auto for_each_sum = [&](auto move) {
        for (unsigned lane = 0; lane < WARP; lane++) {
            for_each_pair(lane, first.rows, first.columns, static_cast<const Product*>(lanes[lane])->sums, sums, move);
        }
    };
    for_each_sum(take_pair);
    auto add = format == Format::Tf32 ? add_products_of_tf32 : add_products_of_halves;
    add(first.rows, first.columns, sums, a, b);
    for_each_sum(give_pair);
}

}  // namespace

void load_matrices(uint32_t* registers, const void* row, bool transposed) {
    Multiprocessor& current = Multiprocessor::current();
    Site site = __builtin_return_address(0);
    current.check_shared_row(row, 16, site);
    Load mine{registers, static_cast<const unsigned char*>(row)};
    current.collective("ldmatrix", WHOLE_WARP, &mine, transposed ? load_all_transposed : load_all, site);
}

void mma_tile(Format format, unsigned rows, unsigned columns, float* sums, const uint32_t* a, const uint32_t* b) {
    Multiprocessor& current = Multiprocessor::current();
    if (rows > MOST || columns > MOST) current.fail("a warp's tile of %u x %u is larger than %u", rows, columns, MOST);
    Product mine{rows, columns, sums, a, b};
    auto multiply = format == Format::Float16    ? multiply_all<Format::Float16>
                    : format == Format::BFloat16 ? multiply_all<Format::BFloat16>
                                                 : multiply_all<Format::Tf32>;
    current.collective("mma", WHOLE_WARP, &mine, multiply, __builtin_return_address(0));
}

void multiply_shared(Format format, unsigned columns, const SharedMatrix& a, const SharedMatrix& b,
                     float* const (&sums)[WARP]) {
    auto unpack_one = format == Format::Float16 ? unpack<Format::Float16> : unpack<Format::BFloat16>;
    static thread_local float left[DEPTH][DEPTH], across[DEPTH][MOST], rows[DEPTH][MOST];
    auto unpack_row = [&](const unsigned char* from, float* to) {
        for (unsigned i = 0; i < 4; i++) {
            uint32_t bits;
            memcpy(&bits, from + 4 * i, 4);
            unpack_one(bits, to + 2 * i);
        }
    };
    for (unsigned row = 0; row < 16; row++) {
        for (unsigned half = 0; half < 2; half++) {
            unpack_row(a.start + row / 8 * a.stride + row % 8 * 16 + half * a.leading, &left[row][8 * half]);
        }
    }
    for (unsigned k = 0; k < DEPTH; k++) {
        for (unsigned j = 0; j < columns; j += 8) {
            unpack_row(b.start + j / 8 * b.stride + k / 8 * b.leading + k % 8 * 16, &across[k][j]);
        }
    }
    auto for_each_sum = [&](auto move) {
        for (unsigned lane = 0; lane < WARP; lane++) for_each_pair(lane, DEPTH, columns, sums[lane], rows, move);
    };
    for_each_sum(take_pair);
    add_products_of_halves(DEPTH, columns, rows, left, across);
    for_each_sum(give_pair);
}

uint16_t float16_bits(float number) {
    uint32_t bits;
    memcpy(&bits, &number, 4);
    uint32_t sign = bits >> 16 & 0x8000u, magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return 0x7fff;                                // NaN, as the GPU writes it
    if (magnitude >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);  // rounds to 65536 or more
    if (magnitude < 0x38800000u) {
        // Below the least normal number: a multiple of 2^-24. Adding 1/2 makes the FPU round to that, ties to even.
        float shifted;
        memcpy(&shifted, &magnitude, 4);
        shifted += 0.5f;
        memcpy(&magnitude, &shifted, 4);
        return static_cast<uint16_t>(sign | (magnitude - 0x3f000000u));
    }
    uint32_t rounded = magnitude - 0x38000000u + 0xfffu + (magnitude >> 13 & 1u);
    return static_cast<uint16_t>(sign | rounded >> 13);
}

uint32_t rounded_to_tf32(uint32_t bits) {
    bool is_finite = (bits & 0x7f800000u) != 0x7f800000u;
    return (bits + (is_finite ? 0x1000u : 0u)) & 0xffffe000u;
}

}  // namespace emulator
