//! Convolution, its gradients and transposed convolution on the CPU, all through the correlation engines.

use super::super::bfloat_conv::{self, BfloatConv};
use super::super::correlate::{Axis, Correlation, SourceLayout};
use super::super::correlate_filters::FilterCorrelation;
use super::super::kept::Kept;
use super::super::layout::{Panel, padded, panels, storage};
use super::super::memory::Region;
use super::super::stencil::{self, Stencil};
use super::super::winograd::{self, Tile, Winograd};
use super::{Binding, Routine, maps};
use crate::graph::Shape;
use crate::ops::{Conv, ConvFilterGrad, ConvInputGrad, TransposedConv};
use rayon::prelude::*;

fn filter(shape: Shape) -> (usize, usize, usize, usize) {
    match shape {
        Shape::Filter { outputs, inputs, height, width } => (outputs, inputs, height, width),
        other => unreachable!("the graph admits filters only here, not {other}"),
    }
}

pub(super) fn forward(conv: &Conv, binding: &Binding<'_>) -> Routine {
    match binding.kept {
        Some(Kept::Transformed(tile)) => return by_tiles(*tile, conv, binding),
        Some(Kept::Rounded(filter)) => return rounded(filter, conv, binding),
        None => {}
    }
    let shapes = (binding.input_shapes[0], binding.input_shapes[1]);
    let relu = binding.epilogue.relu;
    if let Some(stencil) = Stencil::of_maps(conv, shapes, relu, binding.threads) {
        return by_rows(stencil, binding);
    }
    let (batch, channels, height, width) = maps(binding.input_shapes[0]);
    let (outputs, _, kernel_height, kernel_width) = filter(binding.input_shapes[1]);
    let (_, _, rows, columns) = maps(binding.output_shapes[0]);
    let axes = (Axis::forward(conv, kernel_height, height, rows), Axis::forward(conv, kernel_width, width, columns));
    let layout = SourceLayout { planes: 1, depth: padded(channels) };
    let correlation = Correlation::new(binding.kernels, batch, layout, outputs, axes, binding.epilogue);
    let (x, w, bias, y) = (binding.inputs[0], binding.inputs[1], binding.inputs.get(2).copied(), binding.outputs[0]);
    Box::new(move || correlation.run(x, w, bias, y))
}

fn by_tiles(tile: Tile, conv: &Conv, binding: &Binding<'_>) -> Routine {
    let shapes = (binding.input_shapes[0], binding.input_shapes[1]);
    let winograd = Winograd::new(tile, binding.kernels, conv, shapes, binding.epilogue.relu, binding.threads);
    let (x, w, bias, y) = (binding.inputs[0], binding.inputs[1], binding.inputs.get(2).copied(), binding.outputs[0]);
    let workspace = binding.workspace;
    Box::new(move || winograd.run(x, w, bias, y, workspace))
}

fn rounded(filter: &bfloat_conv::Filter, conv: &Conv, binding: &Binding<'_>) -> Routine {
    let (maps, relu) = (binding.input_shapes[0], binding.epilogue.relu);
    let rounded = BfloatConv::new(conv, (maps, filter.clone()), relu, binding.threads);
    let memory = bfloat_conv::Memory {
        source: binding.inputs[0],
        filter: binding.inputs[1],
        bias: binding.inputs.get(2).copied(),
        target: binding.outputs[0],
        workspace: binding.workspace,
    };
    let kernels = binding.bfloat;
    Box::new(move || rounded.run(kernels, memory))
}

/// Whether a convolution has the pixels of a row as lanes.
pub(in crate::device::cpu) fn is_by_rows(conv: &Conv, inputs: &[Shape]) -> bool {
    Stencil::of_maps(conv, (inputs[0], inputs[1]), false, 1).is_some()
}

/// A convolution that has the pixels of a row as lanes.
pub(super) fn by_rows(stencil: Stencil, binding: &Binding<'_>) -> Routine {
    let memory = stencil::Memory {
        source: binding.inputs[0],
        filter: binding.inputs[1],
        bias: binding.inputs.get(2).copied(),
        target: binding.outputs[0],
        workspace: binding.workspace,
    };
    let set = binding.kernels.set;
    Box::new(move || stencil.run(set, memory))
}

/// Numbers of scratch memory of a convolution, whose filter is kept in some way or as it is.
pub(super) fn workspace(kept: Option<&Kept>, conv: &Conv, inputs: &[Shape], threads: usize) -> usize {
    let shapes = (inputs[0], inputs[1]);
    match kept {
        Some(Kept::Transformed(tile)) => winograd::workspace(*tile, conv, shapes.0, shapes.1, threads),
        Some(Kept::Rounded(filter)) => BfloatConv::new(conv, (shapes.0, filter.clone()), false, threads).workspace(),
        None => Stencil::of_maps(conv, shapes, false, threads).map_or(0, |stencil| stencil.workspace()),
    }
}

