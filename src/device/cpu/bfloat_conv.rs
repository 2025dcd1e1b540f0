//! Convolutions whose operands are rounded to bfloat16, with sums in float32.
//!
//! A task makes some rows of results. It rounds the input rows that they read, with the zeros around the map, into memory that
//! stays in the second-level cache, where each tap is the same matrix at another start. For a panel of output channels and as
//! many input channels as the first-level cache holds of the filter, the products of all its rows follow; then bias and ReLU.

use super::bfloat::{BfloatKernels, COLUMNS, Run, depth};
use super::elementwise::{VECTOR, load, relu, store, vectorised};
use super::layout::{Panel, padded};
use super::memory::Region;
use super::operands::Operands;
use crate::graph::Shape;
use crate::ops::Conv;
use half::bf16;
use rayon::prelude::*;
use std::ops::Range;

/// Channels read and made below which more is padding than not.
const LEAST_CHANNELS: (usize, usize) = (16, 8);
/// Terms of a sum below which rounding takes longer than it saves.
const LEAST_TERMS: usize = 128;
/// Terms of a sum, taps times channels, that are taken together.
const TERMS: usize = 576;
/// Lanes of a panel: four vectors, or four tiles.
const PANEL: usize = 64;
/// Bytes that a task's rounded rows and sums may take, so that they stay in the second-level cache.
const BAND: usize = 640 * 1024;

/// What a filter becomes: `[panel][channels taken together][tap][pair of channels][output channel of the panel][of the pair]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Filter {
    outputs: usize,
    inputs: usize,
    kernel: (usize, usize),
    /// Channels taken together, and how many times.
    chunk: usize,
    chunks: usize,
    panels: Vec<Panel>,
}

impl Filter {
    /// The filter of a convolution that is worth rounding, if it is.
    pub fn of(filter: Shape) -> Option<Filter> {
        let Shape::Filter { outputs, inputs, height, width } = filter else { return None };
        let taps = height * width;
        if inputs < LEAST_CHANNELS.0 || outputs < LEAST_CHANNELS.1 || inputs * taps < LEAST_TERMS {
            return None;
        }
        let depth = depth(inputs);
        let most = (TERMS / taps / 32 * 32).max(32);
        let chunks = depth.div_ceil(most);
        let chunk = self::depth(depth.div_ceil(chunks));
        let lanes = outputs.next_multiple_of(16);
        let panels = (0..lanes).step_by(PANEL).map(|start| Panel { start, width: PANEL.min(lanes - start) }).collect();
        Some(Filter { outputs, inputs, kernel: (height, width), chunk, chunks, panels })
    }

    fn taps(&self) -> usize {
        self.kernel.0 * self.kernel.1
    }

    /// Channels of a rounded pixel.
    fn depth(&self) -> usize {
        self.chunk * self.chunks
    }

    /// Numbers of a panel's lane.
    fn terms(&self) -> usize {
        self.taps() * self.depth()
    }

    /// Room that it takes, in float32 numbers.
    pub fn len(&self) -> usize {
        self.outputs.next_multiple_of(16) * self.terms() / 2
    }

    /// Rounds a filter given as `[output][input][row][column]`.
    pub fn write(&self, filter: &[f32], memory: Region) {
        let (taps, chunk) = (self.taps(), self.chunk);
        let to = memory.pointer(0, self.len()).cast::<bf16>();
        let rounded = Rounded(to);
        (0..self.panels.len() * self.chunks).into_par_iter().for_each(|task| {
            let (Panel { start, width }, part) = (self.panels[task / self.chunks], task % self.chunks);
            for tap in 0..taps {
                for (channel, lane) in (0..chunk).flat_map(|channel| (0..width).map(move |lane| (channel, lane))) {
                    let (input, output) = (part * chunk + channel, start + lane);
                    let inside = input < self.inputs && output < self.outputs;
                    let number = if inside { filter[(output * self.inputs + input) * taps + tap] } else { 0.0 };
                    let run = start * self.terms() + (part * taps + tap) * chunk * width;
                    // SAFETY: within the filter's memory; this task alone writes these channels of this panel.
                    unsafe {
                        let at = run + channel / 2 * width * 2 + lane * 2 + channel % 2;
                        *rounded.pointer().add(at) = bf16::from_f32(number);
                    }
                }
            }
        });
    }
}

