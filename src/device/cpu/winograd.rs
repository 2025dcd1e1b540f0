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

use super::cache;
use super::lanes::{load, rectified, store};
use super::layout::{Panel, padded, panels, storage};
use super::memory::Region;
use super::microkernel::{MicroKernels, Operand};
use super::operands::Operands;
use crate::graph::Shape;
use crate::ops::Conv;
use pulp::{Simd, WithSimd};
use rayon::prelude::*;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ops::Range;

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

    /// Writes `G g G^T` of each pair of channels, as `[panel][point][padded input channel][output channel of the panel]`.
    pub fn write_filter(self, shape: Shape, filter: &[f32], memory: Region) {
        let Shape::Filter { outputs, inputs, .. } = shape else { unreachable!("only filters are transformed") };
        let (depth, points) = (padded(inputs), self.points());
        let panels = panels(outputs);
        (0..panels.len() * depth).into_par_iter().for_each(|task| {
            let (Panel { start, width }, input) = (panels[task / depth], task % depth);
            for lane in 0..width {
                let output = start + lane;
                let inside = output < outputs && input < inputs;
                let taps = |u, v| if inside { filter[(output * inputs + input) * 9 + u * 3 + v] } else { 0.0 };
                let columns: [_; 3] =
                    std::array::from_fn(|v| self.filter_points(std::array::from_fn(|u| f64::from(taps(u, v)))));
                for point in 0..points {
                    let (i, j) = (point / self.read(), point % self.read());
                    let row = self.filter_points(std::array::from_fn(|v| columns[v][i]));
                    let at = (start * points + point * width) * depth + input * width + lane;
                    // SAFETY: this task alone writes this input channel of this panel.
                    unsafe { *memory.pointer(at, 1) = row[j] as f32 };
                }
            }
        });
    }
}

/// Points of a row of the larger tile.
const MOST: usize = 6;

/// The one-dimensional transforms of a tile.
trait Points: Send + Sync {
    const MADE: usize;
    const READ: usize;

    /// `B^T d`.
    fn of_pixels<S: Simd>(simd: S, d: [S::f32s; MOST]) -> [S::f32s; MOST];

    /// `A^T m`.
    fn results<S: Simd>(simd: S, m: [S::f32s; MOST]) -> [S::f32s; 4];
}

struct Two;
struct Four;

impl Points for Two {
    const MADE: usize = 2;
    const READ: usize = 4;

    #[inline(always)]
    fn of_pixels<S: Simd>(simd: S, d: [S::f32s; MOST]) -> [S::f32s; MOST] {
        let zero = simd.splat_f32s(0.0);
        [
            simd.sub_f32s(d[0], d[2]),
            simd.add_f32s(d[1], d[2]),
            simd.sub_f32s(d[2], d[1]),
            simd.sub_f32s(d[1], d[3]),
            zero,
            zero,
        ]
    }

    #[inline(always)]
    fn results<S: Simd>(simd: S, m: [S::f32s; MOST]) -> [S::f32s; 4] {
        let zero = simd.splat_f32s(0.0);
        let (sum, difference) = (simd.add_f32s(m[1], m[2]), simd.sub_f32s(m[1], m[2]));
        [simd.add_f32s(m[0], sum), simd.sub_f32s(difference, m[3]), zero, zero]
    }
}

impl Points for Four {
    const MADE: usize = 4;
    const READ: usize = 6;

    #[inline(always)]
    fn of_pixels<S: Simd>(simd: S, d: [S::f32s; MOST]) -> [S::f32s; MOST] {
        let (two, four) = (simd.splat_f32s(2.0), simd.splat_f32s(4.0));
        let (minus_two, minus_four) = (simd.splat_f32s(-2.0), simd.splat_f32s(-4.0));
        let even = simd.mul_add_e_f32s(minus_four, d[2], d[4]);
        let odd = simd.mul_add_e_f32s(minus_four, d[1], d[3]);
        let (far_even, far_odd) = (simd.sub_f32s(d[4], d[2]), simd.sub_f32s(d[3], d[1]));
        [
            simd.mul_add_e_f32s(four, simd.sub_f32s(d[0], d[2]), far_even),
            simd.add_f32s(even, odd),
            simd.sub_f32s(even, odd),
            simd.mul_add_e_f32s(two, far_odd, far_even),
            simd.mul_add_e_f32s(minus_two, far_odd, far_even),
            simd.mul_add_e_f32s(minus_four, far_odd, simd.sub_f32s(d[5], d[3])),
        ]
    }

