//! A constant: the seed of a gradient, or the gradient of something unused.

use super::{Case, Data, Operator, expect};
use crate::graph::{Shape, Tensor};

/// `() -> value` everywhere in `shape`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Fill {
    /// Shape of the result.
    pub shape: Shape,
    /// The number.
    pub value: f32,
}

impl Operator for Fill {
    fn name(&self) -> &'static str {
        "fill"
    }

    fn infer(&self, inputs: &[Shape]) -> Result<Vec<Shape>, String> {
        expect::<0>(inputs)?;
        Ok(vec![self.shape])
    }

    fn flops(&self, _inputs: &[Shape], _outputs: &[Shape]) -> u64 {
        0
    }

    fn reference(&self, _inputs: &[&Tensor<f64>]) -> Vec<Tensor<f64>> {
        vec![Tensor::filled(self.shape, f64::from(self.value))]
    }
}

pub(super) fn cases() -> Vec<Case> {
    [Shape::Scalar, Shape::maps(2, 5, 3, 3), Shape::Filter { outputs: 5, inputs: 3, height: 3, width: 3 }]
        .into_iter()
        .map(|shape| Case::new(Fill { shape, value: 2.5 }, &[], Data::Integers))
        .collect()
}
