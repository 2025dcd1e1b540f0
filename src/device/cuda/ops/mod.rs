//! How each operator is computed by kernels, one file for each file of `kernels/`.
//!
//! Binding an operator gives the launches that compute it, with every argument fixed.

mod channels;
mod columns;
mod conv;
mod cross_entropy;
mod elementwise;
mod finish;
mod instance_norm;
mod max_pool;
mod multi_kernel_pooling;
pub(super) mod patch_conv;
mod resize;
mod soft_dice;
mod statistics;
mod sums;
mod temporal_conv;
mod tensor_conv;

pub(super) use conv::{Direction, kernel_of};
pub(super) use patch_conv::A_KERNEL_OF_WARPGROUPS;
pub use tensor_conv::Tile;
pub(super) use tensor_conv::{a_kernel, architecture};

use super::driver::{Address, Driver, Launch};
use super::ways::Way;
use crate::device::Precision;
use crate::graph::Shape;
use crate::ops::{Conv, Op};
use crate::program::{Epilogue, Residual, Step};

/// Threads of a block wherever a thread owns one number, as the kernels' `THREADS`.
const THREADS: u32 = 256;

/// A value's memory on the device, in numbers that fit a C++ `int`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Operand {
    pub address: Address,
    pub len: usize,
    /// Whether the numbers are those of products already, of 16 bits each.
    pub is_half: bool,
}

/// What decides how convolutions are cut into blocks.
#[derive(Clone, Copy)]
pub(super) struct Choices<'a> {
    pub driver: &'a dyn Driver,
    /// What they multiply in.
    pub precision: Precision,
    /// Their tile on tensor cores, where it is not chosen by their size.
    pub tile: Option<Tile>,
    /// Whether tensor cores shall compute by themselves where they can.
    pub warpgroups: bool,
    /// What was measured to be the best way of the convolution at hand: one of [`ways`]. It comes before the two above.
    pub way: Option<Way>,
}

/// A step's operator with the memory of its operands.
pub(super) struct Binding<'a> {
    pub op: &'a Op,
    pub epilogue: Epilogue,
    pub choices: Choices<'a>,
    pub input_shapes: Vec<Shape>,
    pub output_shapes: Vec<Shape>,
    /// The operator's inputs, then gamma and beta if the epilogue has a norm, then the residual if it has one.
    pub inputs: Vec<Operand>,
    pub outputs: Vec<Operand>,
    pub workspace: Address,
    /// As many as [`counters`] says, all 0 before the first launch.
    pub counters: Address,
}

impl Binding<'_> {
    /// How many of the inputs are the operator's.
    fn operands(&self) -> usize {
        self.inputs.len() - self.epilogue.inputs()
    }

    /// Gamma and beta, if the epilogue has a norm.
    fn norm(&self) -> Option<[Address; 2]> {
        let first = self.operands();
        self.epilogue.norm.map(|_| [first, first + 1].map(|input| self.inputs[input].address))
    }

    /// The residual, if the epilogue adds one.
    fn residual(&self) -> Option<Operand> {
        self.epilogue.residual.and(self.inputs.last().copied())
    }

    /// The kernel for the format that the result is kept in, of those for float32 and float16.
    fn kept_in(&self, kernels: [&'static str; 2]) -> &'static str {
        kernels[usize::from(self.outputs[0].is_half)]
    }

    /// The third input of a convolution, or null.
    fn bias(&self) -> Address {
        self.inputs[..self.operands()].get(2).map_or(Address(0), |operand| operand.address)
    }
}

/// Whether an operator's kernels do what an epilogue asks for with a result of this shape.
pub(super) fn folds(op: &Op, result: Shape, epilogue: &Epilogue, choices: Choices<'_>) -> bool {
    let Epilogue { norm, residual, relu, sigmoid, statistics } = *epilogue;
    let is_plain = norm.is_none() && statistics.is_none() && !sigmoid;
    // Statistics are those of the sums, residuals are added later; kernels have ReLU or a sigmoid.
    let convolves = |direction, stride| {
        (statistics.is_none() || (residual.is_none() && !sigmoid))
            && !(relu && sigmoid)
            && (norm.is_none() || conv::can_normalise(direction, stride, result, choices))
    };
    match op {
        Op::Conv(op) => convolves(conv::Direction::Forward, op.stride),
        Op::TransposedConv(op) => convolves(conv::Direction::Backward, op.stride),
        Op::InstanceNorm(_) | Op::Normalise(_) => is_plain,
        Op::TemporalConv(_) | Op::Add(_) => is_plain && residual.is_none(),
        Op::Relu(_) => is_plain && !relu && residual == Some(Residual::BeforeRelu),
        _ => false,
    }
}

/// Whether there is a kernel for an operator that stands for several nodes of a graph.
pub(super) fn has_step(op: &Op, choices: Choices<'_>) -> bool {
    matches!(op, Op::MultiKernelPooling(op) if multi_kernel_pooling::is_possible(op, choices))
}

/// Whether an operator's numbers are products on tensor cores, if there are any.
pub(super) fn is_product(op: &Op) -> bool {
    matches!(op, Op::Conv(_) | Op::ConvInputGrad(_) | Op::ConvFilterGrad(_) | Op::TransposedConv(_))
}

/// Whether an operator is a convolution of maps by a filter, and which way its products are gathered then.
pub(super) fn convolution(op: &Op) -> Option<(Direction, Conv)> {
    match op {
        Op::Conv(op) => Some((Direction::Forward, *op)),
        Op::ConvInputGrad(op) => Some((Direction::Backward, op.conv)),
        Op::TransposedConv(op) => Some((Direction::Backward, op.conv())),
        _ => None,
    }
}

/// The ways in which a step's convolution may be computed; none where it is no convolution on tensor cores. They differ
/// in the order of their sums at most.
pub(super) fn ways(step: &Step, inputs: &[Shape], result: Shape, choices: Choices<'_>) -> Vec<Way> {
    let is_possible = |way: &Way| is_possible(*way, step, inputs, result, choices);
    Way::all().into_iter().filter(is_possible).collect()
}

/// Whether a way is one of [`ways`].
pub(super) fn is_possible(way: Way, step: &Step, inputs: &[Shape], result: Shape, choices: Choices<'_>) -> bool {
    convolution(&step.op).is_some_and(|(direction, conv)| {
        conv::is_possible(way, direction, &conv, inputs, result, step.epilogue.norm.is_some(), choices)
    })
}

/// The way that choices give a step's convolution, on tensor cores.
pub(super) fn way(step: &Step, inputs: &[Shape], result: Shape, choices: Choices<'_>) -> Option<Way> {
    let (direction, conv) = convolution(&step.op)?;
    conv::way(direction, &conv, inputs, result, choices)
}

/// Whether an operator needs its input number `input` only as an operand of products, and its shape is a filter's.
pub(super) fn multiplies(op: &Op, input: usize) -> bool {
    input == 1 && matches!(op, Op::Conv(_) | Op::ConvInputGrad(_) | Op::TransposedConv(_))
}

/// How a step's kernels have one of its maps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kept {
    /// In 16 bits if all of its maps that are kept alike or lead are, else in float32.
    Alike,
    /// In either, whatever the others are.
    Leads,
    /// In either, and the others do not depend on it.
    Either,
    /// In float32.
    Float32,
}

