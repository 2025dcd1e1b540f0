//! Instance norm and its gradient on the CPU.
//!
//! Statistics: pixels in bands, bands in small blocks that stay in the first-level cache. Each block gives mean and M2
//! (sum of squared deviations from that mean) in two passes over cached data; blocks and bands are merged pairwise
//! (Chan, Golub, LeVeque 1983), everything relative to the sample's first pixel, so a mean far from zero costs nothing.

use super::super::elementwise::{VECTOR, Vector, load, rectified, store, vectorised};
use super::super::layout::padded;
use super::super::memory::Region;
use super::{Binding, Routine, maps};
use crate::graph::Shape;
use crate::ops::InstanceNorm;
use rayon::prelude::*;

/// Pixels of a block, and the most pixels of a band.
const BLOCK: usize = 64;
const BAND: usize = 1024;

/// Samples, pixels of a sample, lanes of a pixel.
#[derive(Debug, Clone, Copy)]
struct Extent {
    batch: usize,
    area: usize,
    lanes: usize,
    channels: usize,
}

impl Extent {
    fn of(shape: Shape) -> Extent {
        let (batch, channels, height, width) = maps(shape);
        Extent { batch, area: height * width, lanes: padded(channels), channels }
    }

    fn bands(self) -> usize {
        self.area.div_ceil(BAND)
    }

    /// Calls `work(sample, band, first pixel of the sample's band, pixels)` for all bands, in parallel.
    fn for_each_band(self, work: impl Fn(usize, usize, usize, usize) + Sync) {
        (0..self.batch * self.bands()).into_par_iter().with_max_len(1).for_each(|task| {
            let (sample, band) = (task / self.bands(), task % self.bands());
            let first = band * BAND;
            vectorised(
                #[inline(always)]
                || work(sample, band, first, BAND.min(self.area - first)),
            );
        });
    }

    /// Where two rows of lanes for a band lie in the workspace.
    fn band_slot(self, sample: usize, band: usize) -> usize {
        (sample * self.bands() + band) * 2 * self.lanes
    }
}

pub(super) fn workspace(shape: Shape) -> usize {
    let extent = Extent::of(shape);
    // Two rows a band, and the scale of each sample's channels.
    extent.batch * (extent.bands() * 2 + 1) * extent.lanes
}

pub(super) fn normalise_workspace(shape: Shape) -> usize {
    let extent = Extent::of(shape);
    // The scale of each sample's channels.
    extent.batch * extent.lanes
}

pub(super) fn grad_workspace(shape: Shape) -> usize {
    let extent = Extent::of(shape);
    // Two rows a band, and two means of each sample's channels.
    extent.batch * (extent.bands() * 2 + 2) * extent.lanes
}

pub(super) fn forward(op: &InstanceNorm, binding: &Binding<'_>) -> Routine {
    let extent = Extent::of(binding.input_shapes[0]);
    let [x, gamma, beta] = [0, 1, 2].map(|i| binding.inputs[i]);
    let statistics = binding.outputs[1];
    let scales = extent.batch * extent.bands() * 2 * extent.lanes;
    let pass = Pass::new(extent, (x, statistics, beta), scales, binding);
    let norm =
        Norm { extent, epsilon: f64::from(op.epsilon), x, gamma, statistics, scales, workspace: binding.workspace };
    Box::new(move || {
        norm.measure();
        (0..extent.batch).for_each(|sample| norm.merge(sample));
        pass.run();
    })
}

pub(super) fn normalise(binding: &Binding<'_>) -> Routine {
    let extent = Extent::of(binding.input_shapes[0]);
    let [x, statistics, gamma, beta] = [0, 1, 2, 3].map(|i| binding.inputs[i]);
    let pass = Pass::new(extent, (x, statistics, beta), 0, binding);
    let scales = binding.workspace;
    Box::new(move || {
        let lanes = extent.lanes;
        for sample in 0..extent.batch {
            // SAFETY: nobody else runs.
            let (scale, reciprocal, gamma) = unsafe {
                (
                    scales.slice_mut(sample * lanes, lanes),
                    statistics.slice((2 * sample + 1) * lanes, lanes),
                    gamma.slice(0, lanes),
                )
            };
            (0..lanes).for_each(|lane| scale[lane] = gamma[lane] * reciprocal[lane]);
        }
        pass.run();
    })
}

