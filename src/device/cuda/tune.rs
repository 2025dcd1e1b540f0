//! Which way to cut each convolution of a program is the quickest on this device, measured.
//!
//! Each way is timed where it will run: within the program, its operands where the steps before have left them. One pass
//! times one way of every convolution; what seems better than the rule is then timed again, in turns with it.

use super::CudaDevice;
use super::ways::{Key, Measured, Way, Ways};
use crate::device::Session;
use crate::error::{Error, Result};
use crate::program::Program;
use std::sync::Arc;
use std::time::Duration;

/// How much quicker a way must be than the rule's: less than this share may be noise.
const GAIN: f64 = 0.02;

/// How often a program runs for each time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Runs {
    /// Before the first that counts.
    pub warm_up: usize,
    /// Those of which a time is the median.
    pub counted: usize,
}

impl Runs {
    /// Enough for times that can be relied on.
    pub const OF_A_GPU: Runs = Runs { warm_up: 5, counted: 50 };
    /// Where times say nothing anyway.
    pub const ONE: Runs = Runs { warm_up: 0, counted: 1 };
}

/// All steps of a program that are the same convolution.
#[derive(Debug, Clone, PartialEq)]
pub struct TunedConvolution {
    /// The first one's name.
    pub name: String,
    /// How many there are.
    pub steps: usize,
    /// What they are.
    pub key: Key,
    /// What the device does by itself.
    pub rule: Measured,
    /// The quickest way; the rule's unless another one is quicker by more than noise.
    pub best: Measured,
    /// How many ways were measured.
    pub ways: usize,
}

/// What was found of a program.
#[derive(Debug, Clone, PartialEq)]
pub struct Tuned {
    /// Its convolutions on tensor cores.
    pub convolutions: Vec<TunedConvolution>,
    /// A run of the whole program, all steps started as one, by the rule.
    pub by_rule: Duration,
    /// The same with the best ways.
    pub by_best: Duration,
}

/// A convolution that is being measured.
struct Candidate {
    key: Key,
    /// The steps that are it.
    steps: Vec<usize>,
    /// The rule's way is the first.
    ways: Vec<Way>,
    times: Vec<Duration>,
}

impl Candidate {
    /// The quickest way, and the median of its steps' times.
    fn best(&self) -> (Way, Duration) {
        let best = (0..self.times.len()).min_by_key(|&at| self.times[at]).unwrap_or(0);
        (self.ways[best], self.times[best])
    }
}

impl CudaDevice {
    /// Measures all ways of the convolutions of a program. `load` lowers it for a device, loads it there and gives it
    /// its numbers; `go_on` is asked before each pass, with the number of those that are done and of all.
    ///
    /// # Errors
    /// [`Error::Interrupted`] when `go_on` says so, [`Error::Request`] when the device multiplies in float32, where there
    /// is nothing to choose, and those of `load` and of running the program.
    pub fn tune(
        &self,
        runs: Runs,
        load: &mut dyn FnMut(&CudaDevice) -> Result<Box<dyn Session>>,
        go_on: &mut dyn FnMut(usize, usize) -> bool,
    ) -> Result<Tuned> {
        let device = CudaDevice { ways: None, way: None, tile: None, warpgroups: false, ..self.clone() };
        let by_rule = load(&device)?;
        let mut candidates = device.candidates(by_rule.program());
        if candidates.is_empty() {
            let problem = "there is nothing to choose: no convolution of the program runs on tensor cores; choose a \
                           precision that has them, such as float16";
            return Err(Error::Request(problem.into()));
        }
        drop(by_rule);
        let passes = candidates.iter().map(|candidate| candidate.ways.len()).max().unwrap_or(0);
        for pass in 0..passes {
            if !go_on(pass, passes + 1) {
                return Err(Error::Interrupted);
            }
            let with_way = candidates.iter().filter_map(|it| Some((it.key, *it.ways.get(pass)?)));
            let tuned = device.with_these(with_way.filter(|_| pass > 0));
            let times = medians(&mut [&mut *load(&tuned)?], runs)?;
            for candidate in candidates.iter_mut().filter(|candidate| pass < candidate.ways.len()) {
                candidate.times.push(mean(&times[0], &candidate.steps));
            }
        }
        if !go_on(passes, passes + 1) {
            return Err(Error::Interrupted);
        }
        // Of many times the least is too small by chance.
        let tuned = device.with_these(candidates.iter().map(|it| (it.key, it.best().0)));
        let (mut by_rule, mut best) = (load(&device)?, load(&tuned)?);
        let times = medians(&mut [&mut *by_rule, &mut *best], runs)?;
        let program = by_rule.program();
        let found = candidates.iter().map(|candidate| {
            let [rule, best] = [0, 1].map(|of| mean(&times[of], &candidate.steps));
            let rule = Measured::new(candidate.ways[0], rule);
            let best = Measured::new(candidate.best().0, best);
            let is_better = best.way != rule.way && best.microseconds < (1.0 - GAIN) * rule.microseconds;
            TunedConvolution {
                name: program.steps()[candidate.steps[0]].name.clone(),
                steps: candidate.steps.len(),
                key: candidate.key,
                rule,
                best: if is_better { best } else { rule },
                ways: candidate.ways.len(),
            }
        });
        let convolutions: Vec<TunedConvolution> = found.collect();
        drop(best);
        let mut best = load(&device.with_these(convolutions.iter().map(|it| (it.key, it.best.way))))?;
        let [by_rule, by_best] = whole_runs([&mut *by_rule, &mut *best], runs)?;
        Ok(Tuned { convolutions, by_rule, by_best })
    }