/// How a step's kernels have its input `input`, or where that is `None` its result, of those that are maps; its products,
/// if it has any, are those of a `precision`.
pub(super) fn kept(step: &Step, input: Option<usize>, precision: Precision) -> Kept {
    match step.op {
        _ if is_product(&step.op) && !precision.is_half() => {
            let is_residual = step.epilogue.residual.is_some() && input == Some(step.inputs.len() - 1);
            if is_residual && precision != Precision::Float32 { Kept::Either } else { Kept::Float32 }
        }
        Op::Conv(_) | Op::ConvInputGrad(_) | Op::TransposedConv(_) if input == Some(0) => Kept::Either,
        Op::ConvFilterGrad(_) => Kept::Either,
        // A result in 16 bits needs a residual in 16 bits.
        Op::Conv(_) | Op::TransposedConv(_) if input.is_some() => Kept::Leads,
        Op::Conv(_) | Op::TransposedConv(_) => Kept::Alike,
        Op::MaxPool(_) | Op::MultiKernelPooling(_) | Op::TemporalConv(_) => Kept::Alike,
        Op::Relu(_) if step.epilogue.residual.is_some() => Kept::Alike,
        _ => Kept::Float32,
    }
}

/// 32-bit counters that a step needs for itself, through which its blocks tell each other what they have done.
pub(super) fn counters(step: &Step, inputs: &[Shape], outputs: &[Shape], choices: Choices<'_>) -> usize {
    let taken = statistics::epsilon(&step.epilogue).map_or(0, |_| statistics::counters(outputs[0]));
    taken
        + match &step.op {
            Op::MultiKernelPooling(_) => multi_kernel_pooling::COUNTERS,
            Op::Conv(op) => conv::counters(conv::Direction::Forward, op, inputs, outputs[0], choices),
            _ => 0,
        }
}

/// Numbers of scratch memory a step needs.
pub(super) fn workspace(step: &Step, inputs: &[Shape], outputs: &[Shape], choices: Choices<'_>) -> usize {
    let taken = statistics::epsilon(&step.epilogue).map_or(0, |_| statistics::workspace(outputs[0]));
    let shared = match &step.op {
        Op::Conv(op) => conv::workspace(conv::Direction::Forward, op, inputs, outputs[0], choices),
        _ => 0,
    };
    taken + shared + operator_workspace(&step.op, inputs, choices.precision)
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
        Op::MultiKernelPooling(op) => multi_kernel_pooling::workspace(op, inputs[0]),
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
        Op::MultiKernelPooling(op) => multi_kernel_pooling::launches(op, binding),
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
