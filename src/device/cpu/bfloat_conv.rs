//! Convolutions, transposed ones too, whose operands are rounded to bfloat16, with sums in float32.
//!
//! A task makes some rows of results. It rounds the input rows that they read, with the zeros around the map, into memory that
//! stays in the second-level cache, where each tap is the same matrix at another start. For a panel of output channels and as
//! many input channels as the first-level cache holds of the filter, the products of all its rows follow; then bias and ReLU.
//!
//! Operands may be split instead: a number is then the sum of two of bfloat16, and of the four products of two numbers the three
//! larger ones are summed, which is all but float32. To the kernels that is a filter with three times the taps.

use super::axis::Axis;
use super::bfloat::{BfloatKernels, COLUMNS, Columns, Packing, Product, Run, depth, split};
use super::cache::{end_passing, is_better_passed, pass};
use super::lanes::{load, rectified, store};
use super::layout::{Panel, padded};
use super::memory::Region;
use super::microkernel::InstructionSet;
use super::operands::Operands;
use crate::graph::Shape;
use crate::ops::Op;
use half::bf16;
use pulp::{Simd, WithSimd};
use rayon::prelude::*;
use std::ops::Range;

/// Channels read and made below which more is padding than not.
const LEAST_CHANNELS: (usize, usize) = (16, 8);
/// Terms of a sum below which rounding takes longer than it saves.
const LEAST_TERMS: usize = 16;
/// Terms of a sum, taps times channels, that are taken together: with a panel's lanes, what the first-level cache holds.
const TERMS: usize = 576;
/// Lanes of a panel: two vectors, or two tiles.
const PANEL: usize = 32;
/// Bytes that a task's rounded rows and sums may take, so that they stay in the second-level cache.
const BAND: usize = 640 * 1024;
/// Columns that are summed before they are put away, where no sums wait for more channels.
const GROUP: usize = 128;

/// What a filter becomes:
/// `[panel][channels taken together][tap][part of a number][pair of channels][output channel of the panel][of the pair]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Filter {
    /// Channels made and read.
    outputs: usize,
    inputs: usize,
    kernel: (usize, usize),
    /// As it is given, the channels read come before those made.
    transposed: bool,
    split: bool,
    /// Channels taken together, and how many times.
    chunk: usize,
    chunks: usize,
    panels: Vec<Panel>,
}

impl Filter {
    /// The filter of a convolution that is worth rounding, or splitting, if it is.
    pub fn of(op: &Op, filter: Shape, split: bool) -> Option<Filter> {
        let Shape::Filter { outputs, inputs, height, width } = filter else { return None };
        let (outputs, inputs, transposed) = match op {
            Op::Conv(_) => (outputs, inputs, false),
            Op::TransposedConv(_) => (inputs, outputs, true),
            _ => return None,
        };
        let taps = height * width;
        if inputs < LEAST_CHANNELS.0 || outputs < LEAST_CHANNELS.1 || inputs * taps < LEAST_TERMS {
            return None;
        }
        let depth = depth(inputs);
        let parts = if split { 2 } else { 1 };
        let most = (TERMS / (taps * parts) / 32 * 32).max(32);
        let chunks = depth.div_ceil(most);
        let chunk = self::depth(depth.div_ceil(chunks));
        let lanes = outputs.next_multiple_of(16);
        let panels = (0..lanes).step_by(PANEL).map(|start| Panel { start, width: PANEL.min(lanes - start) }).collect();
        Some(Filter { outputs, inputs, kernel: (height, width), transposed, split, chunk, chunks, panels })
    }

    /// Whether numbers are split, not rounded.
    pub fn is_split(&self) -> bool {
        self.split
    }

    /// Numbers of bfloat16 that one number becomes.
    fn parts(&self) -> usize {
        if self.split { 2 } else { 1 }
    }

    fn taps(&self) -> usize {
        self.kernel.0 * self.kernel.1
    }

    /// Channels of a rounded pixel.
    fn depth(&self) -> usize {
        self.chunk * self.chunks
    }

