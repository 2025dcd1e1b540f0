//! In which format each value is kept, and each step multiplies.
//!
//! float16 ends at 65504. An instance norm leaves numbers of some tens, and a convolution multiplies them by some tens more;
//! what a few convolutions make one after the other, without a norm between them, goes beyond that end. At the other end,
//! gradients of a mean over all pixels are smaller than the least float16. So a device that multiplies in float16 keeps such
//! numbers in float32, and multiplies them in tf32, whose range is float32's; then losses need no scaling.

use super::CudaDevice;
use super::ops::{self, Kept};
use crate::device::Precision;
use crate::device::layout::LANES;
use crate::graph::{Shape, Source, ValueId};
use crate::ops::Op;
use crate::program::{Program, Step};
use std::collections::{HashMap, HashSet};

/// How many convolutions a float16 may have behind it since the last norm.
const MOST_CONVOLUTIONS: u32 = 2;

/// What stands for that count of gradients.
const GRADIENT: u32 = u32::MAX;

/// What a program keeps and multiplies in which format.
#[derive(Debug)]
pub(super) struct Formats {
    /// The values that are kept in 16 bits; the others are float32.
    halves: HashSet<ValueId>,
    /// The precision of each step.
    products: Vec<Precision>,
}

impl Formats {
    /// In a precision of 16 bits filters that only such products read are kept so; in float16 maps, too, where every kernel
    /// that writes or reads them has that format and their numbers are within its range. Of bfloat16 there are too few digits:
    /// what residuals add up stays float32. Maps of a few channels, such as the network's results, stay float32, for they have
    /// little to save; and so does all that a training step computes, whose gradients need the range of float32.
    pub fn of(device: &CudaDevice, program: &Program) -> Formats {
        let precision = device.precision;
        let behind = if precision == Precision::Float16 { convolutions_behind(program) } else { HashMap::new() };
        let behind = |id: &ValueId| behind.get(id).copied().unwrap_or(0);
        let products = products(program, precision, device.wide_precision(), behind);
        let mut formats = Formats { halves: HashSet::new(), products };
        if !precision.is_half() {
            return formats;
        }
        for step in program.steps() {
            for &id in step.inputs.iter().chain(&step.outputs) {
                let may_be = match program.value(id).shape {
                    Shape::Filter { .. } => formats.is_only_multiplied(program, id),
                    Shape::Maps { channels, .. } => {
                        let is_possible = precision == Precision::Float16 && channels >= LANES;
                        is_possible && !program.trains() && behind(&id) <= MOST_CONVOLUTIONS
                    }
                    _ => false,
                };
                if may_be {
                    formats.halves.insert(id);
                }
            }
        }
        // A step that cannot have one value in 16 bits may not be able to have another.
        while program.steps().iter().enumerate().any(|(at, step)| formats.drop_some(at, step, program)) {}
        formats
    }

    /// Whether a value is kept in 16 bits.
    pub fn is_half(&self, id: ValueId) -> bool {
        self.halves.contains(&id)
    }

    /// What a step multiplies in.
    pub fn of_products(&self, step: usize) -> Precision {
        self.products[step]
    }

    /// Whether a value is a constant that is an operand of products in 16 bits and nothing else.
    fn is_only_multiplied(&self, program: &Program, id: ValueId) -> bool {
        let is_constant = !matches!(program.value(id).source, Source::Node(_)) && !program.is_updated(id);
        let only_multiplied = |(step, products): (&Step, &Precision)| {
            let in_16_bits = |input| ops::multiplies(&step.op, input) && products.is_half();
            step.inputs.iter().enumerate().all(|(input, &read)| read != id || in_16_bits(input))
        };
        is_constant && program.steps().iter().zip(&self.products).all(only_multiplied)
    }

    /// Takes away the maps of a step that its kernels do not have in 16 bits; whether there were any.
    fn drop_some(&mut self, at: usize, step: &Step, program: &Program) -> bool {
        let before = self.halves.len();
        let maps = |ids: &[ValueId]| -> Vec<(usize, ValueId)> {
            let is_maps = |(_, id): &(usize, ValueId)| matches!(program.value(*id).shape, Shape::Maps { .. });
            ids.iter().copied().enumerate().filter(is_maps).collect()
        };
        let kept = |input| ops::kept(step, input, self.products[at]);
        let inputs = maps(&step.inputs).into_iter().map(|(input, id)| (kept(Some(input)), id));
        let outputs = maps(&step.outputs).into_iter().map(|(_, id)| (kept(None), id));
        let values: Vec<(Kept, ValueId)> = inputs.chain(outputs).collect();
        let counts = |(kept, id): &(Kept, ValueId)| matches!(kept, Kept::Alike | Kept::Leads).then_some(*id);
        let all_are = values.iter().filter_map(counts).all(|id| self.halves.contains(&id));
        for (kept, id) in values {
            if kept == Kept::Float32 || (kept == Kept::Alike && !all_are) {
                self.halves.remove(&id);
            }
        }
        self.halves.len() < before
    }
}

/// What each step multiplies in: in `wide` where it reads maps that are outside the range of `precision`, and so do all that
/// share its filter, if that is kept in the format of products.
fn products(
    program: &Program,
    precision: Precision,
    wide: Precision,
    behind: impl Fn(&ValueId) -> u32,
) -> Vec<Precision> {
    let is_filter = |step: &Step, id: &ValueId| ops::multiplies(&step.op, 1) && !program.is_updated(*id);
    let filter = |step: &Step| step.inputs.get(1).copied().filter(|id| is_filter(step, id));
    let reads_outside = |step: &&Step| {
        let operands = &step.inputs[..step.operands()];
        // What waits for the statistics of a norm waits as the result is kept.
        let most = if step.epilogue.norm.is_some() { MOST_CONVOLUTIONS - 1 } else { MOST_CONVOLUTIONS };
        ops::is_product(&step.op) && operands.iter().any(|id| behind(id) > most)
    };
    let outside = program.steps().iter().filter(reads_outside);
    let filters: HashSet<ValueId> = outside.filter_map(filter).collect();
    let is_wide = |step: &Step| reads_outside(&step) || filter(step).is_some_and(|id| filters.contains(&id));
    program.steps().iter().map(|step| if is_wide(step) { wide } else { precision }).collect()
}

/// How many convolutions lie behind each value that a program computes, one after the other, since a norm, a sigmoid or what
/// the program is given.
fn convolutions_behind(program: &Program) -> HashMap<ValueId, u32> {
    let mut behind = HashMap::new();
    for step in program.steps() {
        let of = |ids: &[ValueId]| ids.iter().filter_map(|id| behind.get(id)).copied().max().unwrap_or(0);
        let (operands, rest) = step.inputs.split_at(step.operands());
        let before = of(operands);
        let computed = match step.op {
            Op::SoftDiceGrad(_) | Op::CrossEntropyGrad(_) => GRADIENT,
            _ if before == GRADIENT => GRADIENT,
            _ if step.epilogue.norm.is_some() || step.epilogue.sigmoid => 0,
            Op::InstanceNorm(_) | Op::Normalise(_) | Op::Sigmoid(_) => 0,
            Op::Conv(_) | Op::TransposedConv(_) | Op::TemporalConv(_) | Op::MultiKernelPooling(_) => before + 1,
            _ => before,
        };
        let count = computed.max(of(rest));
        step.outputs.iter().for_each(|&id| {
            behind.insert(id, count);
        });
    }
    behind
}
