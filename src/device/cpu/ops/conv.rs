//! Convolution, its gradients and transposed convolution on the CPU, all through the correlation engines.

use super::super::axis::Axis;
use super::super::bfloat::BfloatKernels;
use super::super::bfloat_conv::{BfloatConv, Filter};
use super::super::correlate::{Correlation, SourceLayout};
use super::super::correlate_filters::FilterCorrelation;
use super::super::kept::Kept;
use super::super::layout::{Panel, padded, panels, storage};
use super::super::memory::Region;
use super::super::microkernel::{InstructionSet, MicroKernels};
use super::super::moments::{self, Moments};
use super::super::normed;
use super::super::operands::Operands;
use super::super::stencil::Stencil;
use super::super::winograd::Winograd;
use super::pointwise::sigmoid_of;
use super::{Binding, Routine, maps};
use crate::graph::Shape;
use crate::ops::{Conv, ConvFilterGrad, ConvInputGrad, Op, TransposedConv};
use rayon::prelude::*;

fn filter(shape: Shape) -> (usize, usize, usize, usize) {
    match shape {
        Shape::Filter { outputs, inputs, height, width } => (outputs, inputs, height, width),
        other => unreachable!("the graph admits filters only here, not {other}"),
    }
}

/// A convolution with the way it is computed.
#[derive(Debug)]
enum Way {
    /// By tiles of results, from a transformed filter.
    Tiles(Box<Winograd>),
    /// By products of bfloat16.
    Rounded(Box<BfloatConv>, BfloatKernels),
    /// With the pixels of a row as lanes.
    Rows(Stencil, InstructionSet),
    /// Tap by tap, read in place.
    Taps(Box<Correlation>),
}

/// How rows and columns of what a convolution, or a transposed one, makes depend on those that it reads.
pub(in crate::device::cpu) fn axes(op: &Op, source: Shape, shape: Shape) -> (Axis, Axis) {
    let ((_, _, height, width), (_, _, kernel_height, kernel_width)) = (maps(source), filter(shape));
    let made = op.operator().infer(&[source, shape]).map(|made| maps(made[0]));
    let (_, _, rows, columns) =
        made.unwrap_or_else(|problem| unreachable!("the graph admits no such operands: {problem}"));
    let both = |axis: &dyn Fn(usize, usize, usize) -> Axis| {
        (axis(kernel_height, height, rows), axis(kernel_width, width, columns))
    };
    match op {
        Op::Conv(conv) => both(&|kernel, source, made| Axis::forward(conv, kernel, source, made)),
        Op::TransposedConv(op) => both(&|kernel, source, made| Axis::backward(&op.conv(), kernel, source, made)),
        other => unreachable!("{other:?} is no convolution"),
    }
}

/// What the ways compute with.
#[derive(Debug, Clone, Copy)]
pub(in crate::device::cpu) struct Means {
    pub kernels: MicroKernels,
    pub bfloat: BfloatKernels,
    pub threads: usize,
}

impl Way {
    /// That of a convolution whose filter is kept in some way, or as it is.
    fn of(kept: Option<&Kept>, conv: &Conv, shapes: (Shape, Shape), relu: bool, means: Means) -> Way {
        let Means { kernels, threads, .. } = means;
        let op = Op::from(*conv);
        match kept {
            Some(Kept::Transformed(tile)) => {
                return Way::Tiles(Box::new(Winograd::new(*tile, kernels, conv, shapes, relu, threads)));
            }
            Some(Kept::Rounded(filter)) => return Way::rounded(filter, &op, shapes, relu, means),
            None => {}
        }
        if let Some(stencil) = Stencil::of_maps(conv, shapes, relu, threads) {
            return Way::Rows(stencil, kernels.set);
        }
        let (batch, channels, _, _) = maps(shapes.0);
        let (outputs, _, _, _) = filter(shapes.1);
        let layout = SourceLayout { planes: 1, depth: padded(channels) };
        let axes = axes(&op, shapes.0, shapes.1);
        Way::Taps(Box::new(Correlation::new(kernels, batch, layout, outputs, axes, relu)))
    }

    /// That of a convolution, or a transposed one, by products of bfloat16.
    fn rounded(filter: &Filter, op: &Op, (source, shape): (Shape, Shape), relu: bool, means: Means) -> Way {
        let (batch, _, _, _) = maps(source);
        let bound = BfloatConv::new(&axes(op, source, shape), batch, filter.clone(), relu, means.threads);
        Way::Rounded(Box::new(bound), means.bfloat)
    }

