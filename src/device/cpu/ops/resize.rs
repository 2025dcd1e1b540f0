//! Bilinear resize and its gradient on the CPU.

use super::super::elementwise::{VECTOR, load, store, vectorised};
use super::super::layout::padded;
use super::{Binding, Routine, maps};
use crate::ops::bilinear_taps;
use rayon::prelude::*;

pub(super) fn forward(binding: &Binding<'_>) -> Routine {
    let (batch, channels, height, width) = maps(binding.input_shapes[0]);
    let (_, _, target_height, target_width) = maps(binding.output_shapes[0]);
    let (rows, columns) = (bilinear_taps(height, target_height), bilinear_taps(width, target_width));
    let (x, y, lanes) = (binding.inputs[0], binding.outputs[0], padded(channels));
    Box::new(move || {
        (0..batch * target_height).into_par_iter().with_max_len(1).for_each(|task| {
            let (sample, row) = (task / target_height, rows[task % target_height]);
            let from = x.pointer(sample * height * width * lanes, height * width * lanes).cast_const();
            let to = y.pointer(task * target_width * lanes, target_width * lanes);
            let down = row.fraction as f32;
            // SAFETY: both ranges were just checked; this task alone writes this row.
            vectorised(|| unsafe {
                for (j, column) in columns.iter().enumerate() {
                    let right = column.fraction as f32;
                    for lane in (0..lanes).step_by(VECTOR) {
                        let pixel = |y: usize, x: usize| load(from.add((y * width + x) * lanes + lane));
                        let corners = [
                            pixel(row.low, column.low),
                            pixel(row.low, column.high),
                            pixel(row.high, column.low),
                            pixel(row.high, column.high),
                        ];
                        let blend = |i: usize| {
                            let top = corners[0][i] * (1.0 - right) + corners[1][i] * right;
                            let bottom = corners[2][i] * (1.0 - right) + corners[3][i] * right;
                            top * (1.0 - down) + bottom * down
                        };
                        store(to.add(j * lanes + lane), std::array::from_fn(blend));
                    }
                }
            });
        });
    })
}

/// Output pixels share input pixels, so each task takes some lanes of a whole sample and adds in scan order.
pub(super) fn grad(binding: &Binding<'_>) -> Routine {
    let (batch, channels, target_height, target_width) = maps(binding.input_shapes[0]);
    let (_, _, height, width) = maps(binding.output_shapes[0]);
    let (rows, columns) = (bilinear_taps(height, target_height), bilinear_taps(width, target_width));
    let (dy, dx, lanes) = (binding.inputs[0], binding.outputs[0], padded(channels));
    let groups = lanes / VECTOR;
    Box::new(move || {
        (0..batch * groups).into_par_iter().with_max_len(1).for_each(|task| {
            let (sample, lane) = (task / groups, task % groups * VECTOR);
            let (area, target_area) = (height * width, target_height * target_width);
            let to = dx.pointer(sample * area * lanes, area * lanes);
            let from = dy.pointer(sample * target_area * lanes, target_area * lanes).cast_const();
            // SAFETY: both ranges were just checked; this task alone writes these lanes of this sample.
            unsafe {
                for pixel in 0..area {
                    store(to.add(pixel * lanes + lane), [0.0; VECTOR]);
                }
                for (i, row) in rows.iter().enumerate() {
                    for (j, column) in columns.iter().enumerate() {
                        let numbers = load(from.add((i * target_width + j) * lanes + lane));
                        for (y, wy) in [(row.low, 1.0 - row.fraction), (row.high, row.fraction)] {
                            for (x, wx) in [(column.low, 1.0 - column.fraction), (column.high, column.fraction)] {
                                let weight = (wy * wx) as f32;
                                let sum = to.add((y * width + x) * lanes + lane);
                                let old = load(sum);
                                store(sum, std::array::from_fn(|l| old[l] + weight * numbers[l]));
                            }
                        }
                    }
                }
            }
        });
    })
}
