//! Soft Dice loss and its gradient on the CPU; sums in double precision, one task a sample.

use super::super::layout::padded;
use super::{Binding, Routine, maps};
use crate::ops::{SoftDice, SoftDiceGrad};
use rayon::prelude::*;

/// Lanes of a map with one channel.
fn lanes() -> usize {
    padded(1)
}

pub(super) fn forward(op: &SoftDice, binding: &Binding<'_>) -> Routine {
    let (batch, _, height, width) = maps(binding.input_shapes[0]);
    let (area, lanes, smoothing) = (height * width, lanes(), f64::from(op.smoothing));
    let (p, y, loss, sums) = (binding.inputs[0], binding.inputs[1], binding.outputs[0], binding.outputs[1]);
    Box::new(move || {
        (0..batch).into_par_iter().with_max_len(1).for_each(|sample| {
            let len = area * lanes;
            // SAFETY: this task alone writes this sample's sums; nobody writes the maps.
            let (p, y, out) = unsafe {
                (p.slice(sample * len, len), y.slice(sample * len, len), sums.slice_mut(sample * 3 * lanes, 3 * lanes))
            };
            let mut sum = [0.0f64; 3];
            for (p, y) in p.iter().step_by(lanes).zip(y.iter().step_by(lanes)) {
                let (p, y) = (f64::from(*p), f64::from(*y));
                sum[0] += p * y;
                sum[1] += p;
                sum[2] += y;
            }
            out.fill(0.0);
            (0..3).for_each(|entry| out[entry * lanes] = sum[entry] as f32);
        });
        // SAFETY: all samples are done; nobody else touches the loss.
        let (loss, sums) = unsafe { (loss.slice_mut(0, 1), sums.all()) };
        let total: f64 = sums
            .chunks(3 * lanes)
            .map(|sum| {
                let [both, p, y] = [0, 1, 2].map(|entry| f64::from(sum[entry * lanes]));
                1.0 - (2.0 * both + smoothing) / (p + y + smoothing)
            })
            .sum();
        loss[0] = (total / batch as f64) as f32;
    })
}

pub(super) fn grad(op: &SoftDiceGrad, binding: &Binding<'_>) -> Routine {
    let (batch, _, height, width) = maps(binding.input_shapes[0]);
    let (area, lanes, smoothing) = (height * width, lanes(), f64::from(op.smoothing));
    let [_, y, sums, dloss] = [0, 1, 2, 3].map(|i| binding.inputs[i]);
    let dp = binding.outputs[0];
    Box::new(move || {
        (0..batch * height).into_par_iter().with_min_len(16).for_each(|row| {
            let sample = row / height;
            debug_assert_eq!(area, height * width);
            // SAFETY: this task alone writes this row; nobody writes the inputs.
            let (y, sum, dloss, out) = unsafe {
                let (at, len) = (row * width * lanes, width * lanes);
                (
                    y.slice(at, len),
                    sums.slice(sample * 3 * lanes, 3 * lanes),
                    dloss.slice(0, 1)[0],
                    dp.slice_mut(at, len),
                )
            };
            let union = f64::from(sum[lanes]) + f64::from(sum[2 * lanes]) + smoothing;
            let share = f64::from(dloss) / batch as f64;
            let everywhere = share * (2.0 * f64::from(sum[0]) + smoothing) / (union * union);
            let in_mask = share * 2.0 / union;
            for (out, y) in out.chunks_exact_mut(lanes).zip(y.chunks_exact(lanes)) {
                out.fill(0.0);
                out[0] = (everywhere - in_mask * f64::from(y[0])) as f32;
            }
        });
    })
}