    #[inline(always)]
    fn results<S: Simd>(simd: S, m: [S::f32s; MOST]) -> [S::f32s; 4] {
        let [two, four, eight] = [2.0, 4.0, 8.0].map(|factor| simd.splat_f32s(factor));
        let (sum, difference) = (simd.add_f32s(m[1], m[2]), simd.sub_f32s(m[1], m[2]));
        let (far_sum, far_difference) = (simd.add_f32s(m[3], m[4]), simd.sub_f32s(m[3], m[4]));
        [
            simd.add_f32s(simd.add_f32s(m[0], sum), far_sum),
            simd.mul_add_e_f32s(two, far_difference, difference),
            simd.mul_add_e_f32s(four, far_sum, sum),
            simd.add_f32s(simd.mul_add_e_f32s(eight, far_difference, difference), m[5]),
        ]
    }
}

/// Where a tile's results begin; those of a row are `dilation` pixels apart.
#[derive(Debug, Clone, Copy)]
struct Place {
    sample: u32,
    row: u32,
    column: u32,
}

/// Numbers that a task's transformed pixels and sums may take, so that they stay in the second-level cache.
const BLOCK: usize = 128 * 1024;
/// The fewest and the most tiles of a block; the filter goes by once for each block.
const TILES: std::ops::RangeInclusive<usize> = 24..=48;
/// The most tiles of a part, of whose results the statistics are taken together; a block has whole parts.
const PART: usize = 8;
/// The fewest parts of a sample that has more tiles than that, so that blocks can be about as large.
const PARTS: usize = 64;
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

/// How the work is divided. Sums do not depend on it, and what is found of parts does not depend on the threads.
#[derive(Debug)]
struct Division {
    places: Vec<Place>,
    /// Tiles of a sample, and of each of its parts but the last.
    tiles: usize,
    part: usize,
    blocks: usize,
    /// What the panels are divided into, where there are fewer blocks than threads.
    shares: usize,
}

impl Division {
    fn new(tile: Tile, conv: &Conv, (maps, filter): (Shape, Shape), threads: usize) -> Division {
        let (Shape::Maps { batch, channels, height, width }, Shape::Filter { outputs, .. }) = (maps, filter) else {
            unreachable!("a convolution reads maps and a filter")
        };
        let size = |source| conv.output_size(source, 3).unwrap_or(0);
        let places = places(tile, batch, (size(height), size(width)), conv.dilation);
        let panels = panels(outputs);
        let tiles = places.len() / batch.max(1);
        let part = (tiles / PARTS).next_power_of_two().min(PART);
        let fitting = BLOCK / (tile.points() * (padded(channels) + panels[0].width));
        let most = fitting.clamp(*TILES.start(), *TILES.end());
        let mut blocks = places.len().div_ceil(most);
        if blocks < 8 * threads {
            blocks = blocks.next_multiple_of(threads).min(places.len().div_ceil(6));
        }
        let mut division = Division { places, tiles, part, blocks, shares: 1 };
        division.blocks = blocks.min(batch * division.parts());
        division.shares = threads.div_ceil(division.blocks.max(1)).min(panels.len());
        division
    }

    /// Parts of a sample.
    fn parts(&self) -> usize {
        self.tiles.div_ceil(self.part)
    }

    /// Where a part of a sample, counted from the first sample's first one on, begins.
    fn first_tile(&self, part: usize) -> usize {
        part / self.parts() * self.tiles + part % self.parts() * self.part
    }

    /// The parts of a block.
    fn block(&self, block: usize) -> Range<usize> {
        let samples = self.places.len() / self.tiles.max(1);
        share(samples * self.parts(), block, self.blocks)
    }

    /// The tiles of some parts.
    fn tiles_of(&self, parts: Range<usize>) -> Range<usize> {
        self.first_tile(parts.start)..self.first_tile(parts.end)
    }

