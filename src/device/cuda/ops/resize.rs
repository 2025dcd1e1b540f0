//! Launches of `kernels/resize.cu`.

use super::super::driver::Launch;
use super::{Binding, THREADS, maps};
use crate::device::layout::padded;
use crate::graph::Shape;

pub(super) fn forward(binding: &Binding<'_>) -> Vec<Launch> {
    launch("resize", binding, binding.input_shapes[0], binding.output_shapes[0])
}

pub(super) fn grad(binding: &Binding<'_>) -> Vec<Launch> {
    launch("resize_grad", binding, binding.output_shapes[0], binding.input_shapes[0])
}

/// A kernel of the resize that makes maps of shape `y` from maps of shape `x`.
fn launch(kernel: &'static str, binding: &Binding<'_>, x: Shape, y: Shape) -> Vec<Launch> {
    let ((_, channels, height, width), (_, _, rows, columns)) = (maps(x), maps(y));
    let (from, to) = (binding.inputs[0], binding.outputs[0]);
    let launch = Launch::of_threads(kernel, to.len, THREADS).with(from.address).with(to.address).with_int(to.len);
    let sizes = [height, width, rows, columns, padded(channels)];
    vec![sizes.into_iter().fold(launch, Launch::with_int)]
}
