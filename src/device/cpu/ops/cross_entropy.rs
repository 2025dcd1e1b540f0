//! Binary cross entropy and its gradient on the CPU: blocks of pixels in parallel, each summed in double precision, merged
//! in order.

use super::super::layout::padded;
use super::{Binding, Routine, maps};
use crate::graph::Shape;
use rayon::prelude::*;

/// Pixels of a block.
const BLOCK: usize = 2048;

/// Lanes of a map with one channel.
fn lanes() -> usize {
    padded(1)
}

fn pixels(shape: Shape) -> usize {
    let (batch, _, height, width) = maps(shape);
    batch * height * width
}

pub(super) fn workspace(shape: Shape) -> usize {
    pixels(shape).div_ceil(BLOCK)
}

pub(super) fn forward(binding: &Binding<'_>) -> Routine {
    let (pixels, lanes) = (pixels(binding.input_shapes[0]), lanes());
    let (x, y, loss, partial) = (binding.inputs[0], binding.inputs[1], binding.outputs[0], binding.workspace);
    Box::new(move || {
        (0..pixels.div_ceil(BLOCK)).into_par_iter().with_max_len(1).for_each(|block| {
            let (at, len) = (block * BLOCK * lanes, BLOCK.min(pixels - block * BLOCK) * lanes);
            // SAFETY: this task alone writes its number; nobody writes the maps.
            let (x, y, sum) = unsafe { (x.slice(at, len), y.slice(at, len), partial.slice_mut(block, 1)) };
            let pairs = x.iter().step_by(lanes).zip(y.iter().step_by(lanes));
            sum[0] = pairs.map(|(&x, &y)| f64::from(entropy(x, y))).sum::<f64>() as f32;
        });
        // SAFETY: all blocks are done; nobody else touches the loss.
        let (loss, partial) = unsafe { (loss.slice_mut(0, 1), partial.all()) };
        loss[0] = (partial.iter().map(|&sum| f64::from(sum)).sum::<f64>() / pixels as f64) as f32;
    })
}

fn entropy(x: f32, y: f32) -> f32 {
    x.max(0.0) - x * y + (-x.abs()).exp().ln_1p()
}

pub(super) fn grad(binding: &Binding<'_>) -> Routine {
    let (pixels, lanes) = (pixels(binding.input_shapes[0]), lanes());
    let [x, y, dloss] = [0, 1, 2].map(|i| binding.inputs[i]);
    let dx = binding.outputs[0];
    Box::new(move || {
        (0..pixels.div_ceil(BLOCK)).into_par_iter().with_max_len(1).for_each(|block| {
            let (at, len) = (block * BLOCK * lanes, BLOCK.min(pixels - block * BLOCK) * lanes);
            // SAFETY: this task alone writes these pixels; nobody writes the inputs.
            let (x, y, dloss, out) =
                unsafe { (x.slice(at, len), y.slice(at, len), dloss.slice(0, 1)[0], dx.slice_mut(at, len)) };
            let share = dloss / pixels as f32;
            out.fill(0.0);
            for (out, (x, y)) in out.iter_mut().zip(x.iter().zip(y)).step_by(lanes) {
                *out = share * excess(*x, *y);
            }
        });
    })
}

/// `sigmoid(x) - y` without a difference of two numbers near 1.
fn excess(x: f32, y: f32) -> f32 {
    let e = (-x.abs()).exp();
    let rest = e / (1.0 + e);
    if x < 0.0 { rest - y } else { 1.0 - y - rest }
}
