//! Stochastic gradient descent with momentum and weight decay, as one node per parameter.
//!
//! `v' = momentum v + g + decay w`, `w' = w - rate v'` (no dampening, no Nesterov).

use super::{Case, Data, Operator, elements, expect, expect_same};
use crate::graph::{Shape, Tensor};

/// `(w, v, g, rate) -> (w', v')`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sgd {
    /// Share of the last step that is kept.
    pub momentum: f32,
    /// Factor of `w` added to its gradient; `2 rho` for a loss term `rho ||w||^2`.
    pub weight_decay: f32,
}

impl Operator for Sgd {
    fn name(&self) -> &'static str {
        "sgd"
    }

    fn infer(&self, inputs: &[Shape]) -> Result<Vec<Shape>, String> {
        let [w, v, g, rate] = expect::<4>(inputs)?;
        expect_same(w, v)?;
        expect_same(w, g)?;
        expect_same(rate, Shape::Scalar)?;
        Ok(vec![w, v])
    }

    fn flops(&self, inputs: &[Shape], _outputs: &[Shape]) -> u64 {
        6 * elements(&inputs[..1])
    }

    fn reference(&self, inputs: &[&Tensor<f64>]) -> Vec<Tensor<f64>> {
        let [w, v, g, rate] = [inputs[0].data(), inputs[1].data(), inputs[2].data(), inputs[3].data()];
        let (momentum, decay) = (f64::from(self.momentum), f64::from(self.weight_decay));
        let velocity = Tensor::from_fn(inputs[0].shape(), |i| momentum * v[i] + g[i] + decay * w[i]);
        let weights = Tensor::from_fn(inputs[0].shape(), |i| w[i] - rate[0] * velocity.data()[i]);
        vec![weights, velocity]
    }

    fn in_place(&self) -> &'static [(usize, usize)] {
        &[(0, 0), (1, 1)]
    }
}

pub(super) fn cases() -> Vec<Case> {
    let op = Sgd { momentum: 0.9, weight_decay: 2e-4 };
    [
        Shape::Channels { channels: 13 },
        Shape::Filter { outputs: 129, inputs: 5, height: 3, width: 3 },
        Shape::TemporalFilter { outputs: 2, channels: 1, frames: 3, height: 3, width: 3 },
    ]
    .into_iter()
    .map(|s| {
        let normal = (s, Data::Normal(0.0));
        Case::mixed(op, &[normal, normal, normal, (Shape::Scalar, Data::Probability)])
    })
    .collect()
}
