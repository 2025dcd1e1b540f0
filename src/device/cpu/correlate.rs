//! The engine under every convolution: sums of products of shifted pixels with a blocked filter.
//!
//! A convolution, its input gradient, a transposed and a temporal convolution all compute, for each output pixel, a sum
//! over taps of (input pixel at an offset) x (slice of the filter). They differ in which offsets: [`Axis`] lists them
//! per output phase. Pixels are read from the map where they lie (no im2col): neighbouring taps of an undilated kernel
//! are neighbours in NHWC memory and form one long sum; blocks at the edges leave out the taps that fall outside.

use super::axis::{Axis, Phase, Tap};
use super::layout::{Panel, padded, panels};
use super::memory::Region;
use super::microkernel::{MicroKernels, Operand};
use super::operands::Operands;
use rayon::prelude::*;

/// Output pixels computed together; a multiple of every tile's columns.
const BLOCK: usize = 12;
/// Terms of a sum whose filter slice stays in the first-level cache while a band of pixels goes by.
const TERMS: usize = 192;
/// Numbers of input and output that a band of rows may touch, so that it stays in the second-level cache.
const BAND: usize = 192 * 1024;

/// Neighbouring taps over neighbouring output columns: one matrix product a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Run {
    /// First output column, in positions of its phase, and how many.
    column: usize,
    columns: usize,
    /// First tap's place in the filter, and how many taps.
    place: usize,
    taps: usize,
    /// First output column in the map, first input column read.
    target: usize,
    source: usize,
}

/// The runs of all columns of a row. Without dilation a block reads all taps that are inside for all its pixels as one
/// run; taps that are outside for some pixels run over the others alone.
fn runs(axis: &Axis) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for phase in &axis.phases {
        let positions = axis.positions(phase);
        for start in (0..positions).step_by(BLOCK) {
            let block = start..(start + BLOCK).min(positions);
            let mut open: Option<Run> = None;
            for tap in &phase.taps {
                let inside = axis.inside(tap.offset, block.clone());
                if inside.is_empty() {
                    runs.extend(open.take());
                    continue;
                }
                let source = (inside.start * axis.source_step).wrapping_add_signed(tap.offset);
                let columns = inside.len();
                match &mut open {
                    Some(run)
                        if run.column == inside.start && run.columns == columns && run.source + run.taps == source =>
                    {
                        run.taps += 1;
                    }
                    _ => {
                        runs.extend(open.take());
                        let target = phase.first + inside.start * axis.step;
                        open = Some(Run { column: inside.start, columns, place: tap.place, taps: 1, target, source });
                    }
                }
            }
            runs.extend(open.take());
        }
    }
    merge_blocks(runs, axis)
}

/// Runs of the same taps over adjoining blocks become one, and runs that share taps stand together.
fn merge_blocks(mut runs: Vec<Run>, axis: &Axis) -> Vec<Run> {
    // The order of the sums of any one pixel is by place, so sorting by place keeps it.
    runs.sort_by_key(|run| (run.target % axis.step, run.place, run.taps, run.column));
    let mut merged: Vec<Run> = Vec::new();
    for run in runs {
        match merged.last_mut() {
            Some(last)
                if (last.place, last.taps) == (run.place, run.taps)
                    && last.target % axis.step == run.target % axis.step
                    && last.column + last.columns == run.column =>
            {
                last.columns += run.columns;
            }
            _ => merged.push(run),
        }
    }
    merged
}

/// How the input of a correlation lies in memory.
#[derive(Debug, Clone, Copy)]
pub(super) struct SourceLayout {
    /// Planes that are summed over one after the other: 1 for maps, frames times channels for a window.
    pub planes: usize,
    /// Numbers of a pixel that are summed over: the padded channels for maps, 1 for a window.
    pub depth: usize,
}

/// A bound correlation: everything that does not change from run to run.
#[derive(Debug)]
pub(super) struct Correlation {
    pub kernels: MicroKernels,
    pub batch: usize,
    pub layout: SourceLayout,
    /// Output channels, unpadded.
    pub outputs: usize,
    pub rows: Axis,
    pub columns: Axis,
    pub relu: bool,
    runs: Vec<Run>,
    panels: Vec<Panel>,
    band: usize,
}

