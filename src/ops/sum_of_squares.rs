//! Sum of the squares of all elements of any number of values: the L2 term of a loss.

use super::{Case, Data, Operator, elements, expect, expect_same};
use crate::error::Result;
use crate::graph::{Backward, Graph, Shape, Tensor, ValueId};

/// `(a, b, ...) -> sum of squares`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SumOfSquares;

/// `(x, cotangent) -> 2 cotangent x`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SquareGrad;

impl Operator for SumOfSquares {
    fn name(&self) -> &'static str {
        "sum of squares"
    }

    fn infer(&self, inputs: &[Shape]) -> Result<Vec<Shape>, String> {
        if inputs.is_empty() {
            return Err("needs at least one input".into());
        }
        Ok(vec![Shape::Scalar])
    }

    fn flops(&self, inputs: &[Shape], _outputs: &[Shape]) -> u64 {
        2 * elements(inputs)
    }

    fn reference(&self, inputs: &[&Tensor<f64>]) -> Vec<Tensor<f64>> {
        let sum = inputs.iter().flat_map(|tensor| tensor.data()).map(|x| x * x).sum();
        vec![Tensor::filled(Shape::Scalar, sum)]
    }

    fn is_differentiable(&self) -> bool {
        true
    }

    fn gradient(&self, mut backward: Backward<'_>) -> Result<Vec<Option<ValueId>>> {
        let dy = backward.cotangent()?;
        let inputs = backward.node.inputs.clone();
        inputs.iter().enumerate().map(|(i, &x)| backward.when_wanted(i, SquareGrad, &[x, dy])).collect()
    }
}

impl Operator for SquareGrad {
    fn name(&self) -> &'static str {
        "square gradient"
    }

    fn infer(&self, inputs: &[Shape]) -> Result<Vec<Shape>, String> {
        let [x, cotangent] = expect::<2>(inputs)?;
        expect_same(cotangent, Shape::Scalar)?;
        Ok(vec![x])
    }

    fn flops(&self, _inputs: &[Shape], outputs: &[Shape]) -> u64 {
        2 * elements(outputs)
    }

    fn reference(&self, inputs: &[&Tensor<f64>]) -> Vec<Tensor<f64>> {
        let cotangent = inputs[1].data()[0];
        vec![inputs[0].map(|x| 2.0 * cotangent * x)]
    }
}

impl Graph {
    /// Adds a [`SumOfSquares`] node.
    ///
    /// # Errors
    /// As [`Graph::apply`].
    pub fn sum_of_squares(&mut self, name: &str, values: &[ValueId]) -> Result<ValueId> {
        self.apply_one(name, SumOfSquares, values)
    }
}

pub(super) fn cases() -> Vec<Case> {
    let filter = Shape::Filter { outputs: 129, inputs: 13, height: 3, width: 3 };
    let channels = Shape::Channels { channels: 5 };
    let mut cases = Vec::new();
    for data in [Data::Integers, Data::Normal(0.0)] {
        cases.push(Case::new(SumOfSquares, &[filter, channels, Shape::Scalar], data));
        cases.push(Case::new(SumOfSquares, &[Shape::maps(2, 3, 5, 7)], data));
        cases.push(Case::new(SquareGrad, &[filter, Shape::Scalar], data));
    }
    cases
}
