//! Launches of the convolutions on tensor cores, see `kernels/tensor_conv.cuh`.
//!
//! Operands of 16 bits that are not kept so are made in the workspace before each product, first the maps that are read,
//! then the filter or the cotangent.

use super::super::driver::{Address, Launch};
use super::conv::{Direction, Geometry, Size, in_parts, parts};
use super::{Binding, THREADS as THREADS_OF_NUMBERS, maps};
use crate::device::Precision;
use crate::device::layout::{padded, storage};
use crate::graph::Shape;
use crate::ops::ConvFilterGrad;
use std::fmt;
use std::str::FromStr;

/// Threads of a block, as the kernels' `THREADS`.
pub(super) const THREADS: u32 = 128;

/// A larger tile does more products for each number it copies, but is of use only where there are blocks for all of
/// the multiprocessors; these are those of an H100 or H200.
const LEAST_BLOCKS: usize = 132;

/// The longest stride that pixels are put into classes for, as the kernels have it.
pub(super) const MOST_STEP: usize = 4;

/// The oldest architecture with tensor cores for it.
pub(in super::super) fn architecture(precision: Precision) -> u32 {
    match precision {
        Precision::Float32 | Precision::Float16 => 75,
        Precision::Tf32 | Precision::BFloat16 => 80,
    }
}

/// The name of a kernel that is there where a precision's kernels are.
pub(in super::super) fn a_kernel(precision: Precision) -> &'static str {
    match precision {
        Precision::Float32 => "conv",
        Precision::Tf32 => "conv_tf32_64x32",
        Precision::Float16 => "conv_float16_64x32",
        Precision::BFloat16 => "conv_bfloat16_64x32",
    }
}

/// The results that a block of a convolution on tensor cores owns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tile {
    /// Pixels, or input channels of a filter gradient.
    rows: usize,
    /// Output channels.
    columns: usize,
}

impl Tile {
    /// All there are, largest first; filter gradients have the last two, and so has what is multiplied in 16 bits, where
    /// patches do what large tiles are for.
    pub const ALL: [Tile; 3] =
        [Tile { rows: 128, columns: 64 }, Tile { rows: 64, columns: 64 }, Tile { rows: 64, columns: 32 }];
    const SMALLEST: Tile = Tile::ALL[2];

    /// The largest tile that wastes no half of itself and leaves no multiprocessor idle, else the smallest.
    pub(super) fn of_convolution(size: Size, precision: Precision) -> Tile {
        let fits = |tile: &Tile| {
            let (down, across) = tile.count(size);
            size.lanes > tile.columns / 2 && down * across >= LEAST_BLOCKS && tile.in_precision(precision) == *tile
        };
        Tile::ALL.into_iter().find(fits).unwrap_or(Tile::SMALLEST)
    }

    /// The largest there is in a precision that is not larger.
    pub(super) fn in_precision(self, precision: Precision) -> Tile {
        if precision.is_half() && self == Tile::ALL[0] { Tile::ALL[1] } else { self }
    }

    /// How many of pixels there are, by how many of lanes.
    pub(super) fn count(self, size: Size) -> (usize, usize) {
        size.tiles(self.rows, self.columns)
    }

    /// As [`Tile::count`], of pixels in classes that lie `step` apart, as the kernels' `PixelCut` has them.
    pub(super) fn count_in_steps(self, size: Size, step: usize) -> (usize, usize) {
        let step = if step <= MOST_STEP { step } else { 1 };
        let from = |side: usize, first: usize| (side - first.min(side)).div_ceil(step);
        let classes = (0..step).flat_map(|row| (0..step).map(move |column| (row, column)));
        let tiles =
            classes.map(|(row, column)| (from(size.rows, row) * from(size.columns, column)).div_ceil(self.rows));
        (size.batch * tiles.sum::<usize>(), self.count(size).1)
    }

    /// The tile of a filter gradient with this many output lanes.
    fn of_filter_grad(lanes: usize) -> Tile {
        if lanes > Tile::SMALLEST.columns { Tile::ALL[1] } else { Tile::SMALLEST }
    }
}

impl fmt::Display for Tile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}", self.rows, self.columns)
    }
}

impl FromStr for Tile {
    type Err = String;

    fn from_str(text: &str) -> Result<Tile, String> {
        let found = Tile::ALL.into_iter().find(|tile| tile.to_string() == text);
        found.ok_or_else(|| format!("a tile is 128x64, 64x64 or 64x32, not {text}"))
    }
}

