//! The CUDA device: values in float32, products in a [`Precision`], forward and backward, with the kernels of `kernels/`.
//!
//! Loading a program binds each step to memory as a list of launches; running starts them in order. All this is the
//! same whether a GPU or the emulator runs the kernels: both are a [`Driver`].

mod ceilings;
mod driver;
#[cfg(feature = "emulator")]
mod emulated;
mod formats;
mod frame_session;
mod frames;
#[cfg(feature = "cuda")]
mod gpu;
mod memory;
#[cfg(feature = "cuda")]
mod occupancy;
mod ops;
mod resampling;
mod tune;
mod ways;

pub use driver::{Address, Driver, Launch, Moments, Recording, Stopped};
#[cfg(feature = "emulator")]
pub use emulated::{Architecture, Copies, EmulatedDriver, Order, Schedule, Traffic};
#[cfg(feature = "cuda")]
pub use gpu::Gpu;
#[cfg(feature = "cuda")]
pub use occupancy::{Multiprocessor, PlannedLaunch};
pub use ops::Tile;
pub use tune::{Runs, Tuned, TunedConvolution};
pub use ways::{Key, Measured, Way, Ways};

pub use frames::{FramePipeline, NetworkEnds};

use super::isolation::{Isolation, unwritten};
use super::layout::{self, Panel, padded};
use super::{Ceilings, Device, FramePath, FrameSession, Precision, RunTime, Session};
use crate::error::{Error, Result};
use crate::graph::{Shape, Source, ValueId};
use crate::ops::Op;
use crate::program::{Epilogue, Program, Span, Step, Target};
use formats::Formats;
use frame_session::Frames;
use memory::{Counters, Memory};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A GPU, or an emulated one, as a device.
#[derive(Clone)]
pub struct CudaDevice {
    driver: Arc<dyn Driver>,
    precision: Precision,
    tile: Option<Tile>,
    warpgroups: bool,
    way: Option<Way>,
    ways: Option<Arc<Ways>>,
}

impl CudaDevice {
    /// A device whose kernels `driver` runs, in float32.
    pub fn new(driver: impl Driver + 'static) -> CudaDevice {
        let precision = Precision::Float32;
        CudaDevice { driver: Arc::new(driver), precision, tile: None, warpgroups: false, way: None, ways: None }
    }
}

/// Filters lie in one panel: `[kernel row][kernel column][padded input channel][padded output channel]`.
fn one_panel(outputs: usize) -> Vec<Panel> {
    vec![Panel { start: 0, width: padded(outputs) }]
}

impl CudaDevice {
    /// The same device with one tile for all convolutions on tensor cores, to compare tiles by. Results do not depend on
    /// it: every tile takes its sums in the same order.
    pub fn with_tile(self, tile: Tile) -> CudaDevice {
        CudaDevice { tile: Some(tile), ..self }
    }

    /// The same device whose convolutions of float16 numbers are left to warpgroups, or not, where they are of several taps
    /// and without a stride, and the GPU is an sm_90: its tensor cores then read operands by themselves. Not the default as
    /// long as nobody has measured it.
    pub fn with_warpgroups(self, warpgroups: bool) -> CudaDevice {
        CudaDevice { warpgroups, ..self }
    }

    /// The same device, which computes convolutions on tensor cores in the ways of a table where that has one that is
    /// possible; the others by the rule. Not where one tile for all was asked for. Sums may be taken in another order.
    ///
    /// A program that was lowered for the device with the table has room for its ways, and the same steps as without. In
    /// one that was lowered without it, ways that need more room than there is are left to the rule.
    pub fn with_ways(self, ways: Arc<Ways>) -> CudaDevice {
        CudaDevice { ways: Some(ways), ..self }
    }

    /// The same device with one way for all convolutions on tensor cores for which it is possible, to compare ways by.
    pub fn with_way(self, way: Way) -> CudaDevice {
        CudaDevice { way: Some(way), ..self }
    }

    /// The table that it goes by.
    pub fn ways(&self) -> Option<&Ways> {
        self.ways.as_deref()
    }

