//! Launches of `kernels/instance_norm.cu`: bands, their merge, and the pass that writes the maps.

use super::super::driver::{Address, Launch};
use super::columns::Columns;
use super::finish::Finish;
use super::{Binding, THREADS};
use crate::graph::Shape;
use crate::ops::InstanceNorm;

/// Numbers that a thread of the last forward pass owns.
const NUMBERS: usize = 4;

/// Two rows of lanes for each band of each sample.
pub(super) fn workspace(shape: Shape) -> usize {
    let columns = Columns::of(shape);
    2 * columns.batch * columns.bands() * columns.lanes
}

/// As [`workspace`], and two rows of lanes for each sample.
pub(super) fn grad_workspace(shape: Shape) -> usize {
    let columns = Columns::of(shape);
    workspace(shape) + 2 * columns.batch * columns.lanes
}

pub(super) fn forward(op: &InstanceNorm, binding: &Binding<'_>) -> Vec<Launch> {
    let columns = Columns::of(binding.input_shapes[0]);
    let [x, gamma, beta] = [0, 1, 2].map(|input| binding.inputs[input].address);
    let (statistics, bands) = (binding.outputs[1].address, binding.workspace);
    let partial = columns.launch("instance_norm_bands").with(x).with(bands);
    let merge = Launch::of_threads("instance_norm_merge", columns.batch * columns.lanes, THREADS);
    let merge = merge.with(x).with(bands).with(statistics).with_int(columns.batch).with_int(columns.area);
    let merge = merge.with_int(columns.lanes).with_int(columns.channels).with_int(columns.band_pixels());
    vec![
        partial.with_int(columns.area).with_int(columns.lanes).with_int(columns.band_pixels()),
        merge.with_int(columns.bands()).with(op.epsilon),
        apply([x, statistics, gamma, beta], binding),
    ]
}

pub(super) fn normalise(binding: &Binding<'_>) -> Vec<Launch> {
    vec![apply([0, 1, 2, 3].map(|input| binding.inputs[input].address), binding)]
}

/// The pass that writes the maps from those given, their statistics, gamma and beta.
fn apply([x, statistics, gamma, beta]: [Address; 4], binding: &Binding<'_>) -> Launch {
    let (columns, y) = (Columns::of(binding.input_shapes[0]), binding.outputs[0]);
    let quads = y.len / NUMBERS;
    let launch = Launch::of_threads("instance_norm_apply", quads, THREADS).with(x).with(statistics);
    let launch = launch.with(Finish::of(binding).with_norm(gamma, beta)).with(y.address);
    launch.with_int(quads).with_int(columns.area).with_int(columns.lanes)
}

pub(super) fn grad(binding: &Binding<'_>) -> Vec<Launch> {
    let columns = Columns::of(binding.input_shapes[0]);
    let [x, statistics, gamma, dy] = [0, 1, 2, 3].map(|input| binding.inputs[input].address);
    let [dx, dgamma, dbeta] = [0, 1, 2].map(|output| binding.outputs[output].address);
    let bands = binding.workspace;
    let totals = bands.after(workspace(binding.input_shapes[0]));
    let partial = columns.launch("instance_norm_grad_bands").with(x).with(statistics).with(dy).with(bands);
    let merge = Launch::of_threads("instance_norm_grad_merge", columns.lanes, THREADS).with(bands).with(totals);
    let merge = merge.with(dgamma).with(dbeta).with_int(columns.batch);
    let length = binding.outputs[0].len;
    let apply = Launch::of_threads("instance_norm_grad_apply", length, THREADS).with(x).with(statistics).with(gamma);
    let apply = apply.with(dy).with(totals).with(dx).with_int(length);
    vec![
        partial.with_int(columns.area).with_int(columns.lanes).with_int(columns.band_pixels()),
        merge.with_int(columns.lanes).with_int(columns.bands()),
        apply.with_int(columns.area).with_int(columns.lanes),
    ]
}
