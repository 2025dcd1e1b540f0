//! Max pooling; cells outside the map never win, and a tie goes to the first in scan order.

use super::{Case, Data, Operator, at, elements, expect, expect_maps, maps_of};
use crate::error::Result;
use crate::graph::{Backward, Graph, Shape, Tensor, ValueId};

/// `maps -> maps`, sizes rounded down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MaxPool {
    /// Rows and columns of a cell.
    pub kernel: usize,
    /// Step from one cell to the next.
    pub stride: usize,
    /// Rows and columns around the map that cells may reach into; at most half the kernel.
    pub padding: usize,
}

/// `(input, output cotangent) -> input gradient`: each cell's cotangent goes to its winner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MaxPoolGrad {
    /// The pooling.
    pub pool: MaxPool,
}

impl MaxPool {
    /// Cells that touch but do not overlap, no padding.
    pub fn tiled(kernel: usize) -> MaxPool {
        MaxPool { kernel, stride: kernel, padding: 0 }
    }

    /// Rows (or columns) of the output, or `None` when the kernel does not fit.
    pub fn output_size(&self, size: usize) -> Option<usize> {
        (size + 2 * self.padding).checked_sub(self.kernel).map(|room| room / self.stride + 1)
    }

    /// The input rows (or columns) of cell `cell`.
    pub fn cell(&self, cell: usize, size: usize) -> std::ops::Range<usize> {
        let start = cell * self.stride;
        start.saturating_sub(self.padding)..(start + self.kernel - self.padding).min(size)
    }

    fn checked_output(&self, maps: Shape) -> Result<Shape, String> {
        let (batch, channels, height, width) = expect_maps(maps, "the input")?;
        if self.kernel == 0 || self.stride == 0 || 2 * self.padding > self.kernel {
            return Err("kernel and stride must be at least 1, padding at most half the kernel".into());
        }
        match (self.output_size(height), self.output_size(width)) {
            (Some(height), Some(width)) => Ok(Shape::Maps { batch, channels, height, width }),
            _ => Err(format!("cells of {0}x{0} do not fit", self.kernel)),
        }
    }

    /// The winner's row and column for each output pixel of one map.
    fn winners(&self, x: &Tensor<f64>, n: usize, c: usize, (i, j): (usize, usize)) -> (usize, usize) {
        let (_, _, height, width) = maps_of(x);
        let value = |(y, xx): (usize, usize)| x.data()[at(x.shape(), n, c, y, xx)];
        let columns = self.cell(j, width);
        let cells = self.cell(i, height).flat_map(|y| columns.clone().map(move |x| (y, x)));
        cells.reduce(|best, next| if value(next) > value(best) { next } else { best }).unwrap_or((0, 0))
    }
}

impl Operator for MaxPool {
    fn name(&self) -> &'static str {
        "max pool"
    }

    fn infer(&self, inputs: &[Shape]) -> Result<Vec<Shape>, String> {
        let [maps] = expect::<1>(inputs)?;
        Ok(vec![self.checked_output(maps)?])
    }

    fn flops(&self, _inputs: &[Shape], outputs: &[Shape]) -> u64 {
        (self.kernel * self.kernel) as u64 * elements(outputs)
    }

    fn reference(&self, inputs: &[&Tensor<f64>]) -> Vec<Tensor<f64>> {
        let x = inputs[0];
        let (batch, channels, height, width) = maps_of(x);
        let rows = self.output_size(height).unwrap_or(0);
        let columns = self.output_size(width).unwrap_or(0);
        let shape = Shape::maps(batch, channels, rows, columns);
        vec![Tensor::from_fn(shape, |index| {
            let (j, i) = (index % columns, index / columns % rows);
            let (c, n) = (index / (columns * rows) % channels, index / (columns * rows * channels));
            let (y, xx) = self.winners(x, n, c, (i, j));
            x.data()[at(x.shape(), n, c, y, xx)]
        })]
    }

    fn is_differentiable(&self) -> bool {
        true
    }

    fn gradient(&self, mut backward: Backward<'_>) -> Result<Vec<Option<ValueId>>> {
        let (x, dy) = (backward.node.inputs[0], backward.cotangent()?);
        Ok(vec![backward.when_wanted(0, MaxPoolGrad { pool: *self }, &[x, dy])?])
    }
}

