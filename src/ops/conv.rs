//! 2D convolution (cross-correlation, as the field uses the word), with its input and filter gradients.
//!
//! `y[n,o,i,j] = b[o] + sum over c,u,v of w[o,c,u,v] x[n,c, i s + u d - p, j s + v d - p]`, zero outside the map.

use super::{Case, ChannelSum, Data, Operator, at, expect, expect_bias, expect_maps, maps_of};
use crate::error::Result;
use crate::graph::{Backward, Graph, Shape, Tensor, ValueId};
use std::ops::Range;

/// `(maps, filter[, bias]) -> maps`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Conv {
    /// Step from one output pixel to the next, in input pixels.
    pub stride: usize,
    /// Rows and columns of zeros around the input.
    pub padding: usize,
    /// Distance between neighbouring taps, in input pixels.
    pub dilation: usize,
}

/// `(output cotangent, filter) -> maps` of `height` x `width`: the gradient of [`Conv`] with respect to its input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConvInputGrad {
    /// The convolution.
    pub conv: Conv,
    /// Rows of the convolution's input.
    pub height: usize,
    /// Columns of the convolution's input.
    pub width: usize,
}

/// `(input, output cotangent) -> filter`: the gradient of [`Conv`] with respect to its filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConvFilterGrad {
    /// The convolution.
    pub conv: Conv,
    /// Kernel rows.
    pub kernel_height: usize,
    /// Kernel columns.
    pub kernel_width: usize,
}

impl Conv {
    /// Stride 1, no dilation, zeros so that the map keeps its size with an odd `kernel`.
    pub fn same(kernel: usize) -> Conv {
        Conv { stride: 1, padding: kernel / 2, dilation: 1 }
    }

    /// Rows (or columns) of the output for `size` rows of input, or `None` when the kernel does not fit.
    pub fn output_size(&self, size: usize, kernel: usize) -> Option<usize> {
        let reach = self.dilation * (kernel - 1) + 1;
        (size + 2 * self.padding).checked_sub(reach).map(|room| room / self.stride + 1)
    }

    /// The input row (or column) that tap `tap` of output `position` reads, if it lies within `size`.
    fn tap(&self, position: usize, tap: usize, size: usize) -> Option<usize> {
        (position * self.stride + tap * self.dilation).checked_sub(self.padding).filter(|&at| at < size)
    }

    fn checked_filter(&self, filter: Shape) -> Result<(usize, usize, usize, usize), String> {
        match filter {
            Shape::Filter { outputs, inputs, height, width } => Ok((outputs, inputs, height, width)),
            other => Err(format!("the weights must be a filter, not {other}")),
        }
    }

    fn output_sizes(&self, size: (usize, usize), kernel: (usize, usize)) -> Result<(usize, usize), String> {
        if self.stride == 0 || self.dilation == 0 || kernel.0 == 0 || kernel.1 == 0 {
            return Err("kernel, stride and dilation must be at least 1".into());
        }
        match (self.output_size(size.0, kernel.0), self.output_size(size.1, kernel.1)) {
            (Some(height), Some(width)) => Ok((height, width)),
            _ => Err(format!("a kernel of {}x{} does not fit", kernel.0, kernel.1)),
        }
    }
}