    /// The name of a file for its table, where those of several GPUs lie: `nvidia-h100-80gb-hbm3-sm_90.json`.
    pub fn ways_file_name(&self) -> String {
        ways::file_name(self)
    }

    /// Whether its times are those of a GPU.
    pub fn is_hardware(&self) -> bool {
        self.driver.is_hardware()
    }

    /// Of each step of a program that was lowered for this device, where there is a way to choose: what a table knows it
    /// by, and all ways that are possible, that of the rule first.
    pub fn possible_ways(&self, program: &Program) -> Vec<Option<(Key, Vec<Way>)>> {
        let formats = Formats::of(self, program);
        let of_step = |(at, step): (usize, &Step)| {
            let (inputs, result) = (shapes(program, &step.inputs), program.value(step.outputs[0]).shape);
            let choices = self.choices(formats.of_products(at));
            let key = Key::of(step, &inputs, result, choices.precision)?;
            let rule = ops::way(step, &inputs, result, choices)?;
            let others = ops::ways(step, &inputs, result, choices).into_iter().filter(|way| *way != rule);
            Some((key, std::iter::once(rule).chain(others).collect()))
        };
        program.steps().iter().enumerate().map(of_step).collect()
    }
}

fn shapes(program: &Program, ids: &[ValueId]) -> Vec<Shape> {
    ids.iter().map(|&id| program.value(id).shape).collect()
}

impl CudaDevice {
    /// For products in a precision, by the rule.
    fn choices(&self, precision: Precision) -> ops::Choices<'_> {
        let CudaDevice { driver, tile, warpgroups, .. } = self;
        ops::Choices { driver: &**driver, precision, tile: *tile, warpgroups: *warpgroups, way: None }
    }

    /// The same of a step, with the table's way where that has a possible one.
    fn tuned_choices(
        &self,
        step: &Step,
        inputs: &[Shape],
        outputs: &[Shape],
        precision: Precision,
    ) -> Option<ops::Choices<'_>> {
        let choices = self.choices(precision);
        let table = self.ways.as_ref().filter(|_| self.tile.is_none());
        let of_table = || table?.get(&Key::of(step, inputs, outputs[0], precision)?);
        let way = self.way.or_else(of_table)?;
        ops::is_possible(way, step, inputs, outputs[0], choices).then_some(ops::Choices { way: Some(way), ..choices })
    }

    /// The same of a step of a program. One that was lowered for another table may have no room for this one's way.
    fn choices_of(&self, program: &Program, at: usize, precision: Precision) -> ops::Choices<'_> {
        let step = &program.steps()[at];
        let (inputs, outputs) = (shapes(program, &step.inputs), shapes(program, &step.outputs));
        let tuned = self.tuned_choices(step, &inputs, &outputs, precision);
        let has_room =
            |choices: &ops::Choices<'_>| ops::workspace(step, &inputs, &outputs, *choices) <= step.workspace.len;
        tuned.filter(has_room).unwrap_or_else(|| self.choices(precision))
    }

    /// What is multiplied in where numbers may be beyond the range of the device's precision.
    fn wide_precision(&self) -> Precision {
        match self.precision {
            Precision::Float16 if self.check_precision(Precision::Tf32).is_ok() => Precision::Tf32,
            Precision::Float16 => Precision::Float32,
            wide => wide,
        }
    }

    /// For either of both: lowering does not know yet which numbers those are.
    fn possible_choices(&self) -> [ops::Choices<'_>; 2] {
        [self.precision, self.wide_precision()].map(|precision| self.choices(precision))
    }

    /// The format that each value of a program that was lowered for this device is kept in.
    pub fn kept_in(&self, program: &Program) -> impl Fn(ValueId) -> Precision + use<> {
        let (formats, precision) = (Formats::of(self, program), self.precision);
        move |id| if formats.is_half(id) { precision } else { Precision::Float32 }
    }

    /// An error where the GPU has no tensor cores for a precision, or this build has no kernels.
    fn check_precision(&self, precision: Precision) -> Result<()> {
        let needed = ops::architecture(precision);
        let why = if self.driver.architecture() < needed {
            format!("that needs sm_{needed} or newer")
        } else if !self.driver.has_kernel(ops::a_kernel(precision)) {
            format!("this build has no kernels for it; build again with {needed} or newer in CORONET_CUDA_ARCHS")
        } else {
            return Ok(());
        };
        Err(Error::Device(format!("{} cannot multiply in {precision}: {why}", self.driver.describe())))
    }
}

