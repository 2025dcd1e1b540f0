//! Rectified linear unit, `max(x, 0)`; its derivative at 0 is 0. NaN stays NaN.

use super::{Case, Data, Operator, elements, expect, expect_same};
use crate::error::Result;
use crate::graph::{Backward, Graph, Shape, Tensor, ValueId};

/// `x -> max(x, 0)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Relu;

/// `(y, dy) -> dx`: `dy` where `y > 0`, else 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReluGrad;

impl Operator for Relu {
    fn name(&self) -> &'static str {
        "relu"
    }

    fn infer(&self, inputs: &[Shape]) -> Result<Vec<Shape>, String> {
        Ok(expect::<1>(inputs)?.to_vec())
    }

    fn flops(&self, _inputs: &[Shape], outputs: &[Shape]) -> u64 {
        elements(outputs)
    }

    fn reference(&self, inputs: &[&Tensor<f64>]) -> Vec<Tensor<f64>> {
        vec![inputs[0].map(|x| if x < 0.0 { 0.0 } else { x })]
    }

    fn is_differentiable(&self) -> bool {
        true
    }

    fn gradient(&self, mut backward: Backward<'_>) -> Result<Vec<Option<ValueId>>> {
        let (y, dy) = (backward.node.outputs[0], backward.cotangent()?);
        Ok(vec![backward.when_wanted(0, ReluGrad, &[y, dy])?])
    }

    fn in_place(&self) -> &'static [(usize, usize)] {
        &[(0, 0)]
    }
}

impl Operator for ReluGrad {
    fn name(&self) -> &'static str {
        "relu gradient"
    }

    fn infer(&self, inputs: &[Shape]) -> Result<Vec<Shape>, String> {
        let [y, dy] = expect::<2>(inputs)?;
        expect_same(y, dy)?;
        Ok(vec![dy])
    }

    fn flops(&self, _inputs: &[Shape], outputs: &[Shape]) -> u64 {
        elements(outputs)
    }

    fn reference(&self, inputs: &[&Tensor<f64>]) -> Vec<Tensor<f64>> {
        let (y, dy) = (inputs[0].data(), inputs[1].data());
        vec![Tensor::from_fn(inputs[0].shape(), |i| if y[i] > 0.0 { dy[i] } else { 0.0 })]
    }

    fn in_place(&self) -> &'static [(usize, usize)] {
        &[(1, 0)]
    }
}

impl Graph {
    /// Adds a [`Relu`] node.
    ///
    /// # Errors
    /// As [`Graph::apply`].
    pub fn relu(&mut self, name: &str, x: ValueId) -> Result<ValueId> {
        self.apply_one(name, Relu, &[x])
    }
}

pub(super) fn cases() -> Vec<Case> {
    let shapes = [Shape::maps(2, 5, 7, 3), Shape::maps(1, 129, 4, 5), Shape::maps(3, 8, 1, 1)];
    let both = |s| {
        [Data::Integers, Data::Normal(0.0)].into_iter().flat_map(move |data| {
            let relu = Case::new(Relu, &[s], data);
            [relu.clone(), relu.with_residual((s, data)), Case::new(ReluGrad, &[s, s], data)]
        })
    };
    shapes.into_iter().flat_map(both).collect()
}
