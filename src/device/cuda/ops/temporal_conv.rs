//! Launches of `kernels/temporal_conv.cu`.

use super::super::driver::Launch;
use super::conv::{in_parts, parts, parts_workspace};
use super::{Binding, THREADS, maps};
use crate::device::layout::{LANES, padded};
use crate::graph::Shape;
use bytemuck::NoUninit;

/// Rows times columns of the kernel.
const TAPS: usize = 9;

/// Lanes and pixels in a row of a thread of the forward kernel, as its `RUN`.
const THREAD: (usize, usize) = (4, 8);

/// The kernels' `Sizes`.
#[derive(Debug, Clone, Copy, NoUninit)]
#[repr(C)]
struct Sizes {
    batch: i32,
    planes: i32,
    rows: i32,
    columns: i32,
    lanes: i32,
}

impl Sizes {
    fn new(window: Shape, outputs: usize) -> Sizes {
        let Shape::Window { batch, height, width, .. } = window else {
            unreachable!("the graph admits windows only here, not {window}")
        };
        let [batch, planes, rows, columns, lanes] =
            [batch, planes(window), height, width, padded(outputs)].map(|size| size as i32);
        Sizes { batch, planes, rows, columns, lanes }
    }
}

/// Channels times frames of a window.
fn planes(window: Shape) -> usize {
    match window {
        Shape::Window { channels, frames, .. } => channels * frames,
        other => unreachable!("the graph admits windows only here, not {other}"),
    }
}

pub(super) fn forward(binding: &Binding<'_>) -> Vec<Launch> {
    let y = binding.outputs[0];
    let (batch, channels, height, width) = maps(binding.output_shapes[0]);
    let sizes = Sizes::new(binding.input_shapes[0], channels);
    let threads = batch * height * width.div_ceil(THREAD.1) * padded(channels) / THREAD.0;
    let launch = Launch::of_threads("temporal_conv", threads, THREADS);
    let launch = launch.with(binding.inputs[0].address).with(binding.inputs[1].address).with(binding.bias());
    vec![launch.with(y.address).with_int(threads).with(i32::from(binding.epilogue.relu)).with(sizes)]
}

pub(super) fn input_grad(binding: &Binding<'_>) -> Vec<Launch> {
    let dx = binding.outputs[0];
    let sizes = Sizes::new(binding.output_shapes[0], maps(binding.input_shapes[0]).1);
    let launch = Launch::of_threads("temporal_conv_input_grad", dx.len, THREADS);
    let launch = launch.with(binding.inputs[0].address).with(binding.inputs[1].address);
    vec![launch.with(dx.address).with_int(dx.len).with(sizes)]
}

pub(super) fn filter_grad_workspace(inputs: &[Shape]) -> usize {
    let Shape::Window { channels, frames, .. } = inputs[0] else {
        unreachable!("the graph admits windows only here, not {}", inputs[0])
    };
    let filter = Shape::TemporalFilter { outputs: maps(inputs[1]).1, channels, frames, height: 3, width: 3 };
    parts_workspace(inputs[1], filter)
}

pub(super) fn filter_grad(binding: &Binding<'_>) -> Vec<Launch> {
    let (window, dy) = (binding.input_shapes[0], binding.input_shapes[1]);
    let sizes = Sizes::new(window, maps(dy).1);
    let grid = [parts(dy), padded(maps(dy).1) / LANES, planes(window) * TAPS].map(|count| count as u32);
    let launch = Launch::new("temporal_conv_filter_grad", grid, [THREADS, 1, 1]);
    let launch = launch.with(binding.inputs[0].address).with(binding.inputs[1].address);
    in_parts(binding, binding.workspace, dy, |parts, pixels| launch.clone().with(parts).with_int(pixels).with(sizes))
}
