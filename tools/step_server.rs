//! Training steps behind a line protocol, so that `tools/compare_training.py` and `compare_torch.py` can time them in turn
//! with PyTorch's.
//!
//! `step_server --weights W.safetensors --batch B.safetensors --threads T --rate R [--device D --precision P]` loads, does no
//! step and prints `ready`; `run` does one step of the preset `better` on the batch and prints milliseconds: with `--device`
//! those of the device, then, and without it only, those from the batch to the loss; `memory` prints the bytes of the
//! arena; `losses` prints the loss that each
//! step began with; `quit` ends. `B` holds `input` [B, C, 2N+1, H, W] and `mask` [B, 1, H, W].

use coronet::device::{DeviceChoice, Precision, Session};
use coronet::model::{CeNet, TrainingStep};
use coronet::program::{Placement, Program};
use coronet::train::Preset;
use coronet::weights::Weights;
use safetensors::tensor::SafeTensors;
use std::error::Error;
use std::io::{BufRead, Write};
use std::path::PathBuf;
use std::time::Instant;

type Outcome<T> = std::result::Result<T, Box<dyn Error>>;

#[derive(clap::Parser)]
struct Arguments {
    #[arg(long)]
    weights: PathBuf,
    #[arg(long)]
    batch: PathBuf,
    #[arg(long)]
    threads: usize,
    #[arg(long)]
    rate: f32,
    #[arg(long)]
    device: Option<DeviceChoice>,
    #[arg(long, default_value_t = Precision::Float32)]
    precision: Precision,
}

fn main() -> Outcome<()> {
    let arguments = <Arguments as clap::Parser>::parse();
    let (step, mut session, batch) = load(&arguments)?;
    let mut losses = Vec::new();
    answer("ready")?;
    for line in std::io::stdin().lock().lines() {
        match line?.as_str() {
            "run" => {
                // What a run does for each step beyond reading frames: the batch goes in, the loss comes out.
                let start = Instant::now();
                session.write(step.network.window, &batch.window)?;
                session.write(step.mask, &batch.mask)?;
                let number = losses.len() as u64 + 1;
                step.write_schedule(number, arguments.rate, |id, numbers| session.write(id, numbers))?;
                let alone = session.run_measured()?.compute;
                losses.push(session.read(step.total_loss)?.data()[0]);
                let host = format!("{:.4}", start.elapsed().as_secs_f64() * 1e3);
                let alone = arguments.device.map(|_| format!("{:.4} ", alone.as_secs_f64() * 1e3));
                answer(&(alone.unwrap_or_default() + &host))?;
            }
            "losses" => answer(&losses.iter().map(f32::to_string).collect::<Vec<_>>().join(" "))?,
            "memory" => answer(&(session.program().arena_len() * size_of::<f32>()).to_string())?,
            "quit" => break,
            other => return Err(format!("unknown command: {other}").into()),
        }
    }
    Ok(())
}

fn answer(line: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}

struct Batch {
    window: Vec<f32>,
    mask: Vec<f32>,
}

fn load(arguments: &Arguments) -> Outcome<(TrainingStep, Box<dyn Session>, Batch)> {
    let weights = Weights::load(&arguments.weights)?;
    let bytes = std::fs::read(&arguments.batch)?;
    let file = SafeTensors::deserialize(&bytes)?;
    let numbers = |name: &str| -> Outcome<(Vec<usize>, Vec<f32>)> {
        let tensor = file.tensor(name)?;
        let numbers = tensor.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        Ok((tensor.shape().to_vec(), numbers))
    };
    let ((shape, window), (_, mask)) = (numbers("input")?, numbers("mask")?);
    let &[batch, _, _, height, width] = shape.as_slice() else {
        return Err("`input` must be [B, C, 2N+1, H, W]".into());
    };
    let recipe = Preset::Better.recipe();
    let network = CeNet::build(weights.config(), batch, height, width)?;
    let step = TrainingStep::build(network, recipe.objective, recipe.optimizer)?;
    let device = arguments.device.unwrap_or(DeviceChoice::Cpu).open(Some(arguments.threads))?.device;
    let device = device.with_precision(arguments.precision)?;
    // The probability is read for the training IoU.
    let outputs = [step.dice_loss, step.total_loss, step.network.probability];
    let program = Program::lower(&step.network.graph, &outputs, &*device, Placement::Shared)?;
    let mut session = device.load(program)?;
    weights.write_into(&step.network, |id, numbers| session.write(id, numbers))?;
    Ok((step, session, Batch { window, mask }))
}
