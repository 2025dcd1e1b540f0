//! Sum over batch, rows and columns on the CPU: bands of pixels in parallel, merged in order.

use super::super::elementwise::{VECTOR, load, store, vectorised};
use super::super::layout::padded;
use super::{Binding, Routine, maps};
use crate::graph::Shape;
use rayon::prelude::*;

/// Pixels of a band.
const BAND: usize = 1024;

pub(super) fn workspace(shape: Shape) -> usize {
    let (batch, channels, height, width) = maps(shape);
    (batch * height * width).div_ceil(BAND) * padded(channels)
}

pub(super) fn sum(binding: &Binding<'_>) -> Routine {
    let (batch, channels, height, width) = maps(binding.input_shapes[0]);
    let (pixels, lanes) = (batch * height * width, padded(channels));
    let (x, sums, partial) = (binding.inputs[0], binding.outputs[0], binding.workspace);
    Box::new(move || {
        (0..pixels.div_ceil(BAND)).into_par_iter().with_max_len(1).for_each(|band| {
            let count = BAND.min(pixels - band * BAND);
            let from = x.pointer(band * BAND * lanes, count * lanes).cast_const();
            let to = partial.pointer(band * lanes, lanes);
            // SAFETY: both ranges were just checked; this task alone writes its band's sums.
            vectorised(|| unsafe {
                for lane in (0..lanes).step_by(VECTOR) {
                    let mut sum = [0.0; VECTOR];
                    for pixel in 0..count {
                        let vector = load(from.add(pixel * lanes + lane));
                        (0..VECTOR).for_each(|i| sum[i] += vector[i]);
                    }
                    store(to.add(lane), sum);
                }
            });
        });
        // SAFETY: all bands are done; nobody else touches the sums.
        let (sums, partial) = unsafe { (sums.slice_mut(0, lanes), partial.all()) };
        for (lane, sum) in sums.iter_mut().enumerate() {
            *sum = partial.iter().skip(lane).step_by(lanes).map(|&v| f64::from(v)).sum::<f64>() as f32;
        }
    })
}
