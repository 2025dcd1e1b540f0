//! How each operator is computed by kernels, one file for each file of `kernels/`.
//!
//! Binding an operator gives the launches that compute it, with every argument fixed.

mod elementwise;

use super::driver::{Address, Launch};
use crate::error::{Error, Result};
use crate::graph::Shape;
use crate::ops::Op;
use crate::program::Epilogue;

/// The operators, by [`Op::variant`], that have no kernel yet.
pub const WITHOUT_KERNEL: &[&str] = &[
    "ChannelSlice",
    "ChannelSum",
    "Concatenate",
    "Conv",
    "ConvFilterGrad",
    "ConvInputGrad",
    "InstanceNorm",
    "InstanceNormGrad",
    "MaxPool",
    "MaxPoolGrad",
    "Resize",
    "ResizeGrad",
    "SoftDice",
    "SoftDiceGrad",
    "SumOfSquares",
    "TemporalConv",
    "TemporalConvFilterGrad",
    "TemporalConvInputGrad",
    "TransposedConv",
];

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
    pub input_shapes: Vec<Shape>,
    pub output_shapes: Vec<Shape>,
    /// The operator's inputs, then the residual if the epilogue has one.
    pub inputs: Vec<Operand>,
    pub outputs: Vec<Operand>,
    pub workspace: Operand,
}

/// Numbers of scratch memory an operator needs.
pub(super) fn workspace(op: &Op, inputs: &[Shape]) -> usize {
    let _ = inputs;
    match op {
        _ => 0,
    }
}

/// The launches of a step.
///
/// # Errors
/// [`Error::Device`] when the operator has no kernel yet.
pub(super) fn bind(binding: &Binding<'_>) -> Result<Vec<Launch>> {
    Ok(match binding.op {
        Op::Add(_) => elementwise::add(binding),
        Op::Relu(_) => elementwise::relu(binding),
        Op::ReluGrad(_) => elementwise::relu_grad(binding),
        Op::Scale(op) => elementwise::scale(op, binding),
        Op::Fill(op) => elementwise::fill(op, binding),
        Op::Sigmoid(_) => elementwise::sigmoid(binding),
        Op::SigmoidGrad(_) => elementwise::sigmoid_grad(binding),
        Op::SquareGrad(_) => elementwise::square_grad(binding),
        Op::Sgd(op) => elementwise::sgd(op, binding),
        op => {
            let name = op.operator().name();
            return Err(Error::Device(format!("the CUDA device cannot compute {name} yet; use the CPU")));
        }
    })
}

/// Batch, channels, height and width of an operand that the graph has checked to be maps.
fn maps(shape: Shape) -> (usize, usize, usize, usize) {
    match shape {
        Shape::Maps { batch, channels, height, width } => (batch, channels, height, width),
        other => unreachable!("the graph admits maps only here, not {other}"),
    }
}
