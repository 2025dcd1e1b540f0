//! How convolutions keep filters that nobody changes: as they multiply them.

use super::bfloat::BfloatSet;
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
    /// How a step keeps its filter, unless it is as it is given; where products are to be of bfloat16, by which instructions.
    pub fn of(step: &Step, inputs: &[Shape], bfloat: Option<BfloatSet>) -> Option<Kept> {
        let Op::Conv(conv) = &step.op else { return None };
        if !step.filter_is_its_own || is_by_rows(conv, inputs) {
            return None;
        }
        let tile = Tile::of(conv, inputs[0], inputs[1]);
        // AVX-512 multiplies twice as much of bfloat16: less than the larger tile saves, more than the smaller one.
        let is_rounded = match bfloat {
            None => false,
            Some(BfloatSet::Avx512) => tile != Some(Tile::Four) && !is_early(step),
            Some(BfloatSet::Amx | BfloatSet::Portable) => !is_early(step),
        };
        let rounded = bfloat_conv::Filter::of(inputs[1]).filter(|_| is_rounded).map(Kept::Rounded);
        rounded.or(tile.filter(|_| !is_rounded).map(Kept::Transformed))
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
