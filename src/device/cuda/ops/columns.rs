//! Launches of kernels that reduce pixels lane by lane, see `kernels/columns.cuh`: how maps are cut into bands.

use super::super::driver::Launch;
use super::maps;
use crate::device::layout::{LANES, padded};
use crate::graph::Shape;

/// Threads of a block that reduces a band.
const COLUMN_THREADS: u32 = 256;

/// Pixels of a band.
const BAND: usize = 1024;

/// Maps cut into bands of pixels, each sample by itself.
#[derive(Debug, Clone, Copy)]
pub(super) struct Columns {
    pub batch: usize,
    /// Pixels of a sample.
    pub area: usize,
    pub channels: usize,
    /// Channels with padding.
    pub lanes: usize,
}

impl Columns {
    pub fn of(shape: Shape) -> Columns {
        let (batch, channels, height, width) = maps(shape);
        Columns { batch, area: height * width, channels, lanes: padded(channels) }
    }

    /// The same numbers as one sample.
    pub fn of_one_sample(shape: Shape) -> Columns {
        let Columns { batch, area, .. } = Columns::of(shape);
        Columns { batch: 1, area: batch * area, ..Columns::of(shape) }
    }

    /// Bands of a sample.
    pub fn bands(self) -> usize {
        self.area.div_ceil(BAND)
    }

    /// Pixels of a band.
    pub fn band_pixels(self) -> usize {
        BAND
    }

    /// A launch of one block for each band, eight lanes and sample.
    pub fn launch(self, kernel: &'static str) -> Launch {
        let grid = [self.bands() as u32, (self.lanes / LANES) as u32, self.batch as u32];
        Launch::new(kernel, grid, [COLUMN_THREADS, 1, 1])
    }
}