impl Target for CudaDevice {
    fn storage(&self, shape: Shape) -> usize {
        layout::storage(shape)
    }

    fn folds(&self, op: &Op, result: Shape, epilogue: &Epilogue) -> bool {
        self.possible_choices().into_iter().all(|choices| ops::folds(op, result, epilogue, choices))
    }

    fn has_step(&self, op: &Op) -> bool {
        ops::has_step(op, self.choices(self.precision))
    }

    fn workspace(&self, step: &Step, inputs: &[Shape], outputs: &[Shape]) -> usize {
        let workspace = |choices| ops::workspace(step, inputs, outputs, choices);
        let tuned = |choices: ops::Choices<'_>| self.tuned_choices(step, inputs, outputs, choices.precision);
        let choices = self.possible_choices().into_iter().flat_map(|rule| [Some(rule), tuned(rule)]);
        choices.flatten().map(workspace).max().unwrap_or(0)
    }
}

impl Device for CudaDevice {
    fn describe(&self) -> String {
        let by = if self.warpgroups { " by warpgroups" } else { "" };
        let tuned = if self.ways.is_some() { ", tuned" } else { "" };
        match self.precision {
            Precision::Float32 => self.driver.describe(),
            precision => format!("{}, products in {precision}{by}{tuned}", self.driver.describe()),
        }
    }

    fn facts(&self) -> Vec<(&'static str, String)> {
        let ways = self.ways.as_ref().map_or("by rule".to_owned(), |ways| {
            let file = ways.file().map_or("a table".to_owned(), |file| file.display().to_string());
            format!("by {file} ({} measured), else by rule", ways.len())
        });
        self.driver.facts().into_iter().chain([("ways of convolutions", ways)]).collect()
    }

    fn as_cuda(&self) -> Option<&CudaDevice> {
        Some(self)
    }

    fn ceilings(&self) -> Result<Option<Ceilings>> {
        let measure = || ceilings::measure(&self.driver, self.precision, &ceilings::Amount::OF_A_GPU);
        self.driver.is_hardware().then(measure).transpose()
    }

    fn precision(&self) -> Precision {
        self.precision
    }

    fn precisions(&self) -> Vec<Precision> {
        Precision::ALL.into_iter().filter(|precision| self.check_precision(*precision).is_ok()).collect()
    }

    fn with_precision(&self, precision: Precision) -> Result<Box<dyn Device>> {
        self.check_precision(precision)?;
        Ok(Box::new(CudaDevice { precision, ..self.clone() }))
    }

    fn fastest_precision(&self) -> (Precision, String) {
        match self.check_precision(Precision::Float16) {
            Ok(()) => (Precision::Float16, "its tensor cores multiply float16".to_owned()),
            Err(error) => (Precision::Float32, error.to_string()),
        }
    }

    fn by_warpgroups(&self) -> Result<Box<dyn Device>> {
        if !self.driver.has_kernel(ops::A_KERNEL_OF_WARPGROUPS) {
            let why = "that needs an sm_90, and a build with 90 in CORONET_CUDA_ARCHS";
            return Err(Error::Device(format!("{} has no warpgroups: {why}", self.driver.describe())));
        }
        Ok(Box::new(self.clone().with_warpgroups(true)))
    }

    fn memory_taken(&self) -> Option<u64> {
        self.driver.memory_taken()
    }

    fn launch_ahead(&self) -> Result<()> {
        self.driver.launch_ahead()
    }

    fn load(&self, program: Program) -> Result<Box<dyn Session>> {
        Ok(Box::new(CudaSession::new(self, program)?))
    }
}