impl Operator for Conv {
    fn name(&self) -> &'static str {
        "conv"
    }

    fn infer(&self, inputs: &[Shape]) -> Result<Vec<Shape>, String> {
        let [maps, filter] = expect::<2>(&inputs[..inputs.len().min(2)])?;
        let (batch, channels, height, width) = expect_maps(maps, "the input")?;
        let (outputs, filter_inputs, kernel_height, kernel_width) = self.checked_filter(filter)?;
        if channels != filter_inputs {
            return Err(format!("the filter reads {filter_inputs} channels, the input has {channels}"));
        }
        expect_bias(inputs.get(2), outputs)?;
        let (height, width) = self.output_sizes((height, width), (kernel_height, kernel_width))?;
        Ok(vec![Shape::Maps { batch, channels: outputs, height, width }])
    }

    fn is_convolution(&self) -> bool {
        true
    }

    fn flops(&self, inputs: &[Shape], outputs: &[Shape]) -> u64 {
        product_flops(inputs[1], outputs[0])
    }

    fn reference(&self, inputs: &[&Tensor<f64>]) -> Vec<Tensor<f64>> {
        let (x, w) = (inputs[0], inputs[1]);
        let Shape::Filter { outputs, height: kernel_height, width: kernel_width, .. } = w.shape() else {
            unreachable!("infer accepts filters only")
        };
        let (batch, _, height, width) = maps_of(x);
        let rows = self.output_size(height, kernel_height).unwrap_or(0);
        let columns = self.output_size(width, kernel_width).unwrap_or(0);
        let mut y = Tensor::filled(Shape::maps(batch, outputs, rows, columns), 0.0);
        if let Some(bias) = inputs.get(2) {
            add_bias(&mut y, bias);
        }
        self.for_each_run(y.shape(), w.shape(), x.shape(), |made, weight, read| {
            let weight = w.data()[weight];
            let read = x.data()[read..].iter().step_by(self.stride);
            y.data_mut()[made].iter_mut().zip(read).for_each(|(y, x)| *y += weight * x);
        });
        vec![y]
    }

    fn is_differentiable(&self) -> bool {
        true
    }

    fn gradient(&self, mut backward: Backward<'_>) -> Result<Vec<Option<ValueId>>> {
        let dy = backward.cotangent()?;
        let (x, w) = (backward.node.inputs[0], backward.node.inputs[1]);
        let (Shape::Maps { height, width, .. }, Shape::Filter { height: kernel_height, width: kernel_width, .. }) =
            (backward.graph.shape(x), backward.graph.shape(w))
        else {
            unreachable!("infer accepts maps and a filter only")
        };
        let dx = backward.when_wanted(0, ConvInputGrad { conv: *self, height, width }, &[dy, w])?;
        let dw = backward.when_wanted(1, ConvFilterGrad { conv: *self, kernel_height, kernel_width }, &[x, dy])?;
        let db = backward.when_wanted(2, ChannelSum, &[dy])?;
        Ok(vec![dx, dw, db])
    }
}

impl Operator for ConvInputGrad {
    fn name(&self) -> &'static str {
        "conv input gradient"
    }

    fn infer(&self, inputs: &[Shape]) -> Result<Vec<Shape>, String> {
        let [cotangent, filter] = expect::<2>(inputs)?;
        let (batch, channels, rows, columns) = expect_maps(cotangent, "the cotangent")?;
        let (outputs, filter_inputs, kernel_height, kernel_width) = self.conv.checked_filter(filter)?;
        if channels != outputs {
            return Err(format!("the filter makes {outputs} channels, the cotangent has {channels}"));
        }
        let expected = self.conv.output_sizes((self.height, self.width), (kernel_height, kernel_width))?;
        if expected != (rows, columns) {
            let (height, width) = (self.height, self.width);
            return Err(format!("an input of {height}x{width} gives {}x{}", expected.0, expected.1));
        }
        Ok(vec![Shape::Maps { batch, channels: filter_inputs, height: self.height, width: self.width }])
    }

    fn is_convolution(&self) -> bool {
        true
    }

    fn flops(&self, inputs: &[Shape], _outputs: &[Shape]) -> u64 {
        product_flops(inputs[1], inputs[0])
    }

    fn reference(&self, inputs: &[&Tensor<f64>]) -> Vec<Tensor<f64>> {
        vec![spread(&self.conv, inputs[0], inputs[1], self.height, self.width)]
    }
}

impl Operator for ConvFilterGrad {
    fn name(&self) -> &'static str {
        "conv filter gradient"
    }

    fn infer(&self, inputs: &[Shape]) -> Result<Vec<Shape>, String> {
        let [maps, cotangent] = expect::<2>(inputs)?;
        let (batch, channels, height, width) = expect_maps(maps, "the input")?;
        let (cotangent_batch, outputs, rows, columns) = expect_maps(cotangent, "the cotangent")?;
        let kernel = (self.kernel_height, self.kernel_width);
        let expected = self.conv.output_sizes((height, width), kernel)?;
        if batch != cotangent_batch || expected != (rows, columns) {
            let (rows, columns) = expected;
            return Err(format!("the cotangent must have batch {batch} and {rows}x{columns} pixels"));
        }
        Ok(vec![Shape::Filter { outputs, inputs: channels, height: kernel.0, width: kernel.1 }])
    }

    fn is_convolution(&self) -> bool {
        true
    }

    fn flops(&self, inputs: &[Shape], outputs: &[Shape]) -> u64 {
        product_flops(outputs[0], inputs[1])
    }

    fn reference(&self, inputs: &[&Tensor<f64>]) -> Vec<Tensor<f64>> {
        let (x, dy) = (inputs[0], inputs[1]);
        let ((_, channels, ..), (_, outputs, ..)) = (maps_of(x), maps_of(dy));
        let (height, width) = (self.kernel_height, self.kernel_width);
        let mut dw = Tensor::filled(Shape::Filter { outputs, inputs: channels, height, width }, 0.0);
        self.conv.for_each_run(dy.shape(), dw.shape(), x.shape(), |made, weight, read| {
            let read = x.data()[read..].iter().step_by(self.conv.stride);
            dw.data_mut()[weight] += dy.data()[made].iter().zip(read).map(|(dy, x)| dy * x).sum::<f64>();
        });
        vec![dw]
    }
}

