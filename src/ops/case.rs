//! Verification cases: one table serves correctness, gradient and speed on every device.

use super::{Epilogues, InstanceNorm, Op, Operator};
use crate::graph::{Shape, Tensor};
use crate::random::Random;
use std::fmt;

/// How the data of a case is drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Data {
    /// Whole numbers from -4 to 4: sums of products are exact in float32, so results are compared bit for bit.
    Integers,
    /// Normal with this mean and standard deviation 1.
    Normal(f64),
    /// Uniform between 0 and 1.
    Probability,
    /// 0 or 1.
    Mask,
    /// Uniform between 0.5 and 2: scales and reciprocal standard deviations.
    Positive,
}

/// How closely a device must agree with the reference.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Fit {
    /// Bit for bit.
    Exact,
    /// Relative L2 error of each result at most this.
    Relative(f64),
}

/// One use of an operator to verify.
#[derive(Debug, Clone, PartialEq)]
pub struct Case {
    /// The operator with its attributes.
    pub op: Op,
    /// Shape and data of each input.
    pub inputs: Vec<(Shape, Data)>,
    /// How closely devices must agree.
    pub fit: Fit,
    /// What follows the first result, for devices to fold into the pass that writes it. A residual is the last input;
    /// gamma and beta of a norm are the last two, its maps and statistics two more results.
    pub epilogue: Epilogues,
}

impl Case {
    /// A case whose inputs are all drawn alike: exact for integers, within 1e-5 otherwise.
    pub fn new(op: impl Into<Op>, inputs: &[Shape], data: Data) -> Case {
        Case::mixed(op, &inputs.iter().map(|&shape| (shape, data)).collect::<Vec<_>>())
    }

    /// A case with data per input: exact where all are integers, within 1e-5 otherwise.
    pub fn mixed(op: impl Into<Op>, inputs: &[(Shape, Data)]) -> Case {
        let exact = inputs.iter().all(|(_, data)| *data == Data::Integers);
        let fit = if exact { Fit::Exact } else { Fit::Relative(1e-5) };
        Case { op: op.into(), inputs: inputs.to_vec(), fit, epilogue: Epilogues::NONE }
    }

    /// The same case with another bound.
    pub fn within(mut self, bound: f64) -> Case {
        self.fit = Fit::Relative(bound);
        self
    }

    /// The same case followed by ReLU.
    pub fn with_relu(mut self) -> Case {
        self.epilogue.relu = true;
        self
    }

    /// The same case with one more input added to its first result, which has this shape.
    pub fn with_residual(mut self, residual: (Shape, Data)) -> Case {
        self.inputs.push(residual);
        self.epilogue.residual = true;
        self
    }

    /// The same case followed by instance norm of its first result, maps of so many channels.
    pub fn with_norm(mut self, channels: usize) -> Case {
        let per_channel = Shape::Channels { channels };
        self.inputs.extend([(per_channel, Data::Normal(1.0)), (per_channel, Data::Normal(0.0))]);
        self.epilogue.statistics = true;
        if self.fit == Fit::Exact { self.within(1e-5) } else { self }
    }

    /// The norm of [`Case::with_norm`].
    pub const NORM: InstanceNorm = InstanceNorm { epsilon: 1e-5 };

    /// How many of the inputs are the operator's; the others belong to the epilogue.
    pub fn operands(&self) -> usize {
        self.inputs.len() - usize::from(self.epilogue.residual) - 2 * usize::from(self.epilogue.statistics)
    }

    /// The results in float64, for inputs whose shapes the operator accepts.
    pub fn reference(&self, inputs: &[&Tensor<f64>]) -> Vec<Tensor<f64>> {
        let (operands, others) = inputs.split_at(self.operands());
        let residual = others.first().filter(|_| self.epilogue.residual);
        let mut results = self.op.operator().reference(operands);
        let first = results.iter_mut().take(1).flat_map(|tensor| tensor.data_mut());
        for (index, number) in first.enumerate() {
            *number += residual.map_or(0.0, |residual| residual.data()[index]);
            // A NaN must stay one.
            if self.epilogue.relu && *number < 0.0 {
                *number = 0.0;
            }
        }
        if let (true, [.., gamma, beta]) = (self.epilogue.statistics, others) {
            let normed = Case::NORM.reference(&[&results[0], gamma, beta]);
            results.extend(normed);
        }
        results
    }

    /// The inputs, the same for the same case and seed, rounded to float32 so that every device gets them exactly.
    pub fn draw(&self, seed: u64) -> Vec<Tensor<f32>> {
        let mut random = Random::new(seed);
        self.inputs.iter().map(|&(shape, data)| Tensor::from_fn(shape, |_| random.draw(data) as f32)).collect()
    }
}

/// What identifies the case: operator, attributes, and shape and data of each input, as in
/// `Conv stride 1, padding 1, dilation 1 of maps 2x5x9x11 Integers, filter 7x5x3x3 Integers`.
impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inputs: Vec<String> = self.inputs.iter().map(|(shape, data)| format!("{shape} {data:?}")).collect();
        let inputs = if inputs.is_empty() { "nothing".to_owned() } else { inputs.join(", ") };
        let Epilogues { residual, relu, statistics } = self.epilogue;
        let then = [
            (residual, ", the last as residual"),
            (relu, ", then ReLU"),
            (statistics, ", then instance norm by the last"),
        ];
        let then: String = then.iter().filter(|(follows, _)| *follows).map(|(_, text)| *text).collect();
        // Without brackets and colons it is a regular expression that matches itself.
        let text = format!("{:?} of {inputs}{then}", self.op.operator()).replace(['{', '}', '(', ')', ':'], " ");
        let words: Vec<&str> = text.split_whitespace().collect();
        f.write_str(&words.join(" ").replace(" ,", ","))
    }
}

impl Random {
    fn draw(&mut self, data: Data) -> f64 {
        match data {
            Data::Integers => (self.bits() % 9) as f64 - 4.0,
            Data::Normal(mean) => mean + self.normal(),
            Data::Probability => self.uniform(),
            Data::Mask => (self.bits() % 2) as f64,
            Data::Positive => 0.5 + 1.5 * self.uniform(),
        }
    }
}
