//! Convolutions of 3x3 with stride 1 by fewer multiplications: Winograd's minimal filtering, as Lavin and Gray (2016) use it.
//!
//! A tile of 4x4 results needs 36 products a channel in place of 144, one of 2x2 results 16 in place of 36: the 6x6 (4x4)
//! pixels that it reads become `B^T d B`, the filter has become `G g G^T` when it was written, and `A^T m A` of the products'
//! sums over channels are the results. For some tiles at a time, so many that everything stays in the second-level cache,
//! the pixels are transformed, then each of the points is a matrix product of its own, then the sums are transformed
//! back. With dilation, pixels that no tap joins are apart: each phase of rows and columns is tiled by itself.
//!
//! All factors of `B` and `A` but those of the sums are powers of two, so the bits of the transforms do not depend on whether
//! a processor fuses multiply and add.

mod division;
mod points;
mod transforms;

use super::cache;
use super::layout::{Panel, padded, panels, storage};
use super::memory::Region;
use super::microkernel::{MicroKernels, Operand};
use super::operands::Operands;
use crate::graph::Shape;
use crate::ops::Conv;
use division::{Division, Place};
use points::{Four, MOST, Points, Two};
use rayon::prelude::*;
use std::marker::PhantomData;
use std::ops::Range;
use transforms::{Block, ReadPixels, WriteResults};

/// How many results of a row, and of a column, are made together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tile {
    /// 2x2 results of 4x4 pixels: 1.8 times the filter's memory.
    Two,
    /// 4x4 results of 6x6 pixels: 4 times the filter's memory.
    Four,
}

/// Filters of so many numbers or fewer may grow to four times their size.
const LARGEST_FOR_FOUR: usize = 1 << 20;
/// Channels read and made below which the transforms cost more than the products they save.
const LEAST_CHANNELS: (usize, usize) = (16, 8);

impl Tile {
    /// The tile that a convolution is worth computing by, if any.
    pub fn of(conv: &Conv, maps: Shape, filter: Shape) -> Option<Tile> {
        let (Shape::Maps { channels, height, width, .. }, Shape::Filter { outputs, height: 3, width: 3, .. }) =
            (maps, filter)
        else {
            return None;
        };
        if conv.stride != 1 || channels < LEAST_CHANNELS.0 || outputs < LEAST_CHANNELS.1 {
            return None;
        }
        // A phase's results must fill most of a tile.
        let size = height.min(width) / conv.dilation;
        match size {
            _ if size >= 12 && channels * outputs * 9 <= LARGEST_FOR_FOUR => Some(Tile::Four),
            _ if size >= 4 => Some(Tile::Two),
            _ => None,
        }
    }

    /// Results of a row.
    fn made(self) -> usize {
        match self {
            Tile::Two => 2,
            Tile::Four => 4,
        }
    }

    /// Pixels of a row that they depend on.
    fn read(self) -> usize {
        self.made() + 2
    }

    /// Products a channel.
    fn points(self) -> usize {
        self.read() * self.read()
    }

    /// Numbers of a transformed filter.
    pub fn filter_len(self, filter: Shape) -> usize {
        match filter {
            Shape::Filter { outputs, inputs, .. } => self.points() * padded(inputs) * padded(outputs),
            other => unreachable!("only filters are transformed, not {other}"),
        }
    }

    /// The relative L2 error that results may have, if that is more than plain sums have.
    ///
    /// With pixels and taps of equal spread the products at point `k` of a row have the variance `|G_k|^2 |B_k|^2`, and
    /// result `i` takes them `A_ik` times: in rows and columns together, and against the 9 products that a plain sum has of
    /// each channel, the errors of a sum over channels grow by `sum_k A_ik^2 |G_k|^2 |B_k|^2 / 3`, on average over `i`. That
    /// is 1.7 for 2x2 results, which are exact for whole numbers, too, and 10.8 for 4x4. A sum of K products in order is
    /// off by less than `sqrt(K) 2^-24` of its size, and the three transforms by 6 units more.
    pub fn error_bound(self, filter: Shape) -> Option<f64> {
        match (self, filter) {
            (Tile::Four, Shape::Filter { inputs, .. }) => Some(10.8 * ((inputs as f64).sqrt() + 6.0) * 2f64.powi(-24)),
            _ => None,
        }
    }

