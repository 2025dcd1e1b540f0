//! How values lie in a device's memory.
//!
//! Maps are NHWC with channels padded to a multiple of 8 and zeros in the padding. Windows stay planar: a frame is one
//! plane. Filters are cut into panels of output channels, as wide as the device likes, in each
//! `[kernel row][kernel column][padded input channel][output channel of the panel]`.

use crate::graph::Shape;

/// Channels are padded to a multiple of this.
pub(crate) const LANES: usize = 8;

/// `channels` padded.
pub(crate) fn padded(channels: usize) -> usize {
    channels.next_multiple_of(LANES)
}

/// A run of output channels that lie next to each other in a filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Panel {
    /// First output channel.
    pub start: usize,
    /// How many.
    pub width: usize,
}

/// How a device cuts a filter's output channels, padding included, into panels.
pub(crate) type Panels = fn(usize) -> Vec<Panel>;

/// Numbers that a value occupies.
pub(crate) fn storage(shape: Shape) -> usize {
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

/// Whether a value's elements lie one after the other as in the tensor, with padding only behind the last.
fn is_in_order(shape: Shape) -> bool {
    matches!(shape, Shape::Scalar | Shape::Channels { .. } | Shape::Window { .. })
}

/// Calls `place(position in the tensor, position in memory)` for every element of a value.
fn for_each_place(shape: Shape, panels: Panels, mut place: impl FnMut(usize, usize)) {
    match shape {
        Shape::Scalar | Shape::Channels { .. } | Shape::Window { .. } => unreachable!("{shape} is copied as it is"),
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
            for_each_output(outputs, panels, |o, panel| {
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
            for_each_output(outputs, panels, |o, panel| {
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

fn for_each_output(outputs: usize, panels: Panels, mut visit: impl FnMut(usize, Panel)) {
    for panel in panels(outputs) {
        (panel.start..(panel.start + panel.width).min(outputs)).for_each(|o| visit(o, panel));
    }
}

/// Writes a tensor's elements to their places and zeros to the padding.
pub(crate) fn pack(shape: Shape, panels: Panels, tensor: &[f32], memory: &mut [f32]) {
    if is_in_order(shape) {
        let (numbers, padding) = memory.split_at_mut(tensor.len());
        numbers.copy_from_slice(tensor);
        padding.fill(0.0);
        return;
    }
    memory.fill(0.0);
    for_each_place(shape, panels, |from, to| memory[to] = tensor[from]);
}

/// Reads a tensor's elements from their places.
pub(crate) fn unpack(shape: Shape, panels: Panels, memory: &[f32], tensor: &mut [f32]) {
    if is_in_order(shape) {
        return tensor.copy_from_slice(&memory[..tensor.len()]);
    }
    for_each_place(shape, panels, |to, from| tensor[to] = memory[from]);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one_panel(outputs: usize) -> Vec<Panel> {
        vec![Panel { start: 0, width: padded(outputs) }]
    }

    fn narrow_panels(outputs: usize) -> Vec<Panel> {
        (0..padded(outputs)).step_by(LANES).map(|start| Panel { start, width: LANES }).collect()
    }

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
            for panels in [one_panel, narrow_panels] {
                let mut memory = vec![f32::NAN; storage(shape)];
                pack(shape, panels, &tensor, &mut memory);
                let mut back = vec![0.0; tensor.len()];
                unpack(shape, panels, &memory, &mut back);
                assert_eq!(back, tensor, "{shape}");
                assert_eq!(memory.iter().filter(|&&v| v != 0.0).count(), tensor.len(), "{shape}");
            }
        }
    }
}
