//! Temporal convolution and its gradients on the CPU. Windows are planar, so each plane is a map with one channel.

use super::super::correlate_filters::FilterCorrelation;
use super::super::layout::{padded, panels};
use super::super::stencil::Stencil;
use super::conv::by_rows;
use super::{Binding, Routine, maps};
use crate::graph::Shape;
use crate::ops::Conv;
use rayon::prelude::*;

const KERNEL: usize = 3;

fn window(shape: Shape) -> (usize, usize, usize, usize) {
    match shape {
        Shape::Window { batch, channels, frames, height, width } => (batch, channels * frames, height, width),
        other => unreachable!("the graph admits windows only here, not {other}"),
    }
}

pub(super) fn workspace(inputs: &[Shape], threads: usize) -> usize {
    stencil(inputs, false, threads).workspace()
}

fn stencil(inputs: &[Shape], relu: bool, threads: usize) -> Stencil {
    let Shape::TemporalFilter { outputs, .. } = inputs[1] else {
        unreachable!("the graph admits temporal filters only here, not {}", inputs[1])
    };
    Stencil::of_window(inputs[0], outputs, relu, threads)
}

pub(super) fn forward(binding: &Binding<'_>) -> Routine {
    by_rows(stencil(&binding.input_shapes, binding.epilogue.relu, binding.means.threads), binding)
}

fn filter_correlation(inputs: &[Shape]) -> FilterCorrelation {
    let (batch, planes, height, width) = window(inputs[0]);
    let (_, outputs, _, _) = maps(inputs[1]);
    FilterCorrelation {
        conv: Conv::same(KERNEL),
        batch,
        planes,
        depth: 1,
        source: (height, width),
        target: (height, width),
        panels: panels(outputs),
        kernel: (KERNEL, KERNEL),
    }
}

pub(super) fn filter_grad_workspace(inputs: &[Shape]) -> usize {
    filter_correlation(inputs).workspace()
}

pub(super) fn filter_grad(binding: &Binding<'_>) -> Routine {
    let (correlation, kernels) = (filter_correlation(&binding.input_shapes), binding.means.kernels);
    let (x, dy, dw, workspace) = (binding.inputs[0], binding.inputs[1], binding.outputs[0], binding.workspace);
    Box::new(move || correlation.run(kernels, (x, dy), (dw, workspace)))
}

/// Frames are data, so this gradient serves tests and curiosity: it is plain.
pub(super) fn input_grad(binding: &Binding<'_>) -> Routine {
    let (_, planes, height, width) = window(binding.output_shapes[0]);
    let (batch, outputs, _, _) = maps(binding.input_shapes[0]);
    let (lanes, terms) = (padded(outputs), planes * KERNEL * KERNEL);
    let panels = panels(outputs);
    let (dy, w, dx) = (binding.inputs[0], binding.inputs[1], binding.outputs[0]);
    Box::new(move || {
        (0..batch * planes * height).into_par_iter().for_each(|row| {
            let (plane_of_all, y) = (row / height, row % height);
            let (sample, plane) = (plane_of_all / planes, plane_of_all % planes);
            // SAFETY: this task alone writes this row; nobody writes the cotangent or the filter.
            let (out, cotangent, filter) = unsafe { (dx.slice_mut(row * width, width), dy.all(), w.all()) };
            for (x, sum) in out.iter_mut().enumerate() {
                *sum = 0.0;
                for (u, v) in (0..KERNEL * KERNEL).map(|tap| (tap / KERNEL, tap % KERNEL)) {
                    // Output pixel (i, j) read input pixel (i + u - 1, j + v - 1).
                    let (i, j) = ((y + 1).wrapping_sub(u), (x + 1).wrapping_sub(v));
                    if i >= height || j >= width {
                        continue;
                    }
                    let pixel = ((sample * height + i) * width + j) * lanes;
                    let term = (plane * KERNEL + u) * KERNEL + v;
                    for panel in &panels {
                        let first = panel.start * terms + term * panel.width;
                        let weights = &filter[first..first + panel.width];
                        let numbers = &cotangent[pixel + panel.start..][..panel.width];
                        *sum += weights.iter().zip(numbers).map(|(a, b)| a * b).sum::<f32>();
                    }
                }
            }
        });
    })
}
