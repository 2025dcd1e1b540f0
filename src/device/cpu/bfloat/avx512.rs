//! Products of bfloat16 by AVX-512 BF16: an instruction multiplies 16 lanes' pairs of terms with one pair of a column.

use super::{Columns, Packing, Product};
use core::arch::x86_64::*;
use half::bf16;

/// Lanes of a vector.
const LANES: usize = 16;

/// Whether this processor has the instructions.
pub(super) fn is_available() -> bool {
    std::is_x86_feature_detected!("avx512f")
        && std::is_x86_feature_detected!("avx512bw")
        && std::is_x86_feature_detected!("avx512bf16")
}

/// The sums of some vectors of lanes and some columns, held in registers.
type Block = unsafe fn(&Product, *const bf16, *mut f32);

/// Blocks of one number of vectors; `[n - 1]` works on `n` columns. At most 24 registers hold sums: the others are for
/// the operands.
macro_rules! blocks {
    ($vectors:literal: $($columns:literal)*) => { [$(block::<$vectors, $columns>),*] };
}
static OF_16_LANES: [Block; 16] = blocks!(1: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16);
static OF_32_LANES: [Block; 12] = blocks!(2: 1 2 3 4 5 6 7 8 9 10 11 12);

/// As [`super::BfloatKernels::sums`].
///
/// # Safety
/// As there.
pub(super) unsafe fn sums(product: &Product) {
    let Product { lanes, right, sums, .. } = *product;
    let blocks: &[Block] = match lanes / LANES {
        1 => &OF_16_LANES,
        2 => &OF_32_LANES,
        _ => unreachable!("lanes come in multiples of 16 up to 32"),
    };
    // Blocks of one width, or nearly: a narrow one has too few sums to keep the multipliers busy.
    let (rows, columns) = right.count;
    let count = columns.div_ceil(blocks.len());
    for row in 0..rows {
        for index in 0..count {
            let (first, end) = (columns * index / count, columns * (index + 1) / count);
            // SAFETY: the caller's promise covers these columns.
            unsafe {
                let sums = sums.add((row * right.of_a_row() + first) * lanes);
                blocks[end - first - 1](product, right.first.add(row * right.row + first * right.column), sums);
            }
        }
    }
}

/// The sums of `VECTORS` vectors of lanes and `COLUMNS` columns.
///
/// # Safety
/// All elements of them are readable and writable, as in [`sums`].
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn block<const VECTORS: usize, const COLUMNS: usize>(product: &Product, right: *const bf16, sums: *mut f32) {
    let Product { adds, depth, runs, left, right: Columns { column, .. }, .. } = *product;
    let mut totals = [[_mm512_setzero_ps(); VECTORS]; COLUMNS];
    if adds {
        for (j, totals) in totals.iter_mut().enumerate() {
            for (vector, total) in totals.iter_mut().enumerate() {
                // SAFETY: the caller's promise.
                *total = unsafe { _mm512_loadu_ps(sums.add((j * VECTORS + vector) * LANES)) };
            }
        }
    }
    for run in runs {
        // SAFETY: the caller's promise.
        let (mut left, right) = unsafe { (left.add(run.left * VECTORS * LANES), right.add(run.right)) };
        for term in (0..depth).step_by(2) {
            // SAFETY: as above; the loads need no alignment.
            unsafe {
                let vectors: [__m512bh; VECTORS] = std::array::from_fn(|vector| load(left.add(vector * LANES * 2)));
                for (j, totals) in totals.iter_mut().enumerate() {
                    let pair = broadcast(right.add(j * column + term));
                    for (total, vector) in totals.iter_mut().zip(vectors) {
                        *total = _mm512_dpbf16_ps(*total, vector, pair);
                    }
                }
                left = left.add(VECTORS * LANES * 2);
            }
        }
    }
    for (j, totals) in totals.into_iter().enumerate() {
        for (vector, total) in totals.into_iter().enumerate() {
            // SAFETY: as above.
            unsafe { _mm512_storeu_ps(sums.add((j * VECTORS + vector) * LANES), total) };
        }
    }
}

/// Reads the pairs of 16 lanes.
///
/// # Safety
/// They are readable.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn load(from: *const bf16) -> __m512bh {
    // SAFETY: the caller's promise; both types are 512 bits of any pattern.
    unsafe { std::mem::transmute(_mm512_loadu_si512(from.cast())) }
}

/// Reads one pair into all lanes.
///
/// # Safety
/// It is readable.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn broadcast(from: *const bf16) -> __m512bh {
    // SAFETY: the caller's promise; both types are 512 bits of any pattern.
    unsafe { std::mem::transmute(_mm512_set1_epi32(from.cast::<i32>().read_unaligned())) }
}

/// As [`super::BfloatKernels::pack`].
///
/// # Safety
/// As there.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(super) unsafe fn pack(packing: &Packing, from: *const f32, to: *mut bf16, pixels: usize) {
    let Packing { norm, channels, apart, depth, split } = *packing;
    for pixel in 0..pixels {
        for first in (0..depth).step_by(LANES) {
            let left = channels.saturating_sub(first).min(LANES);
            let mask = ((1_u32 << left) - 1) as __mmask16;
            // SAFETY: the caller's promise; what the mask leaves out is not read, and the address of a vector that is
            // left out whole is not used.
            unsafe {
                let mut numbers = _mm512_maskz_loadu_ps(mask, from.wrapping_add(pixel * apart + first));
                if let Some((rows, relu)) = norm {
                    let [mean, scale, beta] = rows.map(|row| _mm512_maskz_loadu_ps(mask, row.wrapping_add(first)));
                    let away = _mm512_sub_ps(numbers, mean);
                    numbers = _mm512_add_ps(_mm512_mul_ps(away, scale), beta);
                    if relu {
                        // Of equal ones and of NaN this is the second: NaN stays.
                        numbers = _mm512_max_ps(_mm512_setzero_ps(), numbers);
                    }
                }
                let to = to.add(pixel * packing.pitch() + first);
                let rounded: __m256i = std::mem::transmute(_mm512_cvtneps_pbh(numbers));
                _mm256_storeu_si256(to.cast(), rounded);
                if split {
                    let wide = _mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(rounded));
                    let finite = _mm512_cmpneq_epi32_mask(
                        _mm512_and_si512(wide, _mm512_set1_epi32(i32::MAX)),
                        _mm512_set1_epi32(f32::INFINITY.to_bits() as i32),
                    );
                    let rest = _mm512_maskz_sub_ps(finite, numbers, _mm512_castsi512_ps(wide));
                    let rest: __m256i = std::mem::transmute(_mm512_cvtneps_pbh(rest));
                    _mm256_storeu_si256(to.add(depth).cast(), rest);
                }
            }
        }
    }
}