/// A pointer that tasks share, each to write a part of its own.
#[derive(Clone, Copy)]
struct Rounded(*mut bf16);

// SAFETY: whoever writes divides what it points to among tasks.
unsafe impl Send for Rounded {}
unsafe impl Sync for Rounded {}

impl Rounded {
    fn pointer(self) -> *mut bf16 {
        self.0
    }
}

/// A bound convolution: everything that does not change from run to run.
#[derive(Debug)]
pub(super) struct BfloatConv {
    filter: Filter,
    conv: Conv,
    batch: usize,
    /// Rows and columns read and made.
    size: (usize, usize),
    target: (usize, usize),
    /// Rows of results of a task.
    band: usize,
    relu: bool,
    threads: usize,
    /// Where each tap starts in the filter and in the rounded rows.
    runs: Vec<Run>,
}

impl BfloatConv {
    pub fn new(conv: &Conv, (maps, filter): (Shape, Filter), relu: bool, threads: usize) -> BfloatConv {
        let Shape::Maps { batch, height, width, .. } = maps else { unreachable!("a convolution reads maps") };
        let made = |source, kernel| conv.output_size(source, kernel).unwrap_or(0);
        let target = (made(height, filter.kernel.0), made(width, filter.kernel.1));
        let mut bound = BfloatConv {
            filter,
            conv: *conv,
            batch,
            size: (height, width),
            target,
            band: 1,
            relu,
            threads,
            runs: vec![],
        };
        bound.band = bound.rows_of_a_task();
        let (chunk, kernel) = (bound.filter.chunk, bound.filter.kernel);
        bound.runs = (0..kernel.0 * kernel.1)
            .map(|tap| {
                let (u, v) = (tap / kernel.1 * conv.dilation, tap % kernel.1 * conv.dilation);
                Run { left: tap * chunk, right: (u * bound.columns() + v) * bound.filter.depth() }
            })
            .collect();
        bound
    }

    fn rows_of_a_task(&self) -> usize {
        let row = self.columns() * self.filter.depth() * 2;
        let sums = if self.filter.chunks > 1 { self.sums_row() * 4 } else { 0 };
        let around = (self.filter.kernel.0 - 1) * self.conv.dilation * row;
        let fitting = (BAND.saturating_sub(around) / (row * self.conv.stride + sums)).max(4);
        let bands = self.target.0.div_ceil(fitting);
        // As many tasks for each thread.
        let bands = (bands * self.batch).next_multiple_of(self.threads).div_ceil(self.batch);
        self.target.0.div_ceil(bands)
    }

    /// Columns of a rounded row: the padding, and what whole tiles of columns read.
    fn columns(&self) -> usize {
        let reach = (self.filter.kernel.1 - 1) * self.conv.dilation + 1;
        let read = (self.target.1.next_multiple_of(COLUMNS) - 1) * self.conv.stride + reach;
        read.max(self.size.1 + self.conv.padding)
    }

    /// Rounded rows that `rows` rows of results read.
    fn rows(&self, rows: usize) -> usize {
        (rows - 1) * self.conv.stride + (self.filter.kernel.0 - 1) * self.conv.dilation + 1
    }

    /// Sums of a row of results, of a panel, with what whole tiles of columns write.
    fn sums_row(&self) -> usize {
        self.target.1.next_multiple_of(COLUMNS) * PANEL
    }

    /// Float32 numbers of a thread's rounded rows.
    fn rounded(&self) -> usize {
        (self.rows(self.band) * self.columns() * self.filter.depth() / 2).next_multiple_of(16)
    }

    fn scratch(&self) -> usize {
        let rows = if self.filter.chunks > 1 { self.band } else { 1 };
        self.rounded() + rows * self.sums_row()
    }

    /// Float32 numbers of scratch memory of all threads.
    pub fn workspace(&self) -> usize {
        self.threads * self.scratch()
    }

