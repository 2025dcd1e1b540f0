//! Element-wise sum of two values of one shape: skip connections, and gradients that meet.

use super::{Case, Data, Operator, elements, expect, expect_same};
use crate::error::Result;
use crate::graph::{Backward, Graph, Shape, Tensor, ValueId};

/// `(a, b) -> a + b`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Add;

impl Operator for Add {
    fn name(&self) -> &'static str {
        "add"
    }

    fn infer(&self, inputs: &[Shape]) -> Result<Vec<Shape>, String> {
        let [a, b] = expect::<2>(inputs)?;
        expect_same(a, b)?;
        Ok(vec![a])
    }

    fn flops(&self, _inputs: &[Shape], outputs: &[Shape]) -> u64 {
        elements(outputs)
    }

    fn reference(&self, inputs: &[&Tensor<f64>]) -> Vec<Tensor<f64>> {
        vec![Tensor::from_fn(inputs[0].shape(), |i| inputs[0].data()[i] + inputs[1].data()[i])]
    }

    fn is_differentiable(&self) -> bool {
        true
    }

    fn gradient(&self, backward: Backward<'_>) -> Result<Vec<Option<ValueId>>> {
        let dy = backward.cotangent()?;
        Ok(backward.wanted.iter().map(|&wanted| wanted.then_some(dy)).collect())
    }

    fn in_place(&self) -> &'static [(usize, usize)] {
        &[(0, 0), (1, 0)]
    }
}

impl Graph {
    /// Adds an [`Add`] node.
    ///
    /// # Errors
    /// As [`Graph::apply`].
    pub fn add(&mut self, name: &str, a: ValueId, b: ValueId) -> Result<ValueId> {
        self.apply_one(name, Add, &[a, b])
    }
}

pub(super) fn cases() -> Vec<Case> {
    let shapes = [
        Shape::maps(2, 5, 7, 3),
        Shape::maps(1, 129, 4, 5),
        Shape::maps(3, 8, 1, 1),
        Shape::Channels { channels: 13 },
        Shape::Filter { outputs: 37, inputs: 5, height: 3, width: 3 },
        Shape::Scalar,
        // Fifteen numbers without padding.
        Shape::Window { batch: 1, channels: 1, frames: 1, height: 3, width: 5 },
    ];
    let both = |case: Case| [case.clone(), case.with_relu()];
    shapes
        .into_iter()
        .flat_map(|s| [Data::Integers, Data::Normal(0.0)].map(|data| Case::new(Add, &[s, s], data)))
        .flat_map(both)
        .collect()
}
