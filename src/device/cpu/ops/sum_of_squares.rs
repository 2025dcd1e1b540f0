//! Sum of squares on the CPU: blocks in parallel, each in double precision, merged in order.

use super::super::elementwise::{VECTOR, load, vectorised};
use super::super::layout::storage;
use super::super::memory::Region;
use super::{Binding, Routine};
use crate::graph::Shape;
use rayon::prelude::*;

/// Numbers of a block.
const BLOCK: usize = 16 * 1024;

pub(super) fn workspace(inputs: &[Shape]) -> usize {
    inputs.iter().map(|&shape| storage(shape).div_ceil(BLOCK)).sum()
}

pub(super) fn forward(binding: &Binding<'_>) -> Routine {
    let blocks: Vec<(Region, usize, usize)> = binding
        .inputs
        .iter()
        .flat_map(|&region| (0..region.len()).step_by(BLOCK).map(move |at| (region, at, BLOCK.min(region.len() - at))))
        .collect();
    let (partial, total) = (binding.workspace, binding.outputs[0]);
    Box::new(move || {
        blocks.par_iter().enumerate().with_max_len(16).for_each(|(index, &(region, at, len))| {
            // SAFETY: this task alone writes its number; nobody writes the inputs.
            let sum = unsafe { partial.slice_mut(index, 1) };
            sum[0] = block_sum(region, at, len) as f32;
        });
        // SAFETY: all blocks are done; nobody else touches the total.
        let (total, partial) = unsafe { (total.slice_mut(0, 1), partial.all()) };
        total[0] = partial.iter().map(|&v| f64::from(v)).sum::<f64>() as f32;
    })
}

fn block_sum(region: Region, at: usize, len: usize) -> f64 {
    let from = region.pointer(at, len).cast_const();
    let whole = len - len % VECTOR;
    vectorised(|| {
        let mut sums = [0.0f64; VECTOR];
        for at in (0..whole).step_by(VECTOR) {
            // SAFETY: the range was just checked; nobody writes the input.
            let vector = unsafe { load(from.add(at)) };
            (0..VECTOR).for_each(|i| sums[i] += f64::from(vector[i]) * f64::from(vector[i]));
        }
        // SAFETY: as above.
        let rest = (whole..len).map(|at| f64::from(unsafe { *from.add(at) }).powi(2)).sum::<f64>();
        sums.iter().sum::<f64>() + rest
    })
}
