//! Fits a small network to clips of the phantom, with the engine's own training step:
//! `cargo run --release --example fit_demo_weights -- --out FILE`. The three runs that made the network which Coronet
//! carries along stand in `docs/demo-weights.md`.
//!
//! Windows of many varied patients are drawn once; batches of them, mirrored and with brightness and contrast changed
//! at random, go through SGD with momentum and a warm-up and cosine schedule. What is measured on the way is the Dice
//! coefficient on patients of the preset `reference`, none of whom is ever trained on.

use clap::Parser;
use coronet::device::Device;
use coronet::device::cpu::CpuDevice;
use coronet::media::{Frame, FramePreparer, Mask, ProbabilityMap, Size};
use coronet::metrics::{Agreement, Counts};
use coronet::model::{CeNet, Config, Objective, Optimizer, Stem, TrainingStep};
use coronet::phantom::{Phantom, Preset, Settings};
use coronet::post::PostProcessing;
use coronet::program::{Placement, Program};
use coronet::segment::{EngineNetwork, WindowNetwork};
use coronet::weights::Weights;
use rayon::prelude::*;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Instant;

/// Fit a small network to phantom clips
#[derive(Parser)]
struct Arguments {
    /// Where the weights go
    #[arg(long)]
    out: PathBuf,
    /// Weights to start from; seeded ones by default
    #[arg(long)]
    init: Option<PathBuf>,
    /// Base width
    #[arg(long, default_value_t = 8)]
    width: usize,
    /// Stem: half or quarter
    #[arg(long, default_value = "quarter")]
    stem: Stem,
    /// Frames on each side of the middle one
    #[arg(long, default_value_t = 1)]
    n: usize,
    /// Side of the square the network sees
    #[arg(long, default_value_t = 448)]
    size: usize,
    /// Patients to learn from
    #[arg(long, default_value = "240")]
    patients: NonZeroUsize,
    /// Windows drawn of each
    #[arg(long, default_value = "2")]
    windows: NonZeroUsize,
    /// Steps of SGD
    #[arg(long, default_value = "1600")]
    steps: NonZeroUsize,
    /// Windows a step
    #[arg(long, default_value = "4")]
    batch: NonZeroUsize,
    /// The highest learning rate
    #[arg(long, default_value_t = 1.0)]
    rate: f32,
    /// Weight of the background's Dice term in the loss
    #[arg(long, default_value_t = 0.0)]
    background: f32,
    /// Seconds between the start of the injection and the earliest window; before 0 there is no agent
    #[arg(long, default_value_t = 0.2, allow_negative_numbers = true)]
    earliest: f64,
    /// Decides patients, order and changes
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Steps over which the rate rises.
const WARM_UP: usize = 100;
/// Share of the L2 norm in the loss, and SGD's momentum.
const RHO: f32 = 1e-5;
const MOMENTUM: f32 = 0.9;
/// Between two looks at patients not trained on.
const BETWEEN_SCORES: usize = 400;
/// Patients and windows to score on, and where their seeds begin: far from those to learn from.
const SCORED: (usize, usize) = (8, 2);
const SCORED_SEED: u64 = 1 << 40;

/// 2N+1 prepared frames, oldest first, and the middle one's mask.
struct Window {
    frames: Vec<Vec<f32>>,
    mask: Mask,
}

fn main() -> coronet::Result<()> {
    let arguments = Arguments::parse();
    let config = Config::new(arguments.width, arguments.stem, arguments.n, 1)?;
    let size = Size { width: arguments.size, height: arguments.size };
    let begun = Instant::now();
    let draw = |preset, seed, count| draw(preset, seed, count, config, (size, arguments.earliest));
    let learned = draw(Preset::Varied, arguments.seed, (arguments.patients.get(), arguments.windows.get()))?;
    let scored = draw(Preset::Reference, SCORED_SEED, SCORED)?;
    println!("{} windows drawn in {:.0} s", learned.len() + scored.len(), begun.elapsed().as_secs_f64());
    let device = CpuDevice::new(None)?;
    fit(&arguments, config, &device, &learned, |step, loss, weights| {
        weights.save(&arguments.out)?;
        let (dice, seconds) = (score(weights, &device, size, &scored)?, begun.elapsed().as_secs_f64());
        println!("step {step:5}  loss {loss:.4}  Dice on other patients {dice:.4}  {seconds:.0} s");
        Ok(())
    })
}

/// All steps; every [`BETWEEN_SCORES`] of them `report` gets their number, their mean loss and the weights.
fn fit(
    arguments: &Arguments,
    config: Config,
    device: &dyn Device,
    windows: &[Window],
    report: impl Fn(usize, f32, &Weights) -> coronet::Result<()>,
) -> coronet::Result<()> {
    let start = match &arguments.init {
        Some(path) => Weights::load(path)?,
        None => Weights::seeded(config, arguments.seed)?,
    };
    let network = CeNet::build(config, arguments.batch.get(), arguments.size, arguments.size)?;
    let objective = Objective { rho: RHO, background: arguments.background, cross_entropy: 0.0 };
    let step = TrainingStep::build(network, objective, Optimizer::Sgd { momentum: MOMENTUM })?;
    let program = Program::lower(&step.network.graph, &[step.dice_loss], device, Placement::Shared)?;
    let mut session = device.load(program)?;
    start.write_into(&step.network, |id, numbers| session.write(id, numbers))?;

    let mut random = Shuffle(arguments.seed);
    let (mut order, mut losses) = (Vec::new(), Vec::new());
    for number in 0..arguments.steps.get() {
        let (mut inputs, mut masks) = (Vec::new(), Vec::new());
        for _ in 0..arguments.batch.get() {
            if order.is_empty() {
                order = random.permutation(windows.len());
            }
            append_changed(&windows[order.pop().unwrap_or(0)], arguments.size, &mut random, &mut inputs, &mut masks);
        }
        session.write(step.network.window, &inputs)?;
        session.write(step.mask, &masks)?;
        let rate = rate(number, arguments.steps.get(), arguments.rate);
        step.write_schedule(number as u64 + 1, rate, |id, numbers| session.write(id, numbers))?;
        session.run()?;
        losses.push(session.read(step.dice_loss)?.data()[0]);
        if (number + 1) % BETWEEN_SCORES == 0 || number + 1 == arguments.steps.get() {
            let loss = losses.iter().sum::<f32>() / losses.len() as f32;
            losses.clear();
            report(number + 1, loss, &Weights::read_from(&step.network, |id| session.read(id))?)?;
        }
    }
    Ok(())
}

/// Windows of `patients`, at moments spread over the time in which vessels fill, are full and wash out.
fn draw(
    preset: Preset,
    seed: u64,
    (patients, windows): (usize, usize),
    config: Config,
    (size, earliest): (Size, f64),
) -> coronet::Result<Vec<Window>> {
    let drawn: Vec<Vec<Window>> = (0..patients)
        .into_par_iter()
        .map(|patient| {
            let mut preparer = FramePreparer::new(size, coronet::media::Colour::Grey, size)?;
            let mut random = Shuffle(seed ^ (patient as u64) << 20);
            let mut prepared = |frame: &Frame| {
                let mut planes = vec![0.0; preparer.values()];
                preparer.prepare(frame, &mut planes).map(|()| planes)
            };
            (0..windows)
                .map(|_| {
                    let start_seconds = earliest + 3.2 * random.uniform();
                    let settings = preset.settings(seed, patient);
                    let phantom = Phantom::new(Settings { size, start_seconds, frames: config.frames(), ..settings })?;
                    let drawn = (0..config.frames()).map(|i| phantom.frame(i)).collect::<coronet::Result<Vec<_>>>()?;
                    let frames = drawn.iter().map(|d| prepared(&d.frame)).collect::<coronet::Result<_>>()?;
                    Ok(Window { frames, mask: drawn[config.neighbours()].mask.clone() })
                })
                .collect()
        })
        .collect::<coronet::Result<_>>()?;
    Ok(drawn.into_iter().flatten().collect())
}

/// Appends a window and its mask, mirrored and with brightness and contrast changed at random.
fn append_changed(window: &Window, side: usize, random: &mut Shuffle, inputs: &mut Vec<f32>, masks: &mut Vec<f32>) {
    let (mirrored, upside_down) = (random.uniform() < 0.5, random.uniform() < 0.15);
    let (gain, offset) = (0.7 + 0.6 * random.uniform() as f32, 0.5 * (random.uniform() as f32 - 0.5));
    let source = |i: usize| {
        let (x, y) = (i % side, i / side);
        (if upside_down { side - 1 - y } else { y }) * side + if mirrored { side - 1 - x } else { x }
    };
    for frame in &window.frames {
        inputs.extend((0..side * side).map(|i| (gain * frame[source(i)] + offset).clamp(-1.6, 1.6)));
    }
    masks.extend((0..side * side).map(|i| f32::from(u8::from(window.mask.pixels[source(i)] != 0))));
}

/// Linear warm-up, then a cosine down to nothing.
fn rate(step: usize, steps: usize, highest: f32) -> f32 {
    if step < WARM_UP {
        return highest * (step + 1) as f32 / WARM_UP as f32;
    }
    let share = (step - WARM_UP) as f32 / steps.saturating_sub(WARM_UP).max(1) as f32;
    highest * (0.5 + 0.5 * (std::f32::consts::PI * share).cos())
}

/// The mean Dice coefficient with the usual post-processing.
fn score(weights: &Weights, device: &dyn Device, size: Size, windows: &[Window]) -> coronet::Result<f64> {
    let mut network = EngineNetwork::load(weights, device, size)?;
    let counts = windows.iter().map(|window| {
        let frames: Vec<&[f32]> = window.frames.iter().map(Vec::as_slice).collect();
        let mut values = vec![0.0; size.area()];
        network.run(&frames, &mut values)?;
        Counts::of(&PostProcessing::default().mask(&ProbabilityMap { size, values }), &window.mask)
    });
    let counts = counts.collect::<coronet::Result<Vec<_>>>()?;
    Ok(Agreement::over(&counts).map_or(0.0, |agreement| agreement.mean.dice))
}

/// SplitMix64.
struct Shuffle(u64);

impl Shuffle {
    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn uniform(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    fn permutation(&mut self, count: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..count).collect();
        for i in (1..count).rev() {
            order.swap(i, (self.bits() % (i as u64 + 1)) as usize);
        }
        order
    }
}
