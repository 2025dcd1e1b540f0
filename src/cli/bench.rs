//! `coronet bench`: how long a frame takes on a device, from its 8 bits to its mask, and where the time goes.

mod cold_start;
mod compare;
mod table;

use super::device::DeviceOptions;
use super::frame_size::FrameSize;
use super::progress::{Progress, interrupted, listen_for_ctrl_c};
use super::{note, print};
use clap::{Args, ValueHint};
use coronet::bench::{
    ColdStart, Configuration, Environment, FrameBench, KernelRow, Method, Mode, ModeReport, Report, SCHEMA,
    SCHEMA_VERSION, StepRow, peak_resident_bytes,
};
use coronet::device::{Device, Precision, PrecisionChoice};
use coronet::media::Size;
use coronet::model::{Config, Stem};
use coronet::segment::EngineNetwork;
use coronet::weights::Weights;
use coronet::{Error, Result};
use std::io;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// Measure how long a frame takes, from its 8 bits to its mask, and where the time goes
#[derive(Debug, Clone, Args)]
pub struct Arguments {
    /// A network's weights, safetensors; without it random ones of the configuration below
    #[arg(long, value_name = "W", value_hint = ValueHint::FilePath, conflicts_with_all = ["width", "stem", "n", "in_channels"])]
    weights: Option<PathBuf>,

    /// Base width of the network: a multiple of 4
    #[arg(long, default_value_t = 64)]
    width: usize,

    /// How the input is reduced before the first encoder: half or quarter
    #[arg(long, default_value = "half")]
    stem: Stem,

    /// N, the frames read on each side of the middle one: 0 to 3
    #[arg(long, default_value_t = 2)]
    n: usize,

    /// Channels of a frame: 1 or 3
    #[arg(long, default_value_t = 1)]
    in_channels: usize,

    /// Side of the square the network sees, in pixels
    #[arg(long, value_name = "S", default_value = "448")]
    size: NonZeroUsize,

    /// Width and height of the frames that come in and of the masks; the network's size by default
    #[arg(long, value_name = "WxH")]
    frame: Option<FrameSize>,

    #[command(flatten)]
    device: DeviceOptions,

    /// What convolutions, but for the temporal one, multiply; see `coronet segment`
    #[arg(long, value_name = "P", default_value_t = PrecisionChoice::Only(Precision::Float32))]
    precision: PrecisionChoice,

    /// What happens between frames: nothing (warm), caches are filled with something else (flushed), the device idles
    /// until the next frame is due (paced); several with commas, the first is the one that counts
    #[arg(long, value_name = "MODE", default_value = "warm", value_delimiter = ',')]
    mode: Vec<Mode>,

    /// Frames a second in the paced mode
    #[arg(long, default_value = "15")]
    fps: FramesPerSecond,

    /// Frames that count, in each mode
    #[arg(long, value_name = "F", default_value = "100")]
    frames: NonZeroUsize,

    /// Frames before the first that counts
    #[arg(long, value_name = "F", default_value_t = 10)]
    warm_up: usize,

    /// Processes to start to time their first mask; 0 for none
    #[arg(long, value_name = "P", default_value_t = 5)]
    cold_starts: usize,

    /// List every step, too, not only the kernels
    #[arg(long)]
    steps: bool,

    /// Fail when the 99th percentile from frame to mask, in the first mode, is above so many milliseconds
    #[arg(long, value_name = "MS")]
    assert_p99: Option<Milliseconds>,

    /// Print one JSON document on stdout, every sample in it, and nothing else there
    #[arg(long)]
    json: bool,

    /// Measure nothing: compare two such documents
    #[arg(
        long, num_args = 2, value_names = ["A.json", "B.json"], value_hint = ValueHint::FilePath,
        conflicts_with_all = ["json", "assert_p99", "weights", "mode", "steps", "precision", "device"]
    )]
    compare: Option<Vec<PathBuf>>,

    /// No progress
    #[arg(long)]
    quiet: bool,

    /// Segment one frame, say so, and end
    #[arg(long, hide = true)]
    first_mask: bool,
}

/// More than 0, and a number.
fn positive(text: &str, what: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|number: &f64| number.is_finite() && *number > 0.0);
    number.ok_or_else(|| format!("{what} is a number above 0, not {text}"))
}

/// A rate.
#[derive(Debug, Clone, Copy)]
struct FramesPerSecond(f64);

impl FromStr for FramesPerSecond {
    type Err = String;

    fn from_str(text: &str) -> Result<FramesPerSecond, String> {
        let rate = positive(text, "a rate")?;
        if rate < 1e-3 {
            Err(format!("a rate of {text} is less than a frame in a quarter of an hour"))
        } else {
            Ok(FramesPerSecond(rate))
        }
    }
}

/// A limit.
#[derive(Debug, Clone, Copy)]
struct Milliseconds(f64);

impl FromStr for Milliseconds {
    type Err = String;

    fn from_str(text: &str) -> Result<Milliseconds, String> {
        positive(text, "a limit in milliseconds").map(Milliseconds)
    }
}

impl Arguments {
    fn frame(&self) -> Size {
        let side = self.size.get();
        self.frame.map_or(Size { width: side, height: side }, |frame| frame.0)
    }

