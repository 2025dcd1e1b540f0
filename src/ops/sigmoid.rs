//! Logistic function, `1 / (1 + exp(-x))`.

use super::{Case, Data, Operator, elements, expect, expect_maps, expect_same};
use crate::error::Result;
use crate::graph::{Backward, Graph, Shape, Tensor, ValueId};

/// `maps -> maps` of probabilities.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sigmoid;

/// `(y, dy) -> dy y (1 - y)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SigmoidGrad;

impl Operator for Sigmoid {
    fn name(&self) -> &'static str {
        "sigmoid"
    }

    fn infer(&self, inputs: &[Shape]) -> Result<Vec<Shape>, String> {
        let [x] = expect::<1>(inputs)?;
        expect_maps(x, "the input")?;
        Ok(vec![x])
    }

    fn flops(&self, _inputs: &[Shape], outputs: &[Shape]) -> u64 {
        4 * elements(outputs)
    }

    fn reference(&self, inputs: &[&Tensor<f64>]) -> Vec<Tensor<f64>> {
        vec![inputs[0].map(|x| 1.0 / (1.0 + (-x).exp()))]
    }

    fn is_differentiable(&self) -> bool {
        true
    }

    fn gradient(&self, mut backward: Backward<'_>) -> Result<Vec<Option<ValueId>>> {
        let (y, dy) = (backward.node.outputs[0], backward.cotangent()?);
        Ok(vec![backward.when_wanted(0, SigmoidGrad, &[y, dy])?])
    }
}

impl Operator for SigmoidGrad {
    fn name(&self) -> &'static str {
        "sigmoid gradient"
    }

    fn infer(&self, inputs: &[Shape]) -> Result<Vec<Shape>, String> {
        let [y, dy] = expect::<2>(inputs)?;
        expect_maps(y, "the output")?;
        expect_same(y, dy)?;
        Ok(vec![dy])
    }

    fn flops(&self, _inputs: &[Shape], outputs: &[Shape]) -> u64 {
        3 * elements(outputs)
    }

    fn reference(&self, inputs: &[&Tensor<f64>]) -> Vec<Tensor<f64>> {
        let (y, dy) = (inputs[0].data(), inputs[1].data());
        vec![Tensor::from_fn(inputs[0].shape(), |i| dy[i] * y[i] * (1.0 - y[i]))]
    }

    fn in_place(&self) -> &'static [(usize, usize)] {
        &[(1, 0)]
    }
}

impl Graph {
    /// Adds a [`Sigmoid`] node.
    ///
    /// # Errors
    /// As [`Graph::apply`].
    pub fn sigmoid(&mut self, name: &str, x: ValueId) -> Result<ValueId> {
        self.apply_one(name, Sigmoid, &[x])
    }
}

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for s in [Shape::maps(2, 1, 7, 9), Shape::maps(1, 9, 4, 5), Shape::maps(3, 8, 1, 1)] {
        cases.push(Case::new(Sigmoid, &[s], Data::Normal(0.0)));
        cases.push(Case::new(Sigmoid, &[s], Data::Normal(-30.0)));
        cases.push(Case::mixed(SigmoidGrad, &[(s, Data::Probability), (s, Data::Normal(0.0))]));
    }
    cases
}
