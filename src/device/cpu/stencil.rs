//! Convolutions with few channels, the temporal one among them: the lanes of a vector are neighbouring pixels of a row.
//!
//! With few output channels most lanes of a vector would go unused, and with few input channels sums are too short to pay for
//! what goes around them. Here a vector of pixels meets one number of the filter at a time, and all terms of a sum are added
//! while it is in registers. Input rows lie channel by channel for that, with the zeros beside the map, each in a ring that
//! holds as many rows as the filter has.

use super::elementwise::{VECTOR, load, rectified, sigmoid, store};
use super::layout::{Panel, padded, panels};
use super::microkernel::InstructionSet;
use super::operands::Operands;
use crate::graph::Shape;
use crate::ops::Conv;
use pulp::{Simd, WithSimd};
use rayon::prelude::*;
use std::ops::Range;

/// Output channels that are summed together, each over three vectors of pixels: twelve sums stay in registers. Over two where
/// there are only sixteen registers, as with AVX2: compilers keep one of twelve sums in memory there, and each product waits
/// for it. A single output is summed over up to eight.
const GROUP: usize = 4;
/// The widest vector.
const WIDEST: usize = 16;
/// Rows of a task at least: a task begins with as many rows of input as the filter has, less one.
const LEAST_ROWS: usize = 16;
/// Taps of the largest filter of a pair of channels.
const MOST_TAPS: usize = 49;
/// Channels read or made, and pairs of them, above which other ways are quicker.
const MOST_CHANNELS: usize = 64;
const MOST_PAIRS: usize = 128;

/// How the input lies in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    /// Maps: the channels of a pixel side by side, padded.
    Pixels,
    /// A window: plane by plane.
    Planes,
}

/// A bound convolution: everything that does not change from run to run.
#[derive(Debug)]
pub(super) struct Stencil {
    source: Source,
    batch: usize,
    /// Channels read, or planes, and channels made.
    channels: usize,
    outputs: usize,
    /// As the filter lies in memory.
    panels: Vec<Panel>,
    kernel: (usize, usize),
    padding: usize,
    /// Rows and columns read and made.
    size: (usize, usize),
    target: (usize, usize),
    relu: bool,
    /// Whether results, rectified or not, become what the logistic function makes of them.
    sigmoid: bool,
    threads: usize,
}

impl Stencil {
    /// The convolution of maps, if it is one to compute so.
    pub fn of_maps(conv: &Conv, (maps, filter): (Shape, Shape), relu: bool, threads: usize) -> Option<Stencil> {
        let (
            Shape::Maps { batch, channels, height, width },
            Shape::Filter { outputs, height: rows, width: columns, .. },
        ) = (maps, filter)
        else {
            return None;
        };
        let few = channels.max(outputs) <= MOST_CHANNELS && channels * outputs <= MOST_PAIRS;
        // With a single tap nothing is read twice.
        let taps = (2..=MOST_TAPS).contains(&(rows * columns)) && few;
        if conv.stride != 1 || conv.dilation != 1 || !taps {
            return None;
        }
        let target = (conv.output_size(height, rows)?, conv.output_size(width, columns)?);
        let (kernel, size, padding) = ((rows, columns), (height, width), conv.padding);
        let (source, panels, sigmoid) = (Source::Pixels, panels(outputs), false);
        Some(Stencil {
            source,
            batch,
            channels,
            outputs,
            panels,
            kernel,
            padding,
            size,
            target,
            relu,
            sigmoid,
            threads,
        })
    }

    /// The temporal convolution of a window: each plane is a channel.
    pub fn of_window(window: Shape, outputs: usize, relu: bool, threads: usize) -> Stencil {
        let Shape::Window { batch, channels, frames, height, width } = window else {
            unreachable!("a temporal convolution reads a window, not {window}")
        };
        let (size, channels, source) = ((height, width), channels * frames, Source::Planes);
        let (kernel, padding, panels, target, sigmoid) = ((3, 3), 1, panels(outputs), size, false);
        Stencil { source, batch, channels, outputs, panels, kernel, padding, size, target, relu, sigmoid, threads }
    }

    /// The same, followed by the logistic function.
    pub fn with_sigmoid(self) -> Stencil {
        Stencil { sigmoid: true, ..self }
    }

    /// Numbers of scratch memory: the filter in the order it is used in, and what each thread works on.
    pub fn workspace(&self) -> usize {
        self.weights() + self.threads * self.scratch()
    }

