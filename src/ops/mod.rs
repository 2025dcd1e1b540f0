//! Operators, one file each: shapes, FLOPs, gradient rule, plain float64 reference and verification cases.
//!
//! Nothing here knows a device. The reference is slow and obvious on purpose: it is what every device is held to.
//! To add an operator, write its file, name it in `operators!` and in [`all_cases`], and give each device one.

mod adamw;
mod add;
mod case;
mod channel_sum;
mod concatenate;
mod conv;
mod cross_entropy;
mod fill;
mod instance_norm;
mod max_pool;
mod multi_kernel_pooling;
mod relu;
mod resize;
mod scale;
mod sgd;
mod sigmoid;
mod soft_dice;
mod sum_of_squares;
mod temporal_conv;
mod transposed_conv;

pub use adamw::AdamW;
pub use add::Add;
pub use case::{Case, Data, First, Fit, Then};
pub use channel_sum::ChannelSum;
pub use concatenate::{ChannelSlice, Concatenate};
pub use conv::{Conv, ConvFilterGrad, ConvInputGrad};
pub use cross_entropy::{CrossEntropy, CrossEntropyGrad};
pub use fill::Fill;
pub use instance_norm::{InstanceNorm, InstanceNormGrad, Normalise};
pub use max_pool::{MaxPool, MaxPoolGrad};
pub use multi_kernel_pooling::MultiKernelPooling;
pub use relu::{Relu, ReluGrad};
pub use resize::{Resize, ResizeGrad, Taps, bilinear_taps};
pub use scale::Scale;
pub use sgd::Sgd;
pub use sigmoid::{Sigmoid, SigmoidGrad};
pub use soft_dice::{SoftDice, SoftDiceGrad};
pub use sum_of_squares::{SquareGrad, SumOfSquares};
pub use temporal_conv::{TemporalConv, TemporalConvFilterGrad, TemporalConvInputGrad};
pub use transposed_conv::TransposedConv;

use crate::error::{Error, Result};
use crate::graph::{Backward, Shape, Tensor, ValueId};
use std::fmt::Debug;

/// All that is true of an operator, whatever device runs it.
pub trait Operator: Debug + Send + Sync {
    /// The field's name for it, in lower case.
    fn name(&self) -> &'static str;

    /// The shapes of the results.
    ///
    /// # Errors
    /// The rule that the inputs break, as half a sentence.
    fn infer(&self, inputs: &[Shape]) -> Result<Vec<Shape>, String>;

    /// Floating-point operations, a multiply-add counted as two.
    fn flops(&self, inputs: &[Shape], outputs: &[Shape]) -> u64;

    /// The results in float64. The inputs have shapes that [`Operator::infer`] accepts.
    fn reference(&self, inputs: &[&Tensor<f64>]) -> Vec<Tensor<f64>>;

    /// Whether it has a gradient; operators that appear only in gradients and optimisers have none.
    fn is_differentiable(&self) -> bool {
        false
    }

    /// Whether it is a convolution of some kind: work that is counted in multiply-adds.
    fn is_convolution(&self) -> bool {
        false
    }

    /// Adds the gradient's nodes; returns the gradient with respect to each input, or `None` where it is not wanted.
    ///
    /// # Errors
    /// [`Error::Request`] unless [`Operator::is_differentiable`].
    fn gradient(&self, backward: Backward<'_>) -> Result<Vec<Option<ValueId>>> {
        Err(Error::Request(format!("{}: {} cannot be differentiated", backward.node.name, self.name())))
    }

    /// Pairs `(input, result)` of equal shape where a device may write the result over the input, element by element.
    fn in_place(&self) -> &'static [(usize, usize)] {
        &[]
    }
}

