//! Instance norm and its gradient on the CPU.

use super::super::elementwise::{VECTOR, load, rectified, store, vectorised};
use super::super::layout::padded;
use super::super::memory::Region;
use super::super::moments::{self, Moments};
use super::super::normed::{self, Normed};
use super::{Binding, Routine, maps};
use crate::graph::Shape;
use crate::ops::InstanceNorm;
use crate::program::Residual;
use rayon::prelude::*;

/// The most pixels of a band, which one task works on.
const BAND: usize = 1024;

/// Samples, pixels of a sample, lanes of a pixel.
#[derive(Debug, Clone, Copy)]
struct Extent {
    batch: usize,
    area: usize,
    lanes: usize,
}

impl Extent {
    fn of(shape: Shape) -> Extent {
        let (batch, channels, height, width) = maps(shape);
        Extent { batch, area: height * width, lanes: padded(channels) }
    }

    fn bands(self) -> usize {
        self.area.div_ceil(BAND)
    }

    /// Pixels of a band.
    fn pixels(self, band: usize) -> usize {
        BAND.min(self.area - band * BAND)
    }

    /// Calls `work(sample, band, first pixel of the sample's band, pixels)` for all bands, in parallel.
    fn for_each_band(self, work: impl Fn(usize, usize, usize, usize) + Sync) {
        (0..self.batch * self.bands()).into_par_iter().with_max_len(1).for_each(|task| {
            let (sample, band) = (task / self.bands(), task % self.bands());
            vectorised(
                #[inline(always)]
                || work(sample, band, band * BAND, self.pixels(band)),
            );
        });
    }

    /// Where two rows of lanes for a band lie in the workspace.
    fn band_slot(self, sample: usize, band: usize) -> usize {
        (sample * self.bands() + band) * 2 * self.lanes
    }
}

pub(super) fn workspace(shape: Shape) -> usize {
    moments::workspace(shape, Extent::of(shape).bands()) + normed::workspace(shape)
}

pub(super) fn normalise_workspace(shape: Shape) -> usize {
    normed::workspace(shape)
}

pub(super) fn grad_workspace(shape: Shape) -> usize {
    let extent = Extent::of(shape);
    // Two rows a band, and two means of each sample's channels.
    extent.batch * (extent.bands() * 2 + 2) * extent.lanes
}

pub(super) fn forward(op: &InstanceNorm, binding: &Binding<'_>) -> Routine {
    let maps = binding.input_shapes[0];
    let extent = Extent::of(maps);
    let bands: Vec<usize> = (0..extent.bands()).map(|band| extent.pixels(band)).collect();
    let scales = moments::workspace(maps, bands.len());
    let ([x, gamma, beta], statistics) = ([0, 1, 2].map(|i| binding.inputs[i]), binding.outputs[1]);
    let moments = Moments::new(maps, bands, op.epsilon, statistics, (binding.workspace, 0));
    let normed = Normed::new(maps, [statistics, gamma, beta], binding.epilogue.relu, (binding.workspace, scales));
    let pass = Pass::new(extent, x, normed, binding);
    Box::new(move || {
        extent.for_each_band(
            #[inline(always)]
            |sample, band, first, count| {
                moments.take(x, (sample, band), (sample * extent.area + first, count), 0..extent.lanes);
            },
        );
        moments.merge();
        pass.run();
    })
}

pub(super) fn normalise(binding: &Binding<'_>) -> Routine {
    let maps = binding.input_shapes[0];
    let [x, statistics, gamma, beta] = [0, 1, 2, 3].map(|i| binding.inputs[i]);
    let normed = Normed::new(maps, [statistics, gamma, beta], binding.epilogue.relu, (binding.workspace, 0));
    let pass = Pass::new(Extent::of(maps), x, normed, binding);
    Box::new(move || pass.run())
}

/// The pass over the maps that applies a norm.
struct Pass {
    extent: Extent,
    x: Region,
    normed: Normed,
    residual: Option<(Region, Residual)>,
    y: Region,
}

impl Pass {
    fn new(extent: Extent, x: Region, normed: Normed, binding: &Binding<'_>) -> Pass {
        let residual = binding.residual().zip(binding.epilogue.residual);
        Pass { extent, x, normed, residual, y: binding.outputs[0] }
    }

    fn run(&self) {
        self.normed.prepare();
        let relu = self.normed.relu;
        match self.residual {
            Some((residual, Residual::AfterRelu)) if relu => self.apply(
                Some(residual),
                #[inline(always)]
                |y, more| rectified(y) + more,
            ),
            Some((residual, _)) if relu => self.apply(
                Some(residual),
                #[inline(always)]
                |y, more| rectified(y + more),
            ),
            Some((residual, _)) => self.apply(
                Some(residual),
                #[inline(always)]
                |y, more| y + more,
            ),
            None if relu => self.apply(
                None,
                #[inline(always)]
                |y, _| rectified(y),
            ),
            None => self.apply(
                None,
                #[inline(always)]
                |y, _| y,
            ),
        }
    }

    /// `finish((x - mean) scale + beta, residual)` in one pass; the result may lie over the input.
    fn apply(&self, residual: Option<Region>, finish: impl Fn(f32, f32) -> f32 + Sync) {
        let Extent { area, lanes, .. } = self.extent;
        self.extent.for_each_band(
            #[inline(always)]
            |sample, _, first, count| {
                let at = (sample * area + first) * lanes;
                let (from, to) = (self.x.pointer(at, count * lanes).cast_const(), self.y.pointer(at, count * lanes));
                let [mean, scale, beta] = self.normed.rows(sample);
                let added = residual.map(|region| region.pointer(at, count * lanes).cast_const());
                for pixel in 0..count {
                    for lane in (0..lanes).step_by(VECTOR) {
                        let at = pixel * lanes + lane;
                        // SAFETY: all ranges were just checked; this task alone writes these pixels, after reading.
                        unsafe {
                            let (x, mean, scale, beta) =
                                (load(from.add(at)), load(mean.add(lane)), load(scale.add(lane)), load(beta.add(lane)));
                            let more = added.map_or([0.0; VECTOR], |added| load(added.add(at)));
                            store(
                                to.add(at),
                                std::array::from_fn(|i| finish((x[i] - mean[i]) * scale[i] + beta[i], more[i])),
                            );
                        }
                    }
                }
            },
        );
    }
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
