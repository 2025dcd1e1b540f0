//! Transposed convolution: a convolution run backwards, used to enlarge maps.
//!
//! The filter is `[in, out, kh, kw]`, that is the filter of the convolution that would lead from the output back to
//! the input. `out = (in - 1) stride - 2 padding + kernel + output_padding`.

use super::conv::{add_bias, product_flops, spread};
use super::{Case, ChannelSum, Conv, ConvFilterGrad, Data, Operator, expect, expect_bias, expect_maps};
use crate::error::Result;
use crate::graph::{Backward, Graph, Shape, Tensor, ValueId};

/// `(maps, filter[, bias]) -> maps`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TransposedConv {
    /// Step from one input pixel to the next, in output pixels.
    pub stride: usize,
    /// Rows and columns cut from each side of the output.
    pub padding: usize,
    /// Rows and columns added to the far side of the output.
    pub output_padding: usize,
}

impl TransposedConv {
    /// The convolution that this one runs backwards.
    pub fn conv(&self) -> Conv {
        Conv { stride: self.stride, padding: self.padding, dilation: 1 }
    }

    fn output_size(&self, size: usize, kernel: usize) -> Option<usize> {
        ((size - 1) * self.stride + kernel + self.output_padding).checked_sub(2 * self.padding).filter(|&s| s > 0)
    }
}

impl Operator for TransposedConv {
    fn name(&self) -> &'static str {
        "transposed conv"
    }

    fn infer(&self, inputs: &[Shape]) -> Result<Vec<Shape>, String> {
        let [maps, filter] = expect::<2>(&inputs[..inputs.len().min(2)])?;
        let (batch, channels, height, width) = expect_maps(maps, "the input")?;
        let Shape::Filter { outputs: filter_in, inputs: filter_out, height: kernel_height, width: kernel_width } =
            filter
        else {
            return Err(format!("the weights must be a filter, not {filter}"));
        };
        if channels != filter_in {
            return Err(format!("the filter reads {filter_in} channels, the input has {channels}"));
        }
        if self.stride == 0 || self.output_padding >= self.stride {
            return Err(format!("output padding {} must be below stride {}", self.output_padding, self.stride));
        }
        expect_bias(inputs.get(2), filter_out)?;
        match (self.output_size(height, kernel_height), self.output_size(width, kernel_width)) {
            (Some(height), Some(width)) => Ok(vec![Shape::Maps { batch, channels: filter_out, height, width }]),
            _ => Err(format!("nothing is left of the output after padding {}", self.padding)),
        }
    }

    fn is_convolution(&self) -> bool {
        true
    }

    fn flops(&self, inputs: &[Shape], _outputs: &[Shape]) -> u64 {
        product_flops(inputs[1], inputs[0])
    }

    fn reference(&self, inputs: &[&Tensor<f64>]) -> Vec<Tensor<f64>> {
        let shapes: Vec<Shape> = inputs.iter().map(|tensor| tensor.shape()).collect();
        let made = self.infer(&shapes);
        let Ok(&[Shape::Maps { height, width, .. }]) = made.as_deref() else {
            unreachable!("infer has accepted these shapes")
        };
        let mut y = spread(&self.conv(), inputs[0], inputs[1], height, width);
        if let Some(bias) = inputs.get(2) {
            add_bias(&mut y, bias);
        }
        vec![y]
    }

    fn is_differentiable(&self) -> bool {
        true
    }

    fn gradient(&self, mut backward: Backward<'_>) -> Result<Vec<Option<ValueId>>> {
        let dy = backward.cotangent()?;
        let (x, w) = (backward.node.inputs[0], backward.node.inputs[1]);
        let Shape::Filter { height: kernel_height, width: kernel_width, .. } = backward.graph.shape(w) else {
            unreachable!("infer accepts filters only")
        };
        let dx = backward.when_wanted(0, self.conv(), &[dy, w])?;
        let filter_grad = ConvFilterGrad { conv: self.conv(), kernel_height, kernel_width };
        let dw = backward.when_wanted(1, filter_grad, &[dy, x])?;
        let db = backward.when_wanted(2, ChannelSum, &[dy])?;
        Ok(vec![dx, dw, db])
    }
}

impl Graph {
    /// Adds a [`TransposedConv`] node.
    ///
    /// # Errors
    /// As [`Graph::apply`].
    pub fn transposed_conv(
        &mut self,
        name: &str,
        x: ValueId,
        filter: ValueId,
        bias: Option<ValueId>,
        conv: TransposedConv,
    ) -> Result<ValueId> {
        let mut inputs = vec![x, filter];
        inputs.extend(bias);
        self.apply_one(name, conv, &inputs)
    }
}

pub(super) fn cases() -> Vec<Case> {
    let by_two = TransposedConv { stride: 2, padding: 1, output_padding: 1 };
    let head = TransposedConv { stride: 2, padding: 1, output_padding: 0 };
    // (operator, kernel, batch, channels in, channels out, height, width)
    let table = [
        (by_two, 3, 2, 5, 7, 5, 6),
        (by_two, 3, 1, 129, 129, 4, 7),
        (by_two, 3, 1, 16, 16, 9, 13),
        (by_two, 3, 2, 4, 3, 1, 1),
        (head, 4, 2, 8, 4, 6, 5),
        (head, 4, 1, 64, 32, 7, 9),
        (head, 4, 1, 3, 2, 1, 1),
    ];
    let mut cases = Vec::new();
    for (op, kernel, batch, channels, outputs, height, width) in table {
        let x = Shape::maps(batch, channels, height, width);
        let w = Shape::Filter { outputs: channels, inputs: outputs, height: kernel, width: kernel };
        for data in [Data::Integers, Data::Normal(0.0)] {
            cases.push(Case::new(op, &[x, w, Shape::Channels { channels: outputs }], data));
            cases.push(Case::new(op, &[x, w], data));
            cases.push(Case::new(op, &[x, w], data).with_relu());
        }
        let bias = Shape::Channels { channels: outputs };
        let normed = Case::new(op, &[x, w, bias], Data::Normal(0.0)).with_norm(outputs);
        cases.extend([normed.clone().keeping_first(), normed.with_relu()]);
    }
    cases
}