impl Conv {
    /// Calls `visit(made, weight, read)` for runs of products of the convolution's sum, each product once: one weight with
    /// neighbours in a row. `made` are their places in the output, `weight` that in the filter, `read` the first one's in the
    /// input, with `stride` from one to the next.
    fn for_each_run(
        &self,
        output: Shape,
        filter: Shape,
        input: Shape,
        mut visit: impl FnMut(Range<usize>, usize, usize),
    ) {
        let (
            Shape::Maps { batch, channels: outputs, height: rows, width: columns },
            Shape::Filter { inputs, height: kernel_height, width: kernel_width, .. },
            Shape::Maps { height, width, .. },
        ) = (output, filter, input)
        else {
            unreachable!("infer accepts maps and a filter only")
        };
        for (n, o, c) in (0..batch).flat_map(|n| (0..outputs).flat_map(move |o| (0..inputs).map(move |c| (n, o, c)))) {
            for (u, v) in (0..kernel_height).flat_map(|u| (0..kernel_width).map(move |v| (u, v))) {
                // A tap reads the input from one column to another, and zeros around it.
                let is_inside = |j: &usize| self.tap(*j, v, width).is_some();
                let ends = (0..columns).find(is_inside).zip((0..columns).rfind(is_inside));
                let Some((first, last)) = ends else { continue };
                for i in 0..rows {
                    let (Some(y), Some(x)) = (self.tap(i, u, height), self.tap(first, v, width)) else { continue };
                    let made = at(output, n, o, i, first)..at(output, n, o, i, last) + 1;
                    visit(made, at(filter, o, c, u, v), at(input, n, c, y, x));
                }
            }
        }
    }
}

/// The convolution run backwards: spreads each number of `y` over the taps that made it.
pub(super) fn spread(conv: &Conv, y: &Tensor<f64>, w: &Tensor<f64>, height: usize, width: usize) -> Tensor<f64> {
    let Shape::Filter { inputs, .. } = w.shape() else { unreachable!("infer accepts filters only") };
    let (batch, ..) = maps_of(y);
    let mut x = Tensor::filled(Shape::maps(batch, inputs, height, width), 0.0);
    conv.for_each_run(y.shape(), w.shape(), x.shape(), |made, weight, read| {
        let weight = w.data()[weight];
        let read = x.data_mut()[read..].iter_mut().step_by(conv.stride);
        y.data()[made].iter().zip(read).for_each(|(y, x)| *x += weight * y);
    });
    x
}

/// Adds `bias[c]` to every pixel of channel `c`.
pub(super) fn add_bias(maps: &mut Tensor<f64>, bias: &Tensor<f64>) {
    let (_, channels, height, width) = maps_of(maps);
    for (plane, values) in maps.data_mut().chunks_mut(height * width).enumerate() {
        values.iter_mut().for_each(|value| *value += bias.data()[plane % channels]);
    }
}

/// Two operations for each product of a filter with the maps it makes.
pub(super) fn product_flops(filter: Shape, maps: Shape) -> u64 {
    match (filter, maps) {
        (Shape::Filter { inputs, height, width, .. }, made) => {
            2 * made.elements() as u64 * (inputs * height * width) as u64
        }
        _ => 0,
    }
}

impl Graph {
    /// Adds a [`Conv`] node.
    ///
    /// # Errors
    /// As [`Graph::apply`].
    pub fn conv(
        &mut self,
        name: &str,
        x: ValueId,
        filter: ValueId,
        bias: Option<ValueId>,
        conv: Conv,
    ) -> Result<ValueId> {
        let mut inputs = vec![x, filter];
        inputs.extend(bias);
        self.apply_one(name, conv, &inputs)
    }
}

