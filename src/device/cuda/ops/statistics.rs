//! What the convolutions are told about the statistics that they take, see `kernels/statistics.cuh`.

use super::super::driver::Address;
use super::{Binding, maps};
use crate::device::layout::padded;
use crate::graph::Shape;
use crate::program::Epilogue;
use bytemuck::NoUninit;

/// Tiles of a group, as the kernels' `GROUP`.
const GROUP: usize = 32;

/// The least pixels and lanes of a tile, whatever kernel computes the maps: smaller tiles are more of them.
const LEAST_PIXELS: usize = 64;
const LEAST_LANES: usize = 32;
/// Pixels may be cut class by class: a tile more for each but one.
const MOST_CLASSES: usize = super::tensor_conv::MOST_STEP * super::tensor_conv::MOST_STEP;

/// The kernels' `StatisticsTo`.
#[derive(Debug, Clone, Copy, NoUninit)]
#[repr(C)]
pub(super) struct StatisticsTo {
    statistics: Address,
    parts: Address,
    counters: Address,
    channels: i32,
    epsilon: f32,
}

impl StatisticsTo {
    /// Where those of a binding's result go, with scratch memory at `parts`; nowhere if its epilogue takes none.
    pub fn of(binding: &Binding<'_>, parts: Address) -> StatisticsTo {
        let nowhere = Address(0);
        let Some(epsilon) = epsilon(&binding.epilogue) else {
            return StatisticsTo { statistics: nowhere, parts: nowhere, counters: nowhere, channels: 0, epsilon: 0.0 };
        };
        let (_, channels, _, _) = maps(binding.output_shapes[0]);
        let statistics = binding.outputs[1].address;
        StatisticsTo { statistics, parts, counters: binding.counters, channels: channels as i32, epsilon }
    }
}

/// The epsilon of the statistics that a convolution takes, for a norm of its own or one that follows.
pub(super) fn epsilon(epilogue: &Epilogue) -> Option<f32> {
    epilogue.norm.or(epilogue.statistics)
}

/// Tiles of a sample that there is room for.
pub(super) fn most_tiles(result: Shape) -> usize {
    let (_, _, height, width) = maps(result);
    (height * width).div_ceil(LEAST_PIXELS) + MOST_CLASSES - 1
}

/// Tiles and groups of a sample, at most.
fn parts(result: Shape) -> (usize, usize) {
    let tiles = most_tiles(result);
    (tiles, tiles.div_ceil(GROUP))
}

/// Numbers of scratch memory: three rows of lanes for each tile and group of each sample.
pub(super) fn workspace(result: Shape) -> usize {
    let ((batch, channels, _, _), (tiles, groups)) = (maps(result), parts(result));
    3 * batch * (tiles + groups) * padded(channels)
}

/// Counters: for each block of lanes of each sample one for each group, one for them all, and one of launches.
pub(super) fn counters(result: Shape) -> usize {
    let ((batch, channels, _, _), (_, groups)) = (maps(result), parts(result));
    batch * padded(channels).div_ceil(LEAST_LANES) * (groups + 2)
}
