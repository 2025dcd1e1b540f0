//! Instance norm (Ulyanov et al. 2016): every map of every sample gets mean 0 and variance 1, then scale and shift.
//!
//! `y = gamma (x - mean) r + beta` with `r = 1 / sqrt(var + eps)`, the biased variance over one sample's pixels.
//! The second result holds `mean` and `r` for the gradient; it is not differentiable itself. Where the step before takes
//! these statistics, [`Normalise`] is left of the norm.

use super::{Case, Data, Operator, elements, expect, expect_maps, expect_same, maps_of};
use crate::error::Result;
use crate::graph::{Backward, Graph, Shape, Tensor, ValueId};

/// `(maps, gamma, beta) -> (maps, statistics)`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct InstanceNorm {
    /// Added to the variance.
    pub epsilon: f32,
}

/// `(input, statistics, gamma, output cotangent) -> (input, gamma, beta gradients)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InstanceNormGrad;

/// `(maps, statistics, gamma, beta) -> maps`: an [`InstanceNorm`] whose statistics are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Normalise;

fn expect_channels(shape: Shape, channels: usize, what: &str) -> Result<(), String> {
    match shape {
        Shape::Channels { channels: given } if given == channels => Ok(()),
        other => Err(format!("{what} must be channels {channels}, not {other}")),
    }
}

impl Operator for InstanceNorm {
    fn name(&self) -> &'static str {
        "instance norm"
    }

    fn infer(&self, inputs: &[Shape]) -> Result<Vec<Shape>, String> {
        let [x, gamma, beta] = expect::<3>(inputs)?;
        let (batch, channels, _, _) = expect_maps(x, "the input")?;
        expect_channels(gamma, channels, "gamma")?;
        expect_channels(beta, channels, "beta")?;
        Ok(vec![x, Shape::Statistics { batch, channels, entries: 2 }])
    }

    fn flops(&self, inputs: &[Shape], _outputs: &[Shape]) -> u64 {
        8 * elements(&inputs[..1])
    }

    fn reference(&self, inputs: &[&Tensor<f64>]) -> Vec<Tensor<f64>> {
        let (x, gamma, beta) = (inputs[0], inputs[1], inputs[2]);
        let (batch, channels, height, width) = maps_of(x);
        let mut y = x.clone();
        let mut statistics = Tensor::filled(Shape::Statistics { batch, channels, entries: 2 }, 0.0);
        for (plane, values) in y.data_mut().chunks_mut(height * width).enumerate() {
            let count = values.len() as f64;
            let mean = values.iter().sum::<f64>() / count;
            let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / count;
            let r = 1.0 / (variance + f64::from(self.epsilon)).sqrt();
            let c = plane % channels;
            values.iter_mut().for_each(|v| *v = gamma.data()[c] * (*v - mean) * r + beta.data()[c]);
            statistics.data_mut()[2 * plane..2 * plane + 2].copy_from_slice(&[mean, r]);
        }
        vec![y, statistics]
    }

    fn is_differentiable(&self) -> bool {
        true
    }

    fn gradient(&self, backward: Backward<'_>) -> Result<Vec<Option<ValueId>>> {
        let dy = backward.cotangent()?;
        let (x, gamma, statistics) = (backward.node.inputs[0], backward.node.inputs[1], backward.node.outputs[1]);
        let name = format!("{}/grad", backward.node.name);
        let gradients = backward.graph.apply(&name, InstanceNormGrad, &[x, statistics, gamma, dy])?;
        Ok(gradients.into_iter().zip(backward.wanted).map(|(id, &wanted)| wanted.then_some(id)).collect())
    }

    fn in_place(&self) -> &'static [(usize, usize)] {
        &[(0, 0)]
    }
}

impl Operator for InstanceNormGrad {
    fn name(&self) -> &'static str {
        "instance norm gradient"
    }

    fn infer(&self, inputs: &[Shape]) -> Result<Vec<Shape>, String> {
        let [x, statistics, gamma, dy] = expect::<4>(inputs)?;
        let (batch, channels, _, _) = expect_maps(x, "the input")?;
        expect_same(x, dy)?;
        expect_same(statistics, Shape::Statistics { batch, channels, entries: 2 })?;
        expect_channels(gamma, channels, "gamma")?;
        Ok(vec![x, gamma, gamma])
    }

    fn flops(&self, inputs: &[Shape], _outputs: &[Shape]) -> u64 {
        12 * elements(&inputs[..1])
    }

    fn reference(&self, inputs: &[&Tensor<f64>]) -> Vec<Tensor<f64>> {
        let (x, statistics, gamma, dy) = (inputs[0], inputs[1], inputs[2], inputs[3]);
        let (_, channels, height, width) = maps_of(x);
        let (area, count) = (height * width, (height * width) as f64);
        let mut dx = x.clone();
        let (mut dgamma, mut dbeta) = (Tensor::filled(gamma.shape(), 0.0), Tensor::filled(gamma.shape(), 0.0));
        for (plane, values) in dx.data_mut().chunks_mut(area).enumerate() {
            let (c, dy) = (plane % channels, &dy.data()[plane * area..(plane + 1) * area]);
            let (mean, r) = (statistics.data()[2 * plane], statistics.data()[2 * plane + 1]);
            let sum = dy.iter().sum::<f64>();
            let sum_normed = dy.iter().zip(&*values).map(|(d, v)| d * (v - mean) * r).sum::<f64>();
            dgamma.data_mut()[c] += sum_normed;
            dbeta.data_mut()[c] += sum;
            for (v, d) in values.iter_mut().zip(dy) {
                let normed = (*v - mean) * r;
                *v = gamma.data()[c] * r * (d - sum / count - normed * sum_normed / count);
            }
        }
        vec![dx, dgamma, dbeta]
    }

    fn in_place(&self) -> &'static [(usize, usize)] {
        &[(3, 0)]
    }
}

