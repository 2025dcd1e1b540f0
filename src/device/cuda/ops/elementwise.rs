//! Launches of `kernels/elementwise.cu`.

use super::super::driver::Launch;
use super::{Binding, THREADS, maps};
use crate::device::layout::padded;
use crate::graph::Shape;
use crate::ops::{AdamW, Fill, Scale, Sgd};

/// Numbers that a thread owns.
const NUMBERS: usize = 4;

/// A launch over all numbers of the first result.
fn over(kernel: &'static str, binding: &Binding<'_>) -> Launch {
    Launch::of_threads(kernel, binding.outputs[0].len.div_ceil(NUMBERS), THREADS)
}

/// A kernel of the inputs, the result and its length.
fn map(kernel: &'static str, binding: &Binding<'_>) -> Launch {
    let operands = binding.inputs.iter().chain(&binding.outputs);
    operands
        .fold(over(kernel, binding), |launch, operand| launch.with(operand.address))
        .with_int(binding.outputs[0].len)
}

pub(super) fn add(binding: &Binding<'_>) -> Vec<Launch> {
    vec![map(if binding.epilogue.relu { "add_relu" } else { "add" }, binding)]
}

pub(super) fn relu(binding: &Binding<'_>) -> Vec<Launch> {
    let with_residual = ["relu_residual", "relu_residual_float16"];
    vec![map(if binding.epilogue.residual.is_some() { binding.kept_in(with_residual) } else { "relu" }, binding)]
}

pub(super) fn relu_grad(binding: &Binding<'_>) -> Vec<Launch> {
    vec![map("relu_grad", binding)]
}

pub(super) fn scale(op: &Scale, binding: &Binding<'_>) -> Vec<Launch> {
    vec![map("scale", binding).with(op.factor)]
}

pub(super) fn sigmoid(binding: &Binding<'_>) -> Vec<Launch> {
    let (_, channels, _, _) = maps(binding.input_shapes[0]);
    vec![map("sigmoid", binding).with_int(padded(channels)).with_int(channels)]
}

pub(super) fn sigmoid_grad(binding: &Binding<'_>) -> Vec<Launch> {
    vec![map("sigmoid_grad", binding)]
}

pub(super) fn square_grad(binding: &Binding<'_>) -> Vec<Launch> {
    vec![map("square_grad", binding)]
}

pub(super) fn sgd(op: &Sgd, binding: &Binding<'_>) -> Vec<Launch> {
    vec![map("sgd", binding).with(op.momentum).with(op.weight_decay)]
}

pub(super) fn adamw(op: &AdamW, binding: &Binding<'_>) -> Vec<Launch> {
    let launch = map("adamw", binding).with(op.beta1).with(op.beta2);
    vec![launch.with(op.epsilon).with(op.weight_decay)]
}

pub(super) fn fill(op: &Fill, binding: &Binding<'_>) -> Vec<Launch> {
    let [lanes, channels, rows, rows_used] = elements_of(op.shape);
    let y = binding.outputs[0];
    let launch = over("fill", binding).with(y.address).with_int(y.len).with(op.value);
    vec![launch.with_int(lanes).with_int(channels).with_int(rows).with_int(rows_used)]
}

/// Where a layout has elements: in the first `channels` of `lanes` lanes of the first `rows_used` of `rows` rows, as
/// `[lanes, channels, rows, rows_used]`.
fn elements_of(shape: Shape) -> [usize; 4] {
    match shape {
        Shape::Scalar | Shape::Window { .. } => [1, 1, 1, 1],
        Shape::Channels { channels } | Shape::Maps { channels, .. } | Shape::Statistics { channels, .. } => {
            [padded(channels), channels, 1, 1]
        }
        Shape::TemporalFilter { outputs, .. } => [padded(outputs), outputs, 1, 1],
        Shape::Filter { outputs, inputs, .. } => [padded(outputs), outputs, padded(inputs), inputs],
    }
}