/// The kernel of a family for a format and a tile.
macro_rules! kernel {
    ($family:literal, $precision:expr, $rows:expr, $columns:expr, [$($r:literal x $c:literal),*]) => {
        match ($precision, $rows, $columns) {
            $(
                (Precision::Tf32, $r, $c) => concat!($family, "_tf32_", $r, "x", $c),
                (Precision::Float16, $r, $c) => concat!($family, "_float16_", $r, "x", $c),
                (Precision::BFloat16, $r, $c) => concat!($family, "_bfloat16_", $r, "x", $c),
            )*
            (precision, rows, columns) => unreachable!("no {} in {precision} of {rows} x {columns}", $family),
        }
    };
}

/// As `kernel`: that whose results are float32, and that whose results are kept in the format, if there is one.
macro_rules! kernels_of {
    ($family:literal, $precision:expr, $rows:expr, $columns:expr, [$($r:literal x $c:literal),*]) => {
        match ($precision, $rows, $columns) {
            $(
                (Precision::Float16, $r, $c) => [
                    concat!($family, "_float16_", $r, "x", $c),
                    concat!($family, "_float16_", $r, "x", $c, "_to_float16"),
                ],
                (Precision::BFloat16, $r, $c) => [concat!($family, "_bfloat16_", $r, "x", $c); 2],
            )*
            (precision, rows, columns) => unreachable!("no {} in {precision} of {rows} x {columns}", $family),
        }
    };
}
pub(super) use kernels_of;

/// The kernel that makes operands of a precision from float32, if they are another format.
fn conversion(precision: Precision) -> Option<&'static str> {
    match precision {
        Precision::Float32 | Precision::Tf32 => None,
        Precision::Float16 => Some("to_float16s"),
        Precision::BFloat16 => Some("to_bfloat16s"),
    }
}

/// Numbers of scratch memory for the operands, the first two inputs.
pub(super) fn workspace(inputs: &[Shape], precision: Precision) -> usize {
    if conversion(precision).is_none() {
        return 0;
    }
    inputs[..2].iter().map(|&shape| storage(shape) / 2).sum()
}

/// The launches that make the operands, where those lie, and the workspace behind them.
pub(super) fn operands(binding: &Binding<'_>) -> (Vec<Launch>, [Address; 2], Address) {
    let given = [binding.inputs[0], binding.inputs[1]];
    let mut free = binding.workspace;
    let Some(kernel) = conversion(binding.choices.precision) else {
        return (Vec::new(), given.map(|operand| operand.address), free);
    };
    let mut launches = Vec::new();
    let addresses = given.map(|operand| {
        if operand.is_half {
            return operand.address;
        }
        let to = free;
        free = free.after(operand.len / 2);
        let launch = Launch::of_threads(kernel, operand.len / 4, THREADS_OF_NUMBERS).with(operand.address);
        launches.push(launch.with(to).with_int(operand.len));
        to
    });
    (launches, addresses, free)
}

/// The kernels of a convolution in a precision with a tile.
pub(super) fn kernels(direction: Direction, precision: Precision, tile: Tile) -> [&'static str; 2] {
    let Tile { rows, columns } = tile;
    match (direction, precision) {
        (Direction::Forward, Precision::Tf32) => {
            [kernel!("conv", precision, rows, columns, [128 x 64, 64 x 64, 64 x 32]); 2]
        }
        (Direction::Backward, Precision::Tf32) => {
            [kernel!("conv_backward", precision, rows, columns, [128 x 64, 64 x 64, 64 x 32]); 2]
        }
        (Direction::Forward, _) => kernels_of!("conv", precision, rows, columns, [64 x 64, 64 x 32]),
        (Direction::Backward, _) => kernels_of!("conv_backward", precision, rows, columns, [64 x 64, 64 x 32]),
    }
}

/// The launches of a filter gradient.
pub(super) fn filter_grad(op: &ConvFilterGrad, binding: &Binding<'_>, geometry: Geometry) -> Vec<Launch> {
    let cotangent = binding.input_shapes[1];
    let [inputs, outputs] = [0, 1].map(|i| padded(maps(binding.input_shapes[i]).1));
    let tile =
        binding.choices.tile.filter(|tile| *tile != Tile::ALL[0]).unwrap_or_else(|| Tile::of_filter_grad(outputs));
    let precision = binding.choices.precision;
    let kernel = kernel!("conv_filter_grad", precision, tile.rows, tile.columns, [64 x 64, 64 x 32]);
    let tiles = inputs.div_ceil(tile.rows) * outputs.div_ceil(tile.columns);
    let grid = [tiles, op.kernel_height * op.kernel_width, parts(cotangent)].map(|count| count as u32);
    let (mut launches, [x, dy], free) = operands(binding);
    let launch = Launch::new(kernel, grid, [THREADS, 1, 1]).with(x).with(dy);
    let products = |parts, pixels| launch.clone().with(parts).with_int(pixels).with(geometry);
    launches.extend(in_parts(binding, free, cotangent, products));
    launches
}
