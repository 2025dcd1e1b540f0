//! What isolated values are for: steps that write outside their results, or read what nobody has written, are found.
//!
//! Before a run everything that steps compute, and the guards between values, is filled with NaNs. After
//! each step the guards must still hold it, and the padding of the step's results must be zero.

use super::layout::{self, Panels};
use crate::error::{Error, Result};
use crate::program::{Placement, Program, Span};

/// What number `at` of an arena is when it was never written: a NaN of its own, so that a step which reads past one
/// value and writes past another shows, too. None of them is the NaN that arithmetic makes.
pub(super) fn unwritten(at: usize) -> f32 {
    f32::from_bits(0x7fc0_0001 + (at as u32 & 0x1f_ffff))
}

/// The ranges of an arena that a run is checked by.
#[derive(Debug)]
pub(super) struct Isolation {
    computed: Vec<Span>,
    guards: Vec<Span>,
}

impl Isolation {
    /// `None` unless the program's values are isolated.
    pub fn of(program: &Program) -> Option<Isolation> {
        if !matches!(program.placement(), Placement::Isolated { .. }) {
            return None;
        }
        let computed = program.steps().iter().flat_map(|step| {
            let outputs = step.outputs.iter().filter(|&&id| !program.is_update(id));
            outputs.filter_map(|&id| program.span(id)).chain([step.workspace])
        });
        Some(Isolation { computed: computed.collect(), guards: program.unused_spans() })
    }

    /// What lies between values.
    #[cfg(any(feature = "cuda", feature = "emulator"))] // the CPU has nobody who could watch them
    pub fn guards(&self) -> &[Span] {
        &self.guards
    }

    /// What to fill with [`unwritten`] numbers before a run.
    pub fn poisoned(&self) -> impl Iterator<Item = Span> + '_ {
        self.computed.iter().chain(&self.guards).copied()
    }

    /// Names the step if it has written between values, or left something in the padding of its results; `numbers`
    /// gives what a span of the arena holds.
    ///
    /// # Errors
    /// [`Error::Device`].
    pub fn check<'a>(
        &self,
        program: &Program,
        step: usize,
        panels: Panels,
        numbers: impl Fn(Span) -> &'a [f32],
    ) -> Result<()> {
        let name = &program.steps()[step].name;
        let is_written = |(index, number): (usize, &f32)| number.to_bits() != unwritten(index).to_bits();
        let touched = |span: &&Span| (span.offset..).zip(numbers(**span)).any(is_written);
        if let Some(span) = self.guards.iter().find(touched) {
            let problem = format!("{name} wrote outside its results, near number {} of the arena", span.offset);
            return Err(Error::Device(problem));
        }
        for &id in &program.steps()[step].outputs {
            let (shape, Some(span)) = (program.value(id).shape, program.span(id)) else { continue };
            let (mut elements, mut clean) = (vec![0.0; shape.elements()], vec![0.0; span.len]);
            layout::unpack(shape, panels, numbers(span), &mut elements);
            layout::pack(shape, panels, &elements, &mut clean);
            // Elements equal themselves unless they are NaN; padding must be 0 of either sign.
            let differs = |(clean, found): (&f32, &f32)| clean != found && clean.to_bits() != found.to_bits();
            if clean.iter().zip(numbers(span)).any(differs) {
                let value = &program.value(id).name;
                return Err(Error::Device(format!("{name} left numbers other than 0 in the padding of {value}")));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::cpu::CpuDevice;
    use crate::graph::{Graph, Shape};
    use crate::ops::Relu;

    /// A program of one step whose result has padding, isolated, and its arena after a run that does what it should.
    fn ran() -> (Program, Vec<f32>) {
        let mut graph = Graph::new();
        let x = graph.input("x", Shape::maps(1, 5, 3, 3));
        let y = graph.apply_one("y", Relu, &[x]).unwrap();
        let device = CpuDevice::new(Some(1)).unwrap();
        let program = Program::lower(&graph, &[y], &device, Placement::Isolated { guard: 64 }).unwrap();
        let mut arena: Vec<f32> = (0..program.arena_len()).map(unwritten).collect();
        let result = program.span(y).unwrap();
        arena[result.offset..result.offset + result.len].fill(0.0);
        (program, arena)
    }

    fn found(program: &Program, arena: &[f32]) -> String {
        let isolation = Isolation::of(program).unwrap();
        let numbers = |span: Span| &arena[span.offset..span.offset + span.len];
        isolation.check(program, 0, |_| Vec::new(), numbers).err().map_or(String::new(), |error| error.to_string())
    }

    #[test]
    fn a_step_that_writes_outside_its_results_or_into_their_padding_is_found() {
        let (program, arena) = ran();
        assert_eq!(found(&program, &arena), "");
        let guards = program.unused_spans();
        assert!(guards.iter().map(|guard| guard.len).sum::<usize>() >= 2 * 64);
        for at in guards.iter().flat_map(|guard| [guard.offset, guard.offset + guard.len - 1]) {
            // The NaN that arithmetic makes is none of those that were there.
            for number in [0.0, f32::NAN] {
                let mut touched = arena.clone();
                touched[at] = number;
                assert!(found(&program, &touched).contains("wrote outside its results"), "{at}");
            }
        }
        let result = program.span(program.steps()[0].outputs[0]).unwrap();
        for (lane, is_padding) in [(0, false), (4, false), (5, true), (7, true)] {
            let mut touched = arena.clone();
            touched[result.offset + lane] = 1.0;
            assert_eq!(found(&program, &touched).contains("in the padding of y"), is_padding, "{lane}");
        }
    }

    #[test]
    fn everything_that_is_computed_and_all_between_is_poisoned_and_what_is_given_is_not() {
        let (program, _) = ran();
        let poisoned: usize = Isolation::of(&program).unwrap().poisoned().map(|span| span.len).sum();
        let given = program.span(program.steps()[0].inputs[0]).unwrap();
        assert_eq!(poisoned, program.arena_len() - given.len);
    }
}