/// A program bound to an arena.
struct CudaSession {
    /// All launches as one, unless the memory is looked at between steps. First, so that it goes before the kernels that it
    /// launches: those may go with the last of the drivers below.
    recording: Option<Box<dyn Recording>>,
    program: Program,
    driver: Arc<dyn Driver>,
    precision: Precision,
    formats: Formats,
    /// What makes masks of frames; it uses the arena.
    frames: Option<Frames>,
    arena: Memory,
    /// The launches of each step.
    steps: Vec<Vec<Launch>>,
    counters: Counters,
    isolation: Option<Isolation>,
    /// Memory that is written to have the caches hold nothing else.
    flusher: Option<Memory>,
}

/// Float32 numbers that fill the largest second-level cache there is twice.
const FLUSHED: usize = 64 << 20;

/// Kernels count the numbers of a value in a C++ `int`.
const MOST_NUMBERS: usize = i32::MAX as usize;

impl CudaSession {
    fn new(device: &CudaDevice, program: Program) -> Result<CudaSession> {
        let driver = device.driver.clone();
        for step in program.steps() {
            let large = |&&id: &&ValueId| program.span(id).is_some_and(|span| span.len > MOST_NUMBERS);
            if let Some(&id) = step.inputs.iter().chain(&step.outputs).find(large) {
                let (name, shape) = (&program.value(id).name, program.value(id).shape);
                let problem = format!(
                    "{name} ({shape}) has more numbers than a CUDA kernel can count; use a smaller size, or a \
                     smaller batch to train"
                );
                return Err(Error::Device(problem));
            }
        }
        let arena = Memory::unwritten(&driver, program.arena_len())?;
        // What steps compute stays unwritten, so that tools can find a step that reads it too early.
        for &id in program.steps().iter().flat_map(|step| &step.inputs) {
            let given = !matches!(program.value(id).source, Source::Node(_));
            if let Some(span) = program.span(id).filter(|_| given) {
                arena.fill(span, 0.0)?;
            }
        }
        let formats = Formats::of(device, &program);
        let counters = counters_of(device, &program, &formats)?;
        counters.reset()?;
        let steps: Vec<Vec<Launch>> =
            (0..program.steps().len()).map(|step| bind(device, &program, step, &arena, &counters, &formats)).collect();
        let missing = |launch: &&Launch| !driver.has_kernel(launch.kernel);
        if let Some(launch) = steps.iter().flatten().find(missing) {
            return Err(Error::Device(format!("this build has no kernel {}", launch.kernel)));
        }
        let isolation = Isolation::of(&program);
        let launches: Vec<&Launch> = steps.iter().flatten().collect();
        // SAFETY: as in `start`; arena and counters live as long as the session that keeps the recording.
        let record = || unsafe { driver.record(&launches) };
        let recording = if isolation.is_none() { Some(record()?) } else { None };
        let precision = device.precision;
        let (frames, flusher) = (None, None);
        Ok(CudaSession {
            program,
            driver,
            precision,
            formats,
            frames,
            arena,
            steps,
            counters,
            recording,
            isolation,
            flusher,
        })
    }

    /// Starts all steps.
    fn start_all(&self) -> Result<()> {
        let Some(recording) = &self.recording else {
            return (0..self.steps.len()).try_for_each(|step| self.start(step));
        };
        recording.start().map_err(|Stopped { launch, error }| {
            let mut ends = self.steps.iter().scan(0, |end, launches| {
                *end += launches.len();
                Some(*end)
            });
            let step = launch.and_then(|launch| ends.position(|end| launch < end));
            self.stopped(step, error)
        })
    }

    /// Starts a step's kernels.
    fn start(&self, step: usize) -> Result<()> {
        for launch in &self.steps[step] {
            // SAFETY: `ops::bind` packs what the kernel's header asks for, with addresses of spans of the arena.
            unsafe { self.driver.launch(launch) }.map_err(|error| self.stopped(Some(step), error))?;
        }
        Ok(())
    }

    /// The error of a run that was stopped, of a step where that is known; the next run may be a better one.
    fn stopped(&self, step: Option<usize>, error: Error) -> Error {
        // Blocks that never came have not been counted. What may go wrong here has gone wrong already.
        let _ = self.counters.reset();
        match step {
            Some(step) => self.named(step, error),
            None => error,
        }
    }