    /// `G g` of one row or column.
    #[inline(always)]
    fn filter_points(self, [a, b, c]: [f64; 3]) -> [f64; MOST] {
        match self {
            Tile::Two => [a, (a + b + c) / 2.0, (a - b + c) / 2.0, c, 0.0, 0.0],
            Tile::Four => [
                a / 4.0,
                -(a + b + c) / 6.0,
                -(a - b + c) / 6.0,
                a / 24.0 + b / 12.0 + c / 6.0,
                a / 24.0 - b / 12.0 + c / 6.0,
                c,
            ],
        }
    }

    /// Writes `G g G^T` of each pair of channels, as `[panel][point][slice][padded input channel][output channel of the slice]`:
    /// a slice is what a kernel takes at once, [`MicroKernels::slice`], so that it reads line after line.
    pub fn write_filter(self, shape: Shape, filter: &[f32], memory: Region, kernels: MicroKernels) {
        let Shape::Filter { outputs, inputs, .. } = shape else { unreachable!("only filters are transformed") };
        let (depth, points) = (padded(inputs), self.points());
        let panels = panels(outputs);
        (0..panels.len() * depth).into_par_iter().for_each(|task| {
            let (Panel { start, width }, input) = (panels[task / depth], task % depth);
            let slice = width.min(kernels.slice());
            for lane in 0..width {
                let output = start + lane;
                let inside = output < outputs && input < inputs;
                let taps = |u, v| if inside { filter[(output * inputs + input) * 9 + u * 3 + v] } else { 0.0 };
                let columns: [_; 3] =
                    std::array::from_fn(|v| self.filter_points(std::array::from_fn(|u| f64::from(taps(u, v)))));
                for point in 0..points {
                    let (i, j) = (point / self.read(), point % self.read());
                    let row = self.filter_points(std::array::from_fn(|v| columns[v][i]));
                    let first = (start * points + point * width + lane / slice * slice) * depth;
                    let at = first + input * slice + lane % slice;
                    // SAFETY: this task alone writes this input channel of this panel.
                    unsafe { *memory.pointer(at, 1) = row[j] as f32 };
                }
            }
        });
    }
}

/// Between the points of a block beside their numbers, a cache line: without it all points of a tile would fall into the
/// same set of the first-level cache.
const APART: usize = 16;

/// A bound convolution: everything that does not change from run to run.
#[derive(Debug)]
pub(super) struct Winograd {
    tile: Tile,
    kernels: MicroKernels,
    conv: Conv,
    depth: usize,
    lanes: usize,
    /// Rows and columns read and made.
    source: (usize, usize),
    target: (usize, usize),
    relu: bool,
    /// Whether results are written past the caches.
    passes: bool,
    panels: Vec<Panel>,
    division: Division,
    threads: usize,
    /// A pixel outside the map.
    outside: Vec<f32>,
}

/// Share number `at` of `parts` shares of `of` things.
fn share(of: usize, at: usize, parts: usize) -> Range<usize> {
    of * at / parts..of * (at + 1) / parts
}

/// From one point of a block to the next.
fn point_step(tiles: usize, lanes: usize) -> usize {
    (tiles * lanes).next_multiple_of(APART) + APART
}

/// Numbers of scratch memory of a thread.
fn scratch(tile: Tile, tiles: usize, depth: usize, width: usize) -> usize {
    tile.points() * (point_step(tiles, depth) + point_step(tiles, width))
}

impl Winograd {
    pub fn new(
        tile: Tile,
        kernels: MicroKernels,
        conv: &Conv,
        (maps, filter): (Shape, Shape),
        relu: bool,
        threads: usize,
    ) -> Winograd {
        let (Shape::Maps { batch, channels, height, width }, Shape::Filter { outputs, .. }) = (maps, filter) else {
            unreachable!("a convolution reads maps and a filter")
        };
        let division = Division::new(tile, conv, (maps, filter), threads);
        let size = |source| conv.output_size(source, 3).unwrap_or(0);
        let (depth, lanes) = (padded(channels), padded(outputs));
        let made = Shape::maps(batch, outputs, size(height), size(width));
        Winograd {
            tile,
            kernels,
            conv: *conv,
            depth,
            lanes,
            source: (height, width),
            target: (size(height), size(width)),
            relu,
            passes: cache::is_better_passed(storage(made)),
            panels: panels(outputs),
            division,
            threads,
            outside: vec![0.0; depth],
        }
    }

