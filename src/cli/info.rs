//! `coronet info`: what a weights file holds, or what a network's program does.

use super::print;
use clap::{Args, ValueHint};
use coronet::device::Precision;
use coronet::device::cpu::CpuDevice;
use coronet::graph::Shape;
use coronet::model::{CeNet, Config, Objective, Optimizer, Stem, TrainingStep};
use coronet::program::{Placement, Program, Target};
use coronet::weights::Weights;
use coronet::{Error, Result};
use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Show what a weights file holds, or what a network computes step by step
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("subject").required(true).args(["weights", "program"]))]
pub struct Arguments {
    /// A weights file: configuration, layers, parameters, multiply-adds
    #[arg(value_name = "WEIGHTS", value_hint = ValueHint::FilePath)]
    weights: Option<PathBuf>,

    /// The program of one frame on the CPU, or with --arch on a GPU: steps, shapes, work, memory
    #[arg(long)]
    program: bool,

    /// The launches on a GPU of this architecture, such as 90 or 90a: grids, registers, shared memory, occupancy
    #[arg(long, value_name = "ARCH", requires = "program")]
    arch: Option<Architecture>,

    /// What convolutions on that GPU multiply: float32, tf32, float16 or bfloat16
    #[arg(long, value_name = "P", default_value_t = Precision::Float32, requires = "arch")]
    precision: Precision,

    /// Base width of the network: a multiple of 4
    #[arg(long, default_value_t = 64, conflicts_with = "weights")]
    width: usize,

    /// How the input is reduced before the first encoder: half or quarter
    #[arg(long, default_value = "half", conflicts_with = "weights")]
    stem: Stem,

    /// N, the frames read on each side of the middle one: 0 to 3
    #[arg(long, default_value_t = 2, conflicts_with = "weights")]
    n: usize,

    /// Channels of a frame: 1 or 3
    #[arg(long, default_value_t = 1, conflicts_with = "weights")]
    in_channels: usize,

    /// Side of the square the network sees, in pixels
    #[arg(long, default_value_t = 448)]
    size: usize,

    /// Show the program of a training step of this batch instead of inference
    #[arg(long, value_name = "BATCH", conflicts_with = "weights")]
    training: Option<usize>,
}

/// 90 for `90`, `90a` and `sm_90`.
#[derive(Debug, Clone, Copy)]
struct Architecture(u32);

impl FromStr for Architecture {
    type Err = String;

    fn from_str(text: &str) -> Result<Architecture, String> {
        let number = text.trim_start_matches("sm_").trim_end_matches(|c: char| c.is_ascii_lowercase());
        let number =
            number.parse().map_err(|_| format!("an architecture is a number such as 80 or 90a, not {text}"))?;
        Ok(Architecture(number))
    }
}

/// Runs the verb.
pub fn run(arguments: &Arguments) -> Result<()> {
    let text = match &arguments.weights {
        Some(path) => describe_weights(path, arguments.size)?,
        None => describe_program(arguments)?,
    };
    print(&mut io::stdout().lock(), &text)
}

fn inference(config: Config, size: usize, device: &dyn Target) -> Result<Program> {
    let network = CeNet::build(config, 1, size, size)?;
    Program::lower(&network.graph, &[network.probability], device, Placement::Shared)
}

fn describe_program(arguments: &Arguments) -> Result<String> {
    let &Arguments { width, stem, n, in_channels, size, training, .. } = arguments;
    let config = Config::new(width, stem, n, in_channels)?;
    let lower = |device: &dyn Target| match training {
        None => inference(config, size, device),
        Some(0) => Err(Error::Request("a batch holds at least one window".into())),
        Some(batch) => training_step(config, batch, size, device),
    };
    let head = format!("{config}, {size}x{size}");
    match arguments.arch {
        None => Ok(format!("{head}\n{}", lower(&CpuDevice::new(Some(1))?)?)),
        Some(Architecture(architecture)) => {
            Ok(format!("{head}, {}\n{}", arguments.precision, launches(architecture, arguments.precision, &lower)?))
        }
    }
}

#[cfg(not(feature = "cuda"))]
fn launches(_: u32, _: Precision, _: &dyn Fn(&dyn Target) -> Result<Program>) -> Result<String> {
    Err(Error::Device("this build has no code for GPUs; build with the feature `cuda` for that".into()))
}