    fn most_tiles(&self) -> usize {
        (0..self.blocks).map(|block| self.tiles_of(self.block(block)).len()).max().unwrap_or(0)
    }
}

/// Share number `at` of `parts` shares of `of` things.
fn share(of: usize, at: usize, parts: usize) -> Range<usize> {
    of * at / parts..of * (at + 1) / parts
}

/// The tiles of all phases of all samples.
fn places(tile: Tile, batch: usize, (rows, columns): (usize, usize), dilation: usize) -> Vec<Place> {
    let starts = |size: usize| -> Vec<u32> {
        let phases = (0..dilation.min(size)).flat_map(|phase| (phase..size).step_by(dilation * tile.made()));
        phases.map(|at| at as u32).collect()
    };
    let (rows, columns) = (starts(rows), starts(columns));
    let mut places = Vec::with_capacity(batch * rows.len() * columns.len());
    for sample in 0..batch as u32 {
        for &row in &rows {
            places.extend(columns.iter().map(|&column| Place { sample, row, column }));
        }
    }
    places
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
        let arch = pulp::Arch::new();
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
            arch.dispatch(ReadPixels::<P> { of: self, places, operands, points, kind: PhantomData });
            for &panel in &self.panels[share(self.panels.len(), part, division.shares)] {
                let sums = Block { start: sums, step: point_step(places.len(), panel.width), lanes: panel.width };
                self.multiply(panel, places.len(), operands.filter, points, sums);
                let parts = parts.clone();
                arch.dispatch(WriteResults::<P> { of: self, parts, panel, sums, operands, kind: PhantomData });
            }
            if self.passes {
                cache::end_passing();
            }
        });
    }

    /// The sums over channels of each point's products.
    fn multiply(&self, panel: Panel, tiles: usize, filter: Region, points: Block, sums: Block) {
        let count = self.tile.points();
        for point in 0..count {
            let first = (panel.start * count + point * panel.width) * self.depth;
            let left = filter.pointer(first, self.depth * panel.width);
            // SAFETY: the filter's range was just checked; the blocks are this task's scratch memory.
            unsafe {
                self.kernels.multiply(
                    false,
                    (panel.width, tiles, self.depth),
                    (sums.start.add(point * sums.step), sums.lanes),
                    Operand { start: left, term: panel.width, column: 0 },
                    Operand { start: points.start.add(point * points.step), term: 1, column: points.lanes },
                );
            }
        }
    }
}

/// Some lanes of each point of each tile, in a thread's scratch memory.
#[derive(Debug, Clone, Copy)]
struct Block {
    start: *mut f32,
    /// From one point to the next.
    step: usize,
    /// From one tile to the next.
    lanes: usize,
}

/// The numbers of a row of which all that a tile has are written; to clear them first would take as long as the transform.
///
/// # Safety
/// They are.
#[inline(always)]
unsafe fn written<S: Simd, P: Points>(simd: S, row: &[MaybeUninit<S::f32s>; MOST]) -> [S::f32s; MOST] {
    let mut numbers = [simd.splat_f32s(0.0); MOST];
    for (number, written) in numbers.iter_mut().zip(row).take(P::READ) {
        // SAFETY: the caller's promise.
        *number = unsafe { written.assume_init() };
    }
    numbers
}

/// `B^T d B` of every tile of a block.
struct ReadPixels<'a, P> {
    of: &'a Winograd,
    places: &'a [Place],
    operands: &'a Operands,
    points: Block,
    kind: PhantomData<P>,
}

/// The pixels that a tile reads.
type Pixels = [[*const f32; MOST]; MOST];

/// A vector of lanes of each pixel that a tile reads.
trait Lanes<S: Simd> {
    /// That of row `i` and column `j`.
    ///
    /// # Safety
    /// Nobody writes the pixel.
    unsafe fn at(&self, simd: S, i: usize, j: usize) -> S::f32s;
}

/// The pixels' lanes from `lane` on, of which `left` are left.
struct AsTheyAre<'a> {
    pixels: &'a Pixels,
    lane: usize,
    left: usize,
}

