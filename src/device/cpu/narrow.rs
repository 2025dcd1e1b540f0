//! Convolutions with so few results that most lanes of a vector would go unused: the lanes are taps.
//!
//! Of each input pixel the products with all taps of all output channels, summed over input channels, are one short matrix
//! product; each result then gathers its taps from the pixels around it. Every pixel is read once.

use super::layout::{LANES, padded};
use super::memory::Region;
use super::microkernel::{MicroKernels, Operand};
use crate::graph::Shape;
use crate::ops::Conv;
use rayon::prelude::*;
use std::ops::Range;

/// Taps of all output channels, padded: two vectors of eight, which every instruction set works on.
const TAPS: usize = 16;
/// Rows of a task; those next to them that its taps read are computed twice.
const BAND: usize = 16;

/// A bound convolution: everything that does not change from run to run.
#[derive(Debug)]
pub(super) struct Narrow {
    conv: Conv,
    batch: usize,
    outputs: usize,
    kernel: (usize, usize),
    depth: usize,
    source: (usize, usize),
    target: (usize, usize),
    relu: bool,
    threads: usize,
}

/// The operands of a run.
#[derive(Debug, Clone, Copy)]
pub(super) struct Memory {
    pub source: Region,
    pub filter: Region,
    pub bias: Option<Region>,
    pub target: Region,
    pub workspace: Region,
}

impl Narrow {
    /// The convolution, if it is one to compute so.
    pub fn new(conv: &Conv, (maps, filter): (Shape, Shape), relu: bool, threads: usize) -> Option<Narrow> {
        let (
            Shape::Maps { batch, channels, height, width },
            Shape::Filter { outputs, height: rows, width: columns, .. },
        ) = (maps, filter)
        else {
            return None;
        };
        let taps = outputs * rows * columns;
        // With a single tap nothing is gained.
        if conv.stride != 1 || taps > TAPS || rows * columns == 1 || channels < LANES {
            return None;
        }
        let target = (conv.output_size(height, rows)?, conv.output_size(width, columns)?);
        let (kernel, source, depth) = ((rows, columns), (height, width), padded(channels));
        Some(Narrow { conv: *conv, batch, outputs, kernel, depth, source, target, relu, threads })
    }

    /// Numbers of scratch memory: the filter with its taps as lanes, and for each thread a row of products and a band of
    /// results.
    pub fn workspace(&self) -> usize {
        self.depth * TAPS + self.threads * self.scratch()
    }

    fn scratch(&self) -> usize {
        self.source.1 * TAPS + BAND * self.target.1 * self.outputs
    }

    /// Computes the whole output.
    pub fn run(&self, kernels: MicroKernels, memory: Memory) {
        // SAFETY: nobody else runs.
        self.turn(unsafe { memory.filter.all() }, unsafe { memory.workspace.slice_mut(0, self.depth * TAPS) });
        let bands = self.target.0.div_ceil(BAND);
        (0..self.batch * bands).into_par_iter().with_max_len(1).for_each(|task| {
            let (sample, first) = (task / bands, task % bands * BAND);
            let rows = first..(first + BAND).min(self.target.0);
            let thread = rayon::current_thread_index().unwrap_or(0);
            assert!(thread < self.threads, "a program runs on the threads of its device");
            let start = self.depth * TAPS + thread * self.scratch();
            // SAFETY: this thread alone works on its scratch memory.
            let (products, results) =
                unsafe { memory.workspace.slice_mut(start, self.scratch()).split_at_mut(self.source.1 * TAPS) };
            self.sum(kernels, (memory, sample, rows.clone()), products, results);
            self.write(memory, sample, rows, results);
        });
    }

    /// The filter as `[input channel][output channel][tap]`.
    fn turn(&self, filter: &[f32], turned: &mut [f32]) {
        let taps = self.kernel.0 * self.kernel.1;
        turned.fill(0.0);
        for (channel, lanes) in turned.chunks_exact_mut(TAPS).enumerate() {
            for output in 0..self.outputs {
                for tap in 0..taps {
                    // So few outputs are one panel.
                    lanes[output * taps + tap] = filter[(tap * self.depth + channel) * padded(self.outputs) + output];
                }
            }
        }
    }

    /// The sums of a band, `[row][output channel][column]`.
    fn sum(
        &self,
        kernels: MicroKernels,
        (memory, sample, rows): (Memory, usize, Range<usize>),
        products: &mut [f32],
        results: &mut [f32],
    ) {
        let (height, width) = self.source;
        let Conv { padding, dilation, .. } = self.conv;
        let reach = (self.kernel.0 - 1) * dilation;
        results.fill(0.0);
        for y in rows.start.saturating_sub(padding)..(rows.end + reach).saturating_sub(padding).min(height) {
            let from = memory.source.pointer((sample * height + y) * width * self.depth, width * self.depth);
            // SAFETY: the row was just checked; the products are this task's, and the filter has been turned.
            unsafe {
                kernels.multiply(
                    false,
                    (TAPS, width, self.depth),
                    (products.as_mut_ptr(), TAPS),
                    Operand { start: memory.workspace.pointer(0, self.depth * TAPS), term: TAPS, column: 0 },
                    Operand { start: from, term: 1, column: self.depth },
                );
            }
            for u in 0..self.kernel.0 {
                let Some(row) = (y + padding).checked_sub(u * dilation).filter(|row| rows.contains(row)) else {
                    continue;
                };
                self.gather(u, products, &mut results[(row - rows.start) * self.outputs * self.target.1..]);
            }
        }
    }

    /// Adds the products of kernel row `u` to the results of a row.
    fn gather(&self, u: usize, products: &[f32], results: &mut [f32]) {
        let (columns, width) = (self.target.1, self.source.1);
        let Conv { padding, dilation, .. } = self.conv;
        for (output, sums) in results.chunks_exact_mut(columns).enumerate().take(self.outputs) {
            for v in 0..self.kernel.1 {
                let lane = (output * self.kernel.0 + u) * self.kernel.1 + v;
                // Result `x` reads pixel `x + v dilation - padding`.
                let first = padding.saturating_sub(v * dilation).min(columns);
                let end = (width + padding).saturating_sub(v * dilation).clamp(first, columns);
                if first == end {
                    continue;
                }
                let from = first + v * dilation - padding;
                let pixels = products[from * TAPS..].chunks_exact(TAPS);
                sums[first..end].iter_mut().zip(pixels).for_each(|(sum, lanes)| *sum += lanes[lane]);
            }
        }
    }

    /// Puts the results of a band where they belong, with bias and ReLU, and zeros beside them.
    fn write(&self, memory: Memory, sample: usize, rows: Range<usize>, results: &[f32]) {
        let (columns, lanes) = (self.target.1, padded(self.outputs));
        let start = (sample * self.target.0 + rows.start) * columns * lanes;
        // SAFETY: this task alone owns its rows; nobody writes the bias.
        let (band, bias) = unsafe {
            let bias = memory.bias.map(|bias| bias.slice(0, self.outputs));
            (memory.target.slice_mut(start, rows.len() * columns * lanes), bias)
        };
        band.fill(0.0);
        for (row, sums) in band.chunks_exact_mut(columns * lanes).zip(results.chunks_exact(self.outputs * columns)) {
            for (output, sums) in sums.chunks_exact(columns).enumerate() {
                let bias = bias.map_or(0.0, |bias| bias[output]);
                for (pixel, sum) in row.chunks_exact_mut(lanes).zip(sums) {
                    let y = sum + bias;
                    pixel[output] = if self.relu { super::elementwise::rectified(y) } else { y };
                }
            }
        }
    }
}
