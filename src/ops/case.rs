//! Verification cases: one table serves correctness, gradient and speed on every device.

use super::{InstanceNorm, Normalise, Op, Operator};
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

/// What an operator's first input goes through, for devices to do as they read it: [`Normalise`] by statistics, gamma and
/// beta, which are the inputs behind the operator's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct First {
    /// `max(normed, 0)`.
    pub relu: bool,
}

impl First {
    /// How many inputs it takes.
    const INPUTS: usize = 3;
}

/// What follows an operator's first result, for devices to fold into the pass that writes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// [`Case::NORM`] by the next two inputs, gamma and beta; its statistics are one more result.
    Norm,
    /// `max(result, 0)`.
    Relu,
    /// The next input is added.
    Add,
    /// `1 / (1 + exp(-result))`.
    Sigmoid,
}

impl Then {
    /// How many inputs it takes.
    fn inputs(self) -> usize {
        match self {
            Then::Norm => 2,
            Then::Relu | Then::Sigmoid => 0,
            Then::Add => 1,
        }
    }
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
    /// What the first input goes through before.
    pub first: Option<First>,
    /// What follows the first result, in this order; what it takes are the inputs behind all others.
    pub then: Vec<Then>,
    /// Whether the operator's own first result is asked for, too, so that what follows leaves it as it is.
    pub keeps_first: bool,
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
        Case { op: op.into(), inputs: inputs.to_vec(), fit, first: None, then: Vec::new(), keeps_first: false }
    }

    /// The same case with another bound.
    pub fn within(mut self, bound: f64) -> Case {
        self.fit = Fit::Relative(bound);
        self
    }

    /// The same case, whose first input, maps of so many samples and channels, is normed first. All that takes part is drawn
    /// like the first input: of whole numbers come whole numbers that bfloat16 holds exactly.
    pub fn of_normed(mut self, batch: usize, channels: usize, relu: bool) -> Case {
        let (data, at) = (self.inputs[0].1, self.operands());
        let scale = if data == Data::Integers { data } else { Data::Positive };
        let (statistics, per_channel) =
            (Shape::Statistics { batch, channels, entries: 2 }, Shape::Channels { channels });
        self.inputs.splice(at..at, [(statistics, scale), (per_channel, data), (per_channel, data)]);
        self.first = Some(First { relu });
        self
    }

    /// The same case followed by ReLU.
    pub fn with_relu(mut self) -> Case {
        self.then.push(Then::Relu);
        self
    }

    /// The same case with one more input added to its result, which has this shape.
    pub fn with_residual(mut self, residual: (Shape, Data)) -> Case {
        self.inputs.push(residual);
        self.then.push(Then::Add);
        self
    }

    /// The same case followed by instance norm of its result, maps of so many channels.
    pub fn with_norm(mut self, channels: usize) -> Case {
        let per_channel = Shape::Channels { channels };
        self.inputs.extend([(per_channel, Data::Normal(1.0)), (per_channel, Data::Normal(0.0))]);
        self.then.push(Then::Norm);
        if self.fit == Fit::Exact { self.within(1e-5) } else { self }
    }

    /// The same case followed by a sigmoid.
    pub fn with_sigmoid(mut self) -> Case {
        self.then.push(Then::Sigmoid);
        if self.fit == Fit::Exact { self.within(1e-5) } else { self }
    }

    /// The same case whose operator's own first result is the last of the results.
    pub fn keeping_first(mut self) -> Case {
        self.keeps_first = true;
        self
    }

    /// The norm of [`Case::with_norm`].
    pub const NORM: InstanceNorm = InstanceNorm { epsilon: 1e-5 };

    /// Whether a norm follows.
    pub fn has_norm(&self) -> bool {
        self.then.contains(&Then::Norm)
    }

    /// Whether the first result is the operator's own but for sums and ReLU.
    pub fn is_linear(&self) -> bool {
        self.then.iter().all(|then| matches!(then, Then::Relu | Then::Add))
    }

    /// How many of the inputs are the operator's; the others belong to what follows.
    pub fn operands(&self) -> usize {
        let first = self.first.map_or(0, |_| First::INPUTS);
        self.inputs.len() - first - self.then.iter().map(|then| then.inputs()).sum::<usize>()
    }

    /// The results in float64, for inputs whose shapes the operator accepts: what has come of the first one, the
    /// operator's others, the statistics of norms, and the first one itself where it is kept.
    pub fn reference(&self, inputs: &[&Tensor<f64>]) -> Vec<Tensor<f64>> {
        let (operands, mut others) = inputs.split_at(self.operands());
        let mut results = match self.first {
            None => self.op.operator().reference(operands),
            Some(First { relu }) => {
                let (taken, left) = others.split_at(First::INPUTS);
                others = left;
                let mut normed = Normalise.reference(&[&[operands[0]], taken].concat()).remove(0);
                if relu {
                    rectify(&mut normed);
                }
                self.op.operator().reference(&[&[&normed], &operands[1..]].concat())
            }
        };
        let first = self.keeps_first.then(|| results[0].clone());
        for then in &self.then {
            let (taken, left) = others.split_at(then.inputs());
            others = left;
            match then {
                Then::Norm => {
                    let mut normed = Case::NORM.reference(&[&results[0], taken[0], taken[1]]).into_iter();
                    results.splice(..1, normed.next());
                    results.extend(normed);
                }
                Then::Relu => rectify(&mut results[0]),
                Then::Sigmoid => results[0].data_mut().iter_mut().for_each(|x| *x = 1.0 / (1.0 + (-*x).exp())),
                Then::Add => results[0].data_mut().iter_mut().zip(taken[0].data()).for_each(|(x, more)| *x += more),
            }
        }
        results.extend(first);
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
        let mut then = match self.first {
            None => String::new(),
            Some(First { relu: false }) => ", the first normed".to_owned(),
            Some(First { relu: true }) => ", the first normed and rectified".to_owned(),
        };
        for (index, follows) in self.then.iter().enumerate() {
            then += if index == 0 { ", then " } else { ", " };
            then += match follows {
                Then::Norm => "instance norm",
                Then::Relu => "ReLU",
                Then::Add => "residual",
                Then::Sigmoid => "sigmoid",
            };
        }
        if self.keeps_first {
            then += ", the first kept";
        }
        // Without brackets and colons it is a regular expression that matches itself.
        let text = format!("{:?} of {inputs}{then}", self.op.operator()).replace(['{', '}', '(', ')', ':'], " ");
        let words: Vec<&str> = text.split_whitespace().collect();
        f.write_str(&words.join(" ").replace(" ,", ","))
    }
}

/// `max(x, 0)`; a NaN stays one.
fn rectify(tensor: &mut Tensor<f64>) {
    tensor.data_mut().iter_mut().filter(|x| **x < 0.0).for_each(|x| *x = 0.0);
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