/// One task: some rows of one sample, one panel of output channels.
#[derive(Debug, Clone, Copy)]
struct Task {
    sample: usize,
    first_row: usize,
    end_row: usize,
    panel: Panel,
}

impl Correlation {
    pub fn new(
        kernels: MicroKernels,
        batch: usize,
        layout: SourceLayout,
        outputs: usize,
        (rows, columns): (Axis, Axis),
        relu: bool,
    ) -> Correlation {
        let panels = panels(outputs);
        let source_row = columns.source * layout.depth * layout.planes * rows.source_step / rows.step.max(1);
        let row = source_row.max(1) + columns.target * panels[0].width;
        let band = (BAND / row).clamp(1, rows.target).max(rows.step);
        // Bands of nearly equal height, at least two so that two cores have work on small maps.
        let bands = rows.target.div_ceil(band).max(2);
        let band = rows.target.div_ceil(bands);
        let runs = runs(&columns);
        Correlation { kernels, batch, layout, outputs, rows, columns, relu, runs, panels, band }
    }

    /// Terms of the sum of one output pixel, as the filter stores them.
    fn depth(&self) -> usize {
        self.layout.planes * self.rows.order.len() * self.columns.order.len() * self.layout.depth
    }

    /// Pixels of each part of a sample, of which moments are taken together.
    pub fn parts(&self) -> Vec<usize> {
        let (rows, columns) = (self.rows.target, self.columns.target);
        (0..rows).step_by(self.band).map(|row| self.band.min(rows - row) * columns).collect()
    }

    /// Computes the whole output. The source is read as it is.
    pub fn run(&self, operands: &Operands) {
        let Operands { source, filter, bias, target, .. } = *operands;
        let bands = self.rows.target.div_ceil(self.band);
        let tasks = self.panels.len() * self.batch * bands;
        (0..tasks).into_par_iter().with_max_len(1).for_each(|index| {
            let (panel, rest) = (index / (self.batch * bands), index % (self.batch * bands));
            let first_row = rest % bands * self.band;
            let task = Task {
                sample: rest / bands,
                first_row,
                end_row: (first_row + self.band).min(self.rows.target),
                panel: self.panels[panel],
            };
            self.begin(task, bias, target);
            self.accumulate(task, source, filter, target);
            self.finish(task, operands);
        });
    }

    /// Calls `pixels(first number)` for each output pixel of the task; the panel's lanes follow.
    fn for_each_pixel(&self, task: Task, mut pixel: impl FnMut(usize)) {
        let lanes = padded(self.outputs);
        for row in task.first_row..task.end_row {
            let start = (task.sample * self.rows.target + row) * self.columns.target;
            (start..start + self.columns.target).for_each(|p| pixel(p * lanes + task.panel.start));
        }
    }

    fn begin(&self, task: Task, bias: Option<Region>, target: Region) {
        let Panel { start, width } = task.panel;
        // SAFETY: this task alone owns these lanes of these rows; nobody writes the bias.
        unsafe {
            match bias.map(|bias| bias.slice(start, width)) {
                Some(bias) => self.for_each_pixel(task, |at| target.slice_mut(at, width).copy_from_slice(bias)),
                None => self.for_each_pixel(task, |at| target.slice_mut(at, width).fill(0.0)),
            }
        }
    }

    fn finish(&self, task: Task, operands: &Operands) {
        let Panel { start, width } = task.panel;
        if self.relu {
            // SAFETY: this task alone owns these lanes of these rows.
            self.for_each_pixel(task, |at| unsafe {
                super::elementwise::relu(operands.target.slice_mut(at, width));
            });
        }
        if let Some(moments) = &operands.moments {
            let columns = self.columns.target;
            let first = (task.sample * self.rows.target + task.first_row) * columns;
            let pixels = (task.end_row - task.first_row) * columns;
            let part = (task.sample, task.first_row / self.band);
            moments.take(operands.target, part, (first, pixels), start..start + width);
        }
    }

    fn accumulate(&self, task: Task, source: Region, filter: Region, target: Region) {
        for plane in 0..self.layout.planes {
            for phase in &self.rows.phases {
                for tap in &phase.taps {
                    let place = plane * self.rows.order.len() + tap.place;
                    for run in &self.runs {
                        self.accumulate_run(task, (plane, phase, *tap), (place, run), (source, filter, target));
                    }
                }
            }
        }
    }

