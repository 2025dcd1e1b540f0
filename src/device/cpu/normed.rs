//! Maps that are normed, and rectified, as they are read: `(x - mean) scale + beta`, with a scale for each sample and channel.

use super::layout::padded;
use super::memory::Region;
use crate::graph::Shape;

/// What turns numbers of maps into normed ones.
#[derive(Debug, Clone, Copy)]
pub(super) struct Normed {
    batch: usize,
    lanes: usize,
    statistics: Region,
    gamma: Region,
    beta: Region,
    /// Whether ReLU follows.
    pub relu: bool,
    workspace: Region,
    /// Where the scales lie in the workspace.
    first: usize,
}

/// Numbers of scratch memory for such maps.
pub(super) fn workspace(maps: Shape) -> usize {
    match maps {
        Shape::Maps { batch, channels, .. } => batch * padded(channels),
        other => unreachable!("only maps are normed, not {other}"),
    }
}

impl Normed {
    /// Of maps with these statistics, gamma and beta; scratch memory lies in the workspace from `first` on.
    pub fn new(
        maps: Shape,
        [statistics, gamma, beta]: [Region; 3],
        relu: bool,
        (workspace, first): (Region, usize),
    ) -> Normed {
        let Shape::Maps { batch, channels, .. } = maps else { unreachable!("only maps are normed, not {maps}") };
        Normed { batch, lanes: padded(channels), statistics, gamma, beta, relu, workspace, first }
    }

    /// Makes the scales. To be called while nobody else runs, before [`Normed::rows`] are read.
    pub fn prepare(&self) {
        let lanes = self.lanes;
        for sample in 0..self.batch {
            // SAFETY: nobody else runs.
            let (scale, reciprocal, gamma) = unsafe {
                (
                    self.workspace.slice_mut(self.first + sample * lanes, lanes),
                    self.statistics.slice((2 * sample + 1) * lanes, lanes),
                    self.gamma.slice(0, lanes),
                )
            };
            (0..lanes).for_each(|lane| scale[lane] = gamma[lane] * reciprocal[lane]);
        }
    }

    /// A sample's means, scales and betas, a number for each lane.
    pub fn rows(&self, sample: usize) -> [*const f32; 3] {
        let lanes = self.lanes;
        let mean = self.statistics.pointer(2 * sample * lanes, lanes);
        let scale = self.workspace.pointer(self.first + sample * lanes, lanes);
        [mean, scale, self.beta.pointer(0, lanes)].map(|row| row.cast_const())
    }
}
