//! Soft Dice loss (Milletari et al. 2016): `mean over the batch of 1 - (2 sum(p y) + s) / (sum p + sum y + s)`.
//!
//! The second result holds `sum(p y)`, `sum p` and `sum y` of each sample for the gradient.

use super::{Case, Data, Operator, elements, expect, expect_maps, expect_same, maps_of};
use crate::error::Result;
use crate::graph::{Backward, Graph, Shape, Tensor, ValueId};

/// `(probability, mask) -> (loss, sums)`, both inputs with one channel.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SoftDice {
    /// `s`, which keeps an empty mask from dividing by zero.
    pub smoothing: f32,
}

/// `(probability, mask, sums, loss cotangent) -> probability gradient`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SoftDiceGrad {
    /// As in [`SoftDice`].
    pub smoothing: f32,
}

fn expect_pair(probability: Shape, mask: Shape) -> Result<Shape, String> {
    let (batch, channels, _, _) = expect_maps(probability, "the probability")?;
    expect_same(probability, mask)?;
    if channels != 1 {
        return Err(format!("needs one channel, not {channels}"));
    }
    Ok(Shape::Statistics { batch, channels: 1, entries: 3 })
}

impl Operator for SoftDice {
    fn name(&self) -> &'static str {
        "soft dice"
    }

    fn infer(&self, inputs: &[Shape]) -> Result<Vec<Shape>, String> {
        let [probability, mask] = expect::<2>(inputs)?;
        Ok(vec![Shape::Scalar, expect_pair(probability, mask)?])
    }

    fn flops(&self, inputs: &[Shape], _outputs: &[Shape]) -> u64 {
        4 * elements(&inputs[..1])
    }

    fn reference(&self, inputs: &[&Tensor<f64>]) -> Vec<Tensor<f64>> {
        let (batch, _, height, width) = maps_of(inputs[0]);
        let smoothing = f64::from(self.smoothing);
        let mut sums = Tensor::filled(Shape::Statistics { batch, channels: 1, entries: 3 }, 0.0);
        let mut loss = 0.0;
        let samples = inputs[0].data().chunks(height * width).zip(inputs[1].data().chunks(height * width));
        for ((p, y), sum) in samples.zip(sums.data_mut().chunks_mut(3)) {
            sum[0] = p.iter().zip(y).map(|(p, y)| p * y).sum();
            sum[1] = p.iter().sum();
            sum[2] = y.iter().sum();
            loss += 1.0 - (2.0 * sum[0] + smoothing) / (sum[1] + sum[2] + smoothing);
        }
        vec![Tensor::filled(Shape::Scalar, loss / batch as f64), sums]
    }

    fn is_differentiable(&self) -> bool {
        true
    }

    fn gradient(&self, mut backward: Backward<'_>) -> Result<Vec<Option<ValueId>>> {
        let dloss = backward.cotangent()?;
        if backward.wanted[1] {
            return Err(crate::Error::Request(format!("{}: a mask has no gradient", backward.node.name)));
        }
        let (p, y, sums) = (backward.node.inputs[0], backward.node.inputs[1], backward.node.outputs[1]);
        let grad = SoftDiceGrad { smoothing: self.smoothing };
        Ok(vec![backward.when_wanted(0, grad, &[p, y, sums, dloss])?, None])
    }
}

impl Operator for SoftDiceGrad {
    fn name(&self) -> &'static str {
        "soft dice gradient"
    }

    fn infer(&self, inputs: &[Shape]) -> Result<Vec<Shape>, String> {
        let [probability, mask, sums, dloss] = expect::<4>(inputs)?;
        expect_same(sums, expect_pair(probability, mask)?)?;
        expect_same(dloss, Shape::Scalar)?;
        Ok(vec![probability])
    }

    fn flops(&self, inputs: &[Shape], _outputs: &[Shape]) -> u64 {
        2 * elements(&inputs[..1])
    }

    fn reference(&self, inputs: &[&Tensor<f64>]) -> Vec<Tensor<f64>> {
        let (batch, _, height, width) = maps_of(inputs[0]);
        let (y, sums, dloss) = (inputs[1].data(), inputs[2].data(), inputs[3].data()[0]);
        let smoothing = f64::from(self.smoothing);
        vec![Tensor::from_fn(inputs[0].shape(), |i| {
            let sum = &sums[3 * (i / (height * width))..][..3];
            let union = sum[1] + sum[2] + smoothing;
            dloss / batch as f64 * ((2.0 * sum[0] + smoothing) / (union * union) - 2.0 * y[i] / union)
        })]
    }
}

impl Graph {
    /// Adds a [`SoftDice`] node with smoothing 1 and returns the loss.
    ///
    /// # Errors
    /// As [`Graph::apply`].
    pub fn soft_dice(&mut self, name: &str, probability: ValueId, mask: ValueId) -> Result<ValueId> {
        self.apply_one(name, SoftDice { smoothing: 1.0 }, &[probability, mask])
    }
}

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (batch, height, width) in [(2, 7, 9), (1, 40, 50), (3, 1, 1)] {
        let (maps, sums) = (Shape::maps(batch, 1, height, width), Shape::Statistics { batch, channels: 1, entries: 3 });
        let pair = [(maps, Data::Probability), (maps, Data::Mask)];
        cases.push(Case::mixed(SoftDice { smoothing: 1.0 }, &pair));
        cases.push(Case::mixed(
            SoftDiceGrad { smoothing: 1.0 },
            &[pair[0], pair[1], (sums, Data::Positive), (Shape::Scalar, Data::Positive)],
        ));
    }
    cases
}
