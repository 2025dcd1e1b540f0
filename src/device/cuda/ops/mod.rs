//! How each operator is computed by kernels, one file for each file of `kernels/`.
//!
//! Binding an operator gives the launches that compute it, with every argument fixed.

mod channels;
mod columns;
mod conv;
mod cross_entropy;
mod elementwise;
mod instance_norm;
mod max_pool;
mod resize;
mod soft_dice;
mod statistics;
mod sums;
mod temporal_conv;
mod tensor_conv;

pub use tensor_conv::Tile;
pub(super) use tensor_conv::{a_kernel, architecture};

use super::driver::{Address, Launch};
use crate::device::Precision;
use crate::graph::Shape;
use crate::ops::Op;
use crate::program::{Epilogue, Step};

/// Threads of a block wherever a thread owns one number, as the kernels' `THREADS`.
const THREADS: u32 = 256;

/// A value's memory on the device, in numbers that fit a C++ `int`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Operand {
    pub address: Address,
    pub len: usize,
}

/// A step's operator with the memory of its operands.
#[derive(Debug)]
pub(super) struct Binding<'a> {
    pub op: &'a Op,
    pub epilogue: Epilogue,
    /// What convolutions multiply in.
    pub precision: Precision,
    /// The tile of convolutions on tensor cores, where it is not chosen by their size.
    pub tile: Option<Tile>,
    pub input_shapes: Vec<Shape>,
    pub output_shapes: Vec<Shape>,
    /// The operator's inputs, then the residual if the epilogue has one.
    pub inputs: Vec<Operand>,
    pub outputs: Vec<Operand>,
    pub workspace: Operand,
    /// As many as [`counters`] says, all 0 before and after each launch.
    pub counters: Address,
}

impl Binding<'_> {
    /// The residual, if the epilogue adds one.
    fn residual(&self) -> Option<Operand> {
        if self.epilogue.residual { self.inputs.last().copied() } else { None }
    }

    /// The third input of a convolution, or null. No convolution takes a residual, so it can be nothing else.
    fn bias(&self) -> Address {
        self.inputs.get(2).map_or(Address(0), |operand| operand.address)
    }
}

/// Whether an operator's kernels can take the statistics of what they write.
pub(super) fn takes_statistics(op: &Op) -> bool {
    matches!(op, Op::Conv(_) | Op::TransposedConv(_))
}

/// 32-bit counters that a step needs for itself, through which its blocks tell each other that they are done.
pub(super) fn counters(step: &Step, outputs: &[Shape]) -> usize {
    if step.epilogue.statistics.is_some() { statistics::counters(outputs[0]) } else { 0 }
}

/// Numbers of scratch memory a step needs.
pub(super) fn workspace(step: &Step, inputs: &[Shape], outputs: &[Shape], precision: Precision) -> usize {
    let taken = step.epilogue.statistics.map_or(0, |_| statistics::workspace(outputs[0]));
    taken + operator_workspace(&step.op, inputs, precision)
}

fn operator_workspace(op: &Op, inputs: &[Shape], precision: Precision) -> usize {
    match op {
        Op::ChannelSum(_) => sums::channel_sum_workspace(inputs[0]),
        Op::Conv(_) | Op::ConvInputGrad(_) | Op::TransposedConv(_) => tensor_conv::workspace(inputs, precision),
        Op::ConvFilterGrad(op) => tensor_conv::workspace(inputs, precision) + conv::filter_grad_workspace(op, inputs),
        Op::TemporalConvFilterGrad(_) => temporal_conv::filter_grad_workspace(inputs),
        Op::InstanceNorm(_) => instance_norm::workspace(inputs[0]),
        Op::InstanceNormGrad(_) => instance_norm::grad_workspace(inputs[0]),
        Op::CrossEntropy(_) => cross_entropy::workspace(inputs[0]),
        Op::SumOfSquares(_) => sums::sum_of_squares_workspace(inputs),
        _ => 0,
    }
}

/// The launches of a step.
pub(super) fn bind(binding: &Binding<'_>) -> Vec<Launch> {
    match binding.op {
        Op::Add(_) => elementwise::add(binding),
        Op::Relu(_) => elementwise::relu(binding),
        Op::ReluGrad(_) => elementwise::relu_grad(binding),
        Op::Scale(op) => elementwise::scale(op, binding),
        Op::Fill(op) => elementwise::fill(op, binding),
        Op::Sigmoid(_) => elementwise::sigmoid(binding),
        Op::SigmoidGrad(_) => elementwise::sigmoid_grad(binding),
        Op::SquareGrad(_) => elementwise::square_grad(binding),
        Op::Sgd(op) => elementwise::sgd(op, binding),
        Op::AdamW(op) => elementwise::adamw(op, binding),
        Op::ChannelSum(_) => sums::channel_sum(binding),
        Op::SumOfSquares(_) => sums::sum_of_squares(binding),
        Op::Concatenate(_) => channels::concatenate(binding),
        Op::ChannelSlice(op) => channels::slice(op, binding),
        Op::MaxPool(op) => max_pool::forward(op, binding),
        Op::MaxPoolGrad(op) => max_pool::grad(&op.pool, binding),
        Op::Resize(_) => resize::forward(binding),
        Op::ResizeGrad(_) => resize::grad(binding),
        Op::InstanceNorm(op) => instance_norm::forward(op, binding),
        Op::InstanceNormGrad(_) => instance_norm::grad(binding),
        Op::Normalise(_) => instance_norm::normalise(binding),
        Op::SoftDice(op) => soft_dice::forward(op, binding),
        Op::SoftDiceGrad(op) => soft_dice::grad(op, binding),
        Op::CrossEntropy(_) => cross_entropy::forward(binding),
        Op::CrossEntropyGrad(_) => cross_entropy::grad(binding),
        Op::Conv(op) => conv::forward(op, binding),
        Op::ConvInputGrad(op) => conv::input_grad(op, binding),
        Op::ConvFilterGrad(op) => conv::filter_grad(op, binding),
        Op::TransposedConv(op) => conv::transposed(op, binding),
        Op::TemporalConv(_) => temporal_conv::forward(binding),
        Op::TemporalConvInputGrad(_) => temporal_conv::input_grad(binding),
        Op::TemporalConvFilterGrad(_) => temporal_conv::filter_grad(binding),
    }
}

/// Batch, channels, height and width of an operand that the graph has checked to be maps.
fn maps(shape: Shape) -> (usize, usize, usize, usize) {
    match shape {
        Shape::Maps { batch, channels, height, width } => (batch, channels, height, width),
        other => unreachable!("the graph admits maps only here, not {other}"),
    }
}
