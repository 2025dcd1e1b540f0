//! The engine under filter gradients: for each tap, sums over pixels of (shifted input) x (output cotangent).
//!
//! Both maps are read where they lie: pixels are the terms of the sum, output channels its lanes, input channels its
//! columns. Sums run row by row (at most one row a chain), rows in order, bands of rows merged in a fixed order.

use super::layout::Panel;
use super::memory::Region;
use super::microkernel::{MicroKernels, Operand};
use crate::ops::Conv;
use rayon::prelude::*;
use std::ops::Range;

/// Input channels whose sums a task keeps in cache.
const GROUP: usize = 48;
/// Below this many independent sums, rows are divided among tasks as well.
const TASKS: usize = 16;

/// A bound filter gradient.
#[derive(Debug)]
pub(super) struct FilterCorrelation {
    pub conv: Conv,
    pub batch: usize,
    /// Planes that share the cotangent: 1 for maps, frames times channels for a window.
    pub planes: usize,
    /// Numbers of an input pixel: padded channels for maps, 1 for a window.
    pub depth: usize,
    /// Rows and columns of the input.
    pub source: (usize, usize),
    /// Rows and columns of the cotangent, and the panels of its channels.
    pub target: (usize, usize),
    pub panels: Vec<Panel>,
    /// Kernel rows and columns.
    pub kernel: (usize, usize),
}

impl FilterCorrelation {
    /// Numbers of a pixel of the cotangent.
    fn lanes(&self) -> usize {
        self.panels.iter().map(|panel| panel.width).sum()
    }

    fn storage(&self) -> usize {
        self.lanes() * self.planes * self.kernel.0 * self.kernel.1 * self.depth
    }

    fn groups(&self) -> usize {
        self.depth.div_ceil(GROUP)
    }

    /// Into how many bands the rows are divided, each with sums of its own.
    fn bands(&self) -> usize {
        let independent = self.panels.len() * self.groups() * self.planes;
        TASKS.div_ceil(independent).min(self.batch * self.target.0)
    }

    /// Numbers of scratch memory: one filter a band, unless there is only one.
    pub fn workspace(&self) -> usize {
        if self.bands() > 1 { self.bands() * self.storage() } else { 0 }
    }

    /// Computes the whole gradient.
    pub fn run(
        &self,
        kernels: MicroKernels,
        (source, cotangent): (Region, Region),
        (gradient, workspace): (Region, Region),
    ) {
        let (bands, storage) = (self.bands(), self.storage());
        let per_band = self.panels.len() * self.groups() * self.planes;
        let sums = if bands > 1 { workspace } else { gradient };
        (0..bands * per_band).into_par_iter().with_max_len(1).for_each(|index| {
            let (band, rest) = (index / per_band, index % per_band);
            let (panel, rest) =
                (self.panels[rest / (self.groups() * self.planes)], rest % (self.groups() * self.planes));
            let (plane, group) = (rest / self.groups(), rest % self.groups());
            let rows = self.batch * self.target.0;
            let task = Task {
                base: band * storage,
                rows: rows * band / bands..rows * (band + 1) / bands,
                plane,
                channels: group * GROUP..((group + 1) * GROUP).min(self.depth),
                start: panel.start,
                width: panel.width,
            };
            self.sum(&task, kernels, (source, cotangent, sums));
        });
        if bands > 1 {
            merge(workspace, gradient, bands, storage);
        }
    }

    /// Where the filter keeps the lanes of a tap and input channel.
    fn place(&self, task: &Task, (u, v): (usize, usize), channel: usize) -> usize {
        let taps = self.kernel.0 * self.kernel.1;
        let term = ((task.plane * taps) + u * self.kernel.1 + v) * self.depth + channel;
        task.base + task.start * self.planes * taps * self.depth + term * task.width
    }

    fn sum(&self, task: &Task, kernels: MicroKernels, (source, cotangent, sums): (Region, Region, Region)) {
        let taps = (0..self.kernel.0).flat_map(|u| (0..self.kernel.1).map(move |v| (u, v)));
        let len = task.channels.len() * task.width;
        for tap in taps.clone() {
            // SAFETY: this task alone owns these channels of this panel and band.
            unsafe { sums.slice_mut(self.place(task, tap, task.channels.start), len).fill(0.0) };
        }
        for row in task.rows.clone() {
            for tap in taps.clone() {
                self.sum_row(task, kernels, (row, tap), (source, cotangent, sums));
            }
        }
    }

    /// Adds the products of one row of the cotangent with the input row that one tap reads.
    fn sum_row(
        &self,
        task: &Task,
        kernels: MicroKernels,
        (row, (u, v)): (usize, (usize, usize)),
        (source, cotangent, sums): (Region, Region, Region),
    ) {
        let (sample, i) = (row / self.target.0, row % self.target.0);
        let (stride, lanes) = (self.conv.stride, self.lanes());
        let Some(y) =
            (i * stride + u * self.conv.dilation).checked_sub(self.conv.padding).filter(|&y| y < self.source.0)
        else {
            return;
        };
        let columns = self.columns_inside(v);
        if columns.is_empty() {
            return;
        }
        let x = columns.start * stride + v * self.conv.dilation - self.conv.padding;
        let pixel = ((sample * self.planes + task.plane) * self.source.0 + y) * self.source.1 + x;
        let span = (columns.len() - 1) * stride * self.depth + task.channels.len();
        let right = source.pointer(pixel * self.depth + task.channels.start, span);
        let made = (row * self.target.1 + columns.start) * lanes + task.start;
        let left = cotangent.pointer(made, (columns.len() - 1) * lanes + task.width);
        let place = self.place(task, (u, v), task.channels.start);
        let products = sums.pointer(place, task.channels.len() * task.width);
        // SAFETY: all three ranges were just checked; this task alone owns these channels of this panel and band.
        unsafe {
            kernels.accumulate(
                (task.width, task.channels.len(), columns.len()),
                (products, task.width),
                Operand { start: left, term: lanes, column: 0 },
                Operand { start: right, term: stride * self.depth, column: 1 },
            );
        }
    }

    /// The output columns whose tap `v` reads inside the input.
    fn columns_inside(&self, v: usize) -> Range<usize> {
        let Conv { stride, padding, dilation } = self.conv;
        let first = padding.saturating_sub(v * dilation).div_ceil(stride);
        let end = (self.source.1 + padding).saturating_sub(v * dilation).div_ceil(stride).min(self.target.1);
        first.min(end)..end
    }
}

/// One task: a band of rows (of all samples in turn), some input channels of a plane, one panel.
#[derive(Debug)]
struct Task {
    base: usize,
    rows: Range<usize>,
    plane: usize,
    channels: Range<usize>,
    start: usize,
    width: usize,
}

/// Adds the bands' sums in order.
fn merge(sums: Region, gradient: Region, bands: usize, storage: usize) {
    super::elementwise::for_each_block(storage, |at, len| {
        // SAFETY: each task owns its block of the gradient; the sums are complete.
        let (total, first) = unsafe { (gradient.slice_mut(at, len), sums.slice(at, len)) };
        total.copy_from_slice(first);
        for band in 1..bands {
            // SAFETY: as above.
            let next = unsafe { sums.slice(band * storage + at, len) };
            total.iter_mut().zip(next).for_each(|(sum, term)| *sum += term);
        }
    });
}
