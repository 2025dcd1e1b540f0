//! Residual multi-kernel pooling (Gu et al. 2019) as one operator: max pools of several kernels, a shared 1x1 convolution
//! of each to one channel, resized back and put in front of the maps.
//!
//! No graph holds it: [`super::MaxPool`], [`super::Conv`], [`super::Resize`] and [`super::Concatenate`] say the same, and
//! have the gradients. Lowering makes one step of them where the device can do that.

use super::{Case, Concatenate, Conv, Data, MaxPool, Operator, Resize, expect_bias, expect_maps, maps_of};
use crate::graph::{Shape, Tensor};

/// `(maps, filter of one output[, bias]) -> maps` with a channel more for each kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MultiKernelPooling {
    /// Rows and columns of the pools' cells, which touch but do not overlap; the first one's channel is the first.
    pub kernels: Vec<usize>,
}

/// What it consists of.
const PROJECTION: Conv = Conv { stride: 1, padding: 0, dilation: 1 };

impl MultiKernelPooling {
    /// Rows and columns of each pool of maps of this size; `None` where a cell does not fit.
    pub fn pooled(&self, height: usize, width: usize) -> Option<Vec<(usize, usize)>> {
        let size = |&kernel: &usize| {
            let pool = MaxPool::tiled(kernel);
            pool.output_size(height).zip(pool.output_size(width)).filter(|_| kernel > 0)
        };
        self.kernels.iter().map(size).collect()
    }
}

impl Operator for MultiKernelPooling {
    fn name(&self) -> &'static str {
        "multi-kernel pooling"
    }

    fn infer(&self, inputs: &[Shape]) -> Result<Vec<Shape>, String> {
        let &[x, filter, ..] = inputs else { return Err(format!("needs maps and a filter, got {}", inputs.len())) };
        let (batch, channels, height, width) = expect_maps(x, "the input")?;
        if filter != (Shape::Filter { outputs: 1, inputs: channels, height: 1, width: 1 }) {
            return Err(format!("the filter must be 1x{channels}x1x1, not {filter}"));
        }
        expect_bias(inputs.get(2), 1)?;
        self.pooled(height, width).ok_or_else(|| format!("cells of {:?} do not fit", self.kernels))?;
        Ok(vec![Shape::Maps { batch, channels: channels + self.kernels.len(), height, width }])
    }

    fn flops(&self, inputs: &[Shape], _outputs: &[Shape]) -> u64 {
        let Shape::Maps { batch, channels, height, width } = inputs[0] else { return 0 };
        let of_pool = |(kernel, (rows, columns)): (&usize, (usize, usize))| {
            let projected = rows * columns * channels * (kernel * kernel + 2);
            (batch * (projected + 8 * height * width)) as u64
        };
        self.kernels.iter().zip(self.pooled(height, width).unwrap_or_default()).map(of_pool).sum()
    }

    fn reference(&self, inputs: &[&Tensor<f64>]) -> Vec<Tensor<f64>> {
        let (_, _, height, width) = maps_of(inputs[0]);
        let part = |&kernel: &usize| {
            let pooled = MaxPool::tiled(kernel).reference(&inputs[..1]);
            let operands: Vec<&Tensor<f64>> = pooled.iter().chain(inputs[1..].iter().copied()).collect();
            let projected = PROJECTION.reference(&operands);
            Resize { height, width }.reference(&projected.iter().collect::<Vec<_>>())
        };
        let parts: Vec<Tensor<f64>> = self.kernels.iter().flat_map(part).collect();
        Concatenate.reference(&parts.iter().chain(inputs.first().copied()).collect::<Vec<_>>())
    }
}

pub(super) fn cases() -> Vec<Case> {
    // (kernels, batch, channels, height, width): the network's own, and maps that leave cells and lanes over.
    let table: [(&[usize], usize, usize, usize, usize); 5] = [
        (&[2, 3, 5, 6], 1, 64, 28, 28),
        (&[2, 3, 5, 6], 2, 5, 13, 7),
        (&[1, 4], 1, 130, 4, 9),
        (&[3], 3, 8, 3, 3),
        (&[2], 1, 516, 3, 2),
    ];
    let mut cases = Vec::new();
    for (kernels, batch, channels, height, width) in table {
        let op = MultiKernelPooling { kernels: kernels.to_vec() };
        let x = Shape::maps(batch, channels, height, width);
        let filter = Shape::Filter { outputs: 1, inputs: channels, height: 1, width: 1 };
        cases.push(Case::new(op.clone(), &[x, filter, Shape::Channels { channels: 1 }], Data::Normal(0.0)));
        cases.push(Case::new(op, &[x, filter], Data::Normal(0.0)));
    }
    cases
}
