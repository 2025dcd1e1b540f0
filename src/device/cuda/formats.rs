//! Which values are kept in the 16 bits that tensor cores multiply.

use super::ops::{self, Kept};
use crate::device::Precision;
use crate::device::layout::LANES;
use crate::graph::{Shape, Source, ValueId};
use crate::program::{Program, Step};
use std::collections::HashSet;

/// The values of a program that are kept in 16 bits; the others are float32.
#[derive(Debug)]
pub(super) struct Formats {
    halves: HashSet<ValueId>,
}

impl Formats {
    /// In a precision of 16 bits filters that only products read; in float16 maps, too, where every kernel that writes or
    /// reads them has that format. Of bfloat16 there are too few digits: what residuals add up stays float32. Maps of a few
    /// channels, such as the network's results, stay float32, for they have little to save; and so does all that a training
    /// step computes, whose gradients need the range of float32.
    pub fn of(precision: Precision, program: &Program) -> Formats {
        let mut halves = HashSet::new();
        if !precision.is_half() {
            return Formats { halves };
        }
        for step in program.steps() {
            for &id in step.inputs.iter().chain(&step.outputs) {
                let may_be = match program.value(id).shape {
                    Shape::Filter { .. } => is_only_multiplied(program, id),
                    Shape::Maps { channels, .. } => {
                        precision == Precision::Float16 && channels >= LANES && !program.trains()
                    }
                    _ => false,
                };
                if may_be {
                    halves.insert(id);
                }
            }
        }
        // A step that cannot have one value in 16 bits may not be able to have another.
        while program.steps().iter().any(|step| drop_some(step, program, &mut halves)) {}
        Formats { halves }
    }

    /// Whether a value is kept in 16 bits.
    pub fn is_half(&self, id: ValueId) -> bool {
        self.halves.contains(&id)
    }
}

/// Whether a value is a constant that is an operand of products and nothing else.
fn is_only_multiplied(program: &Program, id: ValueId) -> bool {
    let is_constant = !matches!(program.value(id).source, Source::Node(_)) && !program.is_updated(id);
    let only_multiplied = |step: &Step| {
        step.inputs.iter().enumerate().all(|(input, &read)| read != id || ops::multiplies(&step.op, input))
    };
    is_constant && program.steps().iter().all(only_multiplied)
}

/// Takes away the maps of a step that its kernels do not have in 16 bits; whether there were any.
fn drop_some(step: &Step, program: &Program, halves: &mut HashSet<ValueId>) -> bool {
    let before = halves.len();
    let maps = |ids: &[ValueId]| -> Vec<(usize, ValueId)> {
        let is_maps = |(_, id): &(usize, ValueId)| matches!(program.value(*id).shape, Shape::Maps { .. });
        ids.iter().copied().enumerate().filter(is_maps).collect()
    };
    let inputs = maps(&step.inputs).into_iter().map(|(input, id)| (ops::kept(step, Some(input)), id));
    let outputs = maps(&step.outputs).into_iter().map(|(_, id)| (ops::kept(step, None), id));
    let values: Vec<(Kept, ValueId)> = inputs.chain(outputs).collect();
    let alike = |(kept, id): &(Kept, ValueId)| (*kept == Kept::Alike).then_some(*id);
    let all_are = values.iter().filter_map(alike).all(|id| halves.contains(&id));
    for (kept, id) in values {
        if kept == Kept::Float32 || (kept == Kept::Alike && !all_are) {
            halves.remove(&id);
        }
    }
    halves.len() < before
}