pub(super) fn cases() -> Vec<Case> {
    // (batch, channels in, channels out, height, width, kernel, stride, dilation)
    let table = [
        (2, 5, 7, 9, 11, 3, 1, 1),
        (1, 16, 64, 13, 17, 3, 1, 1),
        (1, 64, 64, 7, 30, 3, 1, 1),
        (2, 129, 136, 5, 6, 1, 1, 1),
        (1, 516, 129, 4, 7, 1, 1, 1),
        (2, 8, 16, 10, 13, 3, 2, 1),
        (1, 8, 24, 11, 9, 1, 2, 1),
        (2, 4, 8, 19, 22, 7, 2, 1),
        (1, 12, 20, 12, 14, 3, 1, 3),
        (1, 9, 33, 13, 11, 3, 1, 5),
        (3, 6, 4, 1, 1, 3, 1, 1),
        (2, 6, 1, 1, 1, 1, 1, 1),
        (1, 3, 5, 2, 3, 3, 1, 5),
        (1, 40, 1, 8, 26, 3, 1, 1),
        (1, 200, 72, 6, 28, 3, 1, 1),
    ];
    let mut cases = Vec::new();
    for (batch, channels, outputs, height, width, kernel, stride, dilation) in table {
        let conv = Conv { stride, padding: dilation * (kernel / 2), dilation };
        let x = Shape::maps(batch, channels, height, width);
        let w = Shape::Filter { outputs, inputs: channels, height: kernel, width: kernel };
        let (Some(rows), Some(columns)) = (conv.output_size(height, kernel), conv.output_size(width, kernel)) else {
            continue;
        };
        let y = Shape::maps(batch, outputs, rows, columns);
        for data in [Data::Integers, Data::Normal(0.0)] {
            cases.push(Case::new(conv, &[x, w, Shape::Channels { channels: outputs }], data));
            cases.push(Case::new(conv, &[x, w], data));
            cases.push(Case::new(ConvInputGrad { conv, height, width }, &[y, w], data));
            let filter_grad = ConvFilterGrad { conv, kernel_height: kernel, kernel_width: kernel };
            cases.push(Case::new(filter_grad, &[x, y], data));
        }
    }
    cases.extend([(100, 100), (130, 131)].into_iter().flat_map(cases_of_many_pixels));
    let conv = Conv { stride: 2, padding: 1, dilation: 1 };
    let (x, w) = (Shape::maps(2, 5, 9, 12), Shape::Filter { outputs: 41, inputs: 5, height: 3, width: 3 });
    // More than 4096 pixels, the most that a device should sum in one go.
    let (large, made) = (Shape::maps(1, 3, 131, 129), Shape::maps(1, 5, 66, 65));
    for data in [Data::Integers, Data::Normal(0.0)] {
        cases.push(Case::new(conv, &[x, w, Shape::Channels { channels: 41 }], data).with_relu());
        let filter_grad = ConvFilterGrad { conv, kernel_height: 3, kernel_width: 3 };
        cases.push(Case::new(filter_grad, &[large, made], data));
    }
    // Two tiles of inputs and exactly one of outputs: whoever counts the latter wrongly mixes up the former.
    let conv = Conv { stride: 1, padding: 0, dilation: 1 };
    let (x, y) = (Shape::maps(1, 80, 3, 5), Shape::maps(1, 64, 3, 5));
    let filter_grad = ConvFilterGrad { conv, kernel_height: 1, kernel_width: 1 };
    cases.extend([Data::Integers, Data::Normal(0.0)].map(|data| Case::new(filter_grad, &[x, y], data)));
    cases.extend(cases_with_norm());
    cases.extend(cases_of_normed());
    cases.extend(cases_of_tiles());
    cases
}

/// 3x3 convolutions whose results devices may make in tiles: with ragged tiles at every edge, several samples, dilations whose
/// phases differ in size, and results that are taken in parts. And some with one result, whose taps may be what a device has
/// side by side.
fn cases_of_tiles() -> Vec<Case> {
    // (batch, channels in, channels out, height, width, dilation)
    let table = [
        (2, 24, 40, 15, 22, 1),
        (1, 200, 72, 14, 16, 1),
        (1, 16, 8, 17, 12, 1),
        (1, 16, 16, 26, 29, 2),
        (1, 24, 72, 14, 17, 3),
        (1, 16, 136, 5, 6, 1),
        (1, 32, 32, 50, 61, 1),
        (2, 40, 1, 37, 19, 1),
        (1, 16, 1, 21, 9, 3),
        (1, 16, 1, 3, 2, 5),
    ];
    let mut cases = Vec::new();
    for (batch, channels, outputs, height, width, dilation) in table {
        let conv = Conv { stride: 1, padding: dilation, dilation };
        let x = Shape::maps(batch, channels, height, width);
        let w = Shape::Filter { outputs, inputs: channels, height: 3, width: 3 };
        for data in [Data::Integers, Data::Normal(0.0)] {
            cases.push(Case::new(conv, &[x, w], data));
            cases.push(Case::new(conv, &[x, w, Shape::Channels { channels: outputs }], data).with_relu());
        }
    }
    cases
}

