//! Which input rows (or columns) each output row of a convolution reads, forwards and run backwards.

use crate::ops::Conv;

/// One kernel row (or column) as an output phase sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tap {
    /// Its place in the filter's memory.
    pub place: usize,
    /// Input position minus `source_step` times the position within the phase.
    pub offset: isize,
}

/// Output positions `first, first + step, ...` that share their taps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Phase {
    pub first: usize,
    pub taps: Vec<Tap>,
}

/// How rows (or columns) of the output depend on those of the input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Axis {
    pub source: usize,
    pub target: usize,
    /// From one position of a phase to the next, in output pixels.
    pub step: usize,
    /// From one position of a phase to the next, in input pixels.
    pub source_step: usize,
    pub phases: Vec<Phase>,
    /// For each place in the filter's memory, the kernel row (or column) that lies there.
    pub order: Vec<usize>,
}

impl Axis {
    /// A convolution from `source` to `target` positions.
    pub fn forward(conv: &Conv, kernel: usize, source: usize, target: usize) -> Axis {
        let offset = |u: usize| (u * conv.dilation) as isize - conv.padding as isize;
        let taps = (0..kernel).map(|u| Tap { place: u, offset: offset(u) }).collect();
        let phases = vec![Phase { first: 0, taps }];
        Axis { source, target, step: 1, source_step: conv.stride, phases, order: (0..kernel).collect() }
    }

    /// A convolution run backwards, from `source` positions of its output to `target` positions of its input. Taps of
    /// a phase lie in the order of their offsets, so that neighbours form long sums again.
    pub fn backward(conv: &Conv, kernel: usize, source: usize, target: usize) -> Axis {
        let mut order = Vec::new();
        let mut phases = Vec::new();
        for first in 0..conv.stride.min(target) {
            let mut taps: Vec<(isize, usize)> = (0..kernel)
                .filter_map(|u| {
                    let distance = (first + conv.padding) as isize - (u * conv.dilation) as isize;
                    (distance.rem_euclid(conv.stride as isize) == 0)
                        .then(|| (distance.div_euclid(conv.stride as isize), u))
                })
                .collect();
            taps.sort_unstable();
            let place = order.len();
            order.extend(taps.iter().map(|&(_, u)| u));
            let taps = taps.iter().enumerate().map(|(i, &(offset, _))| Tap { place: place + i, offset }).collect();
            phases.push(Phase { first, taps });
        }
        // Kernel positions that no output reaches still have a place.
        let unused: Vec<usize> = (0..kernel).filter(|u| !order.contains(u)).collect();
        order.extend(unused);
        Axis { source, target, step: conv.stride, source_step: 1, phases, order }
    }

    /// Positions of a phase.
    pub fn positions(&self, phase: &Phase) -> usize {
        (self.target - phase.first).div_ceil(self.step)
    }

    /// Of `range`, the positions whose tap at `offset` lies inside the source.
    pub fn inside(&self, offset: isize, range: std::ops::Range<usize>) -> std::ops::Range<usize> {
        let step = self.source_step as isize;
        let first = (-offset + step - 1).div_euclid(step).max(0) as usize;
        let last = (self.source as isize - 1 - offset).div_euclid(step) + 1;
        let end = range.end.min(last.max(0) as usize);
        range.start.max(first).min(end)..end
    }
}