impl Operator for MaxPoolGrad {
    fn name(&self) -> &'static str {
        "max pool gradient"
    }

    fn infer(&self, inputs: &[Shape]) -> Result<Vec<Shape>, String> {
        let [x, dy] = expect::<2>(inputs)?;
        let expected = self.pool.checked_output(x)?;
        if expected != dy {
            return Err(format!("the cotangent must be {expected}"));
        }
        Ok(vec![x])
    }

    fn flops(&self, inputs: &[Shape], _outputs: &[Shape]) -> u64 {
        (self.pool.kernel * self.pool.kernel) as u64 * elements(&inputs[1..])
    }

    fn reference(&self, inputs: &[&Tensor<f64>]) -> Vec<Tensor<f64>> {
        let (x, dy) = (inputs[0], inputs[1]);
        let (batch, channels, rows, columns) = maps_of(dy);
        let mut dx = Tensor::filled(x.shape(), 0.0);
        for (n, c) in (0..batch).flat_map(|n| (0..channels).map(move |c| (n, c))) {
            for (i, j) in (0..rows).flat_map(|i| (0..columns).map(move |j| (i, j))) {
                let (y, xx) = self.pool.winners(x, n, c, (i, j));
                dx.data_mut()[at(x.shape(), n, c, y, xx)] += dy.data()[at(dy.shape(), n, c, i, j)];
            }
        }
        vec![dx]
    }
}

impl Graph {
    /// Adds a [`MaxPool`] node.
    ///
    /// # Errors
    /// As [`Graph::apply`].
    pub fn max_pool(&mut self, name: &str, x: ValueId, pool: MaxPool) -> Result<ValueId> {
        self.apply_one(name, pool, &[x])
    }
}

pub(super) fn cases() -> Vec<Case> {
    let overlapping = MaxPool { kernel: 3, stride: 2, padding: 1 };
    let pools = [2, 3, 5, 6].map(MaxPool::tiled).into_iter().chain([overlapping]);
    let mut cases = Vec::new();
    for pool in pools {
        for (batch, channels, height, width) in [(2, 5, 13, 17), (1, 129, 7, 6), (1, 8, 6, 6), (2, 3, 1, 1)] {
            let x = Shape::maps(batch, channels, height, width);
            let Ok(y) = pool.checked_output(x) else { continue };
            for data in [Data::Integers, Data::Normal(0.0)] {
                cases.push(Case::new(pool, &[x], data));
                if pool == overlapping {
                    // Scales are of either sign.
                    cases
                        .extend([false, true].map(|relu| Case::new(pool, &[x], data).of_normed(batch, channels, relu)));
                }
                cases.push(Case::new(MaxPoolGrad { pool }, &[x, y], data));
            }
        }
    }
    // All cases of one kind of data begin with the same number, and only a mask's is the largest of its cell. Its ties
    // leave the pooling itself without a gradient to check.
    let (pool, x, y) = (MaxPool::tiled(2), Shape::maps(1, 2, 8, 6), Shape::maps(1, 2, 4, 3));
    cases.push(Case::mixed(MaxPoolGrad { pool }, &[(x, Data::Mask), (y, Data::Integers)]));
    cases
}

#[cfg(test)]
mod tests {
    use super::super::Op;
    use super::*;

    /// Whoever takes the number 0 for none yet loses the cell of a map's first pixel, but only where that pixel wins it.
    #[test]
    fn in_some_case_the_first_number_of_all_wins_its_cell() {
        let first_wins = |case: &Case| match case.op {
            Op::MaxPoolGrad(MaxPoolGrad { pool }) => {
                let drawn = case.draw(1);
                let (x, dy) = (drawn[0].to_f64(), drawn[1].data()[0]);
                maps_of(&x).3 > 1 && pool.winners(&x, 0, 0, (0, 0)) == (0, 0) && dy != 0.0
            }
            _ => false,
        };
        assert!(cases().iter().any(first_wins));
    }
}
