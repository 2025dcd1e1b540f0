//! Launches of `kernels/conv.cu`.

use super::super::driver::{Address, Launch};
use super::super::ways::Way;
use super::finish::Finish;
use super::statistics::StatisticsTo;
use super::{Binding, Choices, THREADS, maps, patch_conv, tensor_conv};
use crate::device::Precision;
use crate::device::layout::{padded, storage};
use crate::graph::Shape;
use crate::ops::{Conv, ConvFilterGrad, ConvInputGrad, TransposedConv};
use bytemuck::NoUninit;
use serde::{Deserialize, Serialize};

/// Rows and columns of the results that a block owns, as the kernels' `TILE`.
const TILE: usize = 64;

/// Pixels of a part of a filter gradient's sum. Sums of more products in float32 lose digits.
const PART: usize = 4096;

/// The kernels' `Geometry`.
#[derive(Debug, Clone, Copy, NoUninit)]
#[repr(C)]
pub(super) struct Geometry {
    batch: i32,
    rows: i32,
    columns: i32,
    lanes: i32,
    source_rows: i32,
    source_columns: i32,
    source_lanes: i32,
    kernel_rows: i32,
    kernel_columns: i32,
    stride: i32,
    padding: i32,
    dilation: i32,
}

impl Geometry {
    /// From maps of shape `source` to maps of shape `result`, forward or backward.
    fn new(conv: &Conv, source: Shape, result: Shape, kernel: (usize, usize)) -> Geometry {
        let ((_, source_channels, source_rows, source_columns), (batch, channels, rows, columns)) =
            (maps(source), maps(result));
        let [batch, rows, columns, lanes] = [batch, rows, columns, padded(channels)].map(|size| size as i32);
        let [source_rows, source_columns, source_lanes] =
            [source_rows, source_columns, padded(source_channels)].map(|size| size as i32);
        let [kernel_rows, kernel_columns] = [kernel.0, kernel.1].map(|size| size as i32);
        let [stride, padding, dilation] = [conv.stride, conv.padding, conv.dilation].map(|size| size as i32);
        Geometry {
            batch,
            rows,
            columns,
            lanes,
            source_rows,
            source_columns,
            source_lanes,
            kernel_rows,
            kernel_columns,
            stride,
            padding,
            dilation,
        }
    }
}

/// Rows and columns of an operand that the graph has checked to be a filter.
pub(in super::super) fn kernel_of(filter: Shape) -> (usize, usize) {
    match filter {
        Shape::Filter { height, width, .. } => (height, width),
        other => unreachable!("the graph admits filters only here, not {other}"),
    }
}

/// Which way a convolution's products are gathered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(in super::super) enum Direction {
    /// From the pixels that the kernel reads.
    Forward,
    /// From the pixels that read this one: an input gradient, or a transposed convolution.
    Backward,
}

pub(super) fn forward(op: &Conv, binding: &Binding<'_>) -> Vec<Launch> {
    convolve(Direction::Forward, op, binding)
}

pub(super) fn input_grad(op: &ConvInputGrad, binding: &Binding<'_>) -> Vec<Launch> {
    convolve(Direction::Backward, &op.conv, binding)
}

pub(super) fn transposed(op: &TransposedConv, binding: &Binding<'_>) -> Vec<Launch> {
    convolve(Direction::Backward, &op.conv(), binding)
}

fn convolve(direction: Direction, conv: &Conv, binding: &Binding<'_>) -> Vec<Launch> {
    let (source, result) = (binding.input_shapes[0], binding.output_shapes[0]);
    let geometry = Geometry::new(conv, source, result, kernel_of(binding.input_shapes[1]));
    let (mut launches, operands, free) = match binding.choices.precision {
        Precision::Float32 => (Vec::new(), [0, 1].map(|input| binding.inputs[input].address), binding.workspace),
        _ => tensor_conv::operands(binding),
    };
    let plan = patch_conv::Plan::of(direction, conv, &binding.input_shapes, result, binding.choices);
    launches.push(match plan {
        Some(plan) => plan.launch(operands, binding, free, geometry),
        None => {
            Cut::of(direction, conv.stride, Size::of(result), binding.choices).launch(operands, binding, free, geometry)
        }
    });
    launches
}

/// Whether a convolution can apply the norm of its result itself: whether the device holds at once at least a block for
/// each of the tiles that lie side by side, whatever they are.
pub(super) fn can_normalise(direction: Direction, stride: usize, result: Shape, choices: Choices<'_>) -> bool {
    let cut = Cut::of(direction, stride, Size::of(result), choices);
    cut.tiles.1 <= cut.blocks_at_once(choices)
}

