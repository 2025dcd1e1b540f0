//! AdamW (Loshchilov and Hutter 2019): Adam with decoupled weight decay, as one node per parameter.
//!
//! `m' = beta1 m + (1 - beta1) g`, `v' = beta2 v + (1 - beta2) g^2`,
//! `w' = (1 - rate decay) w - rate (m' / correction1) / (sqrt(v' / correction2) + epsilon)`.
//!
//! In step t, counted from 1, the corrections are `1 - beta1^t` and `1 - beta2^t`. They are inputs, as the rate is: a
//! program has no counter.

use super::{Case, Data, Operator, elements, expect, expect_same};
use crate::graph::{Shape, Tensor};

/// `(w, m, v, g, rate, correction1, correction2) -> (w', m', v')`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamW {
    /// Share of the first moment `m`, the mean gradient, that is kept; from 0 to below 1.
    pub beta1: f32,
    /// Share of the second moment `v`, the mean squared gradient, that is kept; from 0 to below 1.
    pub beta2: f32,
    /// Keeps small gradients from being divided by zero; above 0.
    pub epsilon: f32,
    /// Share of `w`, times the rate, that is taken off in each step; 0 or more.
    pub weight_decay: f32,
}

impl AdamW {
    /// Checks the ranges.
    ///
    /// # Errors
    /// Half a sentence.
    pub fn check(&self) -> Result<(), String> {
        for (name, beta) in [("beta1", self.beta1), ("beta2", self.beta2)] {
            if !(0.0..1.0).contains(&beta) {
                return Err(format!("{name} must be at least 0 and below 1, not {beta}"));
            }
        }
        // Without it, padding lanes would become 0 / 0.
        if !(self.epsilon > 0.0 && self.epsilon.is_finite()) {
            return Err(format!("epsilon must be above 0, not {}", self.epsilon));
        }
        if !(self.weight_decay >= 0.0 && self.weight_decay.is_finite()) {
            return Err(format!("the weight decay must be at least 0, not {}", self.weight_decay));
        }
        Ok(())
    }
}

impl Operator for AdamW {
    fn name(&self) -> &'static str {
        "adamw"
    }

    fn infer(&self, inputs: &[Shape]) -> Result<Vec<Shape>, String> {
        self.check()?;
        let [w, m, v, g, scalars @ ..] = expect::<7>(inputs)?;
        [m, v, g].into_iter().try_for_each(|shape| expect_same(w, shape))?;
        scalars.into_iter().try_for_each(|shape| expect_same(shape, Shape::Scalar))?;
        Ok(vec![w, m, v])
    }

    fn flops(&self, inputs: &[Shape], _outputs: &[Shape]) -> u64 {
        15 * elements(&inputs[..1])
    }

    fn reference(&self, inputs: &[&Tensor<f64>]) -> Vec<Tensor<f64>> {
        let [w, m, v, g] = [0, 1, 2, 3].map(|i| inputs[i].data());
        let [rate, correction1, correction2] = [4, 5, 6].map(|i| inputs[i].data()[0]);
        let [beta1, beta2, epsilon, decay] = [self.beta1, self.beta2, self.epsilon, self.weight_decay].map(f64::from);
        let shape = inputs[0].shape();
        let first = Tensor::from_fn(shape, |i| beta1 * m[i] + (1.0 - beta1) * g[i]);
        let second = Tensor::from_fn(shape, |i| beta2 * v[i] + (1.0 - beta2) * g[i] * g[i]);
        let weights = Tensor::from_fn(shape, |i| {
            let (mean, square) = (first.data()[i] / correction1, second.data()[i] / correction2);
            (1.0 - rate * decay) * w[i] - rate * mean / (square.sqrt() + epsilon)
        });
        vec![weights, first, second]
    }

    fn in_place(&self) -> &'static [(usize, usize)] {
        &[(0, 0), (1, 1), (2, 2)]
    }
}

pub(super) fn cases() -> Vec<Case> {
    // An epsilon and a decay that are seen beside data of size 1.
    let op = AdamW { beta1: 0.9, beta2: 0.99, epsilon: 0.05, weight_decay: 0.1 };
    [
        Shape::Channels { channels: 13 },
        Shape::Filter { outputs: 129, inputs: 5, height: 3, width: 3 },
        Shape::TemporalFilter { outputs: 2, channels: 1, frames: 3, height: 3, width: 3 },
        Shape::Scalar,
    ]
    .into_iter()
    .map(|s| {
        let (normal, rate, correction) =
            ((s, Data::Normal(0.0)), (Shape::Scalar, Data::Probability), (Shape::Scalar, Data::Positive));
        Case::mixed(op, &[normal, normal, (s, Data::Positive), normal, rate, correction, correction])
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_out_of_range_are_refused_with_their_range() {
        let op = AdamW { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.01 };
        assert_eq!(op.check(), Ok(()));
        assert_eq!(AdamW { beta1: 0.0, beta2: 0.0, weight_decay: 0.0, ..op }.check(), Ok(()));
        for (op, problem) in [
            (AdamW { beta1: 1.0, ..op }, "beta1 must be at least 0 and below 1, not 1"),
            (AdamW { beta2: -0.1, ..op }, "beta2 must be at least 0 and below 1, not -0.1"),
            (AdamW { epsilon: 0.0, ..op }, "epsilon must be above 0, not 0"),
            (AdamW { epsilon: f32::NAN, ..op }, "epsilon must be above 0, not NaN"),
            (AdamW { weight_decay: -1.0, ..op }, "the weight decay must be at least 0, not -1"),
        ] {
            assert_eq!(op.check(), Err(problem.to_owned()));
            assert_eq!(op.infer(&[]), Err(problem.to_owned()));
        }
    }
}