    /// An error with the step it came from.
    fn named(&self, step: usize, error: Error) -> Error {
        Error::Device(format!("{}: {error}", self.program.steps()[step].name))
    }

    /// Runs all steps, each between checks of the memory that it may not touch.
    fn run_isolated(&self, isolation: &Isolation, mut done: impl FnMut(usize, Duration)) -> Result<()> {
        for span in isolation.poisoned() {
            let numbers: Vec<f32> = (span.offset..).take(span.len).map(unwritten).collect();
            self.arena.write(span, &numbers)?;
        }
        for (_, span) in self.program.steps().iter().flat_map(|step| self.halves(step)) {
            self.arena.write(span, &vec![UNWRITTEN_PAIR; span.len])?;
        }
        let mut arena = vec![0.0; self.program.arena_len()];
        for step in 0..self.steps.len() {
            let time = self.arena.without(isolation.guards(), || self.driver.time(&mut || self.start(step)));
            done(step, time?);
            self.arena.read(Span { offset: 0, len: arena.len() }, &mut arena)?;
            for (id, span) in self.halves(&self.program.steps()[step]) {
                let numbers = &mut arena[span.offset..span.offset + span.len];
                if numbers[span.len.div_ceil(2)..].iter().any(|number| number.to_bits() != UNWRITTEN_PAIR.to_bits()) {
                    let problem = format!("wrote behind {}", self.program.value(id).name);
                    return Err(self.named(step, Error::Device(problem)));
                }
                let halves: Vec<u16> = bytemuck::cast_slice(numbers)[..span.len].to_vec();
                numbers.iter_mut().zip(halves).for_each(|(number, bits)| *number = self.precision.of_half(bits));
            }
            let numbers = |span: Span| &arena[span.offset..span.offset + span.len];
            isolation.check(&self.program, step, one_panel, numbers)?;
        }
        Ok(())
    }

    /// The results of a step that are kept in 16 bits: in the first half of their spans.
    fn halves(&self, step: &Step) -> Vec<(ValueId, Span)> {
        let halves = step.outputs.iter().filter(|&&id| self.formats.is_half(id));
        halves.filter_map(|&id| Some((id, self.program.span(id)?))).collect()
    }

    /// A value's shape and place, checked against the number of elements that the caller has.
    fn place(&self, value: ValueId, elements: usize) -> Result<(Shape, Span)> {
        let info = self.program.value(value);
        match self.program.span(value) {
            None => Err(Error::Request(format!("{} is not part of the program", info.name))),
            Some(_) if elements != info.shape.elements() => {
                Err(Error::Request(format!("{} is {}, but {elements} numbers were given", info.name, info.shape)))
            }
            Some(span) => Ok((info.shape, span)),
        }
    }
}

/// Two numbers of 16 bits that nobody has written: NaNs in either format.
const UNWRITTEN_PAIR: f32 = f32::from_bits(0x7fc1_7fc1);

/// Room for the counters of each step.
fn counters_of(device: &CudaDevice, program: &Program, formats: &Formats) -> Result<Counters> {
    let counts = program.steps().iter().enumerate().map(|(at, step)| {
        let choices = device.choices_of(program, at, formats.of_products(at));
        ops::counters(step, &shapes(program, &step.inputs), &shapes(program, &step.outputs), choices)
    });
    Counters::new(&device.driver, counts)
}

/// The launches of a step.
fn bind(
    device: &CudaDevice,
    program: &Program,
    at: usize,
    arena: &Memory,
    counters: &Counters,
    formats: &Formats,
) -> Vec<Launch> {
    let step = &program.steps()[at];
    let operand = |(id, span): (ValueId, Span)| {
        let is_half = formats.is_half(id);
        ops::Operand { address: arena.address(span), len: span.len, is_half }
    };
    let spans = |ids: &[ValueId]| ids.iter().filter_map(|&id| Some((id, program.span(id)?))).collect::<Vec<_>>();
    let operands = |ids: &[ValueId]| spans(ids).into_iter().map(operand).collect();
    ops::bind(&ops::Binding {
        op: &step.op,
        epilogue: step.epilogue,
        choices: device.choices_of(program, at, formats.of_products(at)),
        input_shapes: shapes(program, &step.inputs),
        output_shapes: shapes(program, &step.outputs),
        inputs: operands(&step.inputs),
        outputs: operands(&step.outputs),
        workspace: arena.address(step.workspace),
        counters: counters.of(at),
    })
}

