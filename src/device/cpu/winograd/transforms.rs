//! Pixels to points, and sums to results, of some tiles.

use super::Winograd;
use super::division::Place;
use super::points::{MOST, Points};
use crate::device::cpu::cache;
use crate::device::cpu::lanes::{load, rectified, store};
use crate::device::cpu::layout::Panel;
use crate::device::cpu::operands::Operands;
use pulp::{Simd, WithSimd};
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ops::Range;

/// Some lanes of each point of each tile, in a thread's scratch memory.
#[derive(Debug, Clone, Copy)]
pub(super) struct Block {
    pub start: *mut f32,
    /// From one point to the next.
    pub step: usize,
    /// From one tile to the next.
    pub lanes: usize,
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
pub(super) struct ReadPixels<'a, P> {
    pub of: &'a Winograd,
    pub places: &'a [Place],
    pub operands: &'a Operands,
    pub points: Block,
    pub kind: PhantomData<P>,
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
pub(super) struct WriteResults<'a, P> {
    pub of: &'a Winograd,
    pub parts: Range<usize>,
    pub panel: Panel,
    pub sums: Block,
    pub operands: &'a Operands,
    pub kind: PhantomData<P>,
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
