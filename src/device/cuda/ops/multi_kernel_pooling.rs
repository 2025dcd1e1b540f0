//! The launch of `kernels/multi_kernel_pooling.cu`.

use super::super::driver::Launch;
use super::{Binding, Choices, maps};
use crate::device::layout::padded;
use crate::graph::Shape;
use crate::ops::MultiKernelPooling;
use bytemuck::NoUninit;

/// As the kernel's constants.
const THREADS: u32 = 128;
const MOST_POOLS: usize = 4;

const KERNELS: [&str; 2] = ["multi_kernel_pooling", "multi_kernel_pooling_float16"];

/// How many blocks the device holds at once, whatever numbers they read.
fn blocks_at_once(choices: Choices<'_>) -> usize {
    KERNELS.map(|kernel| choices.driver.blocks_at_once(kernel, THREADS, 0)).into_iter().min().unwrap_or(0)
}

/// How many blocks have come, and how often all have.
pub(super) const COUNTERS: usize = 2;

/// The kernel's `Pools`.
#[derive(Debug, Clone, Copy, NoUninit)]
#[repr(C)]
struct Pools {
    batch: i32,
    height: i32,
    width: i32,
    channels: i32,
    lanes: i32,
    result_lanes: i32,
    count: i32,
    kernels: [i32; MOST_POOLS],
}

/// Whether the kernel can do it: it has room for so many pools, and its blocks can wait for each other.
pub(super) fn is_possible(op: &MultiKernelPooling, choices: Choices<'_>) -> bool {
    op.kernels.len() <= MOST_POOLS && blocks_at_once(choices) > 0
}

/// The numbers of all pools, one channel each.
pub(super) fn workspace(op: &MultiKernelPooling, maps_shape: Shape) -> usize {
    let (batch, _, height, width) = maps(maps_shape);
    op.kernels.iter().map(|kernel| batch * (height / kernel) * (width / kernel)).sum()
}

pub(super) fn launches(op: &MultiKernelPooling, binding: &Binding<'_>) -> Vec<Launch> {
    let (x, y) = (binding.input_shapes[0], binding.output_shapes[0]);
    let (batch, channels, height, width) = maps(x);
    let sizes = [batch, height, width, channels, padded(channels), padded(maps(y).1), op.kernels.len()];
    let [batch, height, width, channels, lanes, result_lanes, count] = sizes.map(|size| size as i32);
    let mut kernels = [0; MOST_POOLS];
    kernels.iter_mut().zip(&op.kernels).for_each(|(to, &kernel)| *to = kernel as i32);
    let pools = Pools { batch, height, width, channels, lanes, result_lanes, count, kernels };
    let blocks = workspace(op, x).min(blocks_at_once(binding.choices)).max(1);
    let launch = Launch::new(binding.kept_in(KERNELS), [blocks as u32, 1, 1], [THREADS, 1, 1]).cooperative();
    let launch = launch.with(binding.inputs[0].address).with(binding.inputs[1].address).with(binding.bias());
    let launch = launch.with(binding.outputs[0].address).with(binding.workspace).with(binding.counters);
    vec![launch.with(pools)]
}
