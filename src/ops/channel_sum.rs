//! Sum over batch, rows and columns: the gradient of a bias.

use super::{Case, Data, Operator, elements, expect, expect_maps, maps_of};
use crate::graph::{Shape, Tensor};

/// `maps -> channels`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChannelSum;

impl Operator for ChannelSum {
    fn name(&self) -> &'static str {
        "channel sum"
    }

    fn infer(&self, inputs: &[Shape]) -> Result<Vec<Shape>, String> {
        let [maps] = expect::<1>(inputs)?;
        let (_, channels, _, _) = expect_maps(maps, "the input")?;
        Ok(vec![Shape::Channels { channels }])
    }

    fn flops(&self, inputs: &[Shape], _outputs: &[Shape]) -> u64 {
        elements(inputs)
    }

    fn reference(&self, inputs: &[&Tensor<f64>]) -> Vec<Tensor<f64>> {
        let (_, channels, height, width) = maps_of(inputs[0]);
        let mut sums = Tensor::filled(Shape::Channels { channels }, 0.0);
        for (plane, values) in inputs[0].data().chunks(height * width).enumerate() {
            sums.data_mut()[plane % channels] += values.iter().sum::<f64>();
        }
        vec![sums]
    }
}

pub(super) fn cases() -> Vec<Case> {
    let shapes =
        [Shape::maps(2, 5, 7, 9), Shape::maps(1, 129, 33, 20), Shape::maps(3, 3, 1, 1), Shape::maps(2, 5, 40, 33)];
    shapes
        .into_iter()
        .flat_map(|s| [Data::Integers, Data::Normal(0.5)].map(|data| Case::new(ChannelSum, &[s], data)))
        .collect()
}