    /// Pixels of each part of a sample, of which moments are taken together: its rows.
    pub fn parts(&self) -> Vec<usize> {
        vec![self.target.1; self.target.0]
    }

    /// Computes the whole output, by a filter that [`Filter::write`] has written.
    pub fn run(&self, kernels: BfloatKernels, operands: &Operands) {
        let bands = self.target.0.div_ceil(self.band);
        (0..self.batch * bands).into_par_iter().with_max_len(1).for_each(|task| {
            let (sample, first) = (task / bands, task % bands * self.band);
            let rows = first..(first + self.band).min(self.target.0);
            let thread = rayon::current_thread_index().unwrap_or(0);
            assert!(thread < self.threads, "a program runs on the threads of its device");
            let scratch = operands.workspace.pointer(thread * self.scratch(), self.scratch());
            // SAFETY: the sums lie behind the rounded rows.
            let (rounded, sums) = (scratch.cast::<bf16>(), unsafe { scratch.add(self.rounded()) });
            self.round(kernels, (operands, sample), &rows, rounded);
            for &panel in &self.filter.panels {
                self.multiply(kernels, (operands, sample), (panel, rows.clone()), rounded, sums);
            }
        });
    }

    /// Rounds the input rows that some rows of results read, with zeros around the map.
    fn round(
        &self,
        kernels: BfloatKernels,
        (operands, sample): (&Operands, usize),
        rows: &Range<usize>,
        to: *mut bf16,
    ) {
        let normed = operands.normed.map(|normed| (normed.rows(sample), normed.relu));
        let ((height, width), Conv { stride, padding, .. }) = (self.size, self.conv);
        let (lanes, depth, columns) = (padded(self.filter.inputs), self.filter.depth(), self.columns());
        for row in 0..self.rows(rows.len()) {
            // SAFETY: this thread's rounded rows.
            let pixels = unsafe { to.add(row * columns * depth) };
            let clear = |from: usize, to: usize| {
                // SAFETY: a part of the row.
                unsafe { pixels.add(from * depth).write_bytes(0, (to - from) * depth) };
            };
            let Some(y) = (rows.start * stride + row).checked_sub(padding).filter(|&y| y < height) else {
                clear(0, columns);
                continue;
            };
            let from = operands.source.pointer((sample * height + y) * width * lanes, width * lanes);
            clear(0, padding);
            // SAFETY: the source was just checked, and the row is as long as the map with its padding.
            unsafe { kernels.pack(from, normed, lanes, (pixels.add(padding * depth), depth), width) };
            clear(padding + width, columns);
        }
    }

    /// Makes a panel of some rows of results.
    fn multiply(
        &self,
        kernels: BfloatKernels,
        (operands, sample): (&Operands, usize),
        (panel, rows): (Panel, Range<usize>),
        rounded: *const bf16,
        sums: *mut f32,
    ) {
        let Filter { chunk, chunks, .. } = self.filter;
        let (depth, taps, width) = (self.filter.depth(), self.filter.taps(), panel.width);
        let filter = operands.filter.pointer(0, self.filter.len()).cast::<bf16>().cast_const();
        for part in 0..chunks {
            for row in 0..rows.len() {
                let last = part + 1 == chunks;
                // SAFETY: the filter's memory and the thread's rounded rows hold all that taps of whole tiles of columns
                // read, and the sums what those write.
                unsafe {
                    let left = filter.add(panel.start * self.filter.terms() + part * taps * chunk * width);
                    let right = rounded.add(row * self.conv.stride * self.columns() * depth + part * chunk);
                    let sums = sums.add(if chunks > 1 { row * self.sums_row() } else { 0 });
                    let (size, column) = ((width, self.target.1, chunk), self.conv.stride * depth);
                    kernels.sums(part > 0, size, &self.runs, left, (right, column), sums);
                    if last {
                        self.finish((operands, sample), panel, rows.start + row, sums);
                    }
                }
            }
        }
    }