    /// Output channels that are summed together.
    fn group(&self) -> usize {
        if self.outputs == 1 { 1 } else { GROUP }
    }

    fn groups(&self) -> usize {
        self.outputs.div_ceil(self.group())
    }

    /// Terms of a sum.
    fn terms(&self) -> usize {
        self.channels * self.kernel.0 * self.kernel.1
    }

    fn weights(&self) -> usize {
        self.groups() * self.terms() * self.group()
    }

    /// From one row of results to the next: vectors are whole.
    fn result_pitch(&self) -> usize {
        self.target.1.next_multiple_of(WIDEST)
    }

    /// From one row of input to the next: the vectors of all taps are whole.
    fn pitch(&self) -> usize {
        let read = self.result_pitch() + self.kernel.1 - 1;
        read.max(self.padding + self.size.1.next_multiple_of(VECTOR)).next_multiple_of(WIDEST)
    }

    /// Numbers of a thread: the ring of input rows, and a row of results.
    fn scratch(&self) -> usize {
        self.channels * self.kernel.0 * self.pitch() + padded(self.outputs) * self.result_pitch()
    }

    /// Rows of a task.
    fn band(&self) -> usize {
        self.target.0.div_ceil(4 * self.threads).max(LEAST_ROWS)
    }

    /// Pixels of each part of a sample, of which moments are taken together: its rows.
    pub fn parts(&self) -> Vec<usize> {
        vec![self.target.1; self.target.0]
    }

    /// Computes the whole output.
    pub fn run(&self, set: InstructionSet, operands: &Operands) {
        let workspace = operands.workspace;
        // SAFETY: nobody else runs.
        self.turn(unsafe { operands.filter.all() }, unsafe { workspace.slice_mut(0, self.weights()) });
        let bands = self.target.0.div_ceil(self.band());
        (0..self.batch * bands).into_par_iter().with_max_len(1).for_each(|task| {
            let (sample, first) = (task / bands, task % bands * self.band());
            let rows = first..(first + self.band()).min(self.target.0);
            let thread = rayon::current_thread_index().unwrap_or(0);
            assert!(thread < self.threads, "a program runs on the threads of its device");
            let start = self.weights() + thread * self.scratch();
            let ring = workspace.pointer(start, self.scratch());
            set.dispatch(Band { of: self, operands, sample, rows, set, ring });
        });
    }

    /// The filter as `[group of outputs][channel][kernel row][kernel column][output of the group]`.
    fn turn(&self, filter: &[f32], turned: &mut [f32]) {
        let (rows, columns) = self.kernel;
        let (depth, size) = (padded(self.channels), self.group());
        turned.fill(0.0);
        for (group, turned) in turned.chunks_exact_mut(self.terms() * size).enumerate() {
            for (term, numbers) in turned.chunks_exact_mut(size).enumerate() {
                let (channel, tap) = (term / (rows * columns), term % (rows * columns));
                let place = match self.source {
                    Source::Pixels => tap * depth + channel,
                    Source::Planes => term,
                };
                for (lane, number) in numbers.iter_mut().enumerate().take(self.outputs - group * size) {
                    // The panels of a filter lie one after the other.
                    let output = group * size + lane;
                    let holds = |panel: &&Panel| (panel.start..panel.start + panel.width).contains(&output);
                    let Some(panel) = self.panels.iter().find(holds) else { continue };
                    let all = match self.source {
                        Source::Pixels => rows * columns * depth,
                        Source::Planes => self.terms(),
                    };
                    *number = filter[panel.start * all + place * panel.width + output - panel.start];
                }
            }
        }
    }
}

/// Some rows of results of one sample.
struct Band<'a> {
    of: &'a Stencil,
    operands: &'a Operands,
    sample: usize,
    rows: Range<usize>,
    set: InstructionSet,
    /// The thread's scratch memory.
    ring: *mut f32,
}

