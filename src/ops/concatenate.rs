//! Concatenation along channels, and the slice of channels that is its gradient.

use super::{Case, Data, Operator, expect, expect_maps, maps_of};
use crate::error::Result;
use crate::graph::{Backward, Graph, Shape, Tensor, ValueId};

/// `(maps, maps, ...) -> maps` with all their channels, first input first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Concatenate;

/// `maps -> maps` of `channels` channels from channel `start` on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChannelSlice {
    /// First channel taken.
    pub start: usize,
    /// How many are taken.
    pub channels: usize,
}

impl Operator for Concatenate {
    fn name(&self) -> &'static str {
        "concatenate"
    }

    fn infer(&self, inputs: &[Shape]) -> Result<Vec<Shape>, String> {
        let first = inputs.first().ok_or("needs at least one input")?;
        let (batch, _, height, width) = expect_maps(*first, "the input")?;
        let mut channels = 0;
        for input in inputs {
            let (b, c, h, w) = expect_maps(*input, "the input")?;
            if (b, h, w) != (batch, height, width) {
                return Err(format!("batch, height and width must be equal, but {input} does not fit {first}"));
            }
            channels += c;
        }
        Ok(vec![Shape::Maps { batch, channels, height, width }])
    }

    fn flops(&self, _inputs: &[Shape], _outputs: &[Shape]) -> u64 {
        0
    }

    fn reference(&self, inputs: &[&Tensor<f64>]) -> Vec<Tensor<f64>> {
        let (batch, _, height, width) = maps_of(inputs[0]);
        let channels = inputs.iter().map(|tensor| maps_of(tensor).1).sum();
        let mut data = Vec::new();
        for n in 0..batch {
            for input in inputs {
                let sample = maps_of(input).1 * height * width;
                data.extend_from_slice(&input.data()[n * sample..(n + 1) * sample]);
            }
        }
        Tensor::new(Shape::Maps { batch, channels, height, width }, data).into_iter().collect()
    }

    fn is_differentiable(&self) -> bool {
        true
    }

    fn gradient(&self, mut backward: Backward<'_>) -> Result<Vec<Option<ValueId>>> {
        let dy = backward.cotangent()?;
        let mut start = 0;
        let mut gradients = Vec::new();
        for (i, &input) in backward.node.inputs.iter().enumerate() {
            let Shape::Maps { channels, .. } = backward.graph.shape(input) else {
                unreachable!("infer accepts maps only")
            };
            gradients.push(backward.when_wanted(i, ChannelSlice { start, channels }, &[dy])?);
            start += channels;
        }
        Ok(gradients)
    }
}

impl Operator for ChannelSlice {
    fn name(&self) -> &'static str {
        "channel slice"
    }

    fn infer(&self, inputs: &[Shape]) -> Result<Vec<Shape>, String> {
        let [maps] = expect::<1>(inputs)?;
        let (batch, channels, height, width) = expect_maps(maps, "the input")?;
        if self.channels == 0 || self.start + self.channels > channels {
            return Err(format!("channels {}..{} are not there", self.start, self.start + self.channels));
        }
        Ok(vec![Shape::Maps { batch, channels: self.channels, height, width }])
    }

    fn flops(&self, _inputs: &[Shape], _outputs: &[Shape]) -> u64 {
        0
    }

    fn reference(&self, inputs: &[&Tensor<f64>]) -> Vec<Tensor<f64>> {
        let (batch, channels, height, width) = maps_of(inputs[0]);
        let plane = height * width;
        let mut data = Vec::new();
        for n in 0..batch {
            let first = (n * channels + self.start) * plane;
            data.extend_from_slice(&inputs[0].data()[first..first + self.channels * plane]);
        }
        Tensor::new(Shape::Maps { batch, channels: self.channels, height, width }, data).into_iter().collect()
    }
}

impl Graph {
    /// Adds a [`Concatenate`] node.
    ///
    /// # Errors
    /// As [`Graph::apply`].
    pub fn concatenate(&mut self, name: &str, parts: &[ValueId]) -> Result<ValueId> {
        self.apply_one(name, Concatenate, parts)
    }
}

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (batch, height, width, channels) in
        [(2, 6, 7, vec![1, 1, 1, 1, 12]), (1, 5, 3, vec![1, 1, 1, 1, 512]), (3, 1, 1, vec![9, 7]), (1, 2, 2, vec![4])]
    {
        let parts: Vec<Shape> = channels.iter().map(|&c| Shape::maps(batch, c, height, width)).collect();
        cases.push(Case::new(Concatenate, &parts, Data::Integers));
        cases.push(Case::new(Concatenate, &parts, Data::Normal(0.0)));
        let whole = Shape::maps(batch, channels.iter().sum(), height, width);
        let mut start = 0;
        for channels in channels {
            cases.push(Case::new(ChannelSlice { start, channels }, &[whole], Data::Integers));
            start += channels;
        }
    }
    cases
}
