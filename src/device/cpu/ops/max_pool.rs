//! Max pooling and its gradient on the CPU.

use super::super::elementwise::{VECTOR, Vector, load, rectified, store, vectorised};
use super::super::layout::padded;
use super::super::normed::Normed;
use super::{Binding, Routine, maps};
use crate::ops::MaxPool;
use rayon::prelude::*;

pub(super) fn forward(pool: &MaxPool, binding: &Binding<'_>) -> Routine {
    let (batch, channels, height, width) = maps(binding.input_shapes[0]);
    let (_, _, rows, columns) = maps(binding.output_shapes[0]);
    let (pool, lanes) = (*pool, padded(channels));
    let (x, y, normed) = (binding.inputs[0], binding.outputs[0], binding.normed(0));
    Box::new(move || {
        if let Some(normed) = &normed {
            normed.prepare();
        }
        (0..batch * rows).into_par_iter().with_max_len(1).for_each(|row| {
            let (sample, i) = (row / rows, row % rows);
            let from = x.pointer(sample * height * width * lanes, height * width * lanes).cast_const();
            let to = y.pointer(row * columns * lanes, columns * lanes);
            // SAFETY: both ranges were just checked; this task alone writes this row.
            vectorised(
                #[inline(always)]
                || unsafe {
                    for j in 0..columns {
                        let (cell_rows, cell_columns) = (pool.cell(i, height), pool.cell(j, width));
                        for lane in (0..lanes).step_by(VECTOR) {
                            let rows = normed.map(|normed| normed.rows(sample).map(|row| load(row.add(lane))));
                            // A norm keeps the order of numbers or, if it scales by less than 0, turns it round: what
                            // it makes of the largest, or least, is the largest.
                            let turned = rows.map_or([0; VECTOR], |[_, scale, _]| scale.map(|x| x.to_bits() & SIGN));
                            let first = load(from.add((cell_rows.start * width + cell_columns.start) * lanes + lane));
                            let mut best = with_signs(first, turned);
                            for yy in cell_rows.clone() {
                                for xx in cell_columns.clone() {
                                    let next = load(from.add((yy * width + xx) * lanes + lane));
                                    best = larger(with_signs(next, turned), best);
                                }
                            }
                            best = with_signs(best, turned);
                            if let (Some([mean, scale, beta]), Some(Normed { relu, .. })) = (rows, normed) {
                                best = std::array::from_fn(|i| (best[i] - mean[i]) * scale[i] + beta[i]);
                                best = if relu { best.map(rectified) } else { best };
                            }
                            store(to.add(j * lanes + lane), best);
                        }
                    }
                },
            );
        });
    })
}

/// The bit of a number's sign.
const SIGN: u32 = 1 << 31;

/// The numbers with those signs changed that have a bit set.
#[inline(always)]
fn with_signs(numbers: Vector, changed: [u32; VECTOR]) -> Vector {
    std::array::from_fn(|i| f32::from_bits(numbers[i].to_bits() ^ changed[i]))
}

/// Lane by lane, `next` where it is larger, else `best`: the first of equals stays.
#[inline(always)]
fn larger(next: Vector, best: Vector) -> Vector {
    std::array::from_fn(|i| if next[i] > best[i] { next[i] } else { best[i] })
}

/// Cells may overlap, so each task takes some lanes of a whole sample and adds in scan order.
pub(super) fn grad(pool: &MaxPool, binding: &Binding<'_>) -> Routine {
    let (batch, channels, height, width) = maps(binding.input_shapes[0]);
    let (_, _, rows, columns) = maps(binding.input_shapes[1]);
    let (pool, lanes) = (*pool, padded(channels));
    let (x, dy, dx) = (binding.inputs[0], binding.inputs[1], binding.outputs[0]);
    let groups = lanes / VECTOR;
    Box::new(move || {
        (0..batch * groups).into_par_iter().with_max_len(1).for_each(|task| {
            let (sample, lane) = (task / groups, task % groups * VECTOR);
            let area = height * width;
            let from = x.pointer(sample * area * lanes, area * lanes).cast_const();
            let to = dx.pointer(sample * area * lanes, area * lanes);
            let cotangent = dy.pointer(sample * rows * columns * lanes, rows * columns * lanes).cast_const();
            // SAFETY: all ranges were just checked; this task alone writes these lanes of this sample.
            unsafe {
                for pixel in 0..area {
                    store(to.add(pixel * lanes + lane), [0.0; VECTOR]);
                }
                for (i, j) in (0..rows).flat_map(|i| (0..columns).map(move |j| (i, j))) {
                    let winners = winners(&pool, from, (i, j), (height, width), (lanes, lane));
                    let numbers = load(cotangent.add((i * columns + j) * lanes + lane));
                    for (offset, number) in
                        winners.into_iter().zip(numbers).enumerate().map(|(l, (w, n))| (w * lanes + lane + l, n))
                    {
                        *to.add(offset) += number;
                    }
                }
            }
        });
    })
}

/// The winning pixel of a cell for each of [`VECTOR`] lanes.
///
/// # Safety
/// `from` points to `height * width` pixels of `lanes` numbers that nobody writes.
unsafe fn winners(
    pool: &MaxPool,
    from: *const f32,
    (i, j): (usize, usize),
    (height, width): (usize, usize),
    (lanes, lane): (usize, usize),
) -> [usize; VECTOR] {
    let columns = pool.cell(j, width);
    let mut pixels = pool.cell(i, height).flat_map(|y| columns.clone().map(move |x| y * width + x));
    let first = pixels.next().unwrap_or(0);
    // SAFETY: the caller's promise.
    let mut best = unsafe { load(from.add(first * lanes + lane)) };
    let mut winners = [first; VECTOR];
    for pixel in pixels {
        // SAFETY: the caller's promise.
        let next = unsafe { load(from.add(pixel * lanes + lane)) };
        for l in 0..VECTOR {
            if next[l] > best[l] {
                (best[l], winners[l]) = (next[l], pixel);
            }
        }
    }
    winners
}
