//! The CPU device: float32, forward and backward, on as many threads as asked for; forward also with products of bfloat16.
//!
//! Loading a program binds each step to memory as a routine; running executes the routines in order. Nothing is
//! allocated while a program runs, and results have the same bits from run to run whatever the number of threads:
//! every sum is divided and ordered by shapes alone.

mod axis;
mod bfloat;
mod bfloat_conv;
mod cache;
mod ceilings;
mod correlate;
mod correlate_filters;
mod elementwise;
mod kept;
mod lanes;
mod layout;
mod memory;
mod microkernel;
mod moments;
mod normed;
mod operands;
mod ops;
mod stencil;
mod winograd;

pub use bfloat::BfloatSet;
pub use microkernel::InstructionSet;

use super::isolation::{Isolation, unwritten};
use super::{Ceilings, Device, Precision, Session};
use crate::error::{Error, Result};
use crate::graph::{Shape, Source, ValueId};
use crate::ops::Op;
use crate::program::{Epilogue, Program, Span, Step, Target};
use bfloat::BfloatKernels;
use kept::Kept;
use memory::Arena;
use microkernel::MicroKernels;
use ops::conv::Means;
use rayon::{ThreadPool, ThreadPoolBuilder};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The processor, as a device.
#[derive(Debug, Clone)]
pub struct CpuDevice {
    pool: Arc<ThreadPool>,
    set: InstructionSet,
    /// How bfloat16 is multiplied, where that is worth while.
    bfloat: Option<BfloatSet>,
    precision: Precision,
}

impl CpuDevice {
    /// A device that computes on `threads` threads, or on one for each core when `None`.
    ///
    /// # Errors
    /// [`Error::Device`] when the threads cannot be started.
    pub fn new(threads: Option<usize>) -> Result<CpuDevice> {
        CpuDevice::with_instructions(threads, InstructionSet::available()[0])
    }

    /// As [`CpuDevice::new`], with a certain instruction set.
    ///
    /// # Errors
    /// [`Error::Device`] when the processor lacks it, or the threads cannot be started.
    pub fn with_instructions(threads: Option<usize>, set: InstructionSet) -> Result<CpuDevice> {
        if !InstructionSet::available().contains(&set) {
            return Err(Error::Device(format!("this processor has no {}", set.name())));
        }
        let pool = ThreadPoolBuilder::new()
            .num_threads(threads.unwrap_or(0))
            .thread_name(|index| format!("coronet-{index}"))
            .build()
            .map_err(|error| Error::Device(format!("cannot start the threads of the CPU device: {error}")))?;
        let bfloat = BfloatSet::available()[0];
        let bfloat = (bfloat != BfloatSet::Portable).then_some(bfloat);
        Ok(CpuDevice { pool: Arc::new(pool), set, bfloat, precision: Precision::Float32 })
    }

    /// The same device, to multiply bfloat16 by certain instructions; without this it does so only where the processor has
    /// some for it.
    ///
    /// # Errors
    /// [`Error::Device`] when the processor lacks them.
    pub fn with_bfloat(self, set: BfloatSet) -> Result<CpuDevice> {
        if !BfloatSet::available().contains(&set) {
            return Err(Error::Device(format!("this processor has no {}", set.name())));
        }
        Ok(CpuDevice { bfloat: Some(set), ..self })
    }

    /// What products of bfloat16 are computed by, where they are to be such.
    fn rounding(&self) -> Option<BfloatSet> {
        self.bfloat.filter(|_| self.precision == Precision::BFloat16)
    }

    /// What convolutions are computed with.
    fn means(&self) -> Means {
        Means {
            kernels: MicroKernels::new(self.set),
            bfloat: BfloatKernels::new(self.bfloat.unwrap_or(BfloatSet::Portable)),
            threads: self.threads(),
        }
    }

    /// How many threads compute.
    pub fn threads(&self) -> usize {
        self.pool.current_num_threads()
    }
}

impl Target for CpuDevice {
    fn storage(&self, shape: Shape) -> usize {
        layout::storage(shape)
    }

    fn folds(&self, op: &Op, _result: Shape, epilogue: &Epilogue) -> bool {
        ops::folds(op, epilogue)
    }

    fn norms_first(&self, step: &Step, inputs: &[Shape]) -> bool {
        let kept = Kept::of(step, inputs, self.rounding());
        ops::norms_first(step, kept.as_ref(), inputs, self.means())
    }

    fn has_step(&self, op: &Op) -> bool {
        matches!(op, Op::MultiKernelPooling(_))
    }

    fn workspace(&self, step: &Step, inputs: &[Shape], outputs: &[Shape]) -> usize {
        let kept = Kept::of(step, inputs, self.rounding());
        ops::workspace(step, kept.as_ref(), inputs, outputs[0], self.means())
    }