/// Whether a convolution can be computed in a way, and with the norm of its result, if it has one.
pub(super) fn is_possible(
    way: Way,
    direction: Direction,
    conv: &Conv,
    inputs: &[Shape],
    result: Shape,
    has_norm: bool,
    choices: Choices<'_>,
) -> bool {
    let choices = Choices { way: Some(way), ..choices };
    match way {
        _ if choices.precision == Precision::Float32 => false,
        Way::Tile(tile) => {
            let is_there = tile.in_precision(choices.precision) == tile;
            is_there && (!has_norm || can_normalise(direction, conv.stride, result, choices))
        }
        Way::Patches { .. } | Way::Warpgroups { .. } => {
            patch_conv::Plan::of(direction, conv, inputs, result, choices).is_some()
        }
    }
}

/// The way in which choices have a convolution computed, on tensor cores.
pub(super) fn way(
    direction: Direction,
    conv: &Conv,
    inputs: &[Shape],
    result: Shape,
    choices: Choices<'_>,
) -> Option<Way> {
    if choices.precision == Precision::Float32 {
        return None;
    }
    let plan = patch_conv::Plan::of(direction, conv, inputs, result, choices);
    Some(plan.map_or_else(|| Way::Tile(Cut::tile(Size::of(result), choices)), |plan| plan.way()))
}

/// Numbers of scratch memory beside that for statistics and operands.
pub(super) fn workspace(
    direction: Direction,
    conv: &Conv,
    inputs: &[Shape],
    result: Shape,
    choices: Choices<'_>,
) -> usize {
    patch_conv::Plan::of(direction, conv, inputs, result, choices).map_or(0, |plan| plan.workspace())
}

/// Counters beside those for statistics.
pub(super) fn counters(
    direction: Direction,
    conv: &Conv,
    inputs: &[Shape],
    result: Shape,
    choices: Choices<'_>,
) -> usize {
    patch_conv::Plan::of(direction, conv, inputs, result, choices).map_or(0, |plan| plan.counters())
}

/// A kernel, by the kind of its results.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kernel {
    /// Where they are float32, and where they are kept in 16 bits, if it has such.
    pub names: [&'static str; 2],
    pub threads: u32,
    /// Of dynamic shared memory.
    pub shared_bytes: u32,
}

impl Kernel {
    /// The one that writes a binding's results.
    pub fn name(self, binding: &Binding<'_>) -> &'static str {
        self.names[usize::from(binding.outputs[0].is_half)]
    }

    /// How many blocks the device holds at once, whatever their results are.
    pub fn blocks_at_once(self, choices: Choices<'_>) -> usize {
        let blocks = |name: &str| choices.driver.blocks_at_once(name, self.threads, self.shared_bytes);
        let [full, half] = self.names;
        if full == half { blocks(full) } else { blocks(full).min(blocks(half)) }
    }

    /// A launch over `tiles`, of pixels by lanes, and `deep` that share each, with the arguments that all convolutions have;
    /// `statistics` is where there is room for those. Blocks that apply a norm wait for each other, so that there are no
    /// more of them than the device holds at once: each has several tiles where there are more than that.
    pub fn launch(
        self,
        tiles: (usize, usize),
        deep: usize,
        operands: [Address; 2],
        binding: &Binding<'_>,
        statistics: Address,
        geometry: Geometry,
    ) -> Launch {
        let (down, across) = tiles;
        let launch = |down: usize| {
            let grid = [down, across, deep].map(|size| size as u32);
            Launch::new(self.name(binding), grid, [self.threads, 1, 1]).with_shared(self.shared_bytes as usize)
        };
        let launch = match binding.epilogue.norm {
            Some(_) => {
                let at_once = self.blocks_at_once(binding.choices) / across / deep;
                launch(down.min(at_once).max(1)).cooperative()
            }
            None => launch(down),
        };
        let launch = launch.with(operands[0]).with(operands[1]).with(binding.bias()).with(binding.outputs[0].address);
        launch.with(Finish::of(binding)).with(StatisticsTo::of(binding, statistics)).with(geometry)
    }
}

/// How a convolution is cut into blocks, but for one by patches.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cut {
    kernel: Kernel,
    /// Tiles of pixels by tiles of lanes.
    tiles: (usize, usize),
}

