//! How convolutions keep filters that nobody changes: as they multiply them.

use super::bfloat_conv;
use super::memory::Region;
use super::ops::conv::is_by_rows;
use super::winograd::Tile;
use crate::device::Precision;
use crate::graph::Shape;
use crate::ops::Op;
use crate::program::Step;

/// How many convolutions from the input on, of a network that has as many again behind them, are computed in float32 in any
/// case: the stem's, the first encoder's and those of the second's first block. Rounded to bfloat16 they would be most of what
/// the logits of a network with random weights are off by: 3.4 % with them, 1.3 to 1.7 % without, at w = 64.
const EARLY: usize = 9;

/// Whether what a step rounds would go through nearly all of a network.
fn is_early(step: &Step) -> bool {
    step.convolutions_before < EARLY && step.convolutions_behind >= EARLY
}

/// A filter as a convolution multiplies it.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Kept {
    /// Transformed, for fewer multiplications.
    Transformed(Tile),
    /// Rounded to bfloat16, in the order that products take it.
    Rounded(bfloat_conv::Filter),
}

impl Kept {
    /// How a step keeps its filter, unless it is as it is given.
    pub fn of(step: &Step, inputs: &[Shape], precision: Precision) -> Option<Kept> {
        match &step.op {
            Op::Conv(conv) if step.filter_is_its_own && !is_by_rows(conv, inputs) => match precision {
                Precision::BFloat16 if !is_early(step) => bfloat_conv::Filter::of(inputs[1]).map(Kept::Rounded),
                _ => Tile::of(conv, inputs[0], inputs[1]).map(Kept::Transformed),
            },
            _ => None,
        }
    }

    /// Room that it takes, in float32 numbers.
    pub fn len(&self, filter: Shape) -> usize {
        match self {
            Kept::Transformed(tile) => tile.filter_len(filter),
            Kept::Rounded(rounded) => rounded.len(),
        }
    }

    /// Writes a filter given as `[output][input][row][column]`.
    pub fn write(&self, shape: Shape, filter: &[f32], memory: Region) {
        match self {
            Kept::Transformed(tile) => tile.write_filter(shape, filter, memory),
            Kept::Rounded(rounded) => rounded.write(filter, memory),
        }
    }

    /// The relative L2 error that results may have, if that is more than sums of the products have.
    pub fn error_bound(&self, filter: Shape) -> Option<f64> {
        match self {
            Kept::Transformed(tile) => tile.error_bound(filter),
            Kept::Rounded(_) => None,
        }
    }

    /// What products are of.
    pub fn precision(&self) -> Precision {
        match self {
            Kept::Transformed(_) => Precision::Float32,
            Kept::Rounded(_) => Precision::BFloat16,
        }
    }
}