macro_rules! operators {
    ($($operator:ident),* $(,)?) => {
        /// Any operator.
        #[derive(Debug, Clone, PartialEq)]
        #[allow(missing_docs)] // each variant is documented at its operator
        pub enum Op { $($operator($operator)),* }

        impl Op {
            /// What is true of it.
            pub fn operator(&self) -> &dyn Operator {
                match self { $(Op::$operator(op) => op),* }
            }

            /// The name of its type, one for each operator.
            pub fn variant(&self) -> &'static str {
                match self { $(Op::$operator(_) => stringify!($operator)),* }
            }

            /// [`Op::variant`] of all there are.
            pub const VARIANTS: &[&str] = &[$(stringify!($operator)),*];
        }

        $(impl From<$operator> for Op {
            fn from(op: $operator) -> Op { Op::$operator(op) }
        })*
    };
}

operators!(
    AdamW,
    Add,
    ChannelSlice,
    ChannelSum,
    Concatenate,
    Conv,
    ConvFilterGrad,
    ConvInputGrad,
    CrossEntropy,
    CrossEntropyGrad,
    Fill,
    InstanceNorm,
    InstanceNormGrad,
    MaxPool,
    MaxPoolGrad,
    MultiKernelPooling,
    Normalise,
    Relu,
    ReluGrad,
    Resize,
    ResizeGrad,
    Scale,
    Sgd,
    Sigmoid,
    SigmoidGrad,
    SoftDice,
    SoftDiceGrad,
    SquareGrad,
    SumOfSquares,
    TemporalConv,
    TemporalConvFilterGrad,
    TemporalConvInputGrad,
    TransposedConv,
);

/// The verification cases of every operator.
pub fn all_cases() -> Vec<Case> {
    [
        adamw::cases(),
        add::cases(),
        channel_sum::cases(),
        concatenate::cases(),
        conv::cases(),
        cross_entropy::cases(),
        fill::cases(),
        instance_norm::cases(),
        max_pool::cases(),
        multi_kernel_pooling::cases(),
        relu::cases(),
        resize::cases(),
        scale::cases(),
        sgd::cases(),
        sigmoid::cases(),
        soft_dice::cases(),
        sum_of_squares::cases(),
        temporal_conv::cases(),
        transposed_conv::cases(),
    ]
    .concat()
}

/// `inputs` as exactly `N` shapes.
fn expect<const N: usize>(inputs: &[Shape]) -> Result<[Shape; N], String> {
    inputs.try_into().map_err(|_| format!("needs {N} inputs, got {}", inputs.len()))
}

/// `(batch, channels, height, width)` of maps.
fn expect_maps(shape: Shape, what: &str) -> Result<(usize, usize, usize, usize), String> {
    match shape {
        Shape::Maps { batch, channels, height, width } => Ok((batch, channels, height, width)),
        other => Err(format!("{what} must be maps, not {other}")),
    }
}

/// An error unless both shapes are the same.
fn expect_same(a: Shape, b: Shape) -> Result<(), String> {
    if a == b { Ok(()) } else { Err(format!("the shapes must be equal, but {a} is not {b}")) }
}

/// An optional bias of `channels` numbers.
fn expect_bias(shape: Option<&Shape>, channels: usize) -> Result<(), String> {
    match shape {
        None => Ok(()),
        Some(&Shape::Channels { channels: given }) if given == channels => Ok(()),
        Some(other) => Err(format!("the bias must be channels {channels}, not {other}")),
    }
}

/// Flat index into `[batch, channels, height, width]`.
fn at(shape: Shape, n: usize, c: usize, y: usize, x: usize) -> usize {
    match shape {
        Shape::Maps { channels, height, width, .. } => ((n * channels + c) * height + y) * width + x,
        Shape::Filter { inputs, height, width, .. } => ((n * inputs + c) * height + y) * width + x,
        other => unreachable!("{other} is not indexed by four numbers"),
    }
}

/// Batch, channels, height and width of a tensor whose shape `infer` has checked to be maps.
fn maps_of(tensor: &Tensor<f64>) -> (usize, usize, usize, usize) {
    match tensor.shape() {
        Shape::Maps { batch, channels, height, width } => (batch, channels, height, width),
        other => unreachable!("infer accepts maps only, not {other}"),
    }
}

/// Sum of the elements of several shapes, for operators that cost a fixed number of operations an element.
fn elements(shapes: &[Shape]) -> u64 {
    shapes.iter().map(|shape| shape.elements() as u64).sum()
}
