//! Concatenation along channels and slices of channels on the CPU: copies, pixel by pixel.

use super::super::layout::padded;
use super::super::memory::Region;
use super::{Binding, Routine, maps};
use crate::ops::ChannelSlice;
use rayon::prelude::*;

/// Copies `channels` lanes of each pixel from one place to another.
#[derive(Debug, Clone, Copy)]
struct Part {
    source: Region,
    source_lanes: usize,
    source_start: usize,
    target_start: usize,
    channels: usize,
}

/// Writes every lane of every pixel: the parts, and zeros in the padding.
fn assemble(parts: Vec<Part>, target: Region, channels: usize) -> Routine {
    const TASK: usize = 256;
    let lanes = padded(channels);
    let pixels = target.len() / lanes;
    Box::new(move || {
        (0..pixels.div_ceil(TASK)).into_par_iter().with_max_len(1).for_each(|task| {
            for pixel in task * TASK..((task + 1) * TASK).min(pixels) {
                // SAFETY: this task alone writes these pixels.
                let to = unsafe { target.slice_mut(pixel * lanes, lanes) };
                to[channels..].fill(0.0);
                for part in &parts {
                    // SAFETY: nobody writes the parts.
                    let from =
                        unsafe { part.source.slice(pixel * part.source_lanes + part.source_start, part.channels) };
                    to[part.target_start..part.target_start + part.channels].copy_from_slice(from);
                }
            }
        });
    })
}

pub(super) fn concatenate(binding: &Binding<'_>) -> Routine {
    let mut target_start = 0;
    let parts = binding
        .inputs
        .iter()
        .zip(&binding.input_shapes)
        .map(|(&source, &shape)| {
            let (_, channels, _, _) = maps(shape);
            let part = Part { source, source_lanes: padded(channels), source_start: 0, target_start, channels };
            target_start += channels;
            part
        })
        .collect();
    assemble(parts, binding.outputs[0], target_start)
}

pub(super) fn slice(op: &ChannelSlice, binding: &Binding<'_>) -> Routine {
    let (_, all, _, _) = maps(binding.input_shapes[0]);
    let part = Part {
        source: binding.inputs[0],
        source_lanes: padded(all),
        source_start: op.start,
        target_start: 0,
        channels: op.channels,
    };
    assemble(vec![part], binding.outputs[0], op.channels)
}