impl Operator for Normalise {
    fn name(&self) -> &'static str {
        "normalise"
    }

    fn infer(&self, inputs: &[Shape]) -> Result<Vec<Shape>, String> {
        let [x, statistics, gamma, beta] = expect::<4>(inputs)?;
        let (batch, channels, _, _) = expect_maps(x, "the input")?;
        expect_same(statistics, Shape::Statistics { batch, channels, entries: 2 })?;
        expect_channels(gamma, channels, "gamma")?;
        expect_channels(beta, channels, "beta")?;
        Ok(vec![x])
    }

    fn flops(&self, inputs: &[Shape], _outputs: &[Shape]) -> u64 {
        4 * elements(&inputs[..1])
    }

    fn reference(&self, inputs: &[&Tensor<f64>]) -> Vec<Tensor<f64>> {
        let (x, statistics, gamma, beta) = (inputs[0], inputs[1].data(), inputs[2].data(), inputs[3].data());
        let (_, channels, height, width) = maps_of(x);
        let mut y = x.clone();
        for (plane, values) in y.data_mut().chunks_mut(height * width).enumerate() {
            let (c, mean, r) = (plane % channels, statistics[2 * plane], statistics[2 * plane + 1]);
            values.iter_mut().for_each(|v| *v = gamma[c] * (*v - mean) * r + beta[c]);
        }
        vec![y]
    }

    fn in_place(&self) -> &'static [(usize, usize)] {
        &[(0, 0)]
    }
}

impl Graph {
    /// Adds an [`InstanceNorm`] node and returns the normed maps.
    ///
    /// # Errors
    /// As [`Graph::apply`].
    pub fn instance_norm(&mut self, name: &str, x: ValueId, gamma: ValueId, beta: ValueId) -> Result<ValueId> {
        self.apply_one(name, InstanceNorm { epsilon: 1e-5 }, &[x, gamma, beta])
    }
}

pub(super) fn cases() -> Vec<Case> {
    let op = InstanceNorm { epsilon: 1e-5 };
    let mut cases = Vec::new();
    for (batch, channels, height, width) in
        [(2, 5, 7, 9), (1, 129, 6, 5), (2, 64, 40, 33), (3, 8, 2, 1), (2, 516, 3, 3)]
    {
        let (maps, per_channel) = (Shape::maps(batch, channels, height, width), Shape::Channels { channels });
        let statistics = Shape::Statistics { batch, channels, entries: 2 };
        let affine = [(per_channel, Data::Normal(1.0)), (per_channel, Data::Normal(0.0))];
        let plain = Case::mixed(op, &[(maps, Data::Normal(0.0)), affine[0], affine[1]]);
        cases.extend(with_what_follows(plain, maps));
        let known = [(maps, Data::Normal(0.0)), (statistics, Data::Positive), affine[0], affine[1]];
        cases.extend(with_what_follows(Case::mixed(Normalise, &known), maps));
        cases.push(Case::mixed(
            InstanceNormGrad,
            &[(maps, Data::Normal(0.0)), (statistics, Data::Positive), affine[0], (maps, Data::Normal(0.0))],
        ));
        if height * width > 2 {
            // A mean 1000 times the deviation: float32 itself keeps 6e-5 of a deviation.
            cases.push(Case::mixed(op, &[(maps, Data::Normal(1000.0)), affine[0], affine[1]]).within(1e-4));
        }
    }
    // One pixel: the variance is 0, the result is beta.
    let (maps, per_channel) = (Shape::maps(2, 6, 1, 1), Shape::Channels { channels: 6 });
    cases.push(Case::mixed(
        op,
        &[(maps, Data::Normal(0.0)), (per_channel, Data::Normal(1.0)), (per_channel, Data::Normal(1.0))],
    ));
    cases
}

/// A case of norms of such maps with each residual and ReLU that may follow.
fn with_what_follows(plain: Case, maps: Shape) -> [Case; 5] {
    let residual = (maps, Data::Normal(0.0));
    let (summed, rectified) = (plain.clone().with_residual(residual), plain.clone().with_relu());
    [plain, rectified.clone(), summed.clone(), summed.with_relu(), rectified.with_residual(residual)]
}
