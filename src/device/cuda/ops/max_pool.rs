//! Launches of `kernels/max_pool.cu`.

use super::super::driver::Launch;
use super::{Binding, THREADS, maps};
use crate::device::layout::padded;
use crate::graph::Shape;
use crate::ops::MaxPool;
use bytemuck::NoUninit;

/// The kernels' `Pool`.
#[derive(Debug, Clone, Copy, NoUninit)]
#[repr(C)]
struct Pool {
    height: i32,
    width: i32,
    rows: i32,
    columns: i32,
    lanes: i32,
    kernel: i32,
    stride: i32,
    padding: i32,
}

impl Pool {
    /// The pooling `op` from maps of shape `x` to maps of shape `y`.
    fn new(op: &MaxPool, x: Shape, y: Shape) -> Pool {
        let ((_, channels, height, width), (_, _, rows, columns)) = (maps(x), maps(y));
        let [height, width, rows, columns] = [height, width, rows, columns].map(|size| size as i32);
        let [kernel, stride, padding] = [op.kernel, op.stride, op.padding].map(|size| size as i32);
        Pool { height, width, rows, columns, lanes: padded(channels) as i32, kernel, stride, padding }
    }
}

pub(super) fn forward(op: &MaxPool, binding: &Binding<'_>) -> Vec<Launch> {
    let (x, y) = (binding.inputs[0], binding.outputs[0]);
    let pool = Pool::new(op, binding.input_shapes[0], binding.output_shapes[0]);
    // Lanes come in eights, and a thread owns four.
    let quads = y.len / 4;
    let launch = Launch::of_threads("max_pool", quads, THREADS);
    vec![launch.with(x.address).with(y.address).with_int(quads).with(pool)]
}

pub(super) fn grad(op: &MaxPool, binding: &Binding<'_>) -> Vec<Launch> {
    let (x, dy, dx) = (binding.inputs[0], binding.inputs[1], binding.outputs[0]);
    let pool = Pool::new(op, binding.input_shapes[0], binding.input_shapes[1]);
    let launch = Launch::of_threads("max_pool_grad", dx.len, THREADS);
    vec![launch.with(x.address).with(dy.address).with(dx.address).with_int(dx.len).with(pool)]
}