    /// Numbers of scratch memory of a thread.
    fn scratch(&self) -> usize {
        scratch(self.tile, self.division.most_tiles(), self.depth, self.panels[0].width)
    }

    /// Numbers of scratch memory of all threads.
    pub fn workspace(&self) -> usize {
        self.threads * self.scratch()
    }

    /// How many results of a row, and of a column, of a tile lie within the map.
    fn inside(&self, place: Place) -> (usize, usize) {
        let inside =
            |first: u32, size: usize| (size - first as usize).div_ceil(self.conv.dilation).min(self.tile.made());
        (inside(place.row, self.target.0), inside(place.column, self.target.1))
    }

    /// Pixels of each part of a sample.
    pub fn parts(&self) -> Vec<usize> {
        let pixels = |part: usize| {
            let tiles = self.division.tiles_of(part..part + 1);
            self.division.places[tiles]
                .iter()
                .map(|&place| self.inside(place))
                .map(|(rows, columns)| rows * columns)
                .sum()
        };
        (0..self.division.parts()).map(pixels).collect()
    }

    /// Computes the whole output, by a filter that [`Tile::write_filter`] has written.
    pub fn run(&self, operands: &Operands) {
        match self.tile {
            Tile::Two => self.run_tiles::<Two>(operands),
            Tile::Four => self.run_tiles::<Four>(operands),
        }
    }

    fn run_tiles<P: Points>(&self, operands: &Operands) {
        let set = self.kernels.set;
        let (division, scratch) = (&self.division, self.scratch());
        (0..division.blocks * division.shares).into_par_iter().with_max_len(1).for_each(|task| {
            let (block, part) = (task / division.shares, task % division.shares);
            let parts = division.block(block);
            let tiles = division.tiles_of(parts.clone());
            let places = &division.places[tiles];
            let thread = rayon::current_thread_index().unwrap_or(0);
            assert!(thread < self.threads, "a program runs on the threads of its device");
            let pixels = operands.workspace.pointer(thread * scratch, scratch);
            let pixel_step = point_step(places.len(), self.depth);
            // SAFETY: within the scratch memory, which holds the pixels and the sums of the largest block.
            let sums = unsafe { pixels.add(self.tile.points() * pixel_step) };
            let points = Block { start: pixels, step: pixel_step, lanes: self.depth };
            set.dispatch(ReadPixels::<P> { of: self, places, operands, points, kind: PhantomData });
            for &panel in &self.panels[share(self.panels.len(), part, division.shares)] {
                let sums = Block { start: sums, step: point_step(places.len(), panel.width), lanes: panel.width };
                self.multiply(panel, places.len(), operands.filter, points, sums);
                let parts = parts.clone();
                set.dispatch(WriteResults::<P> { of: self, parts, panel, sums, operands, kind: PhantomData });
            }
            if self.passes {
                cache::end_passing();
            }
        });
    }

    /// The sums over channels of each point's products.
    fn multiply(&self, panel: Panel, tiles: usize, filter: Region, points: Block, sums: Block) {
        let (count, slice) = (self.tile.points(), panel.width.min(self.kernels.slice()));
        for point in 0..count {
            let first = (panel.start * count + point * panel.width) * self.depth;
            let left = filter.pointer(first, self.depth * panel.width);
            for lane in (0..panel.width).step_by(slice) {
                // SAFETY: the filter's range was just checked; the blocks are this task's scratch memory.
                unsafe {
                    self.kernels.multiply(
                        false,
                        (slice, tiles, self.depth),
                        (sums.start.add(point * sums.step + lane), sums.lanes),
                        Operand { start: left.add(lane * self.depth), term: slice, column: 0 },
                        Operand { start: points.start.add(point * points.step), term: 1, column: points.lanes },
                    );
                }
            }
        }
    }
}