impl WithSimd for Band<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Stencil { kernel, padding, .. } = *self.of;
        let made = self.of.groups() * self.of.group();
        for at in made * self.of.result_pitch()..padded(self.of.outputs) * self.of.result_pitch() {
            // SAFETY: the results' padding, which no sum is written to.
            unsafe { *self.results().add(at) = 0.0 };
        }
        // Rows are counted with the padding above the map.
        (self.rows.start..self.rows.start + kernel.0 - 1).for_each(|row| self.take_row(row, padding));
        for row in self.rows.clone() {
            self.take_row(row + kernel.0 - 1, padding);
            self.sum_row(simd, row);
            if self.of.sigmoid {
                self.squash_row();
            }
            self.write_row(row);
            if let Some(moments) = &self.operands.moments {
                let (rows, columns) = self.of.target;
                let first = (self.sample * rows + row) * columns;
                let some = 0..padded(self.of.outputs);
                moments.take(self.operands.target, (self.sample, row), (first, columns), some);
            }
        }
    }
}

impl Band<'_> {
    fn results(&self) -> *mut f32 {
        // SAFETY: the results of a row lie behind the ring.
        unsafe { self.ring.add(self.of.channels * self.of.kernel.0 * self.of.pitch()) }
    }

    /// As [`turn`].
    ///
    /// # Safety
    /// As [`turn`].
    #[inline(always)]
    unsafe fn turn(&self, from: (*const f32, usize), to: (*mut f32, usize), some: usize) {
        // SAFETY: the caller's promise; the instruction sets that have AVX were found on this processor.
        unsafe {
            #[cfg(target_arch = "x86_64")]
            if matches!(self.set, InstructionSet::Avx512 | InstructionSet::Avx2) {
                return turn_with_avx(from, to, some);
            }
            #[cfg(not(target_arch = "x86_64"))]
            let _ = self.set;
            turn(from, to, some);
        }
    }

    /// Brings an input row into the ring, channel by channel, with zeros beside it.
    #[inline(always)]
    fn take_row(&self, row: usize, padding: usize) {
        let Stencil { source, channels, kernel, size: (height, width), .. } = *self.of;
        let pitch = self.of.pitch();
        let slot = |channel: usize| {
            // SAFETY: the ring holds `kernel.0` rows of each channel.
            unsafe { self.ring.add((channel * kernel.0 + row % kernel.0) * pitch) }
        };
        let y = row.checked_sub(padding).filter(|&y| y < height);
        for channel in 0..channels {
            // SAFETY: this task's row of the ring.
            let numbers = unsafe { std::slice::from_raw_parts_mut(slot(channel), pitch) };
            match (y, source) {
                (None, _) => numbers.fill(0.0),
                (Some(y), Source::Planes) => {
                    let from =
                        self.operands.source.pointer(((self.sample * channels + channel) * height + y) * width, width);
                    numbers[..padding].fill(0.0);
                    // SAFETY: just checked; nobody writes the source.
                    numbers[padding..padding + width]
                        .copy_from_slice(unsafe { std::slice::from_raw_parts(from, width) });
                    numbers[padding + width..].fill(0.0);
                }
                (Some(_), Source::Pixels) => {
                    numbers[..padding].fill(0.0);
                    numbers[padding + width..].fill(0.0);
                }
            }
        }
        let (Some(y), Source::Pixels) = (y, source) else { return };
        let lanes = padded(channels);
        let from = self.operands.source.pointer((self.sample * height + y) * width * lanes, width * lanes);
        for first in (0..channels).step_by(VECTOR) {
            let some = VECTOR.min(channels - first);
            let whole = width - width % VECTOR;
            for x in (0..whole).step_by(VECTOR) {
                // SAFETY: the source's row was just checked; the ring's rows are long enough for the map.
                unsafe {
                    let to = slot(first).add(padding + x);
                    self.turn((from.add(x * lanes + first).cast_const(), lanes), (to, kernel.0 * pitch), some);
                }
            }
            for x in whole..width {
                for channel in first..first + some {
                    // SAFETY: as above.
                    unsafe { *slot(channel).add(padding + x) = *from.add(x * lanes + channel) };
                }
            }
        }
        self.norm_row(row, padding);
    }

    /// Norms the channels of a row that was just brought into the ring.
    #[inline(always)]
    fn norm_row(&self, row: usize, padding: usize) {
        let (Some(normed), (_, width)) = (self.operands.normed, self.of.size) else { return };
        let [mean, scale, beta] = normed.rows(self.sample);
        for channel in 0..self.of.channels {
            let slot = (channel * self.of.kernel.0 + row % self.of.kernel.0) * self.of.pitch();
            // SAFETY: this task's row of the ring; nobody writes the numbers of a norm.
            let (numbers, mean, scale, beta) = unsafe {
                let numbers = std::slice::from_raw_parts_mut(self.ring.add(slot + padding), width);
                (numbers, *mean.add(channel), *scale.add(channel), *beta.add(channel))
            };
            // In one pass: a loop that only rectifies would store under a mask, slow on some processors.
            let normed_of = |x: f32| (x - mean) * scale + beta;
            if normed.relu {
                numbers.iter_mut().for_each(|x| *x = rectified(normed_of(*x)));
            } else {
                numbers.iter_mut().for_each(|x| *x = normed_of(*x));
            }
        }
    }

    /// All sums of a row of results. Some columns of all channels read stay in the first cache for all groups of those made.
    #[inline(always)]
    fn sum_row<S: Simd>(&self, simd: S, row: usize) {
        let few_registers = cfg!(target_arch = "x86_64") && S::F32_LANES == 8;
        let mut column = 0;
        while column < self.of.target.1 {
            let left = (self.of.target.1 - column).div_ceil(S::F32_LANES);
            let vectors = match (self.of.group(), few_registers) {
                (1, _) => [8, 4, 1],
                (_, true) => [2, 1, 1],
                (_, false) => [3, 2, 1],
            };
            let vectors = vectors.into_iter().find(|&vectors| vectors <= left).unwrap_or(1);
            for group in 0..self.of.groups() {
                match (self.of.group(), vectors) {
                    (1, 8) => self.sum_block::<S, 1, 8>(simd, row, group, column),
                    (1, 4) => self.sum_block::<S, 1, 4>(simd, row, group, column),
                    (1, _) => self.sum_block::<S, 1, 1>(simd, row, group, column),
                    (_, 3) => self.sum_block::<S, GROUP, 3>(simd, row, group, column),
                    (_, 2) => self.sum_block::<S, GROUP, 2>(simd, row, group, column),
                    (..) => self.sum_block::<S, GROUP, 1>(simd, row, group, column),
                }
            }
            column += vectors * S::F32_LANES;
        }
    }

    /// The sums of `V` vectors of pixels, for a group of `G` output channels.
    #[inline(always)]
    #[allow(clippy::needless_range_loop)] // lanes and vectors, of several arrays at once
    fn sum_block<S: Simd, const G: usize, const V: usize>(&self, simd: S, row: usize, group: usize, column: usize) {
        let Stencil { channels, outputs, kernel: (kernel_rows, kernel_columns), relu, .. } = *self.of;
        let (pitch, first, first_slot) = (self.of.pitch(), group * G, row % kernel_rows);
        let weights = self.operands.workspace.pointer(group * self.of.terms() * G, self.of.terms() * G);
        let bias = |lane: usize| match self.operands.bias {
            // SAFETY: nobody writes the bias.
            Some(bias) if first + lane < outputs => unsafe { *bias.pointer(first + lane, 1) },
            _ => 0.0,
        };
        let zero = simd.splat_f32s(0.0);
        let mut sums = [[zero; V]; G];
        for lane in 0..G {
            sums[lane] = [simd.splat_f32s(bias(lane)); V];
        }
        let mut weights = weights.cast_const();
        for channel in 0..channels {
            let mut slot = first_slot;
            for _ in 0..kernel_rows {
                // SAFETY: vectors of all taps lie within a row of the ring, by `pitch`; weights are taken in order.
                unsafe {
                    let numbers = self.ring.add((channel * kernel_rows + slot) * pitch + column).cast_const();
                    slot = if slot + 1 == kernel_rows { 0 } else { slot + 1 };
                    for v in 0..kernel_columns {
                        let mut pixels = [zero; V];
                        for i in 0..V {
                            pixels[i] = numbers.add(v + i * S::F32_LANES).cast::<S::f32s>().read_unaligned();
                        }
                        for lane in 0..G {
                            let weight = simd.splat_f32s(*weights.add(lane));
                            for i in 0..V {
                                sums[lane][i] = simd.mul_add_e_f32s(weight, pixels[i], sums[lane][i]);
                            }
                        }
                        weights = weights.add(G);
                    }
                }
            }
        }
        let to = self.results();
        for lane in 0..G {
            for i in 0..V {
                let sum = sums[lane][i];
                let sum = if relu { simd.select_f32s(simd.less_than_f32s(sum, zero), zero, sum) } else { sum };
                // SAFETY: rows of results are as long as whole vectors, and there is one for each padded channel.
                unsafe {
                    let at = (first + lane) * self.of.result_pitch() + column + i * S::F32_LANES;
                    to.add(at).cast::<S::f32s>().write_unaligned(sum);
                }
            }
        }
    }

    /// Makes of a row of results what the logistic function does.
    #[inline(always)]
    fn squash_row(&self) {
        let Stencil { outputs, target: (_, columns), .. } = *self.of;
        for lane in 0..outputs {
            // SAFETY: this task's row of results, one for each channel.
            let results =
                unsafe { std::slice::from_raw_parts_mut(self.results().add(lane * self.of.result_pitch()), columns) };
            results.iter_mut().for_each(|x| *x = sigmoid(*x));
        }
    }

    /// Puts a row of results where it belongs, the channels of a pixel side by side and zeros behind them.
    #[inline(always)]
    fn write_row(&self, row: usize) {
        let Stencil { outputs, target: (rows, columns), .. } = *self.of;
        let (lanes, pitch, from) = (padded(outputs), self.of.result_pitch(), self.results().cast_const());
        let to = self.operands.target.pointer((self.sample * rows + row) * columns * lanes, columns * lanes);
        for first in (0..lanes).step_by(VECTOR) {
            for x in (0..columns).step_by(VECTOR) {
                // SAFETY: rows of results are whole vectors; this task alone writes this row.
                unsafe {
                    let to = to.add(x * lanes + first);
                    self.turn((from.add(first * pitch + x), pitch), (to, lanes), VECTOR.min(columns - x));
                }
            }
        }
    }
}

