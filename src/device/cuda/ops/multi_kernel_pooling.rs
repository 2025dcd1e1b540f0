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

const KERNEL: &str = "multi_kernel_pooling";

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
    op.kernels.len() <= MOST_POOLS && choices.driver.blocks_at_once(KERNEL, THREADS) > 0
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
    let blocks = workspace(op, x).min(binding.choices.driver.blocks_at_once(KERNEL, THREADS)).max(1);
    let launch = Launch::new(KERNEL, [blocks as u32, 1, 1], [THREADS, 1, 1]).cooperative();
    let launch = launch.with(binding.inputs[0].address).with(binding.inputs[1].address).with(binding.bias());
    let launch = launch.with(binding.outputs[0].address).with(binding.workspace).with(binding.counters);
    vec![launch.with(pools)]
}
