//! How filters lie in memory on the CPU, and the layout that it shares with other devices.
//!
//! Filters are cut for the micro-kernels: panels of up to 64 output channels, so that a product streams through them in
//! order and nothing is packed while a program runs.

use crate::device::layout;
pub(super) use crate::device::layout::{LANES, Panel, padded, storage};
use crate::graph::Shape;

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

/// Writes a tensor's elements to their places and zeros to the padding.
pub(super) fn pack(shape: Shape, tensor: &[f32], memory: &mut [f32]) {
    layout::pack(shape, panels, tensor, memory);
}

/// Reads a tensor's elements from their places.
pub(super) fn unpack(shape: Shape, memory: &[f32], tensor: &mut [f32]) {
    layout::unpack(shape, panels, memory, tensor);
}

#[cfg(test)]
mod tests {
    use super::*;

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