/// Number `j` of each of eight vectors becomes vector `j` of the target, for `j < some`. Vectors lie `from.1` and `to.1`
/// numbers apart.
///
/// # Safety
/// They are readable, and those of the target writable; nobody else touches the target meanwhile.
#[inline(always)]
#[allow(clippy::needless_range_loop)] // rows and columns, of both
unsafe fn turn(from: (*const f32, usize), to: (*mut f32, usize), some: usize) {
    let mut turned = [[0.0; VECTOR]; VECTOR];
    for i in 0..VECTOR {
        // SAFETY: the caller's promise.
        let row = unsafe { load(from.0.add(i * from.1)) };
        for j in 0..VECTOR {
            turned[j][i] = row[j];
        }
    }
    for (j, &vector) in turned.iter().enumerate().take(some) {
        // SAFETY: the caller's promise.
        unsafe { store(to.0.add(j * to.1), vector) };
    }
}

/// As [`turn`], with the shuffles that a compiler does not find.
///
/// # Safety
/// As [`turn`].
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx")]
unsafe fn turn_with_avx(from: (*const f32, usize), to: (*mut f32, usize), some: usize) {
    use std::arch::x86_64::*;
    // SAFETY: the caller's promise.
    let load = |i: usize| unsafe { _mm256_loadu_ps(from.0.add(i * from.1)) };
    let pairs = |a: __m256, b: __m256| (_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
    // Rows 0 and 1, 2 and 3, 4 and 5, 6 and 7, number by number.
    let (a, b) = pairs(load(0), load(1));
    let (c, d) = pairs(load(2), load(3));
    let (e, f) = pairs(load(4), load(5));
    let (g, h) = pairs(load(6), load(7));
    // Of each half of a vector, one number of four rows.
    let fours = |a: __m256, b: __m256| (_mm256_shuffle_ps::<0x44>(a, b), _mm256_shuffle_ps::<0xee>(a, b));
    let ((a, b), (c, d)) = (fours(a, c), fours(b, d));
    let ((e, f), (g, h)) = (fours(e, g), fours(f, h));
    let low = |a: __m256, e: __m256| _mm256_permute2f128_ps::<0x20>(a, e);
    let high = |a: __m256, e: __m256| _mm256_permute2f128_ps::<0x31>(a, e);
    let turned = [low(a, e), low(b, f), low(c, g), low(d, h), high(a, e), high(b, f), high(c, g), high(d, h)];
    // SAFETY: the caller's promise.
    let store = |j: usize| unsafe { _mm256_storeu_ps(to.0.add(j * to.1), turned[j]) };
    if some == VECTOR {
        store(0);
        store(1);
        store(2);
        store(3);
        store(4);
        store(5);
        store(6);
        store(7);
    } else {
        (0..some).for_each(store);
    }
}
