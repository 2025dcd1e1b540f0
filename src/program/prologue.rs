//! Which norms are applied where their result is read, and so never written.

use super::{Epilogue, Step, Target};
use crate::graph::{Graph, Shape, ValueId};
use crate::ops::Op;

/// What is done to a step's first input as it is read: it is normed by the statistics, gamma and beta that are the inputs
/// behind the operator's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prologue {
    /// `max(normed, 0)`.
    pub relu: bool,
}

impl Prologue {
    /// How many of a step's inputs belong to it.
    pub const INPUTS: usize = 3;
}

/// Folds each [`crate::ops::Normalise`] into the one step that reads what it makes, where the device can do that.
pub(super) fn fold(graph: &Graph, outputs: &[ValueId], steps: &mut Vec<Step>, target: &dyn Target) {
    if !graph.updates().is_empty() {
        // Gradients read what norms make, and gamma and beta might be replaced before the reader has run.
        return;
    }
    let mut at = 0;
    while at < steps.len() {
        match reader_of(graph, outputs, steps, at, target) {
            Some((reader, longer)) => {
                steps[reader] = longer;
                steps.remove(at);
            }
            None => at += 1,
        }
    }
}

/// The place of the one step that reads what step `at` makes, and what it becomes if it can do that step's work.
fn reader_of(
    graph: &Graph,
    outputs: &[ValueId],
    steps: &[Step],
    at: usize,
    target: &dyn Target,
) -> Option<(usize, Step)> {
    let norm = &steps[at];
    let rectified_at_most = Epilogue { relu: norm.epilogue.relu, ..Epilogue::default() };
    if !matches!(norm.op, Op::Normalise(_)) || norm.prologue.is_some() || norm.epilogue != rectified_at_most {
        return None;
    }
    let made = norm.outputs[0];
    let mut readers = steps.iter().enumerate().filter(|(_, step)| step.inputs.contains(&made));
    let (Some((reader, step)), None) = (readers.next(), readers.next()) else { return None };
    let reads = step.inputs.iter().filter(|&&id| id == made).count();
    if reads != 1 || step.inputs[0] != made || step.prologue.is_some() || outputs.contains(&made) {
        return None;
    }
    let mut longer = step.clone();
    longer.prologue = Some(Prologue { relu: norm.epilogue.relu });
    longer.inputs[0] = norm.inputs[0];
    let behind = step.operands();
    longer.inputs.splice(behind..behind, norm.inputs[1..].iter().copied());
    let shapes: Vec<Shape> = longer.inputs.iter().map(|&id| graph.shape(id)).collect();
    target.norms_first(&longer, &shapes).then_some((reader, longer))
}
