//! Multiplication by a constant.

use super::{Case, Data, Operator, elements, expect};
use crate::error::Result;
use crate::graph::{Backward, Graph, Shape, Tensor, ValueId};

/// `x -> factor x`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scale {
    /// The constant.
    pub factor: f32,
}

impl Operator for Scale {
    fn name(&self) -> &'static str {
        "scale"
    }

    fn infer(&self, inputs: &[Shape]) -> Result<Vec<Shape>, String> {
        Ok(expect::<1>(inputs)?.to_vec())
    }

    fn flops(&self, _inputs: &[Shape], outputs: &[Shape]) -> u64 {
        elements(outputs)
    }

    fn reference(&self, inputs: &[&Tensor<f64>]) -> Vec<Tensor<f64>> {
        vec![inputs[0].map(|x| f64::from(self.factor) * x)]
    }

    fn is_differentiable(&self) -> bool {
        true
    }

    fn gradient(&self, mut backward: Backward<'_>) -> Result<Vec<Option<ValueId>>> {
        let dy = backward.cotangent()?;
        Ok(vec![backward.when_wanted(0, *self, &[dy])?])
    }

    fn in_place(&self) -> &'static [(usize, usize)] {
        &[(0, 0)]
    }
}

impl Graph {
    /// Adds a [`Scale`] node.
    ///
    /// # Errors
    /// As [`Graph::apply`].
    pub fn scale(&mut self, name: &str, x: ValueId, factor: f32) -> Result<ValueId> {
        self.apply_one(name, Scale { factor }, &[x])
    }
}

pub(super) fn cases() -> Vec<Case> {
    let op = Scale { factor: -1.5 };
    [Shape::Scalar, Shape::maps(2, 5, 7, 3), Shape::Channels { channels: 9 }]
        .into_iter()
        .flat_map(|s| [Data::Integers, Data::Normal(0.0)].map(|data| Case::new(op, &[s], data)))
        .collect()
}