    /// Puts a row of a panel's sums where it belongs, with bias and ReLU.
    ///
    /// # Safety
    /// The sums are this task's, as are these lanes of the row.
    unsafe fn finish(
        &self,
        (operands, sample): (&Operands, usize),
        Panel { start, width }: Panel,
        row: usize,
        sums: *const f32,
    ) {
        let (lanes, columns) = (padded(self.filter.outputs), self.target.1);
        let kept = width.min(lanes - start);
        let first = (sample * self.target.0 + row) * columns * lanes;
        let target = operands.target.pointer(first, columns * lanes);
        let bias = operands.bias.map(|bias| bias.pointer(start, kept).cast_const());
        vectorised(
            #[inline(always)]
            || {
                for lane in (0..kept).step_by(VECTOR) {
                    // SAFETY: the caller's promise; nobody writes the bias.
                    unsafe {
                        let bias = bias.map_or([0.0; VECTOR], |bias| load(bias.add(lane)));
                        let (from, to) = (sums.add(lane), target.add(start + lane));
                        for pixel in 0..columns {
                            let mut y = load(from.add(pixel * width));
                            for i in 0..VECTOR {
                                y[i] += bias[i];
                            }
                            if self.relu {
                                relu(&mut y);
                            }
                            store(to.add(pixel * lanes), y);
                        }
                    }
                }
            },
        );
        if let Some(moments) = &operands.moments {
            let first = (sample * self.target.0 + row) * columns;
            moments.take(operands.target, (sample, row), (first, columns), start..start + kept);
        }
    }
}

/// The tiles of AMX, also where there are none.
#[cfg(all(test, target_arch = "x86_64", target_os = "linux"))]
mod tests {
    use super::super::bfloat::{BfloatSet, sets_to_test};
    use super::super::layout::{pack, storage};
    use super::super::memory::Arena;
    use super::*;
    use crate::program::Span;

    /// A convolution's results by a set.
    fn results(set: BfloatSet, conv: &Conv, maps: Shape, filter: Shape, outputs: usize) -> Vec<f32> {
        let kept = Filter::of(filter).unwrap();
        let bound = BfloatConv::new(conv, (maps, kept.clone()), false, 1);
        let Shape::Maps { batch, .. } = maps else { unreachable!() };
        let made = Shape::maps(batch, outputs, bound.target.0, bound.target.1);
        let lens = [storage(maps), kept.len(), storage(made), bound.workspace()];
        let arena = Arena::new(lens.iter().sum()).unwrap();
        let span = |index: usize| Span { offset: lens[..index].iter().sum(), len: lens[index] };
        let [source, weights, target, workspace] = [0, 1, 2, 3].map(|index| arena.region(span(index)));
        let whole = |len: usize, step: usize| (0..len).map(|i| (i * step % 9) as f32 - 4.0).collect::<Vec<_>>();
        // SAFETY: nobody else has the arena.
        unsafe { pack(maps, &whole(maps.elements(), 5), source.slice_mut(0, source.len())) };
        kept.write(&whole(filter.elements(), 7), weights);
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        let (normed, bias, moments) = (None, None, None);
        let operands = Operands { source, normed, filter: weights, bias, target, moments, workspace };
        pool.install(|| bound.run(BfloatKernels::new(set), &operands));
        // SAFETY: as above.
        unsafe { target.all() }.to_vec()
    }

    #[test]
    fn all_sets_give_the_same_results_of_whole_numbers() {
        for (inputs, outputs, (height, width), kernel, stride, dilation) in [
            (16, 24, (9, 20), 3, 1, 1),
            (40, 72, (7, 18), 3, 2, 1),
            (136, 80, (12, 5), 3, 1, 3),
            (160, 16, (4, 33), 1, 1, 1),
        ] {
            let conv = Conv { stride, padding: dilation * (kernel / 2), dilation };
            let filter = Shape::Filter { outputs, inputs, height: kernel, width: kernel };
            let by = |set| results(set, &conv, Shape::maps(2, inputs, height, width), filter, outputs);
            let expected = by(BfloatSet::Portable);
            assert!(expected.iter().any(|&x| x != 0.0));
            for set in sets_to_test() {
                assert!(by(set) == expected, "{}: {inputs} to {outputs}", set.name());
            }
        }
    }
}