    /// The same device with these ways.
    fn with_these(&self, ways: impl Iterator<Item = (Key, Way)>) -> CudaDevice {
        let mut table = Ways::none_of(self);
        for (key, way) in ways {
            let unknown = Measured::new(way, Duration::ZERO);
            table.set(key, unknown, unknown);
        }
        self.clone().with_ways(Arc::new(table))
    }

    /// The convolutions of a program that was lowered for this device, each with its ways.
    fn candidates(&self, program: &Program) -> Vec<Candidate> {
        let mut candidates: Vec<Candidate> = Vec::new();
        for (at, possible) in self.possible_ways(program).into_iter().enumerate() {
            let Some((key, ways)) = possible else { continue };
            match candidates.iter_mut().find(|candidate| candidate.key == key) {
                Some(same) => same.steps.push(at),
                None => candidates.push(Candidate { key, steps: vec![at], ways, times: Vec::new() }),
            }
        }
        candidates
    }
}

/// The median of each step's times, of sessions that take turns.
fn medians(sessions: &mut [&mut dyn Session], runs: Runs) -> Result<Vec<Vec<Duration>>> {
    let mut samples: Vec<Vec<Vec<Duration>>> =
        sessions.iter().map(|session| vec![Vec::new(); session.program().steps().len()]).collect();
    for run in 0..runs.warm_up + runs.counted {
        for (session, samples) in sessions.iter_mut().zip(&mut samples) {
            let mut times = vec![Duration::ZERO; samples.len()];
            session.run_timed(&mut times)?;
            if run >= runs.warm_up {
                samples.iter_mut().zip(times).for_each(|(samples, time)| samples.push(time));
            }
        }
    }
    Ok(samples.into_iter().map(|steps| steps.into_iter().map(median).collect()).collect())
}

/// The median of the whole program's times, of two sessions that take turns.
fn whole_runs(mut sessions: [&mut dyn Session; 2], runs: Runs) -> Result<[Duration; 2]> {
    let mut samples = [Vec::new(), Vec::new()];
    for run in 0..runs.warm_up + runs.counted {
        for (session, samples) in sessions.iter_mut().zip(&mut samples) {
            let time = session.run_measured()?.compute;
            if run >= runs.warm_up {
                samples.push(time);
            }
        }
    }
    Ok(samples.map(median))
}

fn median(mut samples: Vec<Duration>) -> Duration {
    samples.sort_unstable();
    samples.get(samples.len() / 2).copied().unwrap_or_default()
}

/// The mean over some steps.
fn mean(times: &[Duration], steps: &[usize]) -> Duration {
    steps.iter().map(|&step| times[step]).sum::<Duration>() / steps.len().max(1) as u32
}