impl Session for CudaSession {
    fn program(&self) -> &Program {
        &self.program
    }

    fn kernels(&self, step: usize) -> Vec<&'static str> {
        self.steps[step].iter().map(|launch| launch.kernel).collect()
    }

    fn write(&mut self, value: ValueId, data: &[f32]) -> Result<()> {
        let (shape, span) = self.place(value, data.len())?;
        if matches!(self.program.value(value).source, Source::Node(_)) {
            return Err(Error::Request(format!("{} is computed, not given", self.program.value(value).name)));
        }
        let mut numbers = vec![0.0; span.len];
        layout::pack(shape, one_panel, data, &mut numbers);
        if self.formats.is_half(value) {
            let halves: Vec<u16> = numbers.iter().map(|&number| self.precision.to_half(number)).collect();
            return self.arena.write_half(span, &halves);
        }
        self.arena.write(span, &numbers)
    }

    fn kept_in(&self, value: ValueId) -> Precision {
        if self.formats.is_half(value) { self.precision } else { Precision::Float32 }
    }

    fn run(&mut self) -> Result<()> {
        if let Some(isolation) = &self.isolation {
            return self.run_isolated(isolation, |_, _| ());
        }
        self.start_all()?;
        self.driver.synchronise()
    }

    fn run_measured(&mut self) -> Result<RunTime> {
        let (begun, mut enqueue) = (Instant::now(), Duration::ZERO);
        if self.isolation.is_some() {
            self.run()?;
            return Ok(RunTime { enqueue: None, compute: begun.elapsed() });
        }
        let compute = self.driver.time(&mut || {
            let begun = Instant::now();
            self.start_all()?;
            enqueue = begun.elapsed();
            Ok(())
        })?;
        Ok(RunTime { enqueue: Some(enqueue), compute })
    }

    fn is_one_graph(&self) -> bool {
        self.recording.is_some()
    }

    fn frames(&mut self, path: &FramePath) -> Result<Option<&mut dyn FrameSession>> {
        Ok(self.open_frames(path)?.then_some(self))
    }

    fn flush_caches(&mut self) -> Result<()> {
        let flusher = match &self.flusher {
            Some(flusher) => flusher,
            None => self.flusher.insert(Memory::unwritten(&self.driver, FLUSHED)?),
        };
        flusher.fill(Span { offset: 0, len: FLUSHED }, 0.0)
    }

    fn run_timed(&mut self, times: &mut [Duration]) -> Result<()> {
        if times.len() != self.steps.len() {
            let (steps, given) = (self.steps.len(), times.len());
            return Err(Error::Request(format!("the program has {steps} steps, but {given} times were given")));
        }
        if let Some(isolation) = &self.isolation {
            return self.run_isolated(isolation, |step, time| times[step] += time);
        }
        for (step, total) in times.iter_mut().enumerate() {
            *total += self.driver.time(&mut || self.start(step)).map_err(|error| self.named(step, error))?;
        }
        Ok(())
    }

    fn read_into(&self, value: ValueId, data: &mut [f32]) -> Result<()> {
        let (shape, span) = self.place(value, data.len())?;
        if !self.program.is_readable(value) {
            return Err(Error::Request(format!("{} is not an output of the program", self.program.value(value).name)));
        }
        let mut numbers = vec![0.0; span.len];
        if self.formats.is_half(value) {
            let mut halves = vec![0; span.len];
            self.arena.read_half(span, &mut halves)?;
            numbers = halves.into_iter().map(|bits| self.precision.of_half(bits)).collect();
        } else {
            self.arena.read(span, &mut numbers)?;
        }
        layout::unpack(shape, one_panel, &numbers, data);
        Ok(())
    }
}
