//! How values lie in memory on the CPU.
//!
//! Maps are NHWC with channels padded to a multiple of 8 and zeros in the padding. Windows stay planar: a frame is one
//! plane. Filters are blocked for the micro-kernels: panels of up to 64 output channels, in each
//! `[kernel row][kernel column][padded input channel][output channel of the panel]`, so that a product streams
//! through them in order and nothing is packed while a program runs.

use crate::graph::Shape;

/// Channels are padded to a multiple of this.
pub(super) const LANES: usize = 8;

/// `channels` padded.
pub(super) fn padded(channels: usize) -> usize {
    channels.next_multiple_of(LANES)
}

/// A run of output channels that lie next to each other in a filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Panel {
    /// First output channel.
    pub start: usize,
    /// How many: 64, 32, 16 or 8.
    pub width: usize,
}

/// The panels of a filter with `outputs` output channels, widest first.
pub(super) fn panels(outputs: usize) -> Vec<Panel> {
    let (mut start, end) = (0, padded(outputs));
    let mut panels = Vec::new();
    while start < end {
        let width = [64, 32, 16, 8].into_iter().find(|&w| w <= end - start).unwrap_or(LANES);
        panels.push(Panel { start, width });
        start += width;
    }
    panels
}

/// Numbers that a value occupies.
pub(super) fn storage(shape: Shape) -> usize {
    match shape {
        Shape::Scalar => 1,
        Shape::Channels { channels } => padded(channels),
        Shape::Maps { batch, channels, height, width } => batch * height * width * padded(channels),
        Shape::Window { .. } => shape.elements(),
        Shape::Filter { outputs, inputs, height, width } => padded(outputs) * padded(inputs) * height * width,
        Shape::TemporalFilter { outputs, channels, frames, height, width } => {
            padded(outputs) * channels * frames * height * width
        }
        Shape::Statistics { batch, channels, entries } => batch * entries * padded(channels),
    }
}

/// Calls `place(position in the tensor, position in memory)` for every element of a value.
fn for_each_place(shape: Shape, mut place: impl FnMut(usize, usize)) {
    match shape {
        Shape::Scalar | Shape::Channels { .. } | Shape::Window { .. } => {
            (0..shape.elements()).for_each(|i| place(i, i));
        }
        Shape::Maps { batch, channels, height, width } => {
            let (area, lanes) = (height * width, padded(channels));
            for n in 0..batch {
                for c in 0..channels {
                    (0..area).for_each(|p| place((n * channels + c) * area + p, (n * area + p) * lanes + c));
                }
            }
        }
        Shape::Filter { outputs, inputs, height, width } => {
            let (area, lanes) = (height * width, padded(inputs));
            let depth = area * lanes;
            for_each_output(outputs, |o, panel| {
                for i in 0..inputs {
                    for tap in 0..area {
                        let memory = panel.start * depth + (tap * lanes + i) * panel.width + o - panel.start;
                        place((o * inputs + i) * area + tap, memory);
                    }
                }
            });
        }
        Shape::TemporalFilter { outputs, channels, frames, height, width } => {
            let depth = channels * frames * height * width;
            for_each_output(outputs, |o, panel| {
                let base = panel.start * depth + o - panel.start;
                (0..depth).for_each(|k| place(o * depth + k, base + k * panel.width));
            });
        }
        Shape::Statistics { batch, channels, entries } => {
            let lanes = padded(channels);
            for n in 0..batch {
                for c in 0..channels {
                    (0..entries).for_each(|e| place((n * channels + c) * entries + e, (n * entries + e) * lanes + c));
                }
            }
        }
    }
}

fn for_each_output(outputs: usize, mut visit: impl FnMut(usize, Panel)) {
    for panel in panels(outputs) {
        (panel.start..(panel.start + panel.width).min(outputs)).for_each(|o| visit(o, panel));
    }
}

/// Writes a tensor's elements to their places and zeros to the padding.
pub(super) fn pack(shape: Shape, tensor: &[f32], memory: &mut [f32]) {
    memory.fill(0.0);
    for_each_place(shape, |from, to| memory[to] = tensor[from]);
}

/// Reads a tensor's elements from their places.
pub(super) fn unpack(shape: Shape, memory: &[f32], tensor: &mut [f32]) {
    for_each_place(shape, |to, from| tensor[to] = memory[from]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packing_and_unpacking_gives_every_element_back_and_zeros_elsewhere() {
        for shape in [
            Shape::Scalar,
            Shape::Channels { channels: 5 },
            Shape::maps(2, 9, 3, 4),
            Shape::Window { batch: 2, channels: 3, frames: 5, height: 2, width: 3 },
            Shape::Filter { outputs: 129, inputs: 5, height: 3, width: 2 },
            Shape::TemporalFilter { outputs: 17, channels: 2, frames: 3, height: 3, width: 3 },
            Shape::Statistics { batch: 2, channels: 9, entries: 3 },
        ] {
            let tensor: Vec<f32> = (0..shape.elements()).map(|i| i as f32 + 1.0).collect();
            let mut memory = vec![f32::NAN; storage(shape)];
            pack(shape, &tensor, &mut memory);
            let mut back = vec![0.0; tensor.len()];
            unpack(shape, &memory, &mut back);
            assert_eq!(back, tensor, "{shape}");
            assert_eq!(memory.iter().filter(|&&v| v != 0.0).count(), tensor.len(), "{shape}");
        }
    }

    #[test]
    fn panels_cover_every_channel_once() {
        for outputs in 1..300 {
            let panels = panels(outputs);
            let mut next = 0;
            for panel in &panels {
                assert_eq!(panel.start, next);
                next += panel.width;
            }
            assert_eq!(next, padded(outputs));
        }
    }
}