impl Cut {
    fn of(direction: Direction, stride: usize, size: Size, choices: Choices<'_>) -> Cut {
        if choices.precision != Precision::Float32 {
            let tile = Cut::tile(size, choices);
            let names = tensor_conv::kernels(direction, choices.precision, tile);
            let kernel = Kernel { names, threads: tensor_conv::THREADS, shared_bytes: 0 };
            let step = if direction == Direction::Backward { stride } else { 1 };
            return Cut { kernel, tiles: tile.count_in_steps(size, step) };
        }
        let name = match direction {
            Direction::Forward => "conv",
            Direction::Backward => "conv_backward",
        };
        let kernel = Kernel { names: [name; 2], threads: THREADS, shared_bytes: 0 };
        Cut { kernel, tiles: size.tiles(TILE, TILE) }
    }

    /// That of tensor cores.
    fn tile(size: Size, choices: Choices<'_>) -> tensor_conv::Tile {
        let tile = if let Some(Way::Tile(tile)) = choices.way { Some(tile) } else { choices.tile };
        let tile = tile.unwrap_or_else(|| tensor_conv::Tile::of_convolution(size, choices.precision));
        tile.in_precision(choices.precision)
    }

    fn blocks_at_once(self, choices: Choices<'_>) -> usize {
        self.kernel.blocks_at_once(choices)
    }

    /// The launch of source and filter; `free` is where the binding's workspace has room for statistics.
    fn launch(self, operands: [Address; 2], binding: &Binding<'_>, free: Address, geometry: Geometry) -> Launch {
        self.kernel.launch(self.tiles, 1, operands, binding, free, geometry)
    }
}

/// The maps that a convolution makes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Size {
    pub batch: usize,
    pub rows: usize,
    pub columns: usize,
    pub lanes: usize,
}

impl Size {
    pub fn of(result: Shape) -> Size {
        let (batch, channels, rows, columns) = maps(result);
        Size { batch, rows, columns, lanes: padded(channels) }
    }

    /// How many tiles of so many pixels, each of one sample, by so many lanes.
    pub fn tiles(self, pixels: usize, lanes: usize) -> (usize, usize) {
        (self.batch * (self.rows * self.columns).div_ceil(pixels), self.lanes.div_ceil(lanes))
    }
}

/// Into how many parts the pixels of cotangents are cut.
pub(super) fn parts(cotangent: Shape) -> usize {
    let (batch, _, rows, columns) = maps(cotangent);
    (batch * rows * columns).div_ceil(PART)
}

/// Room for the parts of a filter gradient, unless the only part is the result.
pub(super) fn parts_workspace(cotangent: Shape, filter: Shape) -> usize {
    let parts = parts(cotangent);
    if parts == 1 { 0 } else { parts * storage(filter) }
}

pub(super) fn filter_grad_workspace(op: &ConvFilterGrad, inputs: &[Shape]) -> usize {
    let ((_, channels, _, _), (_, outputs, _, _)) = (maps(inputs[0]), maps(inputs[1]));
    let filter = Shape::Filter { outputs, inputs: channels, height: op.kernel_height, width: op.kernel_width };
    parts_workspace(inputs[1], filter)
}

pub(super) fn filter_grad(op: &ConvFilterGrad, binding: &Binding<'_>) -> Vec<Launch> {
    let (x, dy) = (binding.input_shapes[0], binding.input_shapes[1]);
    let geometry = Geometry::new(&op.conv, x, dy, (op.kernel_height, op.kernel_width));
    if binding.choices.precision != Precision::Float32 {
        return tensor_conv::filter_grad(op, binding, geometry);
    }
    let tiles = |shape: Shape| padded(maps(shape).1).div_ceil(TILE);
    let grid = [tiles(x) * tiles(dy), op.kernel_height * op.kernel_width, parts(dy)].map(|count| count as u32);
    let launch = Launch::new("conv_filter_grad", grid, [THREADS, 1, 1]);
    let launch = launch.with(binding.inputs[0].address).with(binding.inputs[1].address);
    let workspace = binding.workspace;
    in_parts(binding, workspace, dy, |parts, pixels| launch.clone().with(parts).with_int(pixels).with(geometry))
}

/// The launches of a filter gradient whose first kernel, given where to and how many pixels a part has, writes parts;
/// there is room for them in `workspace`.
pub(super) fn in_parts(
    binding: &Binding<'_>,
    workspace: Address,
    cotangent: Shape,
    first: impl Fn(Address, usize) -> Launch,
) -> Vec<Launch> {
    let (filter, parts) = (binding.outputs[0], parts(cotangent));
    if parts == 1 {
        return vec![first(filter.address, PART)];
    }
    let merge = Launch::of_threads("merge_filter_parts", filter.len, THREADS).with(workspace);
    vec![first(workspace, PART), merge.with(filter.address).with_int(filter.len).with_int(parts)]
}
