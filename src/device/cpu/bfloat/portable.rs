//! Products of bfloat16 in float32 arithmetic, vectorised by the compiler: for processors with nothing better, and what
//! tests compare the others with.

use super::{Columns, Packing, Product};
use crate::device::cpu::elementwise::{rectified, vectorised};
use half::bf16;

/// Lanes and columns whose sums are held in registers.
const LANES: usize = 16;
const COLUMNS: usize = 4;

/// As [`super::BfloatKernels::sums`].
///
/// # Safety
/// As there.
pub(super) unsafe fn sums(product: &Product) {
    let Product { lanes, right, sums, .. } = *product;
    vectorised(
        #[inline(always)]
        || {
            for (row, lane) in (0..right.count.0).flat_map(|row| (0..lanes).step_by(LANES).map(move |lane| (row, lane)))
            {
                for first in (0..right.count.1).step_by(COLUMNS) {
                    // SAFETY: the caller's promise covers whole blocks, as it covers whole tiles.
                    unsafe {
                        let columns = right.first.add(row * right.row + first * right.column);
                        block(product, lane, columns, sums.add((row * right.of_a_row() + first) * lanes + lane));
                    }
                }
            }
        },
    );
}

/// The sums of [`LANES`] lanes from some lane on and [`COLUMNS`] columns.
///
/// # Safety
/// All elements of them are readable and writable, as in [`sums`].
#[inline(always)]
unsafe fn block(product: &Product, lane: usize, right: *const bf16, sums: *mut f32) {
    let Product { adds, lanes, depth, runs, left, right: Columns { column, .. }, .. } = *product;
    let mut totals = [[0.0; LANES]; COLUMNS];
    if adds {
        for (j, totals) in totals.iter_mut().enumerate() {
            // SAFETY: the caller's promise.
            *totals = unsafe { sums.add(j * lanes).cast::<[f32; LANES]>().read() };
        }
    }
    for run in runs {
        for pair in 0..depth / 2 {
            // SAFETY: the caller's promise; arrays of bfloat16 have its alignment.
            let left =
                unsafe { left.add((run.left + pair * 2) * lanes + lane * 2).cast::<[[bf16; 2]; LANES]>().read() };
            for (j, totals) in totals.iter_mut().enumerate() {
                // SAFETY: as above.
                let right = unsafe { right.add(run.right + j * column + pair * 2).cast::<[bf16; 2]>().read() };
                let right = right.map(widened);
                for (total, left) in totals.iter_mut().zip(left) {
                    *total += widened(left[0]) * right[0];
                    *total += widened(left[1]) * right[1];
                }
            }
        }
    }
    for (j, totals) in totals.into_iter().enumerate() {
        // SAFETY: as above.
        unsafe { sums.add(j * lanes).cast::<[f32; LANES]>().write(totals) };
    }
}

/// As [`super::BfloatKernels::pack`].
///
/// # Safety
/// As there.
pub(super) unsafe fn pack(packing: &Packing, from: *const f32, to: *mut bf16, pixels: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        match packing.norm {
            None => pack_each(
                packing,
                from,
                to,
                pixels,
                #[inline(always)]
                |x, _| x,
            ),
            Some(([mean, scale, beta], relu)) => pack_each(
                packing,
                from,
                to,
                pixels,
                #[inline(always)]
                |x, channel| {
                    let y = (x - *mean.add(channel)) * *scale.add(channel) + *beta.add(channel);
                    if relu { rectified(y) } else { y }
                },
            ),
        }
    }
}

/// As [`pack`], of what `number` makes of the number of a channel.
///
/// # Safety
/// As [`pack`].
#[inline(always)]
unsafe fn pack_each(
    packing: &Packing,
    from: *const f32,
    to: *mut bf16,
    pixels: usize,
    number: impl Fn(f32, usize) -> f32,
) {
    let Packing { channels, apart, depth, split, .. } = *packing;
    vectorised(
        #[inline(always)]
        || {
            for pixel in 0..pixels {
                // SAFETY: the caller's promise.
                unsafe {
                    let (from, to) = (from.add(pixel * apart), to.add(pixel * packing.pitch()));
                    let number = |channel: usize| number(*from.add(channel), channel);
                    (0..channels).for_each(|channel| *to.add(channel) = rounded(number(channel)));
                    (channels..depth).for_each(|channel| *to.add(channel) = bf16::ZERO);
                    if split {
                        (0..channels).for_each(|channel| *to.add(depth + channel) = rest(number(channel)));
                        (channels..depth).for_each(|channel| *to.add(depth + channel) = bf16::ZERO);
                    }
                }
            }
        },
    );
}

/// What rounding takes away from a number, rounded; zero where it makes infinity of it.
#[inline(always)]
pub(super) fn rest(x: f32) -> bf16 {
    let nearest = widened(rounded(x));
    if nearest.is_infinite() { bf16::ZERO } else { rounded(x - nearest) }
}

/// The same number in float32, without the tests for NaN that `bf16::to_f32` makes.
#[inline(always)]
fn widened(x: bf16) -> f32 {
    f32::from_bits(u32::from(x.to_bits()) << 16)
}

/// The nearest bfloat16, as the instruction of AVX-512 BF16 rounds.
#[inline(always)]
pub(super) fn rounded(x: f32) -> bf16 {
    let bits = x.to_bits();
    let upper = bits >> 16;
    let nearest = bits.wrapping_add(0x7fff + (upper & 1)) >> 16;
    let quiet = upper | 0x40;
    let denormal = bits & 0x7f80_0000 == 0;
    let rounded = if denormal { upper & 0x8000 } else { nearest };
    bf16::from_bits(if x.is_nan() { quiet } else { rounded } as u16)
}