    /// Adds one kernel row's run of taps to all rows of the task that belong to a phase.
    fn accumulate_run(
        &self,
        task: Task,
        (plane, phase, tap): (usize, &Phase, Tap),
        (place, run): (usize, &Run),
        (source, filter, target): (Region, Region, Region),
    ) {
        let (rows, columns) = (&self.rows, &self.columns);
        let Panel { start, width } = task.panel;
        let depth = self.layout.depth;
        let first_term = (place * columns.order.len() + run.place) * depth;
        let terms = run.taps * depth;
        let chunks = terms.div_ceil(TERMS);
        let lanes = padded(self.outputs);
        let first = task.first_row.saturating_sub(phase.first).div_ceil(rows.step);
        let end = (task.end_row + rows.step - 1).saturating_sub(phase.first) / rows.step;
        let inside = rows.inside(tap.offset, first..end);
        for chunk in 0..chunks {
            let (from, to) = (terms * chunk / chunks, terms * (chunk + 1) / chunks);
            let left = filter.pointer(start * self.depth() + (first_term + from) * width, (to - from) * width);
            for row in inside.clone() {
                let source_row = (row * rows.source_step).wrapping_add_signed(tap.offset);
                let target_row = phase.first + row * rows.step;
                let from_pixel = ((task.sample * self.layout.planes + plane) * rows.source + source_row)
                    * columns.source
                    + run.source;
                let pixel_step = columns.source_step * depth;
                let right = source.pointer(from_pixel * depth + from, (run.columns - 1) * pixel_step + to - from);
                let to_pixel = (task.sample * rows.target + target_row) * columns.target + run.target;
                let column = columns.step * lanes;
                let products = target.pointer(to_pixel * lanes + start, (run.columns - 1) * column + width);
                // SAFETY: all three ranges were just checked; this task alone owns these lanes of these rows.
                unsafe {
                    self.kernels.accumulate(
                        (width, run.columns, to - from),
                        (products, column),
                        Operand { start: left, term: width, column: 0 },
                        Operand { start: right, term: 1, column: pixel_step },
                    );
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::Conv;

    fn covered(axis: &Axis) -> Vec<Vec<usize>> {
        let mut places = vec![Vec::new(); axis.target];
        for run in runs(axis) {
            for i in 0..run.columns {
                places[run.target + i * axis.step].extend(run.place..run.place + run.taps);
            }
        }
        places
    }

    #[test]
    fn runs_cover_each_inner_pixel_with_every_tap_once_and_in_order() {
        for (kernel, stride, dilation) in [(3, 1, 1), (3, 1, 3), (3, 1, 5), (7, 2, 1), (3, 2, 1), (1, 2, 1), (1, 1, 1)]
        {
            for source in 1..40 {
                let conv = Conv { stride, padding: dilation * (kernel / 2), dilation };
                let Some(target) = conv.output_size(source, kernel) else { continue };
                let axis = Axis::forward(&conv, kernel, source, target);
                for (pixel, places) in covered(&axis).into_iter().enumerate() {
                    let expected: Vec<usize> = (0..kernel)
                        .filter(|u| {
                            (pixel * stride + u * dilation).checked_sub(conv.padding).is_some_and(|x| x < source)
                        })
                        .collect();
                    assert_eq!(places, expected, "kernel {kernel} stride {stride} dilation {dilation} pixel {pixel}");
                }
            }
        }
    }

    #[test]
    fn backward_runs_hold_exactly_the_taps_that_forward_sums_hold() {
        for (kernel, stride, dilation, padding) in
            [(3, 1, 1, 1), (3, 2, 1, 1), (4, 2, 1, 1), (3, 1, 5, 5), (1, 2, 1, 0)]
        {
            for size in 2..30 {
                let conv = Conv { stride, padding, dilation };
                let Some(made) = conv.output_size(size, kernel) else { continue };
                let axis = Axis::backward(&conv, kernel, made, size);
                let total: usize = covered(&axis).iter().map(Vec::len).sum();
                let forward: usize = covered(&Axis::forward(&conv, kernel, size, made)).iter().map(Vec::len).sum();
                assert_eq!(total, forward, "kernel {kernel} stride {stride} size {size}");
            }
        }
    }
}
