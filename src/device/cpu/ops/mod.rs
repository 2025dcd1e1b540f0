//! How each operator is computed on the CPU, one file each (the elementwise ones share one).
//!
//! Binding an operator precomputes all that depends on shapes and gives a routine that only executes.

mod channel_sum;
mod concatenate;
pub(super) mod conv;
mod cross_entropy;
mod instance_norm;
mod max_pool;
mod multi_kernel_pooling;
mod pointwise;
mod resize;
mod soft_dice;
mod sum_of_squares;
mod temporal_conv;

use super::Routine;
use super::kept::Kept;
use super::memory::Region;
use super::normed::{self, Normed};
use crate::graph::Shape;
use crate::ops::Op;
use crate::program::{Epilogue, Prologue, Step};
use conv::Means;

/// A step's operator with the memory of its operands.
#[derive(Debug)]
pub(super) struct Binding<'a> {
    pub op: &'a Op,
    pub prologue: Option<Prologue>,
    pub epilogue: Epilogue,
    /// How many of the inputs are the operator's.
    pub operands: usize,
    pub input_shapes: Vec<Shape>,
    pub output_shapes: Vec<Shape>,
    /// The operator's inputs, then statistics, gamma and beta of the prologue, then the residual if the epilogue has one.
    pub inputs: Vec<Region>,
    pub outputs: Vec<Region>,
    pub workspace: Region,
    pub means: Means,
    /// How the filter is kept, of a convolution that keeps it otherwise than it is given.
    pub kept: Option<&'a Kept>,
}

impl Binding<'_> {
    /// The bias of a convolution, if it has one.
    fn bias(&self) -> Option<Region> {
        (self.operands > 2).then(|| self.inputs[2])
    }

    /// What the prologue makes of the first input's numbers, if there is one; its scratch memory lies in the workspace from
    /// `first` on.
    fn normed(&self, first: usize) -> Option<Normed> {
        let Prologue { relu } = self.prologue?;
        let [statistics, gamma, beta] = [0, 1, 2].map(|input| self.inputs[self.operands + input]);
        Some(Normed::new(self.input_shapes[0], [statistics, gamma, beta], relu, (self.workspace, first)))
    }

    /// The residual, if the epilogue adds one.
    fn residual(&self) -> Option<Region> {
        self.epilogue.residual.and(self.inputs.last().copied())
    }
}

/// Whether an operator's routine does what an epilogue asks for.
pub(super) fn folds(op: &Op, epilogue: &Epilogue) -> bool {
    let Epilogue { norm, residual, relu: _, sigmoid, statistics } = *epilogue;
    let residual_fits = match op {
        Op::Conv(_) | Op::TransposedConv(_) | Op::TemporalConv(_) | Op::Add(_) => residual.is_none(),
        Op::InstanceNorm(_) | Op::Normalise(_) => true,
        _ => return false,
    };
    let takes_statistics = matches!(op, Op::Conv(_) | Op::TransposedConv(_));
    let sigmoid_fits = !sigmoid || matches!(op, Op::Conv(_)) && statistics.is_none();
    residual_fits && norm.is_none() && sigmoid_fits && (statistics.is_none() || takes_statistics)
}

/// Whether a step with a prologue can be run.
pub(super) fn norms_first(step: &Step, kept: Option<&Kept>, inputs: &[Shape], means: Means) -> bool {
    match &step.op {
        Op::Conv(conv) => conv::norms(kept, conv, inputs, means),
        Op::TransposedConv(_) => conv::transposed_norms(kept),
        Op::MaxPool(_) => true,
        _ => false,
    }
}

