//! Binary cross entropy of each pixel, from logits: `mean over batch and pixels of max(x, 0) - x y + log(1 + exp(-|x|))`.
//!
//! That is `-y log p - (1 - y) log(1 - p)` with `p` the sigmoid of `x`, and stays finite where `p` rounds to 0 or 1.

use super::{Case, Data, Operator, elements, expect, expect_maps, expect_same};
use crate::error::{Error, Result};
use crate::graph::{Backward, Graph, Shape, Tensor, ValueId};

/// `(logits, mask) -> loss`, both inputs with one channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CrossEntropy;

/// `(logits, mask, loss cotangent) -> logits gradient`, `cotangent / count (sigmoid(x) - y)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CrossEntropyGrad;

fn expect_pair(logits: Shape, mask: Shape) -> Result<(), String> {
    let (_, channels, _, _) = expect_maps(logits, "the logits")?;
    expect_same(logits, mask)?;
    if channels == 1 { Ok(()) } else { Err(format!("needs one channel, not {channels}")) }
}

impl Operator for CrossEntropy {
    fn name(&self) -> &'static str {
        "cross entropy"
    }

    fn infer(&self, inputs: &[Shape]) -> Result<Vec<Shape>, String> {
        let [logits, mask] = expect::<2>(inputs)?;
        expect_pair(logits, mask)?;
        Ok(vec![Shape::Scalar])
    }

    fn flops(&self, inputs: &[Shape], _outputs: &[Shape]) -> u64 {
        8 * elements(&inputs[..1])
    }

    fn reference(&self, inputs: &[&Tensor<f64>]) -> Vec<Tensor<f64>> {
        let pairs = inputs[0].data().iter().zip(inputs[1].data());
        let sum: f64 = pairs.map(|(&x, &y)| x.max(0.0) - x * y + (-x.abs()).exp().ln_1p()).sum();
        vec![Tensor::filled(Shape::Scalar, sum / inputs[0].data().len() as f64)]
    }

    fn is_differentiable(&self) -> bool {
        true
    }

    fn gradient(&self, mut backward: Backward<'_>) -> Result<Vec<Option<ValueId>>> {
        let dloss = backward.cotangent()?;
        if backward.wanted[1] {
            return Err(Error::Request(format!("{}: a mask has no gradient", backward.node.name)));
        }
        let (x, y) = (backward.node.inputs[0], backward.node.inputs[1]);
        Ok(vec![backward.when_wanted(0, CrossEntropyGrad, &[x, y, dloss])?, None])
    }
}

impl Operator for CrossEntropyGrad {
    fn name(&self) -> &'static str {
        "cross entropy gradient"
    }

    fn infer(&self, inputs: &[Shape]) -> Result<Vec<Shape>, String> {
        let [logits, mask, dloss] = expect::<3>(inputs)?;
        expect_pair(logits, mask)?;
        expect_same(dloss, Shape::Scalar)?;
        Ok(vec![logits])
    }

    fn flops(&self, inputs: &[Shape], _outputs: &[Shape]) -> u64 {
        6 * elements(&inputs[..1])
    }

    fn reference(&self, inputs: &[&Tensor<f64>]) -> Vec<Tensor<f64>> {
        let (x, y, dloss) = (inputs[0].data(), inputs[1].data(), inputs[2].data()[0]);
        let share = dloss / x.len() as f64;
        // sigmoid(x) - y without a difference of two numbers near 1.
        vec![Tensor::from_fn(inputs[0].shape(), |i| {
            let e = (-x[i].abs()).exp();
            let rest = e / (1.0 + e);
            share * if x[i] < 0.0 { rest - y[i] } else { 1.0 - y[i] - rest }
        })]
    }
}

impl Graph {
    /// Adds a [`CrossEntropy`] node.
    ///
    /// # Errors
    /// As [`Graph::apply`].
    pub fn cross_entropy(&mut self, name: &str, logits: ValueId, mask: ValueId) -> Result<ValueId> {
        self.apply_one(name, CrossEntropy, &[logits, mask])
    }
}

pub(super) fn cases() -> Vec<Case> {
    // More partial sums than a block of 256 threads adds at once.
    let large = Shape::maps(1, 1, 520, 510);
    let mut cases = vec![Case::mixed(CrossEntropy, &[(large, Data::Normal(0.0)), (large, Data::Mask)])];
    let scalar = (Shape::Scalar, Data::Positive);
    for (batch, height, width) in [(2, 7, 9), (3, 40, 50), (3, 1, 1)] {
        let s = Shape::maps(batch, 1, height, width);
        // Logits on both sides of 0, and far from it, where probabilities round to 0 and 1.
        for logits in [Data::Normal(0.0), Data::Normal(-30.0), Data::Normal(1000.0)] {
            let pair = [(s, logits), (s, Data::Mask)];
            cases.push(Case::mixed(CrossEntropy, &pair));
            cases.push(Case::mixed(CrossEntropyGrad, &[pair[0], pair[1], scalar]));
        }
    }
    cases
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_cross_entropy_of_the_probability() {
        let (x, y) = ([-3.0f64, -0.5, 0.0, 2.0], [0.0f64, 1.0, 1.0, 0.0]);
        let shape = Shape::maps(1, 1, 2, 2);
        let tensor = |data: [f64; 4]| Tensor::from_fn(shape, |i| data[i]);
        let probability = |x: f64| 1.0 / (1.0 + (-x).exp());
        let terms = x.iter().zip(y).map(|(&x, y)| -(y * probability(x).ln() + (1.0 - y) * (1.0 - probability(x)).ln()));
        let loss = CrossEntropy.reference(&[&tensor(x), &tensor(y)])[0].data()[0];
        approx::assert_relative_eq!(loss, terms.sum::<f64>() / 4.0, max_relative = 1e-12);
        let seed = Tensor::filled(Shape::Scalar, 4.0);
        let gradient = &CrossEntropyGrad.reference(&[&tensor(x), &tensor(y), &seed])[0];
        for (i, &got) in gradient.data().iter().enumerate() {
            approx::assert_relative_eq!(got, probability(x[i]) - y[i], max_relative = 1e-12);
        }
    }

    #[test]
    fn a_mask_has_no_gradient_and_there_is_one_channel() {
        let mut graph = Graph::new();
        let s = Shape::maps(1, 1, 4, 4);
        let (logits, mask) = (graph.input("logits", s), graph.input("mask", s));
        let loss = graph.cross_entropy("loss", logits, mask).unwrap();
        let problem = graph.differentiate(loss, &[logits, mask]).unwrap_err().to_string();
        assert_eq!(problem, "loss: a mask has no gradient");
        let two = graph.input("two", Shape::maps(1, 2, 4, 4));
        let problem = graph.cross_entropy("loss", two, two).unwrap_err().to_string();
        assert!(problem.ends_with("needs one channel, not 2"), "{problem}");
    }
}
