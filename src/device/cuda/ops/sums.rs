//! Launches of `kernels/sums.cu`.

use super::super::driver::Launch;
use super::columns::Columns;
use super::{Binding, Operand, THREADS};
use crate::device::layout::storage;
use crate::graph::Shape;

/// Numbers that a block squares, as the kernel's `BLOCK`.
const BLOCK: usize = 8192;

pub(super) fn channel_sum_workspace(shape: Shape) -> usize {
    let columns = Columns::of_one_sample(shape);
    columns.bands() * columns.lanes
}

pub(super) fn channel_sum(binding: &Binding<'_>) -> Vec<Launch> {
    let columns = Columns::of_one_sample(binding.input_shapes[0]);
    let bands = binding.workspace;
    let partial = columns.launch("channel_sum_bands").with(binding.inputs[0].address).with(bands);
    let merge = Launch::of_threads("channel_sum_merge", columns.lanes, THREADS);
    vec![
        partial.with_int(columns.area).with_int(columns.lanes).with_int(columns.band_pixels()),
        merge.with(bands).with(binding.outputs[0].address).with_int(columns.bands()).with_int(columns.lanes),
    ]
}

pub(super) fn sum_of_squares_workspace(inputs: &[Shape]) -> usize {
    inputs.iter().map(|&shape| storage(shape).div_ceil(BLOCK)).sum()
}

/// One launch for each input, and one that adds all their partial sums.
pub(super) fn sum_of_squares(binding: &Binding<'_>) -> Vec<Launch> {
    let mut parts = 0;
    let mut launches = Vec::new();
    for &Operand { address, len, .. } in &binding.inputs {
        let blocks = len.div_ceil(BLOCK);
        let launch = Launch::new("square_sum_parts", [blocks as u32, 1, 1], [THREADS, 1, 1]);
        launches.push(launch.with(address).with(binding.workspace.after(parts)).with_int(len));
        parts += blocks;
    }
    let merge = Launch::new("square_sum_merge", [1, 1, 1], [THREADS, 1, 1]);
    launches.push(merge.with(binding.workspace).with(binding.outputs[0].address).with_int(parts));
    launches
}