/// Numbers of scratch memory a step needs.
pub(super) fn workspace(step: &Step, kept: Option<&Kept>, inputs: &[Shape], made: Shape, means: Means) -> usize {
    let found = step.epilogue.statistics.map(|_| made);
    let of_prologue = step.prologue.map_or(0, |_| normed::workspace(inputs[0]));
    let own = match &step.op {
        Op::Conv(conv) => conv::workspace(kept, conv, inputs, found, means),
        Op::TransposedConv(op) => conv::transposed_workspace(kept, op, inputs, found, means),
        Op::ConvInputGrad(_) => conv::flipped_filter_len(inputs[1]),
        Op::ConvFilterGrad(grad) => conv::filter_grad_workspace(grad, inputs),
        Op::TemporalConv(_) => temporal_conv::workspace(inputs, means.threads),
        Op::TemporalConvFilterGrad(_) => temporal_conv::filter_grad_workspace(inputs),
        Op::InstanceNorm(_) => instance_norm::workspace(inputs[0]),
        Op::InstanceNormGrad(_) => instance_norm::grad_workspace(inputs[0]),
        Op::Normalise(_) => instance_norm::normalise_workspace(inputs[0]),
        Op::ChannelSum(_) => channel_sum::workspace(inputs[0]),
        Op::CrossEntropy(_) => cross_entropy::workspace(inputs[0]),
        Op::MultiKernelPooling(op) => multi_kernel_pooling::workspace(op, inputs[0]),
        Op::SumOfSquares(_) => sum_of_squares::workspace(inputs),
        _ => 0,
    };
    own + of_prologue
}

/// The routine of a step.
pub(super) fn bind(binding: Binding<'_>) -> Routine {
    match binding.op {
        Op::Add(_) => pointwise::add(&binding),
        Op::Relu(_) => pointwise::relu(&binding),
        Op::ReluGrad(_) => pointwise::relu_grad(&binding),
        Op::Scale(op) => pointwise::scale(op, &binding),
        Op::Fill(op) => pointwise::fill(op, &binding),
        Op::Sigmoid(_) => pointwise::sigmoid(&binding),
        Op::SigmoidGrad(_) => pointwise::sigmoid_grad(&binding),
        Op::Sgd(op) => pointwise::sgd(op, &binding),
        Op::AdamW(op) => pointwise::adamw(op, &binding),
        Op::SquareGrad(_) => pointwise::square_grad(&binding),
        Op::ChannelSum(_) => channel_sum::sum(&binding),
        Op::Concatenate(_) => concatenate::concatenate(&binding),
        Op::ChannelSlice(op) => concatenate::slice(op, &binding),
        Op::Conv(op) => conv::forward(op, &binding),
        Op::ConvInputGrad(op) => conv::input_grad(op, &binding),
        Op::ConvFilterGrad(op) => conv::filter_grad(op, &binding),
        Op::TransposedConv(op) => conv::transposed(op, &binding),
        Op::TemporalConv(_) => temporal_conv::forward(&binding),
        Op::TemporalConvInputGrad(_) => temporal_conv::input_grad(&binding),
        Op::TemporalConvFilterGrad(_) => temporal_conv::filter_grad(&binding),
        Op::InstanceNorm(op) => instance_norm::forward(op, &binding),
        Op::InstanceNormGrad(_) => instance_norm::grad(&binding),
        Op::Normalise(_) => instance_norm::normalise(&binding),
        Op::MaxPool(op) => max_pool::forward(op, &binding),
        Op::MaxPoolGrad(op) => max_pool::grad(&op.pool, &binding),
        Op::MultiKernelPooling(op) => multi_kernel_pooling::forward(op, &binding),
        Op::Resize(_) => resize::forward(&binding),
        Op::ResizeGrad(_) => resize::grad(&binding),
        Op::SoftDice(op) => soft_dice::forward(op, &binding),
        Op::SoftDiceGrad(op) => soft_dice::grad(op, &binding),
        Op::CrossEntropy(_) => cross_entropy::forward(&binding),
        Op::CrossEntropyGrad(_) => cross_entropy::grad(&binding),
        Op::SumOfSquares(_) => sum_of_squares::forward(&binding),
    }
}

/// Batch, channels, height and width of an operand that the graph has checked to be maps.
fn maps(shape: Shape) -> (usize, usize, usize, usize) {
    match shape {
        Shape::Maps { batch, channels, height, width } => (batch, channels, height, width),
        other => unreachable!("the graph admits maps only here, not {other}"),
    }
}
