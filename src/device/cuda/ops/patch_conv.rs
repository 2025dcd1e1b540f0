//! Launches of the convolutions by patches, see `kernels/patch_conv.cuh`.

use super::super::driver::{Address, Launch};
use super::super::ways::Way;
use super::conv::{Direction, Geometry, Kernel, Size, kernel_of};
use super::tensor_conv::kernels_of;
use super::{Binding, Choices, maps, statistics};
use crate::device::Precision;
use crate::device::layout::padded;
use crate::graph::Shape;
use crate::ops::Conv;
use bytemuck::NoUninit;

/// As the kernels' constants.
const THREADS: u32 = 128;
const STAGES: usize = 4;
/// Pixels of a patch.
pub(in super::super) const ROWS: usize = 128;
/// Channels of a slice, and the bytes of a pixel in it.
const DEPTH: usize = 32;
const PIXEL_BYTES: usize = 64;
/// Bytes of the moments of a thread.
const MOMENTS: usize = 12;

/// The name of a kernel that is there where those of `kernels/warpgroup_conv.cuh` are.
pub(in super::super) const A_KERNEL_OF_WARPGROUPS: &str = "conv_warpgroups_float16_128x64";

/// What `kernels/warpgroup_conv.cuh` has.
mod warpgroups {
    pub const THREADS: u32 = 320;
    pub const STAGES: usize = 6;
    pub const WIDTH_LOG2: u32 = 3;
    pub const DEPTH: usize = 64;
    /// Bytes that are copied as one, 8 numbers.
    const CHUNK: usize = 16;

    /// The weights of a slice and tap, chunk of lanes by chunk.
    pub fn stage_bytes(columns: usize) -> usize {
        let chunks = columns / 8;
        chunks * (DEPTH + 8 / chunks) * CHUNK
    }

    /// A slice of the patch with its halo, chunk of channels by chunk.
    pub fn halo_bytes(pixels: usize) -> usize {
        DEPTH / 8 * (pixels | 1) * CHUNK
    }
}

/// Slices of `depth` of the channels of maps.
fn slices_of(source: Shape, depth: usize) -> usize {
    let (_, channels, _, _) = maps(source);
    padded(channels).div_ceil(depth)
}

/// The most blocks that share a patch: the more, the more sums pass through memory.
pub(in super::super) const MOST_SHARES: usize = 4;
/// The widths that a patch may have, as exponents of two.
pub(in super::super) const WIDTHS_LOG2: std::ops::RangeInclusive<u32> = 3..=7;

/// The kernels' `Patches`.
#[derive(Debug, Clone, Copy, NoUninit)]
#[repr(C)]
struct Patches {
    width_log2: i32,
    across: i32,
    down: i32,
    halo_columns: i32,
    halo_pixels: i32,
    shares: i32,
    sums: Address,
    arrivals: Address,
}

/// How a convolution is cut into patches.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plan {
    kernel: Kernel,
    result: Shape,
    /// Lanes of a patch.
    columns: usize,
    width_log2: u32,
    /// Patches across and down a sample.
    across: usize,
    down: usize,
    halo_columns: usize,
    halo_pixels: usize,
    /// Patches of all samples, by blocks of lanes.
    tiles: (usize, usize),
    shares: usize,
    /// Whether tensor cores compute by themselves.
    is_by_warpgroups: bool,
}

/// How samples are cut into patches of a width.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Cut {
    patches: usize,
    halo_pixels: usize,
    width_log2: u32,
    across: usize,
    down: usize,
    halo_columns: usize,
}

impl Cut {
    fn new(conv: &Conv, (kernel_rows, kernel_columns): (usize, usize), result: Shape, width_log2: u32) -> Cut {
        let (_, _, height, width) = maps(result);
        let (across, down) = (width.div_ceil(1 << width_log2), height.div_ceil(ROWS >> width_log2));
        let halo = |side: usize, kernel: usize| (side - 1) * conv.stride + (kernel - 1) * conv.dilation + 1;
        let halo_columns = halo(1 << width_log2, kernel_columns);
        let halo_pixels = halo_columns * halo(ROWS >> width_log2, kernel_rows);
        Cut { patches: across * down, halo_pixels, width_log2, across, down, halo_columns }
    }
}