impl<S: Simd> Lanes<S> for AsTheyAre<'_> {
    #[inline(always)]
    unsafe fn at(&self, simd: S, i: usize, j: usize) -> S::f32s {
        // SAFETY: the caller's promise.
        unsafe { load(simd, self.pixels[i][j].add(self.lane), self.left) }
    }
}

/// The same lanes, normed where pixels lie within the map: all of them do so of a tile that is whole.
struct NormedLanes<'a, S: Simd, const WHOLE: bool> {
    pixels: AsTheyAre<'a>,
    outside: *const f32,
    mean: S::f32s,
    scale: S::f32s,
    beta: S::f32s,
    /// 0 with ReLU, and what is less than all numbers without.
    least: S::f32s,
}

impl<S: Simd, const WHOLE: bool> Lanes<S> for NormedLanes<'_, S, WHOLE> {
    #[inline(always)]
    unsafe fn at(&self, simd: S, i: usize, j: usize) -> S::f32s {
        if !WHOLE && self.pixels.pixels[i][j] == self.outside {
            return simd.splat_f32s(0.0);
        }
        // SAFETY: the caller's promise.
        let x = unsafe { self.pixels.at(simd, i, j) };
        let y = simd.mul_add_e_f32s(simd.sub_f32s(x, self.mean), self.scale, self.beta);
        // NaN stays.
        simd.select_f32s(simd.less_than_f32s(y, self.least), self.least, y)
    }
}

impl<P: Points> ReadPixels<'_, P> {
    /// The pixels that a tile reads, and whether all of them lie within the map; the others are zeros.
    fn pixels(&self, place: Place) -> (Pixels, bool) {
        let Winograd { conv, depth, source: (height, width), .. } = *self.of;
        let at = |first: u32, tap: usize, size: usize| {
            (first as usize + tap * conv.dilation).checked_sub(conv.padding).filter(|&at| at < size)
        };
        let mut pixels = [[self.of.outside.as_ptr(); MOST]; MOST];
        let mut inside = 0;
        for (i, row) in pixels.iter_mut().enumerate().take(P::READ) {
            let Some(y) = at(place.row, i, height) else { continue };
            let start = (place.sample as usize * height + y) * width;
            for (j, pixel) in row.iter_mut().enumerate().take(P::READ) {
                if let Some(x) = at(place.column, j, width) {
                    *pixel = self.operands.source.pointer((start + x) * depth, depth);
                    inside += 1;
                }
            }
        }
        (pixels, inside == P::READ * P::READ)
    }

    /// Transforms a vector of lanes of a tile.
    ///
    /// # Safety
    /// Nobody writes the pixels. `left` numbers are writable at `to` and at each further point; they are this task's.
    #[inline(always)]
    #[allow(clippy::needless_range_loop)] // rows and columns, of several arrays at once
    unsafe fn transform<S: Simd>(&self, simd: S, (to, left): (*mut f32, usize), lanes: impl Lanes<S>) {
        let mut half = [[const { MaybeUninit::<S::f32s>::uninit() }; MOST]; MOST];
        for j in 0..P::READ {
            let mut d = [simd.splat_f32s(0.0); MOST];
            for i in 0..P::READ {
                // SAFETY: the caller's promise.
                d[i] = unsafe { lanes.at(simd, i, j) };
            }
            let t = P::of_pixels(simd, d);
            for i in 0..P::READ {
                half[i][j].write(t[i]);
            }
        }
        for i in 0..P::READ {
            // SAFETY: all that a row has was just written; the rest is the caller's promise.
            unsafe {
                let t = P::of_pixels(simd, written::<S, P>(simd, &half[i]));
                for j in 0..P::READ {
                    store(simd, to.add((i * P::READ + j) * self.points.step), left, t[j]);
                }
            }
        }
    }
}

