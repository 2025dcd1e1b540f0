//! Bilinear resize with half-pixel centres and clamped edges, no antialiasing.
//!
//! Output pixel `i` reads position `s = max((i + 0.5) source / target - 0.5, 0)`: `floor(s)` with weight `1 - frac(s)`
//! and the next pixel, or the last, with weight `frac(s)`.

use super::{Case, Data, Operator, at, elements, expect, expect_maps, maps_of};
use crate::error::Result;
use crate::graph::{Backward, Graph, Shape, Tensor, ValueId};

/// `maps -> maps` of `height` x `width`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resize {
    /// Rows of the result.
    pub height: usize,
    /// Columns of the result.
    pub width: usize,
}

/// `output cotangent -> input gradient` of `height` x `width`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResizeGrad {
    /// Rows of the resize's input.
    pub height: usize,
    /// Columns of the resize's input.
    pub width: usize,
}

/// The two source pixels of one output row or column.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Taps {
    /// First source position.
    pub low: usize,
    /// Second source position, the same at the far edge.
    pub high: usize,
    /// Weight of `high`; `low` has the rest.
    pub fraction: f64,
}

/// The taps of every output position when `source` pixels become `target`.
pub fn bilinear_taps(source: usize, target: usize) -> Vec<Taps> {
    (0..target)
        .map(|i| {
            let position = ((i as f64 + 0.5) * source as f64 / target as f64 - 0.5).max(0.0);
            let low = (position as usize).min(source - 1);
            Taps { low, high: (low + 1).min(source - 1), fraction: position - low as f64 }
        })
        .collect()
}

/// Calls `weigh(output pixel, input pixel, weight)` for each of the four products of each output pixel.
fn for_each_weight(
    source: (usize, usize),
    target: (usize, usize),
    mut weigh: impl FnMut((usize, usize), (usize, usize), f64),
) {
    let (rows, columns) = (bilinear_taps(source.0, target.0), bilinear_taps(source.1, target.1));
    for (i, row) in rows.iter().enumerate() {
        for (j, column) in columns.iter().enumerate() {
            for (y, wy) in [(row.low, 1.0 - row.fraction), (row.high, row.fraction)] {
                for (x, wx) in [(column.low, 1.0 - column.fraction), (column.high, column.fraction)] {
                    weigh((i, j), (y, x), wy * wx);
                }
            }
        }
    }
}

impl Operator for Resize {
    fn name(&self) -> &'static str {
        "resize"
    }

    fn infer(&self, inputs: &[Shape]) -> Result<Vec<Shape>, String> {
        let [maps] = expect::<1>(inputs)?;
        let (batch, channels, height, width) = expect_maps(maps, "the input")?;
        if height * width == 0 || self.height * self.width == 0 {
            return Err(format!("cannot resize to {}x{}", self.height, self.width));
        }
        Ok(vec![Shape::Maps { batch, channels, height: self.height, width: self.width }])
    }

    fn flops(&self, _inputs: &[Shape], outputs: &[Shape]) -> u64 {
        8 * elements(outputs)
    }

    fn reference(&self, inputs: &[&Tensor<f64>]) -> Vec<Tensor<f64>> {
        let x = inputs[0];
        let (batch, channels, height, width) = maps_of(x);
        let shape = Shape::maps(batch, channels, self.height, self.width);
        let mut y = Tensor::filled(shape, 0.0);
        for (n, c) in (0..batch).flat_map(|n| (0..channels).map(move |c| (n, c))) {
            for_each_weight((height, width), (self.height, self.width), |(i, j), (yy, xx), weight| {
                y.data_mut()[at(shape, n, c, i, j)] += weight * x.data()[at(x.shape(), n, c, yy, xx)];
            });
        }
        vec![y]
    }

    fn is_differentiable(&self) -> bool {
        true
    }

    fn gradient(&self, mut backward: Backward<'_>) -> Result<Vec<Option<ValueId>>> {
        let dy = backward.cotangent()?;
        let Shape::Maps { height, width, .. } = backward.graph.shape(backward.node.inputs[0]) else {
            unreachable!("infer accepts maps only")
        };
        Ok(vec![backward.when_wanted(0, ResizeGrad { height, width }, &[dy])?])
    }
}

impl Operator for ResizeGrad {
    fn name(&self) -> &'static str {
        "resize gradient"
    }

    fn infer(&self, inputs: &[Shape]) -> Result<Vec<Shape>, String> {
        Resize { height: self.height, width: self.width }.infer(inputs)
    }

    fn flops(&self, inputs: &[Shape], _outputs: &[Shape]) -> u64 {
        8 * elements(inputs)
    }

    fn reference(&self, inputs: &[&Tensor<f64>]) -> Vec<Tensor<f64>> {
        let dy = inputs[0];
        let (batch, channels, rows, columns) = maps_of(dy);
        let shape = Shape::maps(batch, channels, self.height, self.width);
        let mut dx = Tensor::filled(shape, 0.0);
        for (n, c) in (0..batch).flat_map(|n| (0..channels).map(move |c| (n, c))) {
            for_each_weight((self.height, self.width), (rows, columns), |(i, j), (y, x), weight| {
                dx.data_mut()[at(shape, n, c, y, x)] += weight * dy.data()[at(dy.shape(), n, c, i, j)];
            });
        }
        vec![dx]
    }
}

impl Graph {
    /// Adds a [`Resize`] node.
    ///
    /// # Errors
    /// As [`Graph::apply`].
    pub fn resize(&mut self, name: &str, x: ValueId, height: usize, width: usize) -> Result<ValueId> {
        self.apply_one(name, Resize { height, width }, &[x])
    }
}

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (batch, channels, source, target) in [
        (2, 1, (14, 14), (28, 28)),
        (1, 1, (4, 5), (28, 28)),
        (2, 5, (3, 7), (9, 11)),
        (1, 129, (1, 1), (6, 7)),
        (1, 3, (9, 8), (4, 3)),
        (2, 4, (1, 1), (1, 1)),
    ] {
        let (x, y) =
            (Shape::maps(batch, channels, source.0, source.1), Shape::maps(batch, channels, target.0, target.1));
        cases.push(Case::new(Resize { height: target.0, width: target.1 }, &[x], Data::Normal(0.0)));
        cases.push(Case::new(ResizeGrad { height: source.0, width: source.1 }, &[y], Data::Normal(0.0)));
    }
    cases
}
