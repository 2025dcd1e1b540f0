//! Residual multi-kernel pooling on the CPU: first the number of each cell, then the maps.

use super::super::elementwise::{VECTOR, load, vectorised};
use super::super::layout::{padded, panels};
use super::super::memory::Region;
use super::{Binding, Routine, maps};
use crate::graph::Shape;
use crate::ops::{MultiKernelPooling, Taps, bilinear_taps};
use rayon::prelude::*;

/// A pool: its kernel, its rows and columns, and where its numbers start among those of a sample.
#[derive(Debug, Clone, Copy)]
struct Pool {
    kernel: usize,
    rows: usize,
    columns: usize,
    start: usize,
}

/// The pools of maps, and how many numbers a sample has in all of them.
fn pools(op: &MultiKernelPooling, x: Shape) -> (Vec<Pool>, usize) {
    let (_, _, height, width) = maps(x);
    let mut next = 0;
    let sizes = op.pooled(height, width).unwrap_or_default();
    let pools = op.kernels.iter().zip(sizes).map(|(&kernel, (rows, columns))| {
        let start = next;
        next += rows * columns;
        Pool { kernel, rows, columns, start }
    });
    (pools.collect(), next)
}

/// The numbers of all pools, one channel each.
pub(super) fn workspace(op: &MultiKernelPooling, x: Shape) -> usize {
    maps(x).0 * pools(op, x).1
}

pub(super) fn forward(op: &MultiKernelPooling, binding: &Binding<'_>) -> Routine {
    let (batch, channels, height, width) = maps(binding.input_shapes[0]);
    let (pools, of_sample) = pools(op, binding.input_shapes[0]);
    let (lanes, result_lanes) = (padded(channels), padded(channels + pools.len()));
    // One output: one panel.
    let weight_step = panels(1)[0].width;
    let (x, filter, bias) = (binding.inputs[0], binding.inputs[1], binding.inputs.get(2).copied());
    let (y, numbers) = (binding.outputs[0], binding.workspace);
    let taps: Vec<(Vec<Taps>, Vec<Taps>)> =
        pools.iter().map(|pool| (bilinear_taps(pool.rows, height), bilinear_taps(pool.columns, width))).collect();
    Box::new(move || {
        (0..batch * of_sample).into_par_iter().for_each(|number| {
            let (sample, place) = (number / of_sample, number % of_sample);
            let cell = |pool: &&Pool| (pool.start..pool.start + pool.rows * pool.columns).contains(&place);
            let Some(pool) = pools.iter().find(cell) else { return };
            let (row, column) = ((place - pool.start) / pool.columns, (place - pool.start) % pool.columns);
            let first = (sample * height + row * pool.kernel) * width + column * pool.kernel;
            // SAFETY: nobody writes the filter or the bias.
            let (weights, bias) = unsafe { (filter.all(), bias.map_or(0.0, |bias| bias.all()[0])) };
            let sum = projected_cell(x, (first, width, lanes), pool.kernel, (weights, weight_step));
            // SAFETY: this task alone writes this number.
            let to = unsafe { numbers.slice_mut(number, 1) };
            to[0] = sum + bias;
        });
        (0..batch * height).into_par_iter().with_max_len(1).for_each(|task| {
            let (sample, row) = (task / height, task % height);
            // SAFETY: the numbers are written; nobody writes the maps; this task alone writes this row.
            let (numbers, from, to) = unsafe {
                (
                    numbers.slice(sample * of_sample, of_sample),
                    x.slice(task * width * lanes, width * lanes),
                    y.slice_mut(task * width * result_lanes, width * result_lanes),
                )
            };
            for (column, (from, to)) in from.chunks_exact(lanes).zip(to.chunks_exact_mut(result_lanes)).enumerate() {
                for ((to, pool), (rows, columns)) in to.iter_mut().zip(&pools).zip(&taps) {
                    let number = |row: usize, column: usize| numbers[pool.start + row * pool.columns + column];
                    *to = interpolated(rows[row], columns[column], number);
                }
                let (copied, padding) = to[pools.len()..].split_at_mut(channels);
                copied.copy_from_slice(&from[..channels]);
                padding.fill(0.0);
            }
        });
    })
}

/// The sum over channels of weight times the largest number of a cell. `from` is the cell's first pixel, the pixels of a row
/// and the lanes of a pixel.
fn projected_cell(
    x: Region,
    (first, width, lanes): (usize, usize, usize),
    kernel: usize,
    (weights, step): (&[f32], usize),
) -> f32 {
    let from = x.pointer(first * lanes, ((kernel - 1) * width + kernel) * lanes).cast_const();
    let mut sums = [0.0; VECTOR];
    vectorised(|| {
        for lane in (0..lanes).step_by(VECTOR) {
            // SAFETY: the range was just checked; nobody writes the maps.
            let pixel = |row: usize, column: usize| unsafe { load(from.add((row * width + column) * lanes + lane)) };
            let mut best = pixel(0, 0);
            for (row, column) in (0..kernel).flat_map(|row| (0..kernel).map(move |column| (row, column))) {
                let next = pixel(row, column);
                best = std::array::from_fn(|i| if next[i] > best[i] { next[i] } else { best[i] });
            }
            for i in 0..VECTOR {
                sums[i] += best[i] * weights[(lane + i) * step];
            }
        }
    });
    sums.iter().sum()
}

/// The number between four neighbours.
fn interpolated(row: Taps, column: Taps, number: impl Fn(usize, usize) -> f32) -> f32 {
    let (down, right) = (row.fraction as f32, column.fraction as f32);
    let across = |row: usize| number(row, column.low) * (1.0 - right) + number(row, column.high) * right;
    across(row.low) * (1.0 - down) + across(row.high) * down
}