    fn filter_storage(&self, step: &Step, inputs: &[Shape]) -> usize {
        Kept::of(step, inputs, self.rounding()).map_or_else(|| self.storage(inputs[1]), |kept| kept.len(inputs[1]))
    }
}

impl Device for CpuDevice {
    fn describe(&self) -> String {
        let threads = self.threads();
        let set = match (self.precision, self.bfloat) {
            (Precision::BFloat16, Some(bfloat)) => format!("{} and {}", bfloat.name(), self.set.name()),
            _ => self.set.name().to_owned(),
        };
        format!("cpu, {set}, {threads} thread{}", if threads == 1 { "" } else { "s" })
    }

    fn facts(&self) -> Vec<(&'static str, String)> {
        let cache = last_level_cache().map(|bytes| ("last-level cache", format!("{} KB", bytes >> 10)));
        cache.into_iter().collect()
    }

    fn ceilings(&self) -> Result<Option<Ceilings>> {
        Ok(Some(ceilings::measure(&self.pool, self.rounding().map(BfloatKernels::new))))
    }

    fn precisions(&self) -> Vec<Precision> {
        let bfloat = self.bfloat.map(|_| Precision::BFloat16);
        std::iter::once(Precision::Float32).chain(bfloat).collect()
    }

    fn precision(&self) -> Precision {
        self.precision
    }

    fn with_precision(&self, precision: Precision) -> Result<Box<dyn Device>> {
        if self.precisions().contains(&precision) {
            return Ok(Box::new(CpuDevice { precision, ..self.clone() }));
        }
        let why = match precision {
            Precision::BFloat16 => "this processor has neither AMX-BF16 nor AVX-512 BF16",
            _ => "a CPU multiplies in float32 or bfloat16",
        };
        Err(Error::Device(format!("{} does not multiply in {precision}: {why}", self.describe())))
    }

    fn fastest_precision(&self) -> (Precision, String) {
        match self.bfloat {
            Some(BfloatSet::Amx) => (Precision::BFloat16, "the processor has AMX-BF16".to_owned()),
            Some(set) => {
                let why = "float32 needs fewer multiplications (Winograd) and is all but as quick";
                (Precision::Float32, format!("the processor has {}, but no AMX, and with that {why}", set.name()))
            }
            None => (Precision::Float32, "the processor has neither AMX-BF16 nor AVX-512 BF16".to_owned()),
        }
    }

    fn load(&self, program: Program) -> Result<Box<dyn Session>> {
        Ok(Box::new(CpuSession::new(self, program)?))
    }
}

/// Bytes of the last cache before memory, where the system says.
pub fn last_level_cache() -> Option<usize> {
    let kilobytes = |level: usize| {
        let path = format!("/sys/devices/system/cpu/cpu0/cache/index{level}/size");
        std::fs::read_to_string(path).ok()?.trim().strip_suffix('K')?.parse::<usize>().ok()
    };
    (0..=4).rev().find_map(kilobytes).map(|kilobytes| kilobytes << 10)
}

/// One step bound to its memory.
type Routine = Box<dyn Fn() + Send + Sync>;

/// The filters that a program keeps otherwise than they are given, and how. Whoever lowered it for a device that only lends this one's
/// arithmetic may have planned no room for that; then they are kept as they are.
fn kept_filters(program: &Program, rounding: Option<BfloatSet>) -> HashMap<ValueId, Kept> {
    let kept = |step: &Step| {
        let (filter, shapes) = (step.own_filter()?, step.inputs.iter().map(|&id| program.value(id).shape));
        let shapes: Vec<Shape> = shapes.collect();
        let kept = Kept::of(step, &shapes, rounding)?;
        (program.span(filter)?.len == kept.len(shapes[1])).then_some((filter, kept))
    };
    program.steps().iter().filter_map(kept).collect()
}

/// A program bound to an arena.
struct CpuSession {
    program: Program,
    pool: Arc<ThreadPool>,
    // Routines hold views of the arena: they are dropped before it.
    routines: Vec<Routine>,
    arena: Arena,
    isolation: Option<Isolation>,
    kernels: MicroKernels,
    /// The filters that are kept otherwise than they are given.
    kept: HashMap<ValueId, Kept>,
}

