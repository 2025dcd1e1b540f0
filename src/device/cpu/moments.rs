//! Means and variances of maps, taken of parts while those are in registers or caches, and put together in the end.
//!
//! A part is some pixels of one sample, the same ones whatever the number of threads, so that statistics have the same bits.
//! It leaves its mean and M2, the sum of squared deviations from that mean, each found in two passes (Chan, Golub, LeVeque
//! 1983); so a mean far from zero costs no digits. Parts are put together in float64.

use super::elementwise::{VECTOR, Vector, load, store, vectorised};
use super::layout::padded;
use super::memory::Region;
use crate::graph::Shape;
use std::ops::Range;

/// Pixels of which mean and M2 are found in two passes, the second over what the first-level cache still holds.
const BLOCK: usize = 64;

/// Where the parts of maps leave what they find, and the statistics that come of it.
#[derive(Debug, Clone)]
pub(super) struct Moments {
    batch: usize,
    channels: usize,
    /// Pixels of each part of a sample.
    parts: Vec<usize>,
    epsilon: f64,
    statistics: Region,
    workspace: Region,
    /// Where the rows of the parts begin in the workspace.
    first: usize,
}

/// Numbers of scratch memory for maps whose samples are divided into so many parts.
pub(super) fn workspace(maps: Shape, parts: usize) -> usize {
    match maps {
        Shape::Maps { batch, channels, .. } => batch * parts * 2 * padded(channels),
        other => unreachable!("only maps have moments, not {other}"),
    }
}

impl Moments {
    /// Of maps whose samples are divided into parts of so many pixels; scratch memory lies in the workspace from `first`
    /// on.
    pub fn new(maps: Shape, parts: Vec<usize>, epsilon: f32, statistics: Region, scratch: (Region, usize)) -> Moments {
        let Shape::Maps { batch, channels, .. } = maps else { unreachable!("only maps have moments, not {maps}") };
        let ((workspace, first), epsilon) = (scratch, f64::from(epsilon));
        Moments { batch, channels, parts, epsilon, statistics, workspace, first }
    }

    /// The rows of a part's means and M2, a number for each lane.
    pub fn rows(&self, sample: usize, part: usize) -> [*mut f32; 2] {
        let lanes = padded(self.channels);
        let at = self.first + (sample * self.parts.len() + part) * 2 * lanes;
        [0, lanes].map(|row| self.workspace.pointer(at + row, lanes))
    }

    /// Takes those of some lanes of a part, `pixels` that lie side by side from pixel `first` of all samples on.
    pub fn take(&self, maps: Region, part: (usize, usize), (first, pixels): (usize, usize), some: Range<usize>) {
        let lanes = padded(self.channels);
        let from = maps.pointer(first * lanes, pixels * lanes).cast_const();
        // SAFETY: the pixels were just checked; this task alone writes them, and has.
        unsafe { self.take_from((from.add(some.start), lanes), part, pixels, some) };
    }

    /// Takes those of some lanes of a part, a sample's, whose pixels lie wherever: the first pixel's first of these lanes, and
    /// the numbers from a pixel to the next.
    ///
    /// # Safety
    /// The lanes of all pixels are readable and nobody writes them meanwhile.
    pub unsafe fn take_from(
        &self,
        (from, apart): (*const f32, usize),
        (sample, part): (usize, usize),
        pixels: usize,
        some: Range<usize>,
    ) {
        let [mean_row, m2_row] = self.rows(sample, part);
        vectorised(
            #[inline(always)]
            || {
                for lane in some.clone().step_by(VECTOR) {
                    // SAFETY: the caller's promise; this task alone writes these lanes of its part's rows.
                    unsafe {
                        let from = from.add(lane - some.start);
                        let pivot = load(from);
                        let (mut mean, mut m2) = ([0.0; VECTOR], [0.0; VECTOR]);
                        for block in (0..pixels).step_by(BLOCK) {
                            let more = BLOCK.min(pixels - block);
                            let found = block_moments(from.add(block * apart), apart, more, pivot);
                            (mean, m2) = merged((mean, m2), block as f32, found, more as f32);
                        }
                        store(mean_row.add(lane), std::array::from_fn(|i| pivot[i] + mean[i]));
                        store(m2_row.add(lane), m2);
                    }
                }
            },
        );
    }

