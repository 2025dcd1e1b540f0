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

use super::layout::{Panel, padded, panels};
use super::memory::Region;
use super::microkernel::{MicroKernels, Operand};
use crate::graph::Shape;
use crate::ops::Conv;
use pulp::{Simd, WithSimd};
use rayon::prelude::*;
use std::marker::PhantomData;
use std::mem::MaybeUninit;

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
    panels: Vec<Panel>,
    places: Vec<Place>,
    blocks: usize,
    /// Parts that the panels are divided into, where there are fewer blocks than threads.
    parts: usize,
    threads: usize,
    /// A pixel outside the map.
    outside: Vec<f32>,
}

/// How the work is divided. Sums do not depend on it.
struct Division {
    places: Vec<Place>,
    blocks: usize,
    parts: usize,
}

impl Division {
    fn new(tile: Tile, conv: &Conv, (maps, filter): (Shape, Shape), threads: usize) -> Division {
        let (Shape::Maps { batch, channels, height, width }, Shape::Filter { outputs, .. }) = (maps, filter) else {
            unreachable!("a convolution reads maps and a filter")
        };
        let size = |source| conv.output_size(source, 3).unwrap_or(0);
        let places = places(tile, batch, (size(height), size(width)), conv.dilation);
        let panels = panels(outputs);
        let fitting = BLOCK / (tile.points() * (padded(channels) + panels[0].width));
        let most = fitting.clamp(*TILES.start(), *TILES.end());
        let mut blocks = places.len().div_ceil(most);
        if blocks < 8 * threads {
            blocks = blocks.next_multiple_of(threads).min(places.len().div_ceil(6));
        }
        let parts = threads.div_ceil(blocks).min(panels.len());
        Division { places, blocks, parts }
    }

    fn most_tiles(&self) -> usize {
        self.places.len().div_ceil(self.blocks)
    }
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

/// Numbers of scratch memory of all threads.
pub(super) fn workspace(tile: Tile, conv: &Conv, maps: Shape, filter: Shape, threads: usize) -> usize {
    let (Shape::Maps { channels, .. }, Shape::Filter { outputs, .. }) = (maps, filter) else { return 0 };
    let tiles = Division::new(tile, conv, (maps, filter), threads).most_tiles();
    threads * scratch(tile, tiles, padded(channels), panels(outputs)[0].width)
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
        let (Shape::Maps { channels, height, width, .. }, Shape::Filter { outputs, .. }) = (maps, filter) else {
            unreachable!("a convolution reads maps and a filter")
        };
        let Division { places, blocks, parts } = Division::new(tile, conv, (maps, filter), threads);
        let size = |source| conv.output_size(source, 3).unwrap_or(0);
        let (depth, lanes) = (padded(channels), padded(outputs));
        Winograd {
            tile,
            kernels,
            conv: *conv,
            depth,
            lanes,
            source: (height, width),
            target: (size(height), size(width)),
            relu,
            panels: panels(outputs),
            places,
            blocks,
            parts,
            threads,
            outside: vec![0.0; depth],
        }
    }

    /// Computes the whole output, by a filter that [`Tile::write_filter`] has written.
    pub fn run(&self, source: Region, filter: Region, bias: Option<Region>, target: Region, workspace: Region) {
        let memory = Memory { source, filter, bias, target, workspace };
        match self.tile {
            Tile::Two => self.run_tiles::<Two>(memory),
            Tile::Four => self.run_tiles::<Four>(memory),
        }
    }

