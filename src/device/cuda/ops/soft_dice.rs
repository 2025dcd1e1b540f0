//! Launches of `kernels/soft_dice.cu`.

use super::super::driver::Launch;
use super::{Binding, THREADS, maps};
use crate::ops::{SoftDice, SoftDiceGrad};

pub(super) fn forward(op: &SoftDice, binding: &Binding<'_>) -> Vec<Launch> {
    let (batch, _, height, width) = maps(binding.input_shapes[0]);
    let [loss, sums] = [0, 1].map(|output| binding.outputs[output].address);
    let samples = Launch::new("soft_dice_sums", [batch as u32, 1, 1], [THREADS, 1, 1]);
    let samples = samples.with(binding.inputs[0].address).with(binding.inputs[1].address).with(sums);
    let whole = Launch::new("soft_dice_loss", [1, 1, 1], [1, 1, 1]).with(sums).with(loss);
    vec![samples.with_int(height * width), whole.with_int(batch).with(op.smoothing)]
}

pub(super) fn grad(op: &SoftDiceGrad, binding: &Binding<'_>) -> Vec<Launch> {
    let (batch, _, height, width) = maps(binding.input_shapes[0]);
    let [mask, sums, dloss] = [1, 2, 3].map(|input| binding.inputs[input].address);
    let dp = binding.outputs[0];
    let launch = Launch::of_threads("soft_dice_grad", dp.len, THREADS).with(mask).with(sums).with(dloss);
    let launch = launch.with(dp.address).with_int(dp.len).with_int(height * width).with_int(batch);
    vec![launch.with(op.smoothing)]
}
