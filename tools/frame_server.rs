//! One network behind a line protocol, so that `tools/compare_cpu.py` and `compare_torch.py` can time it in turn with others.
//!
//! `frame_server --weights W.safetensors --input I.safetensors --threads T [--device D --precision P]` loads, warms up and
//! prints `ready`; `run` computes a frame and prints milliseconds: with `--device` those of the device, then, and without
//! it only, those from plain array to plain arrays; `steps` prints a table of the time each step took; `output PATH`
//! writes the last frame's `logits` and `probability` and prints `written`; `quit` ends. `I` holds `input`
//! [1, C, 2N+1, H, W].

use coronet::Result;
use coronet::device::{DeviceChoice, Precision, Session};
use coronet::model::CeNet;
use coronet::program::{Placement, Program};
use coronet::weights::Weights;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use std::error::Error;
use std::io::{BufRead, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

type Outcome<T> = std::result::Result<T, Box<dyn Error>>;

#[derive(clap::Parser)]
struct Arguments {
    #[arg(long)]
    weights: PathBuf,
    #[arg(long)]
    input: PathBuf,
    #[arg(long)]
    threads: usize,
    #[arg(long)]
    device: Option<DeviceChoice>,
    #[arg(long, default_value_t = Precision::Float32)]
    precision: Precision,
}

fn main() -> Outcome<()> {
    let arguments = <Arguments as clap::Parser>::parse();
    let (network, mut session, window) = load(&arguments)?;
    let mut results =
        [network.logits, network.probability].map(|id| session.read(id)).into_iter().collect::<Result<Vec<_>>>()?;
    for _ in 0..3 {
        session.run()?;
    }
    answer("ready")?;
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        match line.split_once(' ').unwrap_or((&line, "")) {
            ("run", "") => {
                let alone = arguments.device.map(|_| session.run_measured()).transpose()?;
                // As other engines do it: from a plain array to plain arrays.
                let start = Instant::now();
                session.write(network.window, &window)?;
                session.run()?;
                // On a GPU the others copy one map.
                if arguments.device.is_none() {
                    session.read_into(network.logits, results[0].data_mut())?;
                }
                session.read_into(network.probability, results[1].data_mut())?;
                let host = format!("{:.4}", start.elapsed().as_secs_f64() * 1e3);
                let alone = alone.map(|time| format!("{:.4} ", time.compute.as_secs_f64() * 1e3));
                answer(&(alone.unwrap_or_default() + &host))?;
            }
            ("steps", "") => answer(&step_table(session.as_mut())?)?,
            ("output", path) => {
                write_outputs(&network, session.as_ref(), path)?;
                answer("written")?;
            }
            ("quit", "") => break,
            _ => return Err(format!("unknown command: {line}").into()),
        }
    }
    Ok(())
}

fn answer(line: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}

fn load(arguments: &Arguments) -> Outcome<(CeNet, Box<dyn Session>, Vec<f32>)> {
    let weights = Weights::load(&arguments.weights)?;
    let bytes = std::fs::read(&arguments.input)?;
    let input = SafeTensors::deserialize(&bytes)?;
    let input = input.tensor("input")?;
    let &[1, _, _, height, width] = input.shape() else { return Err("the input must be [1, C, 2N+1, H, W]".into()) };
    let network = CeNet::build(weights.config(), 1, height, width)?;
    let device = arguments.device.unwrap_or(DeviceChoice::Cpu).open(Some(arguments.threads))?.device;
    let device = device.with_precision(arguments.precision)?;
    let outputs = [network.logits, network.probability];
    let program = Program::lower(&network.graph, &outputs, &*device, Placement::Shared)?;
    let mut session = device.load(program)?;
    weights.write_into(&network, |id, numbers| session.write(id, numbers))?;
    let numbers: Vec<f32> =
        input.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
    session.write(network.window, &numbers)?;
    Ok((network, session, numbers))
}

/// The least time of ten frames for each step, slowest first, with the rate of its arithmetic.
fn step_table(session: &mut dyn Session) -> Result<String> {
    let mut least = vec![Duration::MAX; session.program().steps().len()];
    for _ in 0..10 {
        let mut times = vec![Duration::ZERO; least.len()];
        session.run_timed(&mut times)?;
        least.iter_mut().zip(times).for_each(|(least, time)| *least = time.min(*least));
    }
    let program = session.program();
    let mut order: Vec<usize> = (0..least.len()).collect();
    order.sort_by_key(|&step| std::cmp::Reverse(least[step]));
    let total: Duration = least.iter().sum();
    let mut table = format!("{:.2} ms in all steps\n", total.as_secs_f64() * 1e3);
    for step in order {
        let (seconds, flops) = (least[step].as_secs_f64(), program.step_flops(&program.steps()[step]) as f64);
        let (name, kernel) = (&program.steps()[step].name, program.steps()[step].op.operator().name());
        table += &format!("{:>9.3} ms {:>8.1} GFLOP/s  {kernel} {name}\n", seconds * 1e3, flops / seconds / 1e9);
    }
    Ok(table)
}

fn write_outputs(network: &CeNet, session: &dyn Session, path: &str) -> Outcome<()> {
    let tensors = [("logits", network.logits), ("probability", network.probability)]
        .map(|(name, id)| session.read(id).map(|tensor| (name, tensor)));
    let tensors = tensors.into_iter().collect::<Result<Vec<_>>>()?;
    let views: Vec<_> = tensors
        .iter()
        .map(|(name, t)| Ok((*name, TensorView::new(Dtype::F32, t.shape().dims(), bytemuck::cast_slice(t.data()))?)))
        .collect::<std::result::Result<_, safetensors::SafeTensorError>>()?;
    std::fs::write(path, safetensors::serialize(views, None)?)?;
    Ok(())
}
