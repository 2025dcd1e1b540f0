//! What each step of a program takes, and all steps of a kind together.

use crate::device::Session;
use crate::program::Program;
use std::time::Duration;

/// One step, or several of a kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepTime {
    /// The node's name, or the kind.
    pub name: String,
    /// The operator with what is done to its result as it is written.
    pub kernel: String,
    /// Steps.
    pub steps: usize,
    /// The kernels that a device launches for it, where it has such.
    pub launches: usize,
    /// Floating-point operations, a multiply-add counted as two.
    pub flops: u64,
    /// Bytes read and written at least: each operand once.
    pub bytes: u64,
    /// How long it took.
    pub time: Duration,
}

/// The median of each step's samples.
pub(super) fn medians(session: &dyn Session, samples: Vec<Vec<Duration>>) -> Vec<StepTime> {
    let program = session.program();
    let steps = program.steps().iter().zip(samples).enumerate();
    steps
        .map(|(number, (step, mut samples))| {
            samples.sort_unstable();
            StepTime {
                name: step.name.clone(),
                kernel: Program::kernel(step),
                steps: 1,
                launches: session.kernels(number).len(),
                flops: program.step_flops(step),
                bytes: program.traffic(step, &|id| session.kept_in(id)) as u64,
                time: samples.get(samples.len() / 2).copied().unwrap_or_default(),
            }
        })
        .collect()
}

/// Steps of the same kernel added up, the slowest first.
pub fn by_kernel(steps: &[StepTime]) -> Vec<StepTime> {
    let mut kinds: Vec<StepTime> = Vec::new();
    for step in steps {
        match kinds.iter_mut().find(|kind| kind.kernel == step.kernel) {
            None => kinds.push(StepTime { name: step.kernel.clone(), ..step.clone() }),
            Some(kind) => {
                kind.steps += step.steps;
                kind.launches += step.launches;
                kind.flops += step.flops;
                kind.bytes += step.bytes;
                kind.time += step.time;
            }
        }
    }
    kinds.sort_by_key(|kind| std::cmp::Reverse(kind.time));
    kinds
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_of_a_kernel_are_added_up_and_the_slowest_come_first() {
        let step = |name: &str, kernel: &str, time| StepTime {
            name: name.into(),
            kernel: kernel.into(),
            steps: 1,
            launches: 2,
            flops: 10,
            bytes: 3,
            time: Duration::from_millis(time),
        };
        let kinds = by_kernel(&[step("a", "conv", 2), step("b", "pool", 3), step("c", "conv", 4)]);
        assert_eq!(kinds.len(), 2);
        let StepTime { name, steps, launches, flops, bytes, time, .. } = &kinds[0];
        assert_eq!((name.as_str(), *steps, *launches, *flops, *bytes), ("conv", 2, 4, 20, 6));
        assert_eq!(*time, Duration::from_millis(6));
        assert_eq!(kinds[1].kernel, "pool");
    }
}
