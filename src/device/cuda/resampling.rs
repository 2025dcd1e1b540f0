//! The weights of [`crate::media::BilinearResize`] along one axis, as the table that `kernels/frames.cu` reads.
//!
//! An output's centre lies at (i + 1/2) source / target of the input; the triangle around it has a half-width of one
//! input, or of one output where the axis shrinks. The arithmetic is that of fast_image_resize 6, operation by
//! operation, so that the weights have its bits.

use bytemuck::{Pod, Zeroable};

/// The inputs of an output: `count` of them, from `first` on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Taps {
    pub first: i32,
    pub count: i32,
}

/// A resize along one axis.
#[derive(Debug)]
pub(super) struct Resampling {
    /// One entry an output.
    pub taps: Vec<Taps>,
    /// `most` an output: those of its taps, then zeros.
    pub weights: Vec<f64>,
    /// The most taps an output has.
    pub most: usize,
}

impl Resampling {
    /// From `source` inputs to `target` outputs, at least one of each.
    pub fn new(source: usize, target: usize) -> Resampling {
        let outputs: Vec<(usize, Vec<f64>)> = (0..target).map(|output| weights(output, source, target)).collect();
        let most = outputs.iter().map(|(_, weights)| weights.len()).max().unwrap_or(0);
        let taps = outputs.iter().map(|(first, weights)| Taps { first: *first as i32, count: weights.len() as i32 });
        let padded = |weights: &Vec<f64>| weights.iter().copied().chain(std::iter::repeat(0.0)).take(most).collect();
        let weights = outputs.iter().flat_map(|(_, weights)| -> Vec<f64> { padded(weights) });
        Resampling { taps: taps.collect(), weights: weights.collect(), most }
    }
}

/// The first input of an output that has a weight, and the weights from there to the last that has one.
fn weights(output: usize, source: usize, target: usize) -> (usize, Vec<f64>) {
    let scale = source as f64 / target as f64;
    let radius = scale.max(1.0);
    let narrower = 1.0 / radius;
    let centre = (output as f64 + 0.5) * scale;
    let first = (centre - radius).floor().max(0.0) as usize;
    let end = (centre + radius).ceil().min(source as f64) as usize;
    let triangle = |input: usize| (1.0 - ((input as f64 - (centre - 0.5)) * narrower).abs()).max(0.0);
    let all: Vec<f64> = (first..end).map(triangle).collect();
    let before = all.iter().take_while(|&&weight| weight == 0.0).count();
    let after = all.iter().rev().take_while(|&&weight| weight == 0.0).count();
    // The input next to the centre has a weight.
    let some = &all[before..all.len() - after];
    let sum: f64 = some.iter().sum();
    (first + before, some.iter().map(|weight| weight / sum).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_axis_that_keeps_its_size_is_copied() {
        let same = Resampling::new(3, 3);
        assert_eq!((same.most, same.weights), (1, vec![1.0; 3]));
        assert_eq!(same.taps, [0, 1, 2].map(|first| Taps { first, count: 1 }));
    }

    #[test]
    fn growing_interpolates_and_repeats_the_border() {
        let doubled = Resampling::new(2, 4);
        assert_eq!(doubled.taps, [(0, 1), (0, 2), (0, 2), (1, 1)].map(|(first, count)| Taps { first, count }));
        assert_eq!(doubled.weights, [1.0, 0.0, 0.75, 0.25, 0.25, 0.75, 1.0, 0.0]);
    }

    /// Weights 1/4, 3/4, 3/4, 1/4, of which the border cuts one off.
    #[test]
    fn shrinking_widens_the_triangle() {
        let halved = Resampling::new(4, 2);
        assert_eq!(halved.taps, [(0, 3), (1, 3)].map(|(first, count)| Taps { first, count }));
        assert_eq!(halved.weights, [0.75, 0.75, 0.25, 0.25, 0.75, 0.75].map(|weight| weight / 1.75));
    }
}