    /// Makes the statistics of what all parts have left: each channel's mean, and `1 / sqrt(var + epsilon)`.
    pub fn merge(&self) {
        let lanes = padded(self.channels);
        let total: usize = self.parts.iter().sum();
        for (sample, first) in (0..self.batch).flat_map(|sample| (0..lanes).step_by(VECTOR).map(move |l| (sample, l))) {
            vectorised(
                #[inline(always)]
                || {
                    let rows = |part: usize| {
                        let [mean, m2] = self.rows(sample, part);
                        // SAFETY: all parts are done; a vector of lanes lies within a row.
                        unsafe { (load(mean.add(first)), load(m2.add(first))) }
                    };
                    let (mut mean, mut m2) = ([0.0f64; VECTOR], [0.0f64; VECTOR]);
                    for (part, &pixels) in self.parts.iter().enumerate() {
                        let (of_part, _) = rows(part);
                        (0..VECTOR).for_each(|i| mean[i] += f64::from(of_part[i]) * pixels as f64);
                    }
                    mean.iter_mut().for_each(|mean| *mean /= total as f64);
                    for (part, &pixels) in self.parts.iter().enumerate() {
                        let (of_part, within) = rows(part);
                        for i in 0..VECTOR {
                            let away = f64::from(of_part[i]) - mean[i];
                            m2[i] += f64::from(within[i]) + away * away * pixels as f64;
                        }
                    }
                    let [to_mean, to_reciprocal] =
                        [0, 1].map(|row| self.statistics.pointer((2 * sample + row) * lanes + first, VECTOR));
                    for i in 0..VECTOR {
                        let reciprocal = 1.0 / (m2[i] / total as f64 + self.epsilon).sqrt();
                        // SAFETY: just checked; nobody else runs. Padding stays zero in every value.
                        unsafe {
                            *to_mean.add(i) = mean[i] as f32;
                            *to_reciprocal.add(i) = if first + i < self.channels { reciprocal as f32 } else { 0.0 };
                        }
                    }
                },
            );
        }
    }
}

/// Sums that are made beside each other, so that none waits for the one before it.
const BESIDE: usize = 4;

/// Mean and M2 of some pixels' lanes, minus the pivot.
///
/// # Safety
/// `from` points to `pixels` rows of [`VECTOR`] numbers, `lanes` apart, that nobody writes.
#[inline(always)]
unsafe fn block_moments(from: *const f32, lanes: usize, pixels: usize, pivot: Vector) -> (Vector, Vector) {
    // SAFETY: the caller's promise.
    unsafe {
        let sum = sum_of(
            from,
            lanes,
            pixels,
            #[inline(always)]
            |x, i| x - pivot[i],
        );
        let mean = sum.map(|s| s / pixels as f32);
        let m2 = sum_of(
            from,
            lanes,
            pixels,
            #[inline(always)]
            |x, i| {
                let deviation = (x - pivot[i]) - mean[i];
                deviation * deviation
            },
        );
        (mean, m2)
    }
}

/// The sum over some pixels of what `term` makes of the number of a lane.
///
/// # Safety
/// As [`block_moments`].
#[inline(always)]
unsafe fn sum_of(from: *const f32, lanes: usize, pixels: usize, term: impl Fn(f32, usize) -> f32) -> Vector {
    let mut sums = [[0.0; VECTOR]; BESIDE];
    let whole = pixels - pixels % BESIDE;
    for pixel in (0..whole).step_by(BESIDE) {
        for (beside, sum) in sums.iter_mut().enumerate() {
            // SAFETY: the caller's promise.
            let x = unsafe { load(from.add((pixel + beside) * lanes)) };
            for i in 0..VECTOR {
                sum[i] += term(x[i], i);
            }
        }
    }
    for pixel in whole..pixels {
        // SAFETY: the caller's promise.
        let x = unsafe { load(from.add(pixel * lanes)) };
        for i in 0..VECTOR {
            sums[0][i] += term(x[i], i);
        }
    }
    std::array::from_fn(|i| (sums[0][i] + sums[1][i]) + (sums[2][i] + sums[3][i]))
}

/// The moments of two sets together.
#[inline(always)]
fn merged(a: (Vector, Vector), count_a: f32, b: (Vector, Vector), count_b: f32) -> (Vector, Vector) {
    let total = count_a + count_b;
    let delta: Vector = std::array::from_fn(|i| b.0[i] - a.0[i]);
    (
        std::array::from_fn(|i| a.0[i] + delta[i] * (count_b / total)),
        std::array::from_fn(|i| a.1[i] + b.1[i] + delta[i] * delta[i] * (count_a * count_b / total)),
    )
}