/// Lanes of a patch.
fn columns_of(result: Shape) -> usize {
    if Size::of(result).lanes > 32 { 64 } else { 32 }
}

/// Bytes of shared memory that a patch of results takes, with the moments of so many threads.
fn bytes_of_results(columns: usize, threads: u32) -> usize {
    (ROWS * (columns + 1) + 2 * columns) * size_of::<f32>() + threads as usize * MOMENTS
}

impl Plan {
    /// For a convolution in a format of 16 bits with a kernel of enough taps, if that is chosen and the device has room
    /// for it.
    pub fn of(
        direction: Direction,
        conv: &Conv,
        inputs: &[Shape],
        result: Shape,
        choices: Choices<'_>,
    ) -> Option<Plan> {
        let kernel = kernel_of(inputs[1]);
        if direction != Direction::Forward || !choices.precision.is_half() || kernel.0 * kernel.1 < STAGES {
            return None;
        }
        let cut = |width_log2| Cut::new(conv, kernel, result, width_log2);
        let by_threads = |cut, shares| Plan::by_threads(cut, shares, inputs[0], result, choices);
        let by_warpgroups = |shares| Plan::by_warpgroups(conv, shares, inputs[0], kernel, result, choices);
        match choices.way {
            Some(Way::Tile(_)) => None,
            Some(Way::Patches { width_log2, shares }) => by_threads(cut(width_log2), Some(shares)),
            Some(Way::Warpgroups { shares }) => by_warpgroups(Some(shares)),
            None if choices.tile.is_some() => None,
            None => {
                let found = if choices.warpgroups { by_warpgroups(None) } else { None };
                // The fewest patches, and among those the least that is read twice.
                found.or_else(|| by_threads(WIDTHS_LOG2.map(cut).min()?, None))
            }
        }
    }

    /// With `shares`, or as many as seem best.
    fn by_threads(cut: Cut, shares: Option<usize>, source: Shape, result: Shape, choices: Choices<'_>) -> Option<Plan> {
        let columns = columns_of(result);
        let ring = STAGES * PIXEL_BYTES * columns;
        let shared_bytes = (ring + 2 * cut.halo_pixels * PIXEL_BYTES).max(bytes_of_results(columns, THREADS));
        let names = kernels_of!("conv_patches", choices.precision, ROWS, columns, [128 x 64, 128 x 32]);
        let kernel = Kernel { names, threads: THREADS, shared_bytes: shared_bytes as u32 };
        Plan::new(kernel, cut, DEPTH, shares, source, result, choices)
    }

    /// For one that tensor cores compute by themselves, see `kernels/warpgroup_conv.cuh`, where the device has that.
    fn by_warpgroups(
        conv: &Conv,
        shares: Option<usize>,
        source: Shape,
        kernel: (usize, usize),
        result: Shape,
        choices: Choices<'_>,
    ) -> Option<Plan> {
        let taps = kernel.0 * kernel.1;
        let is_possible = choices.precision == Precision::Float16 && conv.stride == 1 && taps >= warpgroups::STAGES;
        if !is_possible {
            return None;
        }
        let cut = Cut::new(conv, kernel, result, warpgroups::WIDTH_LOG2);
        let columns = columns_of(result);
        let halves = if slices_of(source, warpgroups::DEPTH) == 1 { 1 } else { 2 };
        let copied =
            warpgroups::STAGES * warpgroups::stage_bytes(columns) + halves * warpgroups::halo_bytes(cut.halo_pixels);
        let shared_bytes = copied.max(bytes_of_results(columns, warpgroups::THREADS)) as u32;
        let names = kernels_of!("conv_warpgroups", choices.precision, ROWS, columns, [128 x 64, 128 x 32]);
        let kernel = Kernel { names, threads: warpgroups::THREADS, shared_bytes };
        let plan = Plan::new(kernel, cut, warpgroups::DEPTH, shares, source, result, choices)?;
        Some(Plan { is_by_warpgroups: true, ..plan })
    }

