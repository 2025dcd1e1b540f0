//! Temporal convolution: fuses a window of frames into one stack of maps (Wang et al. 2020, 3D layer).
//!
//! `y[n,o,i,j] = b[o] + sum over c,t,u,v of w[o,c,t,u,v] x[n,c,t,i+u-1,j+v-1]`: all frames of the window are spanned,
//! nothing is padded in time, one row and column of zeros in space.

use super::conv::add_bias;
use super::{Case, ChannelSum, Data, Operator, at, expect, expect_bias, expect_maps};
use crate::error::Result;
use crate::graph::{Backward, Graph, Shape, Tensor, ValueId};

/// `(window, temporal filter[, bias]) -> maps`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TemporalConv;

/// `(output cotangent, temporal filter) -> window`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TemporalConvInputGrad;

/// `(window, output cotangent) -> temporal filter`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TemporalConvFilterGrad;

/// Kernel rows and columns.
const KERNEL: usize = 3;

#[derive(Clone, Copy)]
struct Sizes {
    batch: usize,
    outputs: usize,
    /// Planes of a window: channels times frames.
    planes: usize,
    height: usize,
    width: usize,
}

impl Sizes {
    /// Calls `product(output index, weight index, input index)` for every product of the sum.
    fn for_each_product(self, mut product: impl FnMut(usize, usize, usize)) {
        let Sizes { batch, outputs, planes, height, width } = self;
        let maps = Shape::maps(batch, outputs, height, width);
        for (n, o) in (0..batch).flat_map(|n| (0..outputs).map(move |o| (n, o))) {
            for (p, u, v) in (0..planes * 9).map(|k| (k / 9, k / KERNEL % KERNEL, k % KERNEL)) {
                for i in (0..height).filter(|i| (1..=height).contains(&(i + u))) {
                    for j in (0..width).filter(|j| (1..=width).contains(&(j + v))) {
                        let weight = ((o * planes + p) * KERNEL + u) * KERNEL + v;
                        let input = ((n * planes + p) * height + i + u - 1) * width + j + v - 1;
                        product(at(maps, n, o, i, j), weight, input);
                    }
                }
            }
        }
    }
}

fn window_of(shape: Shape) -> Result<(usize, usize, usize, usize, usize), String> {
    match shape {
        Shape::Window { batch, channels, frames, height, width } => Ok((batch, channels, frames, height, width)),
        other => Err(format!("the input must be a window, not {other}")),
    }
}

fn filter_of(shape: Shape) -> Result<(usize, usize, usize), String> {
    match shape {
        Shape::TemporalFilter { outputs, channels, frames, height: KERNEL, width: KERNEL } => {
            Ok((outputs, channels, frames))
        }
        other => Err(format!("the weights must be a temporal filter with a 3x3 kernel, not {other}")),
    }
}

fn flops(filter: Shape, maps: Shape) -> u64 {
    match filter_of(filter) {
        Ok((_, channels, frames)) => 2 * (maps.elements() * channels * frames * KERNEL * KERNEL) as u64,
        Err(_) => 0,
    }
}

impl Operator for TemporalConv {
    fn name(&self) -> &'static str {
        "temporal conv"
    }

    fn infer(&self, inputs: &[Shape]) -> Result<Vec<Shape>, String> {
        let [window, filter] = expect::<2>(&inputs[..inputs.len().min(2)])?;
        let (batch, channels, frames, height, width) = window_of(window)?;
        let (outputs, filter_channels, filter_frames) = filter_of(filter)?;
        if (channels, frames) != (filter_channels, filter_frames) {
            return Err(format!(
                "the filter spans {filter_channels} channel(s) of {filter_frames} frame(s), the window has {channels} of {frames}"
            ));
        }
        expect_bias(inputs.get(2), outputs)?;
        Ok(vec![Shape::Maps { batch, channels: outputs, height, width }])
    }

    fn is_convolution(&self) -> bool {
        true
    }

    fn flops(&self, inputs: &[Shape], outputs: &[Shape]) -> u64 {
        flops(inputs[1], outputs[0])
    }

    fn reference(&self, inputs: &[&Tensor<f64>]) -> Vec<Tensor<f64>> {
        let (x, w) = (inputs[0], inputs[1]);
        let sizes = sizes(x.shape(), w.shape());
        let mut y = Tensor::filled(Shape::maps(sizes.batch, sizes.outputs, sizes.height, sizes.width), 0.0);
        if let Some(bias) = inputs.get(2) {
            add_bias(&mut y, bias);
        }
        sizes.for_each_product(|output, weight, input| {
            y.data_mut()[output] += w.data()[weight] * x.data()[input];
        });
        vec![y]
    }

    fn is_differentiable(&self) -> bool {
        true
    }

    fn gradient(&self, mut backward: Backward<'_>) -> Result<Vec<Option<ValueId>>> {
        let dy = backward.cotangent()?;
        let (x, w) = (backward.node.inputs[0], backward.node.inputs[1]);
        let dx = backward.when_wanted(0, TemporalConvInputGrad, &[dy, w])?;
        let dw = backward.when_wanted(1, TemporalConvFilterGrad, &[x, dy])?;
        let db = backward.when_wanted(2, ChannelSum, &[dy])?;
        Ok(vec![dx, dw, db])
    }
}

