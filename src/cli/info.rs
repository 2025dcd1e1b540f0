//! `coronet info`: what a weights file holds, or what a network's program does.

use super::print;
use clap::{Args, ValueHint};
use coronet::device::cpu::CpuDevice;
use coronet::graph::Shape;
use coronet::model::{CeNet, Config, Objective, Optimizer, Stem, TrainingStep};
use coronet::program::{Placement, Program};
use coronet::weights::Weights;
use coronet::{Error, Result};
use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};

/// Show what a weights file holds, or what a network computes step by step
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("subject").required(true).args(["weights", "program"]))]
pub struct Arguments {
    /// A weights file: configuration, layers, parameters, multiply-adds
    #[arg(value_name = "WEIGHTS", value_hint = ValueHint::FilePath)]
    weights: Option<PathBuf>,

    /// The program of one frame on the CPU: steps, shapes, work, memory
    #[arg(long)]
    program: bool,

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

/// Runs the verb.
pub fn run(arguments: &Arguments) -> Result<()> {
    let text = match &arguments.weights {
        Some(path) => describe_weights(path, arguments.size)?,
        None => describe_program(arguments)?,
    };
    print(&mut io::stdout().lock(), &text)
}

fn inference(config: Config, size: usize) -> Result<Program> {
    let network = CeNet::build(config, 1, size, size)?;
    let device = CpuDevice::new(Some(1))?;
    Program::lower(&network.graph, &[network.probability], &device, Placement::Shared)
}

fn describe_program(arguments: &Arguments) -> Result<String> {
    let &Arguments { width, stem, n, in_channels, size, training, .. } = arguments;
    let config = Config::new(width, stem, n, in_channels)?;
    let program = match training {
        None => inference(config, size)?,
        Some(0) => return Err(Error::Request("a batch holds at least one window".into())),
        Some(batch) => training_step(config, batch, size)?,
    };
    Ok(format!("{config}, {size}x{size}\n{program}"))
}

fn training_step(config: Config, batch: usize, size: usize) -> Result<Program> {
    let network = CeNet::build(config, batch, size, size)?;
    let objective = Objective { rho: 1e-4, ..Objective::default() };
    let step = TrainingStep::build(network, objective, Optimizer::Sgd { momentum: 0.9 })?;
    let device = CpuDevice::new(Some(1))?;
    Program::lower(&step.network.graph, &[step.total_loss], &device, Placement::Shared)
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
    let macs = inference(config, size)?.macs();
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