    fn weights(&self) -> Result<Weights> {
        match &self.weights {
            Some(path) => Weights::load(path),
            None => Weights::seeded(Config::new(self.width, self.stem, self.n, self.in_channels)?, SEED),
        }
    }

    fn bench(&self, weights: &Weights, device: &dyn Device) -> Result<FrameBench> {
        let side = self.size.get();
        let network = EngineNetwork::load(weights, device, Size { width: side, height: side })?;
        FrameBench::new(network, self.frame())
    }
}

/// What random weights are drawn from.
const SEED: u64 = 1;
/// Frames whose steps are timed, at most.
const STEP_RUNS: usize = 20;

/// Runs the verb.
pub fn run(arguments: &Arguments) -> Result<()> {
    let out = &mut io::stdout().lock();
    if let Some([a, b]) = arguments.compare.as_deref() {
        return print(out, &compare::compared(a, b)?);
    }
    if arguments.first_mask {
        return print(out, &cold_start::first_mask(arguments)?);
    }
    listen_for_ctrl_c();
    let report = measured(arguments)?;
    if arguments.json {
        let text = serde_json::to_string_pretty(&report);
        print(out, &text.map_err(|error| Error::Internal(format!("the report is not JSON: {error}")))?)?;
    } else {
        print(out, &table::table(&report, arguments.steps))?;
    }
    check_p99(&report, arguments.assert_p99)
}

fn check_p99(report: &Report, limit: Option<Milliseconds>) -> Result<()> {
    let metric = report.modes.first().and_then(|mode| mode.metric("end_to_end"));
    match (limit, metric) {
        (Some(Milliseconds(limit)), Some(metric)) if metric.latency.p99 > limit => {
            let p99 = metric.latency.p99;
            Err(Error::Verification(format!("the 99th percentile is {p99:.3} ms, more than the {limit} ms allowed")))
        }
        _ => Ok(()),
    }
}

fn measured(arguments: &Arguments) -> Result<Report> {
    let weights = arguments.weights()?;
    let side = arguments.size.get();
    weights.config().check_size(side, side)?;
    let (device, precision) = arguments.device.open_in(arguments.precision, arguments.quiet)?;
    if cfg!(debug_assertions) && !arguments.quiet {
        note("coronet: this is a build without optimisation; its times say nothing");
    }
    let mut environment = Environment::of(&*device);
    // Before this process takes memory, time or the GPU from those.
    drop(device);
    let cold = cold_start::measure(arguments, precision, &environment.device, &weights)?;
    let (device, _) = arguments.device.open_in(PrecisionChoice::Only(precision), true)?;
    let (found, was) = (device.describe(), &environment.device);
    if found != *was {
        return Err(Error::Device(format!("there was {was}, and now there is {found}; name one by --device")));
    }
    let mut bench = arguments.bench(&weights, &*device)?;
    environment.ask_again(&*device);
    let network_config = weights.config();
    drop(weights);

    let progress = Progress::new("frames", arguments.quiet);
    let (warm_up, frames) = (arguments.warm_up, arguments.frames.get());
    let step_runs = frames.min(STEP_RUNS);
    progress.begin(arguments.mode.len().saturating_mul(warm_up.saturating_add(frames)).saturating_add(step_runs));
    let mut go_on = || {
        progress.advance();
        !interrupted()
    };
    let period = Duration::from_secs_f64(1.0 / arguments.fps.0);
    let mut modes = Vec::new();
    for &mode in &arguments.mode {
        modes.push(ModeReport::of(mode, &bench.run(mode, warm_up, frames, period, &mut go_on)?));
    }
    let steps = bench.steps(step_runs, &mut go_on)?;
    drop(progress);
    let config =
        Configuration { graph: bench.session().is_one_graph(), ..configuration(arguments, precision, network_config) };
    let is_on_device = bench.is_on_device();
    let arena_bytes = (bench.session().program().arena_len() * size_of::<f32>()) as u64;
    drop(bench);
    // What was measured is not lost where these find no room.
    let ceilings = device.ceilings().unwrap_or_else(|error| {
        note(&format!("coronet: the device's ceilings are not known: {error}"));
        None
    });
    let main = modes.first().and_then(|mode| mode.metric("end_to_end"));
    Ok(Report {
        schema: SCHEMA,
        schema_version: SCHEMA_VERSION,
        config,
        median_ms: main.map(|metric| metric.latency.median).ok_or(Error::Internal("no mode was measured".into()))?,
        environment,
        method: Method::new(warm_up, frames, arguments.fps.0, is_on_device),
        modes,
        kernels: KernelRow::of(&steps, ceilings.as_ref()),
        steps: StepRow::of(&steps, ceilings.as_ref()),
        ceilings,
        cold_start: ColdStart::of(&cold.times),
        arena_bytes,
        peak_resident_bytes: cold.memory.resident.or_else(peak_resident_bytes),
        device_memory_bytes: cold.memory.of_device,
    })
}

fn configuration(arguments: &Arguments, precision: Precision, network: Config) -> Configuration {
    let origin = arguments.weights.as_ref().map(|path| path.display().to_string());
    Configuration {
        precision: precision.to_string(),
        weights: origin.unwrap_or(format!("random, seed {SEED}")),
        device: arguments.device.said(),
        ..Configuration::of(network, arguments.size.get(), arguments.frame())
    }
}

#[cfg(test)]
mod tests;