/// Takes the statistics and makes the scales.
struct Norm {
    extent: Extent,
    epsilon: f64,
    x: Region,
    gamma: Region,
    statistics: Region,
    /// Where the scales lie in the workspace, behind what the bands have found.
    scales: usize,
    workspace: Region,
}

impl Norm {
    /// Mean (relative to the sample's first pixel) and M2 of every band.
    fn measure(&self) {
        let Extent { area, lanes, .. } = self.extent;
        self.extent.for_each_band(
            #[inline(always)]
            |sample, band, first, count| {
                let pivot = self.x.pointer(sample * area * lanes, lanes).cast_const();
                let from = self.x.pointer((sample * area + first) * lanes, count * lanes).cast_const();
                let slot = self.workspace.pointer(self.extent.band_slot(sample, band), 2 * lanes);
                for block in (0..count).step_by(BLOCK) {
                    let pixels = BLOCK.min(count - block);
                    for lane in (0..lanes).step_by(VECTOR) {
                        // SAFETY: all ranges were just checked; this task alone writes its band's slot.
                        unsafe {
                            let (mean, m2) =
                                block_moments(from.add(block * lanes + lane), lanes, pixels, load(pivot.add(lane)));
                            let merged = if block == 0 {
                                (mean, m2)
                            } else {
                                let old = (load(slot.add(lane)), load(slot.add(lanes + lane)));
                                merge_moments(old, block as f32, (mean, m2), pixels as f32)
                            };
                            store(slot.add(lane), merged.0);
                            store(slot.add(lanes + lane), merged.1);
                        }
                    }
                }
            },
        );
    }

    /// Merges a sample's bands in order; leaves mean and 1/deviation in the statistics, the scale in the workspace.
    fn merge(&self, sample: usize) {
        let Extent { area, lanes, channels, .. } = self.extent;
        let bands = self.extent.bands();
        // SAFETY: measuring is done; nobody else runs. The scale's rows lie behind those of the bands.
        let (statistics, scale, bands_moments, gamma, pivot) = unsafe {
            (
                self.statistics.slice_mut(sample * 2 * lanes, 2 * lanes),
                self.workspace.slice_mut(self.scales + sample * lanes, lanes),
                self.workspace.slice(self.extent.band_slot(sample, 0), bands * 2 * lanes),
                self.gamma.all(),
                self.x.slice(sample * area * lanes, lanes),
            )
        };
        for lane in 0..lanes {
            let (mut count, mut mean, mut m2) = (0.0f64, 0.0f64, 0.0f64);
            for (band, moments) in bands_moments.chunks_exact(2 * lanes).enumerate() {
                let pixels = BAND.min(area - band * BAND) as f64;
                let (band_mean, band_m2) = (f64::from(moments[lane]), f64::from(moments[lanes + lane]));
                let (delta, total) = (band_mean - mean, count + pixels);
                mean += delta * pixels / total;
                m2 += band_m2 + delta * delta * count * pixels / total;
                count = total;
            }
            let deviation = (m2 / count + self.epsilon).sqrt();
            statistics[lane] = (f64::from(pivot[lane]) + mean) as f32;
            // Padding stays zero in every value.
            statistics[lanes + lane] = if lane < channels { (1.0 / deviation) as f32 } else { 0.0 };
            scale[lane] = (f64::from(gamma[lane]) / deviation) as f32;
        }
    }
}

/// The pass over the maps that applies a norm.
struct Pass {
    extent: Extent,
    relu: bool,
    x: Region,
    beta: Region,
    residual: Option<Region>,
    y: Region,
    statistics: Region,
    /// Where the scales, a row of lanes for each sample, lie in the workspace.
    scales: usize,
    workspace: Region,
}

impl Pass {
    fn new(
        extent: Extent,
        (x, statistics, beta): (Region, Region, Region),
        scales: usize,
        binding: &Binding<'_>,
    ) -> Pass {
        let (relu, residual, y) = (binding.epilogue.relu, binding.residual(), binding.outputs[0]);
        Pass { extent, relu, x, beta, residual, y, statistics, scales, workspace: binding.workspace }
    }

    fn run(&self) {
        match (self.residual, self.relu) {
            (Some(residual), true) => self.apply(Some(residual), rectified),
            (Some(residual), false) => self.apply(
                Some(residual),
                #[inline(always)]
                |v| v,
            ),
            (None, true) => self.apply(None, rectified),
            (None, false) => self.apply(
                None,
                #[inline(always)]
                |v| v,
            ),
        }
    }

