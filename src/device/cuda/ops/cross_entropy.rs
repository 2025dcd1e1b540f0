//! Launches of `kernels/cross_entropy.cu`.

use super::super::driver::Launch;
use super::{Binding, THREADS, maps};
use crate::graph::Shape;

/// Pixels that a block sums, as the kernel's `BLOCK`.
const BLOCK: usize = 1024;

fn pixels(shape: Shape) -> usize {
    let (batch, _, height, width) = maps(shape);
    batch * height * width
}

pub(super) fn workspace(shape: Shape) -> usize {
    pixels(shape).div_ceil(BLOCK)
}

pub(super) fn forward(binding: &Binding<'_>) -> Vec<Launch> {
    let (pixels, parts) = (pixels(binding.input_shapes[0]), binding.workspace);
    let blocks = pixels.div_ceil(BLOCK);
    let [x, y] = [0, 1].map(|input| binding.inputs[input].address);
    let sums = Launch::new("cross_entropy_parts", [blocks as u32, 1, 1], [THREADS, 1, 1]);
    let merge = Launch::new("cross_entropy_merge", [1, 1, 1], [THREADS, 1, 1]);
    vec![
        sums.with(x).with(y).with(parts).with_int(pixels),
        merge.with(parts).with(binding.outputs[0].address).with_int(blocks).with_int(pixels),
    ]
}

pub(super) fn grad(binding: &Binding<'_>) -> Vec<Launch> {
    let [x, y, dloss] = [0, 1, 2].map(|input| binding.inputs[input].address);
    let dx = binding.outputs[0];
    let launch = Launch::of_threads("cross_entropy_grad", dx.len, THREADS).with(x).with(y).with(dloss);
    vec![launch.with(dx.address).with_int(dx.len).with_int(pixels(binding.input_shapes[0]))]
}