impl<P: Points> WithSimd for ReadPixels<'_, P> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let depth = self.of.depth;
        let mut next = self.places.first().map(|&place| self.pixels(place));
        for (tile, &place) in self.places.iter().enumerate() {
            let Some((pixels, whole)) = next else { break };
            next = self.places.get(tile + 1).map(|&place| self.pixels(place));
            let rows = self.operands.normed.map(|normed| (normed.rows(place.sample as usize), normed.relu));
            for lane in (0..depth).step_by(S::F32_LANES) {
                let left = depth - lane;
                if let Some((next, _)) = &next {
                    for row in next.iter().take(P::READ) {
                        for pixel in row.iter().take(P::READ) {
                            cache::prefetch(pixel.wrapping_add(lane));
                        }
                    }
                }
                // SAFETY: pixels, and the rows of a norm, have `depth` numbers that nobody writes; the points are this
                // task's.
                unsafe {
                    let to = (self.points.start.add(tile * depth + lane), left);
                    let pixels = AsTheyAre { pixels: &pixels, lane, left };
                    let Some((rows, relu)) = rows else {
                        self.transform(simd, to, pixels);
                        continue;
                    };
                    let [mean, scale, beta] = rows.map(|row| load(simd, row.add(lane), left));
                    let least = simd.splat_f32s(if relu { 0.0 } else { f32::NEG_INFINITY });
                    let outside = self.of.outside.as_ptr();
                    if whole {
                        let lanes = NormedLanes::<S, true> { pixels, outside, mean, scale, beta, least };
                        self.transform(simd, to, lanes);
                    } else {
                        let lanes = NormedLanes::<S, false> { pixels, outside, mean, scale, beta, least };
                        self.transform(simd, to, lanes);
                    }
                }
            }
        }
    }
}

/// `A^T m A` of every tile of some parts, with bias and ReLU, and the moments of each part.
struct WriteResults<'a, P> {
    of: &'a Winograd,
    parts: Range<usize>,
    panel: Panel,
    sums: Block,
    operands: &'a Operands,
    kind: PhantomData<P>,
}

/// What a tile's results are, of some lanes; those outside of the map are left as they are.
type Results<V> = [[MaybeUninit<V>; 4]; 4];

impl<P: Points> WithSimd for WriteResults<'_, P> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let division = &self.of.division;
        let first = division.first_tile(self.parts.start);
        for part in self.parts.clone() {
            let mut pixels = 0;
            for tile in division.tiles_of(part..part + 1) {
                let place = division.places[tile];
                let size = self.of.inside(place);
                self.write_tile(simd, (tile - first, place, size), (part % division.parts(), pixels));
                pixels += size.0 * size.1;
            }
        }
    }
}