    /// `finish((x - mean) scale + beta [+ residual])` in one pass; the result may lie over the input.
    fn apply(&self, residual: Option<Region>, finish: impl Fn(f32) -> f32 + Sync) {
        let Extent { area, lanes, .. } = self.extent;
        self.extent.for_each_band(
            #[inline(always)]
            |sample, _, first, count| {
                let at = (sample * area + first) * lanes;
                let (from, to) = (self.x.pointer(at, count * lanes).cast_const(), self.y.pointer(at, count * lanes));
                let mean = self.statistics.pointer(sample * 2 * lanes, lanes).cast_const();
                let scale = self.workspace.pointer(self.scales + sample * lanes, lanes).cast_const();
                let beta = self.beta.pointer(0, lanes).cast_const();
                let added = residual.map(|region| region.pointer(at, count * lanes).cast_const());
                for pixel in 0..count {
                    for lane in (0..lanes).step_by(VECTOR) {
                        let at = pixel * lanes + lane;
                        // SAFETY: all ranges were just checked; this task alone writes these pixels, after reading.
                        unsafe {
                            let (x, mean, scale, beta) =
                                (load(from.add(at)), load(mean.add(lane)), load(scale.add(lane)), load(beta.add(lane)));
                            let mut y: Vector = std::array::from_fn(|i| (x[i] - mean[i]) * scale[i] + beta[i]);
                            if let Some(added) = added {
                                let added = load(added.add(at));
                                y = std::array::from_fn(|i| y[i] + added[i]);
                            }
                            store(to.add(at), y.map(&finish));
                        }
                    }
                }
            },
        );
    }
}

/// Mean and M2 of some pixels' lanes, minus the pivot.
///
/// # Safety
/// `from` points to `pixels` rows of [`VECTOR`] numbers, `lanes` apart, that nobody writes.
#[inline(always)]
unsafe fn block_moments(from: *const f32, lanes: usize, pixels: usize, pivot: Vector) -> (Vector, Vector) {
    let mut sum = [0.0; VECTOR];
    for pixel in 0..pixels {
        // SAFETY: the caller's promise.
        let x = unsafe { load(from.add(pixel * lanes)) };
        (0..VECTOR).for_each(|i| sum[i] += x[i] - pivot[i]);
    }
    let mean = sum.map(|s| s / pixels as f32);
    let mut m2 = [0.0; VECTOR];
    for pixel in 0..pixels {
        // SAFETY: the caller's promise.
        let x = unsafe { load(from.add(pixel * lanes)) };
        (0..VECTOR).for_each(|i| {
            let deviation = (x[i] - pivot[i]) - mean[i];
            m2[i] += deviation * deviation;
        });
    }
    (mean, m2)
}

/// The moments of two sets together.
#[inline(always)]
fn merge_moments(a: (Vector, Vector), count_a: f32, b: (Vector, Vector), count_b: f32) -> (Vector, Vector) {
    let total = count_a + count_b;
    let delta: Vector = std::array::from_fn(|i| b.0[i] - a.0[i]);
    (
        std::array::from_fn(|i| a.0[i] + delta[i] * (count_b / total)),
        std::array::from_fn(|i| a.1[i] + b.1[i] + delta[i] * delta[i] * (count_a * count_b / total)),
    )
}

pub(super) fn grad(binding: &Binding<'_>) -> Routine {
    let [x, statistics, gamma, dy] = [0, 1, 2, 3].map(|i| binding.inputs[i]);
    let [dx, dgamma, dbeta] = [0, 1, 2].map(|i| binding.outputs[i]);
    let norm = NormGrad {
        extent: Extent::of(binding.input_shapes[0]),
        x,
        statistics,
        gamma,
        dy,
        dx,
        workspace: binding.workspace,
    };
    Box::new(move || {
        norm.sum();
        // SAFETY: the sums are done; nobody else runs.
        norm.merge(unsafe { (dgamma.slice_mut(0, norm.extent.lanes), dbeta.slice_mut(0, norm.extent.lanes)) });
        norm.apply();
    })
}

struct NormGrad {
    extent: Extent,
    x: Region,
    statistics: Region,
    gamma: Region,
    dy: Region,
    dx: Region,
    workspace: Region,
}

