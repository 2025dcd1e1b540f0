//! How convolutions keep filters that nobody changes: as they multiply them.

use super::bfloat::BfloatSet;
use super::bfloat_conv;
use super::memory::Region;
use super::microkernel::MicroKernels;
use super::ops::conv::is_by_rows;
use super::winograd::Tile;
use crate::device::Precision;
use crate::graph::Shape;
use crate::ops::Op;
use crate::program::Step;

/// How many convolutions from the input on, of a network that has as many again behind them, are not rounded: the stem's, the
/// first encoder's and those of the second's first two blocks. Rounded to bfloat16 they would be most of what the logits of a
/// network with random weights are off by: 5.0 % with them, 1.0 (AVX-512) to 1.5 % (AMX) without, at w = 64; with the stem
/// `quarter` 1.2 to 1.8 %, and 2.0 % where they are nine.
const EARLY: usize = 11;

/// Whether what a step rounds would go through nearly all of a network.
fn is_early(step: &Step) -> bool {
    step.convolutions_before < EARLY && step.convolutions_behind >= EARLY
}

/// A filter as a convolution multiplies it.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Kept {
    /// Transformed, for fewer multiplications.
    Transformed(Tile),
    /// Rounded to bfloat16, or split into two numbers of it, in the order that products take it.
    Rounded(bfloat_conv::Filter),
}

impl Kept {
    /// How a step keeps its filter, unless it is as it is given; where products are to be of bfloat16, by which instructions.
    pub fn of(step: &Step, inputs: &[Shape], bfloat: Option<BfloatSet>) -> Option<Kept> {
        if !step.filter_is_its_own {
            return None;
        }
        let tile = match &step.op {
            Op::Conv(conv) if is_by_rows(conv, inputs) => return None,
            Op::Conv(conv) => Tile::of(conv, inputs[0], inputs[1]),
            _ => None,
        };
        let split = is_early(step);
        let is_of_bfloat = match bfloat {
            None => false,
            // Twice as quick as products of float32: less than the larger tile saves, more than the smaller one, and no gain
            // where there are three for one.
            Some(BfloatSet::Avx512) => tile != Some(Tile::Four) && !split,
            // Sixteen times as quick.
            Some(BfloatSet::Amx | BfloatSet::Portable) => true,
        };
        let rounded = bfloat_conv::Filter::of(&step.op, inputs[1], split).filter(|_| is_of_bfloat);
        rounded.map(Kept::Rounded).or(tile.map(Kept::Transformed))
    }

    /// Room that it takes, in float32 numbers.
    pub fn len(&self, filter: Shape) -> usize {
        match self {
            Kept::Transformed(tile) => tile.filter_len(filter),
            Kept::Rounded(rounded) => rounded.len(),
        }
    }

    /// Writes a filter given as `[output][input][row][column]`, for these kernels.
    pub fn write(&self, shape: Shape, filter: &[f32], memory: Region, kernels: MicroKernels) {
        match self {
            Kept::Transformed(tile) => tile.write_filter(shape, filter, memory, kernels),
            Kept::Rounded(rounded) => rounded.write(filter, memory),
        }
    }

    /// The relative L2 error that results may have, if that is more than sums of the products have.
    pub fn error_bound(&self, filter: Shape) -> Option<f64> {
        match self {
            Kept::Transformed(tile) => tile.error_bound(filter),
            // Of either operand up to 2^-17 is lost, and of the product as much as the smallest of the four.
            Kept::Rounded(rounded) => rounded.is_split().then_some(2f64.powi(-15)),
        }
    }

    /// What products are of.
    pub fn precision(&self) -> Precision {
        match self {
            Kept::Transformed(_) => Precision::Float32,
            Kept::Rounded(rounded) if rounded.is_split() => Precision::Float32,
            Kept::Rounded(_) => Precision::BFloat16,
        }
    }
}