    /// Numbers of scratch memory.
    fn workspace(&self) -> usize {
        match self {
            Way::Tiles(winograd) => winograd.workspace(),
            Way::Rounded(rounded, _) => rounded.workspace(),
            Way::Rows(stencil, _) => stencil.workspace(),
            Way::Taps(_) => 0,
        }
    }

    /// Pixels of each part of a sample, of which moments are taken together.
    fn parts(&self) -> Vec<usize> {
        match self {
            Way::Tiles(winograd) => winograd.parts(),
            Way::Rounded(rounded, _) => rounded.parts(),
            Way::Rows(stencil, _) => stencil.parts(),
            Way::Taps(correlation) => correlation.parts(),
        }
    }

    /// Whether it can norm what it reads.
    fn norms(&self) -> bool {
        !matches!(self, Way::Taps(_))
    }

    fn run(&self, operands: &Operands) {
        match self {
            Way::Tiles(winograd) => winograd.run(operands),
            Way::Rounded(rounded, kernels) => rounded.run(*kernels, operands),
            Way::Rows(stencil, set) => stencil.run(*set, operands),
            Way::Taps(correlation) => correlation.run(operands),
        }
    }
}

/// The memory of a convolution that itself works on so many numbers of scratch memory.
fn operands(binding: &Binding<'_>, own: usize, parts: impl FnOnce() -> Vec<usize>) -> Operands {
    let (maps, made, workspace) = (binding.input_shapes[0], binding.output_shapes[0], binding.workspace);
    let normed = binding.normed(own);
    let first = own + normed.map_or(0, |_| normed::workspace(maps));
    let moments = binding
        .epilogue
        .statistics
        .map(|epsilon| Moments::new(made, parts(), epsilon, binding.outputs[1], (workspace, first)));
    Operands {
        source: binding.inputs[0],
        normed,
        filter: binding.inputs[1],
        bias: binding.bias(),
        target: binding.outputs[0],
        moments,
        workspace,
    }
}

/// Computes, after what reads have to know is made, and before statistics are made of what was found.
fn around(operands: &Operands, compute: impl FnOnce()) {
    if let Some(normed) = &operands.normed {
        normed.prepare();
    }
    compute();
    if let Some(moments) = &operands.moments {
        moments.merge();
    }
}

pub(super) fn forward(conv: &Conv, binding: &Binding<'_>) -> Routine {
    let shapes = (binding.input_shapes[0], binding.input_shapes[1]);
    let way = Way::of(binding.kept, conv, shapes, binding.epilogue.relu, binding.means);
    match way {
        way if !binding.epilogue.sigmoid => by(way, binding),
        Way::Rows(stencil, set) => by(Way::Rows(stencil.with_sigmoid(), set), binding),
        way => {
            let y = binding.outputs[0];
            let (convolve, squash) = (by(way, binding), sigmoid_of(binding.output_shapes[0], y, y));
            Box::new(move || {
                convolve();
                squash();
            })
        }
    }
}

/// The routine of a convolution that is computed in some way.
fn by(way: Way, binding: &Binding<'_>) -> Routine {
    let operands = operands(binding, way.workspace(), || way.parts());
    assert!(operands.normed.is_none() || way.norms(), "a convolution that reads maps in place has no prologue");
    Box::new(move || around(&operands, || way.run(&operands)))
}

/// Whether a convolution has the pixels of a row as lanes.
pub(in crate::device::cpu) fn is_by_rows(conv: &Conv, inputs: &[Shape]) -> bool {
    Stencil::of_maps(conv, (inputs[0], inputs[1]), false, 1).is_some()
}

/// A convolution that has the pixels of a row as lanes.
pub(super) fn by_rows(stencil: Stencil, binding: &Binding<'_>) -> Routine {
    let set = binding.means.kernels.set;
    let operands = operands(binding, stencil.workspace(), || stencil.parts());
    Box::new(move || around(&operands, || stencil.run(set, &operands)))
}

