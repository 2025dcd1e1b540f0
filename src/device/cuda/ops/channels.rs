//! Launches of `kernels/channels.cu`: one for each part of a concatenation.

use super::super::driver::Launch;
use super::{Binding, THREADS, maps};
use crate::device::layout::padded;
use crate::ops::ChannelSlice;

pub(super) fn concatenate(binding: &Binding<'_>) -> Vec<Launch> {
    let (batch, all, height, width) = maps(binding.output_shapes[0]);
    let (pixels, lanes) = (batch * height * width, padded(all));
    let mut start = 0;
    let mut launches = Vec::new();
    for (source, &shape) in binding.inputs.iter().zip(&binding.input_shapes) {
        let (_, channels, _, _) = maps(shape);
        // The last part writes the padding, too.
        let span = if start + channels == all { lanes - start } else { channels };
        let launch = Launch::of_threads("copy_channels", pixels * span, THREADS);
        let launch = launch.with(source.address).with(binding.outputs[0].address).with_int(pixels);
        let launch = launch.with_int(padded(channels)).with_int(0).with_int(lanes).with_int(start);
        launches.push(launch.with_int(channels).with_int(span));
        start += channels;
    }
    launches
}

pub(super) fn slice(op: &ChannelSlice, binding: &Binding<'_>) -> Vec<Launch> {
    let (batch, all, height, width) = maps(binding.input_shapes[0]);
    let (pixels, lanes) = (batch * height * width, padded(op.channels));
    let launch = Launch::of_threads("copy_channels", pixels * lanes, THREADS);
    let launch = launch.with(binding.inputs[0].address).with(binding.outputs[0].address).with_int(pixels);
    let launch = launch.with_int(padded(all)).with_int(op.start).with_int(lanes).with_int(0);
    vec![launch.with_int(op.channels).with_int(lanes)]
}