    /// With shares of the channels, slices of `depth` of them; if the device has room for it.
    fn new(
        kernel: Kernel,
        cut: Cut,
        depth: usize,
        shares: Option<usize>,
        source: Shape,
        result: Shape,
        choices: Choices<'_>,
    ) -> Option<Plan> {
        let Cut { patches, halo_pixels, width_log2, across, down, halo_columns } = cut;
        let (size, columns) = (Size::of(result), columns_of(result));
        let tiles = (size.batch * patches, size.lanes.div_ceil(columns));
        let at_once = kernel.blocks_at_once(choices);
        // Patches that reach far beyond narrow maps may be more than statistics have room for.
        if tiles.1 > at_once || patches > statistics::most_tiles(result) {
            return None;
        }
        let (slices, blocks) = (slices_of(source, depth), tiles.0 * tiles.1);
        let shares = match shares {
            Some(shares) => Some(shares).filter(|&shares| can_share(shares, slices, blocks, at_once))?,
            None => best_shares(slices, blocks, at_once, choices.driver.multiprocessors()),
        };
        let is_by_warpgroups = false;
        Some(Plan {
            kernel,
            result,
            columns,
            width_log2,
            across,
            down,
            halo_columns,
            halo_pixels,
            tiles,
            shares,
            is_by_warpgroups,
        })
    }

    /// The way that this is.
    pub fn way(&self) -> Way {
        let Plan { width_log2, shares, .. } = *self;
        if self.is_by_warpgroups { Way::Warpgroups { shares } } else { Way::Patches { width_log2, shares } }
    }

    fn blocks(&self) -> usize {
        self.tiles.0 * self.tiles.1
    }

    /// Numbers of scratch memory for what is shared.
    pub fn workspace(&self) -> usize {
        if self.shares == 1 { 0 } else { self.blocks() * self.shares * ROWS * self.columns }
    }

    /// Counters of those who share a patch.
    pub fn counters(&self) -> usize {
        if self.shares == 1 { 0 } else { self.blocks() }
    }

    /// The launch of source and filter; `free` is where the binding's workspace has room for statistics, then sums.
    pub fn launch(&self, operands: [Address; 2], binding: &Binding<'_>, free: Address, geometry: Geometry) -> Launch {
        let takes = statistics::epsilon(&binding.epilogue).is_some();
        let (parts, counters) =
            if takes { (statistics::workspace(self.result), statistics::counters(self.result)) } else { (0, 0) };
        let patches = Patches {
            width_log2: self.width_log2 as i32,
            across: self.across as i32,
            down: self.down as i32,
            halo_columns: self.halo_columns as i32,
            halo_pixels: self.halo_pixels as i32,
            shares: self.shares as i32,
            sums: free.after(parts),
            arrivals: binding.counters.after(counters),
        };
        self.kernel.launch(self.tiles, self.shares, operands, binding, free, geometry).with(patches)
    }
}

/// Whether the `slices` of channels of so many blocks can be cut into shares: each has some, and those that wait for
/// each other are all there.
fn can_share(shares: usize, slices: usize, blocks: usize, at_once: usize) -> bool {
    (1..=MOST_SHARES.min(slices)).contains(&shares) && (shares == 1 || blocks * shares <= at_once)
}

/// Into how many shares the `slices` of channels of so many blocks are cut, where the device holds `at_once` of them: those
/// of a multiprocessor share its time, so that what counts is how many it has and how long the longest is. The more there
/// are, the less they wait.
fn best_shares(slices: usize, blocks: usize, at_once: usize, multiprocessors: usize) -> usize {
    let fits = |&shares: &usize| can_share(shares, slices, blocks, at_once);
    let time = |&shares: &usize| {
        let time = (blocks * shares).div_ceil(multiprocessors.max(1)) * slices.div_ceil(shares);
        (time, std::cmp::Reverse(shares))
    };
    (1..=MOST_SHARES).filter(fits).min_by_key(time).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::best_shares;

    #[test]
    fn multiprocessors_have_as_little_to_do_as_can_be() {
        // The layers of the w = 64 network on an H200, three blocks to a multiprocessor.
        let of_layer = |slices, blocks| best_shares(slices, blocks, 3 * 132, 132);
        assert_eq!(of_layer(2, 392), 1);
        assert_eq!(of_layer(4, 196), 2);
        assert_eq!(of_layer(8, 112), 2);
        assert_eq!(of_layer(16, 56), 4);
        assert_eq!(of_layer(1, 1568), 1);
        assert_eq!(best_shares(16, 1, 0, 0), 1);
    }
}