    /// Numbers from one rounded pixel to the next.
    fn pitch(&self) -> usize {
        self.depth() * self.parts()
    }

    /// Numbers of a panel's lane.
    fn terms(&self) -> usize {
        self.taps() * self.pitch()
    }

    /// Where in a panel's channels taken together a part of a tap's numbers starts, in terms.
    fn run(&self, tap: usize, part: usize) -> usize {
        (tap * self.parts() + part) * self.chunk
    }

    /// Room that it takes, in float32 numbers.
    pub fn len(&self) -> usize {
        self.outputs.next_multiple_of(16) * self.terms() / 2
    }

    /// Rounds, or splits, a filter given as `[output][input][row][column]`, or as `[input][output][row][column]` where it is
    /// transposed.
    pub fn write(&self, filter: &[f32], memory: Region) {
        let (taps, chunk, parts) = (self.taps(), self.chunk, self.parts());
        let to = memory.pointer(0, self.len()).cast::<bf16>();
        let rounded = Rounded(to);
        (0..self.panels.len() * self.chunks).into_par_iter().for_each(|task| {
            let (Panel { start, width }, together) = (self.panels[task / self.chunks], task % self.chunks);
            let first = start * self.terms() + together * taps * chunk * parts * width;
            for tap in 0..taps {
                for (channel, lane) in (0..chunk).flat_map(|channel| (0..width).map(move |lane| (channel, lane))) {
                    let (input, output) = (together * chunk + channel, start + lane);
                    let pair =
                        if self.transposed { input * self.outputs + output } else { output * self.inputs + input };
                    let inside = input < self.inputs && output < self.outputs;
                    let number = if inside { filter[pair * taps + tap] } else { 0.0 };
                    let numbers = if self.split { split(number) } else { [bf16::from_f32(number), bf16::ZERO] };
                    for (part, number) in numbers.into_iter().enumerate().take(parts) {
                        let at = self.run(tap, part) * width + channel / 2 * width * 2 + lane * 2 + channel % 2;
                        // SAFETY: within the filter's memory; this task alone writes these channels of this panel.
                        unsafe { *rounded.pointer().add(first + at) = number };
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

/// How rounded rows (or columns) lie along an axis.
#[derive(Debug, Clone, Copy)]
struct Rows {
    /// Zeros before the map.
    before: usize,
    /// From the first tap to the last.
    reach: usize,
    /// From what one result reads to what the next one reads.
    step: usize,
    /// From one to the next in the map: with a single tap nothing between is read.
    apart: usize,
    /// Positions of the first phase, which no other has more of.
    results: usize,
}

impl Rows {
    fn of(axis: &Axis) -> Rows {
        let offsets = || axis.phases.iter().flat_map(|phase| phase.taps.iter().map(|tap| tap.offset));
        let (lowest, highest) = (offsets().min().unwrap_or(0).min(0), offsets().max().unwrap_or(0).max(0));
        let reach = (highest - lowest) as usize;
        let (step, apart) = if reach == 0 { (1, axis.source_step) } else { (axis.source_step, 1) };
        Rows { before: -lowest as usize, reach, step, apart, results: axis.positions(&axis.phases[0]) }
    }

    /// What so many results read.
    fn read_by(&self, results: usize) -> usize {
        (results - 1) * self.step + self.reach + 1
    }
}

/// Results that share their taps.
#[derive(Debug)]
struct Phase {
    /// First row and column of the map that is made, and how many of its rows and columns.
    first: (usize, usize),
    count: (usize, usize),
    /// Where each tap starts in the filter and in the rounded rows.
    runs: Vec<Run>,
}

/// A bound convolution: everything that does not change from run to run.
#[derive(Debug)]
pub(super) struct BfloatConv {
    filter: Filter,
    batch: usize,
    /// Rows and columns: read, made, from one of a phase to the next.
    size: (usize, usize),
    target: (usize, usize),
    step: (usize, usize),
    rows: Rows,
    columns: Rows,
    phases: Vec<Phase>,
    /// Rows of results of a task, and rows of them that are put away together, both of each phase.
    band: usize,
    group: usize,
    relu: bool,
    threads: usize,
}

impl BfloatConv {
    pub fn new(axes: &(Axis, Axis), batch: usize, filter: Filter, relu: bool, threads: usize) -> BfloatConv {
        let (rows, columns) = axes;
        let mut bound = BfloatConv {
            filter,
            batch,
            size: (rows.source, columns.source),
            target: (rows.target, columns.target),
            step: (rows.step, columns.step),
            rows: Rows::of(rows),
            columns: Rows::of(columns),
            phases: vec![],
            band: 1,
            group: 1,
            relu,
            threads,
        };
        bound.phases = bound.phases_of(axes);
        bound.band = bound.rows_of_a_task();
        let wide = bound.columns.results.next_multiple_of(COLUMNS);
        bound.group = if bound.filter.chunks > 1 { bound.band } else { (GROUP / wide).clamp(1, bound.band) };
        bound
    }

    fn phases_of(&self, (rows, columns): &(Axis, Axis)) -> Vec<Phase> {
        let pitch = self.filter.pitch();
        // Which parts of the filter's and of the pixel's numbers meet.
        let meet: &[(usize, usize)] = if self.filter.split { &[(0, 0), (1, 0), (0, 1)] } else { &[(0, 0)] };
        let pairs = rows.phases.iter().flat_map(|row| columns.phases.iter().map(move |column| (row, column)));
        pairs
            .map(|(row, column)| {
                let taps = row.taps.iter().flat_map(|u| column.taps.iter().map(move |v| (u, v)));
                let runs = taps.flat_map(|(u, v)| {
                    let tap = rows.order[u.place] * self.filter.kernel.1 + columns.order[v.place];
                    let along = |rows: &Rows, offset: isize| (rows.before as isize + offset) as usize;
                    let pixel = along(&self.rows, u.offset) * self.wide() + along(&self.columns, v.offset);
                    meet.iter().map(move |&(left, right)| Run {
                        left: self.filter.run(tap, left),
                        right: pixel * pitch + right * self.filter.depth(),
                    })
                });
                let (first, count) = ((row.first, column.first), (rows.positions(row), columns.positions(column)));
                Phase { first, count, runs: runs.collect() }
            })
            .collect()
    }

    fn rows_of_a_task(&self) -> usize {
        let row = self.wide() * self.filter.pitch() * 2;
        let sums = if self.filter.chunks > 1 { self.sums_row() * 4 } else { 0 };
        let around = self.rows.reach * row;
        let fitting = (BAND.saturating_sub(around) / (row * self.rows.step + sums)).max(4);
        let bands = self.rows.results.div_ceil(fitting);
        // As many tasks for each thread.
        let bands = (bands * self.batch).next_multiple_of(self.threads).div_ceil(self.batch);
        self.rows.results.div_ceil(bands)
    }

    /// Pixels of a rounded row: the padding, and what whole tiles of columns read.
    fn wide(&self) -> usize {
        let read = self.columns.read_by(self.columns.results.next_multiple_of(COLUMNS));
        read.max(self.columns.before + self.size.1.div_ceil(self.columns.apart))
    }

    /// Sums of a row of results, of a panel, with what whole tiles of columns write.
    fn sums_row(&self) -> usize {
        self.columns.results.next_multiple_of(COLUMNS) * PANEL
    }

    /// Float32 numbers of a thread's rounded rows.
    fn rounded(&self) -> usize {
        (self.rows.read_by(self.band) * self.wide() * self.filter.pitch() / 2).next_multiple_of(16)
    }

    fn scratch(&self) -> usize {
        self.rounded() + self.group * self.sums_row()
    }

    /// Float32 numbers of scratch memory of all threads.
    pub fn workspace(&self) -> usize {
        self.threads * self.scratch()
    }

    /// Pixels of each part of a sample, of which moments are taken together: those of a row that share their taps.
    pub fn parts(&self) -> Vec<usize> {
        let of_a_row = self.phases.iter().filter(|phase| phase.first.0 == 0).map(|phase| phase.count.1);
        let of_a_row: Vec<usize> = of_a_row.collect();
        of_a_row.repeat(self.target.0)
    }

    /// Computes the whole output, by a filter that [`Filter::write`] has written.
    pub fn run(&self, kernels: BfloatKernels, operands: &Operands) {
        let bands = self.rows.results.div_ceil(self.band);
        (0..self.batch * bands).into_par_iter().with_max_len(1).for_each(|task| {
            let (sample, first) = (task / bands, task % bands * self.band);
            let rows = first..(first + self.band).min(self.rows.results);
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
        let (height, width) = self.size;
        let (channels, pitch, wide) = (padded(self.filter.inputs), self.filter.pitch(), self.wide());
        let (before, pixels) = (self.columns.before, width.div_ceil(self.columns.apart));
        let packing = Packing {
            norm: operands.normed.map(|normed| (normed.rows(sample), normed.relu)),
            channels,
            apart: channels * self.columns.apart,
            depth: self.filter.depth(),
            split: self.filter.split,
        };
        for row in 0..self.rows.read_by(rows.len()) {
            // SAFETY: this thread's rounded rows.
            let to = unsafe { to.add(row * wide * pitch) };
            let clear = |from: usize, end: usize| {
                // SAFETY: a part of the row.
                unsafe { to.add(from * pitch).write_bytes(0, (end - from) * pitch) };
            };
            let y = ((rows.start * self.rows.step + row) * self.rows.apart).checked_sub(self.rows.before);
            let Some(y) = y.filter(|&y| y < height) else {
                clear(0, wide);
                continue;
            };
            let from = operands.source.pointer((sample * height + y) * width * channels, width * channels);
            clear(0, before);
            // SAFETY: the source was just checked, and the row is as long as the map with its padding.
            unsafe { kernels.pack(&packing, from, to.add(before * pitch), pixels) };
            clear(before + pixels, wide);
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
        let (pitch, lanes) = (self.filter.pitch(), panel.width);
        let filter = operands.filter.pointer(0, self.filter.len()).cast::<bf16>().cast_const();
        let row = self.rows.step * self.wide() * pitch;
        for (first, phase) in
            rows.clone().step_by(self.group).flat_map(|first| self.phases.iter().map(move |phase| (first, phase)))
        {
            let some = first..(first + self.group).min(rows.end).min(phase.count.0);
            if some.is_empty() {
                continue;
            }
            for together in 0..chunks {
                // SAFETY: the filter's memory and the thread's rounded rows hold all that taps of whole tiles of columns
                // read, and the sums what those write.
                unsafe {
                    let left =
                        panel.start * self.filter.terms() + together * self.filter.run(self.filter.taps(), 0) * lanes;
                    let right = Columns {
                        first: rounded.add((first - rows.start) * row + together * chunk),
                        column: self.columns.step * pitch,
                        row,
                        count: (some.len(), phase.count.1),
                    };
                    let (adds, depth, left, runs) = (together > 0, chunk, filter.add(left), &phase.runs);
                    kernels.sums(&Product { adds, lanes, depth, runs, left, right, sums });
                }
            }
            // SAFETY: this task alone makes these lanes of these rows.
            unsafe { self.finish((operands, sample), (panel, phase), some, sums) };
        }
    }

    /// Puts a panel's sums of a phase's rows where they belong, with bias and ReLU, and takes their moments.
    ///
    /// # Safety
    /// The sums are this task's, as are these lanes of the rows.
    unsafe fn finish(
        &self,
        (operands, sample): (&Operands, usize),
        (Panel { start, width }, phase): (Panel, &Phase),
        rows: Range<usize>,
        sums: *mut f32,
    ) {
        let lanes = padded(self.filter.outputs);
        let kept = width.min(lanes - start);
        let (columns, apart) = (phase.count.1, self.step.1 * lanes);
        let bias = operands.bias.map(|bias| bias.pointer(start, kept).cast_const());
        for (index, row) in rows.enumerate() {
            let row = phase.first.0 + row * self.step.0;
            let first = ((sample * self.target.0 + row) * self.target.1 + phase.first.1) * lanes;
            let target = operands.target.pointer(first, (columns - 1) * apart + lanes);
            // SAFETY: the sums of this row of the phase.
            let sums = unsafe { sums.add(index * columns.next_multiple_of(COLUMNS) * width) };
            // SAFETY: the caller's promise.
            unsafe {
                let (from, to) = ((sums, width), (target.add(start), apart));
                let keeps = operands.moments.is_some() && (bias.is_some() || self.relu);
                let passes = self.step.1 == 1 && is_better_passed(operands.target.len());
                let row = FinishRow { columns, lanes: kept, from, to, bias, relu: self.relu, keeps, passes };
                InstructionSet::best().dispatch(row);
            }
            if let Some(moments) = &operands.moments {
                let part = row * self.step.1.min(self.target.1) + phase.first.1;
                // SAFETY: as above.
                unsafe { moments.take_from((sums, width), (sample, part), columns, start..start + kept) };
            }
        }
    }
}

/// A row of results of a panel.
struct FinishRow {
    columns: usize,
    lanes: usize,
    /// The first sum, and the first number that is made, with the numbers from one pixel to the next.
    from: (*mut f32, usize),
    to: (*mut f32, usize),
    bias: Option<*const f32>,
    relu: bool,
    /// Whether the sums, too, become what is made of them.
    keeps: bool,
    /// Whether results are written past the caches.
    passes: bool,
}

impl WithSimd for FinishRow {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        for column in 0..self.columns {
            for lane in (0..self.lanes).step_by(S::F32_LANES) {
                let left = self.lanes - lane;
                // SAFETY: whoever made this row says that its sums are readable, and writable if they are kept; the results,
                // writable; the bias, if there is one, readable. Nobody else touches them meanwhile.
                unsafe {
                    let from = self.from.0.add(column * self.from.1 + lane);
                    let to = self.to.0.add(column * self.to.1 + lane);
                    let mut y = load(simd, from, left);
                    if let Some(bias) = self.bias {
                        y = simd.add_f32s(y, load(simd, bias.add(lane), left));
                    }
                    if self.relu {
                        y = rectified(simd, y);
                    }
                    if self.keeps {
                        store(simd, from, left, y);
                    }
                    if !(self.passes && left >= S::F32_LANES && pass::<S>(to, y)) {
                        store(simd, to, left, y);
                    }
                }
            }
        }
        if self.passes {
            end_passing();
        }
    }
}

/// The tiles of AMX, also where there are none.
#[cfg(all(test, target_arch = "x86_64", target_os = "linux"))]
mod tests {
    use super::super::bfloat::{BfloatSet, sets_to_test};
    use super::super::kept::Kept;
    use super::super::layout::{pack, storage, unpack};
    use super::super::memory::Arena;
    use super::super::ops::conv::axes;
    use super::*;
    use crate::graph::Tensor;
    use crate::ops::{Conv, TransposedConv};
    use crate::program::Span;
    use crate::verify::relative_l2;

    /// A convolution's results by a set, as they lie in memory.
    fn results(set: BfloatSet, op: &Op, operands: &[Tensor<f32>; 2], split: bool) -> Vec<f32> {
        let [maps, filter] = operands.each_ref().map(Tensor::shape);
        let kept = Filter::of(op, filter, split).unwrap();
        let Shape::Maps { batch, .. } = maps else { unreachable!() };
        let made = op.operator().infer(&[maps, filter]).unwrap()[0];
        let bound = BfloatConv::new(&axes(op, maps, filter), batch, kept.clone(), false, 1);
        let lens = [storage(maps), kept.len(), storage(made), bound.workspace()];
        let arena = Arena::new(lens.iter().sum()).unwrap();
        let span = |index: usize| Span { offset: lens[..index].iter().sum(), len: lens[index] };
        let [source, weights, target, workspace] = [0, 1, 2, 3].map(|index| arena.region(span(index)));
        // SAFETY: nobody else has the arena.
        unsafe { pack(maps, operands[0].data(), source.slice_mut(0, source.len())) };
        kept.write(operands[1].data(), weights);
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        let (normed, bias, moments) = (None, None, None);
        let operands = Operands { source, normed, filter: weights, bias, target, moments, workspace };
        pool.install(|| bound.run(BfloatKernels::new(set), &operands));
        // SAFETY: as above.
        unsafe { target.all() }.to_vec()
    }

    /// Operands of so many channels read and made, with whatever `number` makes of a count.
    fn operands(
        op: &Op,
        (inputs, outputs): (usize, usize),
        (height, width): (usize, usize),
        kernel: usize,
        number: impl Fn(usize) -> f32,
    ) -> [Tensor<f32>; 2] {
        let (first, second) = if matches!(op, Op::Conv(_)) { (outputs, inputs) } else { (inputs, outputs) };
        let filter = Shape::Filter { outputs: first, inputs: second, height: kernel, width: kernel };
        let maps = Tensor::from_fn(Shape::maps(2, inputs, height, width), |i| number(i * 5));
        [maps, Tensor::from_fn(filter, |i| number(i * 7))]
    }

    #[test]
    fn all_sets_give_the_same_results_of_whole_numbers() {
        let conv =
            |kernel: usize, stride, dilation| Op::from(Conv { stride, padding: dilation * (kernel / 2), dilation });
        for (op, channels, size, kernel, split) in [
            (conv(3, 1, 1), (16, 24), (9, 20), 3, false),
            (conv(3, 2, 1), (40, 72), (7, 18), 3, false),
            (conv(3, 1, 3), (136, 80), (12, 5), 3, false),
            (conv(1, 1, 1), (160, 16), (4, 33), 1, false),
            (conv(1, 2, 1), (160, 16), (5, 33), 1, false),
            (conv(3, 1, 1), (72, 40), (6, 19), 3, true),
            (TransposedConv { stride: 2, padding: 1, output_padding: 1 }.into(), (40, 24), (7, 18), 3, false),
        ] {
            // Of a number that is split neither part is zero.
            let more = if split { 1.0 + 2f32.powi(-9) } else { 1.0 };
            let operands = operands(&op, channels, size, kernel, |i| ((i % 9) as f32 - 4.0) * more);
            let expected = results(BfloatSet::Portable, &op, &operands, split);
            assert!(expected.iter().any(|&x| x != 0.0));
            for set in sets_to_test() {
                let same = results(set, &op, &operands, split) == expected;
                assert!(same, "{}: {op:?} of {channels:?}", set.name());
            }
        }
    }

    /// What [`Kept::error_bound`] says of them; what is only rounded is off by a hundred times as much.
    #[test]
    fn results_of_split_operands_are_all_but_those_of_float64() {
        let number = |i: usize| ((i.wrapping_mul(2_654_435_761) >> 7) % 20_011) as f32 / 10_000.0 - 1.0;
        let doubled = TransposedConv { stride: 2, padding: 1, output_padding: 1 };
        for (op, channels) in [(Op::from(Conv::same(3)), (72, 40)), (doubled.into(), (24, 16))] {
            let operands = operands(&op, channels, (6, 19), 3, number);
            let wide = operands.each_ref().map(|x| Tensor::from_fn(x.shape(), |i| f64::from(x.data()[i])));
            let exact = op.operator().reference(&[&wide[0], &wide[1]]).swap_remove(0);
            let shape = exact.shape();
            let error = |set, split| {
                let mut made = vec![0.0; shape.elements()];
                unpack(shape, &results(set, &op, &operands, split), &mut made);
                relative_l2(&made, exact.data())
            };
            let (maps, filter) = (operands[0].shape(), operands[1].shape());
            let bound = Kept::Rounded(Filter::of(&op, filter, true).unwrap()).error_bound(filter).unwrap();
            for set in sets_to_test() {
                let (split, rounded) = (error(set, true), error(set, false));
                assert!(split <= bound && rounded > 100.0 * split, "{}: {maps}: {split}, {rounded}", set.name());
            }
        }
    }
}