/// Whether a convolution, whose filter is kept in some way or as it is, can norm what it reads.
pub(in crate::device::cpu) fn norms(kept: Option<&Kept>, conv: &Conv, inputs: &[Shape], means: Means) -> bool {
    Way::of(kept, conv, (inputs[0], inputs[1]), false, means).norms()
}

/// Numbers of scratch memory of a convolution, whose filter is kept in some way or as it is; `found` are its results, if
/// moments are taken of them.
pub(super) fn workspace(
    kept: Option<&Kept>,
    conv: &Conv,
    inputs: &[Shape],
    found: Option<Shape>,
    means: Means,
) -> usize {
    let way = Way::of(kept, conv, (inputs[0], inputs[1]), false, means);
    way.workspace() + found.map_or(0, |made| moments::workspace(made, way.parts().len()))
}

pub(super) fn input_grad(grad: &ConvInputGrad, binding: &Binding<'_>) -> Routine {
    backward(&grad.conv, binding)
}

pub(super) fn transposed(op: &TransposedConv, binding: &Binding<'_>) -> Routine {
    match binding.kept {
        Some(Kept::Rounded(filter)) => {
            let shapes = (binding.input_shapes[0], binding.input_shapes[1]);
            by(Way::rounded(filter, binding.op, shapes, binding.epilogue.relu, binding.means), binding)
        }
        _ => backward(&op.conv(), binding),
    }
}

/// A convolution run backwards: the filter is turned round first, then it is a correlation like any other.
fn backward(conv: &Conv, binding: &Binding<'_>) -> Routine {
    let (source, shape, made) = (binding.input_shapes[0], binding.input_shapes[1], binding.output_shapes[0]);
    let (correlation, flip) = backwards(conv, source, shape, made, binding.epilogue.relu, binding.means);
    let (w, flipped) = (binding.inputs[1], binding.workspace);
    let own = flipped_filter_len(shape);
    let mut operands = operands(binding, own, || correlation.parts());
    operands.filter = flipped;
    Box::new(move || {
        flip.run(w, flipped);
        around(&operands, || correlation.run(&operands));
    })
}

/// The correlation that a convolution run backwards is, and how its filter is turned round for it.
fn backwards(conv: &Conv, source: Shape, shape: Shape, made: Shape, relu: bool, means: Means) -> (Correlation, Flip) {
    let (batch, channels, height, width) = maps(source);
    let (_, outputs, kernel_height, kernel_width) = filter(shape);
    let (_, _, rows, columns) = maps(made);
    let axes = (Axis::backward(conv, kernel_height, height, rows), Axis::backward(conv, kernel_width, width, columns));
    let flip = Flip {
        sources: panels(channels),
        targets: panels(outputs),
        taps: axes.0.order.iter().flat_map(|u| axes.1.order.iter().map(move |v| u * kernel_width + v)).collect(),
    };
    let layout = SourceLayout { planes: 1, depth: padded(channels) };
    (Correlation::new(means.kernels, batch, layout, outputs, axes, relu), flip)
}

/// Whether a transposed convolution, whose filter is kept in some way or as it is, can norm what it reads.
pub(in crate::device::cpu) fn transposed_norms(kept: Option<&Kept>) -> bool {
    matches!(kept, Some(Kept::Rounded(_)))
}

/// Numbers of scratch memory of a transposed convolution, whose filter is kept in some way or as it is; `found` are its
/// results, if moments are taken of them.
pub(super) fn transposed_workspace(
    kept: Option<&Kept>,
    op: &TransposedConv,
    inputs: &[Shape],
    found: Option<Shape>,
    means: Means,
) -> usize {
    if let Some(Kept::Rounded(filter)) = kept {
        let way = Way::rounded(filter, &Op::from(*op), (inputs[0], inputs[1]), false, means);
        return way.workspace() + found.map_or(0, |made| moments::workspace(made, way.parts().len()));
    }
    let parts = |made| backwards(&op.conv(), inputs[0], inputs[1], made, false, means).0.parts().len();
    flipped_filter_len(inputs[1]) + found.map_or(0, |made| moments::workspace(made, parts(made)))
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
    let (correlation, kernels) = (filter_correlation(grad, &binding.input_shapes), binding.means.kernels);
    let (x, dy, dw, workspace) = (binding.inputs[0], binding.inputs[1], binding.outputs[0], binding.workspace);
    Box::new(move || correlation.run(kernels, (x, dy), (dw, workspace)))
}