impl CpuSession {
    fn new(device: &CpuDevice, program: Program) -> Result<CpuSession> {
        if device.precision != Precision::Float32 && program.trains() {
            let problem = format!("{} learns in float32 only, not in {}", device.describe(), device.precision);
            return Err(Error::Device(problem));
        }
        let arena = Arena::new(program.arena_len())?;
        let kept = kept_filters(&program, device.rounding());
        let means = device.means();
        let routines = program
            .steps()
            .iter()
            .map(|step| {
                let shapes = |ids: &[ValueId]| ids.iter().map(|&id| program.value(id).shape).collect();
                let regions = |ids: &[ValueId]| {
                    ids.iter().filter_map(|&id| program.span(id)).map(|span| arena.region(span)).collect()
                };
                ops::bind(ops::Binding {
                    op: &step.op,
                    prologue: step.prologue,
                    epilogue: step.epilogue,
                    operands: step.operands(),
                    input_shapes: shapes(&step.inputs),
                    output_shapes: shapes(&step.outputs),
                    inputs: regions(&step.inputs),
                    outputs: regions(&step.outputs),
                    workspace: arena.region(step.workspace),
                    means,
                    kept: step.own_filter().and_then(|filter| kept.get(&filter)),
                })
            })
            .collect();
        let isolation = Isolation::of(&program);
        let (pool, kernels) = (device.pool.clone(), means.kernels);
        Ok(CpuSession { program, pool, routines, arena, isolation, kernels, kept })
    }

    /// Runs all steps; `done` hears of each with the time it took.
    fn run_steps(&self, mut done: impl FnMut(usize, Duration) + Send) -> Result<()> {
        if let Some(isolation) = &self.isolation {
            self.poison(isolation);
        }
        self.pool.install(|| {
            for (step, routine) in self.routines.iter().enumerate() {
                let start = Instant::now();
                routine();
                done(step, start.elapsed());
                if let Some(isolation) = &self.isolation {
                    // SAFETY: no routine is running.
                    let numbers = |span: Span| unsafe { self.arena.region(span).all() };
                    isolation.check(&self.program, step, layout::panels, numbers)?;
                }
            }
            Ok(())
        })
    }

    /// Makes reads of unwritten memory and writes outside of values show.
    fn poison(&self, isolation: &Isolation) {
        for span in isolation.poisoned() {
            let region = self.arena.region(span);
            // SAFETY: only called under `&mut self` of the session, between routines.
            let numbers = unsafe { region.slice_mut(0, region.len()) };
            numbers.iter_mut().zip(span.offset..).for_each(|(number, at)| *number = unwritten(at));
        }
    }

    fn memory(&self, value: ValueId, elements: usize) -> Result<(Shape, memory::Region)> {
        let info = self.program.value(value);
        let span = self.program.span(value);
        let region = span.map(|span| self.arena.region(span));
        match region {
            None => Err(Error::Request(format!("{} is not part of the program", info.name))),
            Some(_) if elements != info.shape.elements() => {
                Err(Error::Request(format!("{} is {}, but {elements} numbers were given", info.name, info.shape)))
            }
            Some(region) => Ok((info.shape, region)),
        }
    }
}

impl Session for CpuSession {
    fn program(&self) -> &Program {
        &self.program
    }

    fn multiplies_in(&self, step: usize) -> Option<Precision> {
        let filter = self.program.steps().get(step)?.own_filter();
        Some(filter.and_then(|filter| self.kept.get(&filter)).map_or(Precision::Float32, Kept::precision))
    }

    fn error_bound(&self, step: usize) -> Option<f64> {
        let filter = self.program.steps().get(step)?.own_filter()?;
        self.kept.get(&filter)?.error_bound(self.program.value(filter).shape)
    }

    fn write(&mut self, value: ValueId, data: &[f32]) -> Result<()> {
        let (shape, region) = self.memory(value, data.len())?;
        if matches!(self.program.value(value).source, Source::Node(_)) {
            return Err(Error::Request(format!("{} is computed, not given", self.program.value(value).name)));
        }
        if let Some(kept) = self.kept.get(&value) {
            self.pool.install(|| kept.write(shape, data, region, self.kernels));
            return Ok(());
        }
        // SAFETY: `&mut self`: no routine is running.
        layout::pack(shape, data, unsafe { region.slice_mut(0, region.len()) });
        Ok(())
    }

    fn run(&mut self) -> Result<()> {
        self.run_steps(|_, _| ())
    }

    fn run_timed(&mut self, times: &mut [Duration]) -> Result<()> {
        if times.len() != self.routines.len() {
            let (steps, given) = (self.routines.len(), times.len());
            return Err(Error::Request(format!("the program has {steps} steps, but {given} times were given")));
        }
        self.run_steps(|step, time| times[step] += time)
    }

    fn read_into(&self, value: ValueId, data: &mut [f32]) -> Result<()> {
        let (shape, region) = self.memory(value, data.len())?;
        if !self.program.is_readable(value) {
            return Err(Error::Request(format!("{} is not an output of the program", self.program.value(value).name)));
        }
        if let Some(kept) = self.kept.get(&value) {
            let name = &self.program.value(value).name;
            let how = match kept {
                Kept::Transformed(_) => "transformed, for fewer multiplications",
                Kept::Rounded(_) => "in bfloat16",
            };
            return Err(Error::Request(format!("{name} is kept {how}; read it where it came from")));
        }
        // SAFETY: routines run only under `&mut self`.
        layout::unpack(shape, unsafe { region.all() }, data);
        Ok(())
    }
}