    fn run_tiles<P: Points>(&self, memory: Memory) {
        let arch = pulp::Arch::new();
        let most = self.places.len().div_ceil(self.blocks);
        let scratch = scratch(self.tile, most, self.depth, self.panels[0].width);
        (0..self.blocks * self.parts).into_par_iter().with_max_len(1).for_each(|task| {
            let (block, part) = (task / self.parts, task % self.parts);
            let share = |of: usize, at: usize, parts: usize| of * at / parts..of * (at + 1) / parts;
            let places = &self.places[share(self.places.len(), block, self.blocks)];
            let thread = rayon::current_thread_index().unwrap_or(0);
            assert!(thread < self.threads, "a program runs on the threads of its device");
            let pixels = memory.workspace.pointer(thread * scratch, scratch);
            let pixel_step = point_step(places.len(), self.depth);
            // SAFETY: within the scratch memory, which holds the pixels and the sums of the largest block.
            let sums = unsafe { pixels.add(self.tile.points() * pixel_step) };
            let points = Block { start: pixels, step: pixel_step, lanes: self.depth };
            arch.dispatch(ReadPixels::<P> { of: self, places, source: memory.source, points, kind: PhantomData });
            for &panel in &self.panels[share(self.panels.len(), part, self.parts)] {
                let sums = Block { start: sums, step: point_step(places.len(), panel.width), lanes: panel.width };
                self.multiply(panel, places.len(), memory.filter, points, sums);
                arch.dispatch(WriteResults::<P> { of: self, places, panel, sums, memory, kind: PhantomData });
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

/// The operands of a run.
#[derive(Debug, Clone, Copy)]
struct Memory {
    source: Region,
    filter: Region,
    bias: Option<Region>,
    target: Region,
    workspace: Region,
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

/// Reads a vector, or the `left` numbers that are left of one.
///
/// # Safety
/// They are readable and nobody writes them meanwhile.
#[inline(always)]
unsafe fn load<S: Simd>(simd: S, from: *const f32, left: usize) -> S::f32s {
    // SAFETY: the caller's promise.
    unsafe {
        if left >= S::F32_LANES {
            from.cast::<S::f32s>().read_unaligned()
        } else {
            simd.partial_load_f32s(std::slice::from_raw_parts(from, left))
        }
    }
}

/// Writes a vector, or the `left` numbers that are left of one.
///
/// # Safety
/// They are writable and nobody else touches them meanwhile.
#[inline(always)]
unsafe fn store<S: Simd>(simd: S, to: *mut f32, left: usize, vector: S::f32s) {
    // SAFETY: the caller's promise.
    unsafe {
        if left >= S::F32_LANES {
            to.cast::<S::f32s>().write_unaligned(vector);
        } else {
            simd.partial_store_f32s(std::slice::from_raw_parts_mut(to, left), vector);
        }
    }
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
    source: Region,
    points: Block,
    kind: PhantomData<P>,
}

impl<P: Points> ReadPixels<'_, P> {
    /// The pixels that a tile reads; those outside the map are zeros.
    fn pixels(&self, place: Place) -> [[*const f32; MOST]; MOST] {
        let Winograd { conv, depth, source: (height, width), .. } = *self.of;
        let at = |first: u32, tap: usize, size: usize| {
            (first as usize + tap * conv.dilation).checked_sub(conv.padding).filter(|&at| at < size)
        };
        let mut pixels = [[self.of.outside.as_ptr(); MOST]; MOST];
        for (i, row) in pixels.iter_mut().enumerate().take(P::READ) {
            let Some(y) = at(place.row, i, height) else { continue };
            let start = (place.sample as usize * height + y) * width;
            for (j, pixel) in row.iter_mut().enumerate().take(P::READ) {
                if let Some(x) = at(place.column, j, width) {
                    *pixel = self.source.pointer((start + x) * depth, depth);
                }
            }
        }
        pixels
    }
}

impl<P: Points> WithSimd for ReadPixels<'_, P> {
    type Output = ();

    #[inline(always)]
    #[allow(clippy::needless_range_loop)] // rows and columns, of several arrays at once
    fn with_simd<S: Simd>(self, simd: S) {
        let (depth, step) = (self.of.depth, self.points.step);
        for (tile, &place) in self.places.iter().enumerate() {
            let pixels = self.pixels(place);
            for lane in (0..depth).step_by(S::F32_LANES) {
                let left = depth - lane;
                // SAFETY: pixels have `depth` numbers that nobody writes; the points are this task's.
                unsafe {
                    let mut half = [[const { MaybeUninit::<S::f32s>::uninit() }; MOST]; MOST];
                    for j in 0..P::READ {
                        let mut d = [simd.splat_f32s(0.0); MOST];
                        for i in 0..P::READ {
                            d[i] = load(simd, pixels[i][j].add(lane), left);
                        }
                        let t = P::of_pixels(simd, d);
                        for i in 0..P::READ {
                            half[i][j].write(t[i]);
                        }
                    }
                    let to = self.points.start.add(tile * depth + lane);
                    for i in 0..P::READ {
                        let t = P::of_pixels(simd, written::<S, P>(simd, &half[i]));
                        for j in 0..P::READ {
                            store(simd, to.add((i * P::READ + j) * step), left, t[j]);
                        }
                    }
                }
            }
        }
    }
}

/// `A^T m A` of every tile of a block, with bias and ReLU.
struct WriteResults<'a, P> {
    of: &'a Winograd,
    places: &'a [Place],
    panel: Panel,
    sums: Block,
    memory: Memory,
    kind: PhantomData<P>,
}

impl<P: Points> WithSimd for WriteResults<'_, P> {
    type Output = ();

    #[inline(always)]
    #[allow(clippy::needless_range_loop)] // rows and columns, of several arrays at once
    fn with_simd<S: Simd>(self, simd: S) {
        let Winograd { conv, lanes, target: (rows, columns), relu, .. } = *self.of;
        let Panel { start, width } = self.panel;
        let (step, target, zero) = (self.sums.step, self.memory.target, simd.splat_f32s(0.0));
        let bias = self.memory.bias.map(|bias| bias.pointer(start, width).cast_const());
        for (tile, &place) in self.places.iter().enumerate() {
            let (row, column) = (place.row as usize, place.column as usize);
            let inside = |first: usize, size: usize| (size - first).div_ceil(conv.dilation).min(P::MADE);
            let (height, across) = (inside(row, rows), inside(column, columns));
            let pixel = |i: usize, j: usize| {
                let line = place.sample as usize * rows + row + i * conv.dilation;
                target.pointer((line * columns + column + j * conv.dilation) * lanes + start, width)
            };
            for lane in (0..width).step_by(S::F32_LANES) {
                let left = width - lane;
                // SAFETY: the sums are this task's, and so are these lanes of the pixels of its tiles; nobody writes
                // the bias.
                unsafe {
                    let added = bias.map_or(zero, |bias| load(simd, bias.add(lane), left));
                    let from = self.sums.start.add(tile * width + lane).cast_const();
                    let mut half = [[const { MaybeUninit::<S::f32s>::uninit() }; MOST]; 4];
                    for j in 0..P::READ {
                        let mut m = [zero; MOST];
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
                            let mut y = simd.add_f32s(result, added);
                            if relu {
                                y = simd.select_f32s(simd.less_than_f32s(y, zero), zero, y);
                            }
                            store(simd, pixel(i, j).add(lane), left, y);
                        }
                    }
                }
            }
        }
    }
}
