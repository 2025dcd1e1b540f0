//! A program as a table: step, kernel, shape, work, traffic, place in the arena.

use super::{Program, Prologue, Residual, Step};
use crate::device::Precision;
use crate::graph::ValueId;
use std::fmt;

/// Bytes of a float32 number.
const BYTES: usize = size_of::<f32>();

/// Every value in float32.
fn all_wide(_: ValueId) -> Precision {
    Precision::Float32
}

impl Program {
    /// An operator with what is done to its first input as it is read and to its result as it is written, as the table names
    /// it.
    pub fn kernel(step: &Step) -> String {
        let then = step.epilogue;
        let first = match step.prologue {
            None => "",
            Some(Prologue { relu: false }) => "norm + ",
            Some(Prologue { relu: true }) => "norm + relu + ",
        };
        let mut name = format!("{first}{}", step.op.operator().name());
        for (follows, what) in [
            (then.norm.is_some(), "norm"),
            (then.residual == Some(Residual::BeforeRelu), "residual"),
            (then.relu, "relu"),
            (then.residual == Some(Residual::AfterRelu), "residual"),
            (then.sigmoid, "sigmoid"),
            (then.statistics.is_some(), "statistics"),
        ] {
            if follows {
                name += " + ";
                name += what;
            }
        }
        name
    }

    /// Bytes a step reads and writes at least: each operand once, in the format that a device says it is kept in.
    pub fn traffic(&self, step: &Step, kept_in: &dyn Fn(ValueId) -> Precision) -> usize {
        let bytes = |&id: &ValueId| Some(self.span(id)?.len * kept_in(id).bytes());
        step.inputs.iter().chain(&step.outputs).filter_map(bytes).sum()
    }
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.steps().iter().map(|s| s.name.len()).max().unwrap_or(4).max(4);
        let kernels = self.steps().iter().map(|s| Self::kernel(s).len()).max().unwrap_or(6).max(6);
        writeln!(
            f,
            "{:>4}  {:names$}  {:kernels$}  {:>24}  {:>10}  {:>9}  {:>11}",
            "step", "node", "kernel", "result", "MFLOP", "MB", "at MB"
        )?;
        for (index, step) in self.steps().iter().enumerate() {
            let result = step.outputs[0];
            let offset = self.span(result).map_or(0, |span| span.offset);
            writeln!(
                f,
                "{index:>4}  {:names$}  {:kernels$}  {:>24}  {:>10.2}  {:>9.2}  {:>11.2}",
                step.name,
                Self::kernel(step),
                self.value(result).shape.to_string(),
                self.step_flops(step) as f64 / 1e6,
                self.traffic(step, &all_wide) as f64 / 1e6,
                (offset * BYTES) as f64 / 1e6,
            )?;
        }
        let megabytes = |len: usize| (len * BYTES) as f64 / 1e6;
        let traffic: usize = self.steps().iter().map(|step| self.traffic(step, &all_wide)).sum();
        writeln!(
            f,
            "{:.2} GMAC, {:.2} GFLOP, {:.1} MB moved at least",
            self.macs() as f64 / 1e9,
            self.flops() as f64 / 1e9,
            traffic as f64 / 1e6
        )?;
        writeln!(
            f,
            "arena {:.1} MB, of which {:.1} MB states; without sharing it would be {:.1} MB ({:.0} % saved)",
            megabytes(self.arena_len()),
            megabytes(self.state_len()),
            megabytes(self.unshared_len()),
            100.0 * (1.0 - self.arena_len() as f64 / self.unshared_len().max(1) as f64),
        )?;
        write!(f, "{} launches", self.steps().len())
    }
}