impl NormGrad {
    /// `sum dy` and `sum dy (x - mean) r` of every band.
    fn sum(&self) {
        let Extent { area, lanes, .. } = self.extent;
        self.extent.for_each_band(
            #[inline(always)]
            |sample, band, first, count| {
                let at = (sample * area + first) * lanes;
                let x = self.x.pointer(at, count * lanes).cast_const();
                let dy = self.dy.pointer(at, count * lanes).cast_const();
                let statistics = self.statistics.pointer(sample * 2 * lanes, 2 * lanes).cast_const();
                let slot = self.workspace.pointer(self.extent.band_slot(sample, band), 2 * lanes);
                for lane in (0..lanes).step_by(VECTOR) {
                    // SAFETY: all ranges were just checked; this task alone writes its band's slot.
                    unsafe {
                        let (mean, r) = (load(statistics.add(lane)), load(statistics.add(lanes + lane)));
                        let (mut sum, mut normed) = ([0.0; VECTOR], [0.0; VECTOR]);
                        for pixel in 0..count {
                            let at = pixel * lanes + lane;
                            let (x, dy) = (load(x.add(at)), load(dy.add(at)));
                            for i in 0..VECTOR {
                                sum[i] += dy[i];
                                normed[i] += dy[i] * ((x[i] - mean[i]) * r[i]);
                            }
                        }
                        store(slot.add(lane), sum);
                        store(slot.add(lanes + lane), normed);
                    }
                }
            },
        );
    }

    /// Merges bands and samples in order; leaves each sample's two means in the workspace.
    fn merge(&self, (dgamma, dbeta): (&mut [f32], &mut [f32])) {
        let Extent { batch, area, lanes, .. } = self.extent;
        let bands = self.extent.bands();
        let behind_bands = batch * bands * 2 * lanes;
        // SAFETY: the sums are done; nobody else runs; the means lie behind the bands.
        let (sums, means) = unsafe {
            (self.workspace.slice(0, behind_bands), self.workspace.slice_mut(behind_bands, batch * 2 * lanes))
        };
        for lane in 0..lanes {
            let (mut total, mut total_normed) = (0.0f64, 0.0f64);
            for (sample, means) in sums.chunks_exact(bands * 2 * lanes).zip(means.chunks_exact_mut(2 * lanes)) {
                let of =
                    |row: usize| sample.chunks_exact(2 * lanes).map(|b| f64::from(b[row * lanes + lane])).sum::<f64>();
                let (sum, normed) = (of(0), of(1));
                means[lane] = (sum / area as f64) as f32;
                means[lanes + lane] = (normed / area as f64) as f32;
                total += sum;
                total_normed += normed;
            }
            dbeta[lane] = total as f32;
            dgamma[lane] = total_normed as f32;
        }
    }

    /// `dx = gamma r (dy - mean(dy) - normed x mean(dy normed x))`; the result may lie over `dy`.
    fn apply(&self) {
        let Extent { batch, area, lanes, .. } = self.extent;
        let behind_bands = batch * self.extent.bands() * 2 * lanes;
        self.extent.for_each_band(
            #[inline(always)]
            |sample, _, first, count| {
                let at = (sample * area + first) * lanes;
                let x = self.x.pointer(at, count * lanes).cast_const();
                let dy = self.dy.pointer(at, count * lanes).cast_const();
                let dx = self.dx.pointer(at, count * lanes);
                let statistics = self.statistics.pointer(sample * 2 * lanes, 2 * lanes).cast_const();
                let means = self.workspace.pointer(behind_bands + sample * 2 * lanes, 2 * lanes).cast_const();
                let gamma = self.gamma.pointer(0, lanes).cast_const();
                for pixel in 0..count {
                    for lane in (0..lanes).step_by(VECTOR) {
                        let at = pixel * lanes + lane;
                        // SAFETY: all ranges were just checked; this task alone writes these pixels, after reading.
                        unsafe {
                            let (x, dy, gamma) = (load(x.add(at)), load(dy.add(at)), load(gamma.add(lane)));
                            let (mean, r) = (load(statistics.add(lane)), load(statistics.add(lanes + lane)));
                            let (mean_dy, mean_normed) = (load(means.add(lane)), load(means.add(lanes + lane)));
                            store(
                                dx.add(at),
                                std::array::from_fn(|i| {
                                    let normed = (x[i] - mean[i]) * r[i];
                                    gamma[i] * r[i] * (dy[i] - mean_dy[i] - normed * mean_normed[i])
                                }),
                            );
                        }
                    }
                }
            },
        );
    }
}