impl<P: Points> WriteResults<'_, P> {
    /// Writes the results of a tile, of which so many rows and columns are inside the map, and adds them to what `before`
    /// pixels of its part have left.
    #[inline(always)]
    fn write_tile<S: Simd>(
        &self,
        simd: S,
        (tile, place, size): (usize, Place, (usize, usize)),
        (part, before): (usize, usize),
    ) {
        let Panel { start, width } = self.panel;
        let bias = self.operands.bias.map(|bias| bias.pointer(start, width).cast_const());
        let rows = self.operands.moments.as_ref().map(|moments| moments.rows(place.sample as usize, part));
        for lane in (0..width).step_by(S::F32_LANES) {
            // SAFETY: the sums are this task's, and so are these lanes of the pixels of its tiles and of what is found of
            // them; nobody writes the bias.
            unsafe {
                let added = bias.map_or(simd.splat_f32s(0.0), |bias| load(simd, bias.add(lane), width - lane));
                let rows = rows.map(|rows| rows.map(|row| row.add(start + lane)));
                // The size that nearly all tiles have is a constant, so that loops over it are unrolled.
                if size == (P::MADE, P::MADE) {
                    self.write_lanes(simd, (tile, place, (P::MADE, P::MADE)), (lane, added), (rows, before));
                } else {
                    self.write_lanes(simd, (tile, place, size), (lane, added), (rows, before));
                }
            }
        }
    }

    /// Writes a vector of lanes of a tile's results, and adds them to the moments of its part.
    ///
    /// # Safety
    /// The sums are this task's, and so are these lanes of the pixels of the tile and of the moments.
    #[inline(always)]
    #[allow(clippy::needless_range_loop)] // rows and columns, of several arrays at once
    unsafe fn write_lanes<S: Simd>(
        &self,
        simd: S,
        (tile, place, (height, across)): (usize, Place, (usize, usize)),
        (lane, added): (usize, S::f32s),
        (moments, before): (Option<[*mut f32; 2]>, usize),
    ) {
        let Winograd { conv, lanes, target: (rows, columns), relu, passes, .. } = *self.of;
        let Panel { start, width } = self.panel;
        let (step, target, left) = (self.sums.step, self.operands.target, width - lane);
        let pixel = |i: usize, j: usize| {
            let line = place.sample as usize * rows + place.row as usize + i * conv.dilation;
            target.pointer((line * columns + place.column as usize + j * conv.dilation) * lanes + start, width)
        };
        let mut results = [[const { MaybeUninit::<S::f32s>::uninit() }; 4]; 4];
        // SAFETY: the caller's promise; all results within the map are written before moments are taken of them.
        unsafe {
            let from = self.sums.start.add(tile * width + lane).cast_const();
            let mut half = [[const { MaybeUninit::<S::f32s>::uninit() }; MOST]; 4];
            for j in 0..P::READ {
                let mut m = [simd.splat_f32s(0.0); MOST];
                for i in 0..P::READ {
                    m[i] = load(simd, from.add((i * P::READ + j) * step), left);
                }
                let t = P::results(simd, m);
                for i in 0..P::MADE {
                    half[i][j].write(t[i]);
                }
            }
            for (i, half) in half.iter().enumerate().take(height) {
                let t = P::results(simd, written::<S, P>(simd, half));
                for (j, &result) in t.iter().enumerate().take(across) {
                    let sum = simd.add_f32s(result, added);
                    let y = if relu { rectified(simd, sum) } else { sum };
                    let to = pixel(i, j).add(lane);
                    if !(passes && left >= S::F32_LANES && cache::pass::<S>(to, y)) {
                        store(simd, to, left, y);
                    }
                    results[i][j].write(y);
                }
            }
            let Some([mean, m2]) = moments else { return };
            let found = found_in(simd, &results, (height, across));
            let (mut new, pixels) = (found, (height * across) as f32);
            if before > 0 {
                let count = before as f32;
                let old = (load(simd, mean, left), load(simd, m2, left));
                let (share, spread) = (pixels / (count + pixels), count * pixels / (count + pixels));
                let away = simd.sub_f32s(found.0, old.0);
                let between = simd.mul_f32s(simd.splat_f32s(spread), away);
                new.0 = simd.mul_add_e_f32s(simd.splat_f32s(share), away, old.0);
                new.1 = simd.mul_add_e_f32s(between, away, simd.add_f32s(old.1, found.1));
            }
            store(simd, mean, left, new.0);
            store(simd, m2, left, new.1);
        }
    }
}

/// Mean and M2 of the results of a tile that lie within the map.
///
/// # Safety
/// So many rows and columns are written.
#[inline(always)]
#[allow(clippy::needless_range_loop)] // rows and columns, of several arrays at once
unsafe fn found_in<S: Simd>(
    simd: S,
    results: &Results<S::f32s>,
    (height, across): (usize, usize),
) -> (S::f32s, S::f32s) {
    let zero = simd.splat_f32s(0.0);
    // Sums of pairs of pairs: that of equal numbers is exact.
    let mut rows = [zero; 4];
    for i in 0..height {
        let mut pairs = [zero; 2];
        for j in 0..across {
            // SAFETY: the caller's promise.
            pairs[j / 2] = simd.add_f32s(pairs[j / 2], unsafe { results[i][j].assume_init() });
        }
        rows[i] = simd.add_f32s(pairs[0], pairs[1]);
    }
    let sum = simd.add_f32s(simd.add_f32s(rows[0], rows[1]), simd.add_f32s(rows[2], rows[3]));
    let mean = simd.mul_f32s(sum, simd.splat_f32s(1.0 / (height * across) as f32));
    let mut m2 = [zero; 2];
    for row in results.iter().take(height) {
        for (j, result) in row.iter().enumerate().take(across) {
            // SAFETY: the caller's promise.
            let away = simd.sub_f32s(unsafe { result.assume_init() }, mean);
            m2[j % 2] = simd.mul_add_e_f32s(away, away, m2[j % 2]);
        }
    }
    (mean, simd.add_f32s(m2[0], m2[1]))
}