/// Norms that come first: zeros around the map stay zeros. Of few channels, and of filters that are kept in other forms.
fn cases_of_normed() -> Vec<Case> {
    // (batch, channels in, channels out, height, width, stride, dilation)
    let table = [(2, 5, 7, 9, 11, 1, 1), (2, 24, 40, 15, 22, 1, 1), (1, 24, 16, 14, 17, 1, 3), (2, 17, 12, 9, 8, 2, 1)];
    let mut cases = Vec::new();
    for (batch, channels, outputs, height, width, stride, dilation) in table {
        let conv = Conv { stride, padding: dilation, dilation };
        let x = Shape::maps(batch, channels, height, width);
        let w = Shape::Filter { outputs, inputs: channels, height: 3, width: 3 };
        let bias = Shape::Channels { channels: outputs };
        for data in [Data::Integers, Data::Normal(0.0)] {
            cases.push(Case::new(conv, &[x, w], data).of_normed(batch, channels, true));
        }
        let normed = Case::new(conv, &[x, w, bias], Data::Normal(0.0)).of_normed(batch, channels, false);
        cases.push(normed.with_norm(outputs));
    }
    cases
}

/// Norms that follow, of maps that are kept or not: of few pixels and of several samples, of more tiles of pixels than are
/// merged at once, with and without a ragged end, and of a mean far from zero. And residuals before and after ReLU.
fn cases_with_norm() -> Vec<Case> {
    // (batch, channels in, channels out, height, width, kernel)
    let table =
        [(2, 5, 7, 9, 11, 3), (3, 8, 72, 5, 4, 1), (1, 24, 64, 13, 17, 3), (2, 3, 9, 67, 70, 3), (2, 4, 8, 64, 64, 1)];
    let mut cases = Vec::new();
    for (batch, channels, outputs, height, width, kernel) in table {
        let x = Shape::maps(batch, channels, height, width);
        let w = Shape::Filter { outputs, inputs: channels, height: kernel, width: kernel };
        let bias = (Shape::Channels { channels: outputs }, Data::Normal(1000.0));
        let residual = (Shape::maps(batch, outputs, height, width), Data::Normal(0.0));
        let plain = Case::new(Conv::same(kernel), &[x, w], Data::Normal(0.0));
        let normed = plain.clone().with_norm(outputs);
        let far = [(x, Data::Normal(0.0)), (w, Data::Normal(0.0)), bias];
        cases.extend([
            normed.clone().keeping_first(),
            normed.clone(),
            normed.clone().with_residual(residual).with_relu(),
            normed.with_relu().with_residual(residual),
            plain.clone().with_relu().with_residual(residual),
            plain.with_sigmoid(),
            Case::new(Conv::same(kernel), &[x, w], Data::Integers)
                .with_residual((residual.0, Data::Integers))
                .with_relu(),
            Case::mixed(Conv::same(kernel), &far).within(1e-4).with_norm(outputs).keeping_first(),
            Case::mixed(Conv::same(kernel), &far).within(1e-4).with_norm(outputs),
        ]);
    }
    // Few channels of many pixels: devices choose larger tiles there.
    let (x, w) = (Shape::maps(1, 8, 130, 131), Shape::Filter { outputs: 64, inputs: 8, height: 1, width: 1 });
    let normed = Case::new(Conv::same(1), &[x, w], Data::Normal(0.0)).with_norm(64);
    cases.extend([normed.clone().keeping_first(), normed]);
    // A sigmoid of padding is not 0: each number of padding lanes among four neighbours.
    for outputs in [1, 10, 11, 12] {
        let (x, w) = (Shape::maps(1, 4, 5, 6), Shape::Filter { outputs, inputs: 4, height: 3, width: 3 });
        cases.push(Case::new(Conv::same(3), &[x, w], Data::Normal(0.0)).with_sigmoid());
    }
    cases
}

/// Few channels of many pixels: devices choose larger tiles there, and take the sums of a filter gradient in parts.
fn cases_of_many_pixels((height, width): (usize, usize)) -> [Case; 3] {
    let conv = Conv::same(3);
    let maps = |channels| Shape::maps(1, channels, height, width);
    let filter = |outputs, inputs| Shape::Filter { outputs, inputs, height: 3, width: 3 };
    let filter_grad = ConvFilterGrad { conv, kernel_height: 3, kernel_width: 3 };
    [
        Case::new(conv, &[maps(8), filter(64, 8)], Data::Integers),
        Case::new(ConvInputGrad { conv, height, width }, &[maps(8), filter(8, 64)], Data::Integers),
        Case::new(filter_grad, &[maps(8), maps(40)], Data::Integers),
    ]
}