pub(super) fn input_grad(grad: &ConvInputGrad, binding: &Binding<'_>) -> Routine {
    backward(&grad.conv, binding)
}

pub(super) fn transposed(op: &TransposedConv, binding: &Binding<'_>) -> Routine {
    backward(&op.conv(), binding)
}

/// A convolution run backwards: the filter is turned round first, then it is a correlation like any other.
fn backward(conv: &Conv, binding: &Binding<'_>) -> Routine {
    let (batch, channels, height, width) = maps(binding.input_shapes[0]);
    let (_, outputs, kernel_height, kernel_width) = filter(binding.input_shapes[1]);
    let (_, _, rows, columns) = maps(binding.output_shapes[0]);
    let axes = (Axis::backward(conv, kernel_height, height, rows), Axis::backward(conv, kernel_width, width, columns));
    let flip = Flip {
        sources: panels(channels),
        targets: panels(outputs),
        taps: axes.0.order.iter().flat_map(|u| axes.1.order.iter().map(move |v| u * kernel_width + v)).collect(),
    };
    let layout = SourceLayout { planes: 1, depth: padded(channels) };
    let correlation = Correlation::new(binding.kernels, batch, layout, outputs, axes, binding.epilogue);
    let (y, w, bias, x) = (binding.inputs[0], binding.inputs[1], binding.inputs.get(2).copied(), binding.outputs[0]);
    let flipped = binding.workspace;
    Box::new(move || {
        flip.run(w, flipped);
        correlation.run(y, flipped, bias, x);
    })
}

/// Numbers of a filter turned round.
pub(super) fn flipped_filter_len(shape: Shape) -> usize {
    storage(shape)
}

/// Turns a filter round: its output channels become the terms of the sum, its input channels the lanes.
#[derive(Debug)]
struct Flip {
    /// Panels of the filter as it is, and turned round.
    sources: Vec<Panel>,
    targets: Vec<Panel>,
    /// For each place of a tap in the flipped filter, the tap.
    taps: Vec<usize>,
}

impl Flip {
    fn run(&self, from: Region, to: Region) {
        let lanes = |panels: &[Panel]| panels.iter().map(|panel| panel.width).sum::<usize>();
        let (depth, flipped_depth) = (lanes(&self.targets), lanes(&self.sources));
        let (terms, flipped_terms) = (depth * self.taps.len(), flipped_depth * self.taps.len());
        let tasks = self.targets.len() * self.taps.len();
        (0..tasks).into_par_iter().with_max_len(1).for_each(|index| {
            let (panel, place) = (self.targets[index / self.taps.len()], index % self.taps.len());
            let start = panel.start * flipped_terms + place * flipped_depth * panel.width;
            // SAFETY: this task alone writes this tap of this panel; nobody writes the filter.
            let (lanes, filter) = unsafe { (to.slice_mut(start, flipped_depth * panel.width), from.all()) };
            for source in &self.sources {
                for o in source.start..source.start + source.width {
                    let first = source.start * terms + self.taps[place] * depth * source.width + o - source.start;
                    for i in 0..panel.width {
                        lanes[o * panel.width + i] = filter[first + (panel.start + i) * source.width];
                    }
                }
            }
        });
    }
}

fn filter_correlation(grad: &ConvFilterGrad, inputs: &[Shape]) -> FilterCorrelation {
    let (batch, channels, height, width) = maps(inputs[0]);
    let (_, outputs, rows, columns) = maps(inputs[1]);
    FilterCorrelation {
        conv: grad.conv,
        batch,
        planes: 1,
        depth: padded(channels),
        source: (height, width),
        target: (rows, columns),
        panels: panels(outputs),
        kernel: (grad.kernel_height, grad.kernel_width),
    }
}

pub(super) fn filter_grad_workspace(grad: &ConvFilterGrad, inputs: &[Shape]) -> usize {
    filter_correlation(grad, inputs).workspace()
}

pub(super) fn filter_grad(grad: &ConvFilterGrad, binding: &Binding<'_>) -> Routine {
    let (correlation, kernels) = (filter_correlation(grad, &binding.input_shapes), binding.kernels);
    let (x, dy, dw, workspace) = (binding.inputs[0], binding.inputs[1], binding.outputs[0], binding.workspace);
    Box::new(move || correlation.run(kernels, (x, dy), (dw, workspace)))
}