fn sizes(window: Shape, filter: Shape) -> Sizes {
    match (window_of(window), filter_of(filter)) {
        (Ok((batch, channels, frames, height, width)), Ok((outputs, _, _))) => {
            Sizes { batch, outputs, planes: channels * frames, height, width }
        }
        _ => unreachable!("infer has accepted these shapes"),
    }
}

impl Operator for TemporalConvInputGrad {
    fn name(&self) -> &'static str {
        "temporal conv input gradient"
    }

    fn infer(&self, inputs: &[Shape]) -> Result<Vec<Shape>, String> {
        let [cotangent, filter] = expect::<2>(inputs)?;
        let (batch, maps, height, width) = expect_maps(cotangent, "the cotangent")?;
        let (outputs, channels, frames) = filter_of(filter)?;
        if maps != outputs {
            return Err(format!("the filter makes {outputs} channels, the cotangent has {maps}"));
        }
        Ok(vec![Shape::Window { batch, channels, frames, height, width }])
    }

    fn is_convolution(&self) -> bool {
        true
    }

    fn flops(&self, inputs: &[Shape], _outputs: &[Shape]) -> u64 {
        flops(inputs[1], inputs[0])
    }

    fn reference(&self, inputs: &[&Tensor<f64>]) -> Vec<Tensor<f64>> {
        let (dy, w) = (inputs[0], inputs[1]);
        let Ok(&[window]) = self.infer(&[dy.shape(), w.shape()]).as_deref() else {
            unreachable!("infer has accepted these shapes")
        };
        let mut dx = Tensor::filled(window, 0.0);
        sizes(window, w.shape()).for_each_product(|output, weight, input| {
            dx.data_mut()[input] += w.data()[weight] * dy.data()[output];
        });
        vec![dx]
    }
}

impl Operator for TemporalConvFilterGrad {
    fn name(&self) -> &'static str {
        "temporal conv filter gradient"
    }

    fn infer(&self, inputs: &[Shape]) -> Result<Vec<Shape>, String> {
        let [window, cotangent] = expect::<2>(inputs)?;
        let (batch, channels, frames, height, width) = window_of(window)?;
        let (maps_batch, outputs, rows, columns) = expect_maps(cotangent, "the cotangent")?;
        if (batch, height, width) != (maps_batch, rows, columns) {
            return Err("window and cotangent must agree in batch, height and width".into());
        }
        Ok(vec![Shape::TemporalFilter { outputs, channels, frames, height: KERNEL, width: KERNEL }])
    }

    fn is_convolution(&self) -> bool {
        true
    }

    fn flops(&self, inputs: &[Shape], outputs: &[Shape]) -> u64 {
        flops(outputs[0], inputs[1])
    }

    fn reference(&self, inputs: &[&Tensor<f64>]) -> Vec<Tensor<f64>> {
        let (x, dy) = (inputs[0], inputs[1]);
        let Ok(&[filter]) = self.infer(&[x.shape(), dy.shape()]).as_deref() else {
            unreachable!("infer has accepted these shapes")
        };
        let mut dw = Tensor::filled(filter, 0.0);
        sizes(x.shape(), filter).for_each_product(|output, weight, input| {
            dw.data_mut()[weight] += dy.data()[output] * x.data()[input];
        });
        vec![dw]
    }
}

impl Graph {
    /// Adds a [`TemporalConv`] node.
    ///
    /// # Errors
    /// As [`Graph::apply`].
    pub fn temporal_conv(
        &mut self,
        name: &str,
        window: ValueId,
        filter: ValueId,
        bias: Option<ValueId>,
    ) -> Result<ValueId> {
        let mut inputs = vec![window, filter];
        inputs.extend(bias);
        self.apply_one(name, TemporalConv, &inputs)
    }
}

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    // The last one has rows of whole runs of eight pixels, and more of those than a device should give to one block.
    let sizes = [
        (2, 1, 3, 2, 9, 11),
        (1, 1, 5, 16, 13, 27),
        (1, 3, 7, 4, 6, 7),
        (2, 1, 1, 1, 5, 5),
        (1, 2, 3, 9, 1, 1),
        (2, 1, 2, 20, 12, 16),
    ];
    for (batch, channels, frames, outputs, height, width) in sizes {
        let window = Shape::Window { batch, channels, frames, height, width };
        let filter = Shape::TemporalFilter { outputs, channels, frames, height: KERNEL, width: KERNEL };
        let maps = Shape::maps(batch, outputs, height, width);
        for data in [Data::Integers, Data::Normal(0.0)] {
            cases.push(Case::new(TemporalConv, &[window, filter, Shape::Channels { channels: outputs }], data));
            cases.push(Case::new(TemporalConv, &[window, filter], data));
            cases.push(Case::new(TemporalConv, &[window, filter], data).with_relu());
            cases.push(Case::new(TemporalConvInputGrad, &[maps, filter], data));
            cases.push(Case::new(TemporalConvFilterGrad, &[window, maps], data));
        }
    }
    // More than 4096 pixels, the most that a device should sum in one go, and a sample that ends amid them.
    let (window, maps) =
        (Shape::Window { batch: 2, channels: 1, frames: 2, height: 49, width: 50 }, Shape::maps(2, 3, 49, 50));
    for data in [Data::Integers, Data::Normal(0.0)] {
        cases.push(Case::new(TemporalConvFilterGrad, &[window, maps], data));
    }
    cases
}