/// What a GPU would be told to do, a row for each launch.
#[cfg(feature = "cuda")]
fn launches(architecture: u32, precision: Precision, lower: &dyn Fn(&dyn Target) -> Result<Program>) -> Result<String> {
    use coronet::device::cuda::{CudaDevice, Multiprocessor};
    let device = CudaDevice::on_paper(architecture, precision)?;
    let program = lower(&device)?;
    let planned = device.plan(&program)?;
    let names = planned.iter().map(|launch| program.steps()[launch.step].name.len()).max().unwrap_or(0).max(4);
    let kernels = planned.iter().map(|launch| launch.kernel.len()).max().unwrap_or(0).max(6);
    let mut text = String::new();
    if let Some(Multiprocessor { gpu, count, .. }) = Multiprocessor::of(architecture) {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "sm_{architecture}; waves are those of {count} multiprocessors ({gpu})");
    }
    let heads = ["grid", "threads", "registers", "shared", "blocks/SM", "waves"];
    let [grid, threads, registers, shared, blocks, waves] = heads;
    let _ = writeln!(
        text,
        "{:>4}  {:names$}  {:kernels$}  {grid:>14}  {threads:>7}  {registers:>9}  {shared:>7}  {blocks:>9}  {waves:>8}",
        "step", "node", "kernel"
    );
    for launch in &planned {
        let (step, name) = (launch.step, &program.steps()[launch.step].name);
        let grid = launch.grid.map(|side| side.to_string()).join("x");
        let _ = writeln!(
            text,
            "{step:>4}  {name:names$}  {:kernels$}  {grid:>14}  {:>7}  {:>9}  {:>7}  {:>9}  {:>8.2}",
            launch.kernel, launch.threads, launch.registers, launch.shared_bytes, launch.blocks_at_once, launch.waves
        );
    }
    let kept_in = device.kept_in(&program);
    let bytes: usize = program.steps().iter().map(|step| program.traffic(step, &kept_in)).sum();
    let _ = writeln!(
        text,
        "{:.2} GMAC, {:.2} GFLOP, {:.1} MB moved at least, arena {:.1} MB",
        program.macs() as f64 / 1e9,
        program.flops() as f64 / 1e9,
        bytes as f64 / 1e6,
        (program.arena_len() * size_of::<f32>()) as f64 / 1e6
    );
    let _ = write!(text, "{} launches", planned.len());
    Ok(text)
}

fn training_step(config: Config, batch: usize, size: usize, device: &dyn Target) -> Result<Program> {
    let network = CeNet::build(config, batch, size, size)?;
    let objective = Objective { rho: 1e-4, ..Objective::default() };
    let step = TrainingStep::build(network, objective, Optimizer::Sgd { momentum: 0.9 })?;
    Program::lower(&step.network.graph, &[step.total_loss], device, Placement::Shared)
}

fn describe_weights(path: &Path, size: usize) -> Result<String> {
    let weights = Weights::load(path)?;
    let config = weights.config();
    let mut text = format!("{config}\n");
    let mut row = |name: &str, shape: &str, numbers: &str| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{name:<34} {shape:<28} {numbers:>12}");
    };
    row("parameter", "shape", "numbers");
    for (name, shape) in config.parameters()? {
        row(&name, &dimensions(shape), &shape.elements().to_string());
    }
    let macs = inference(config, size, &CpuDevice::new(Some(1))?)?.macs();
    let millions = weights.parameters() as f64 / 1e6;
    let _ = write!(
        text,
        "{} layers, {millions:.2} M parameters, {:.2} GMAC a frame at {size}x{size}",
        layers(config)?,
        macs as f64 / 1e9
    );
    Ok(text)
}

fn dimensions(shape: Shape) -> String {
    shape.dims().iter().map(usize::to_string).collect::<Vec<_>>().join(" x ")
}

/// Convolutions of any kind: the layers with a filter.
fn layers(config: Config) -> Result<usize> {
    let filters = |shape: &Shape| matches!(shape, Shape::Filter { .. } | Shape::TemporalFilter { .. });
    Ok(config.parameters()?.iter().filter(|(_, shape)| filters(shape)).count())
}
