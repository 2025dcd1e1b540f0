//! What a benchmark publishes: all that is needed to repeat it, every sample, and what follows from them.

use super::{Environment, FrameTimes, Mode, StepTime};
use crate::device::Ceilings;
use crate::media::Size;
use crate::model::Config;
use crate::segment::Latency;
use serde::Serialize;
use std::time::Duration;

/// The name of the layout.
pub const SCHEMA: &str = "coronet/bench";
/// Raised when a field changes its meaning or goes away; new fields do not raise it.
pub const SCHEMA_VERSION: u32 = 1;

/// A benchmark.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: &'static str,
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// What was measured.
    pub config: Configuration,
    /// The median from frame to mask of the first mode.
    pub median_ms: f64,
    /// Where and when.
    pub environment: Environment,
    /// How.
    pub method: Method,
    /// Every mode that was asked for.
    pub modes: Vec<ModeReport>,
    /// The most that the device does, where that was measured.
    pub ceilings: Option<Ceilings>,
    /// All steps of a kernel together, the slowest first.
    pub kernels: Vec<KernelRow>,
    /// Every step in its order.
    pub steps: Vec<StepRow>,
    /// From the start of a process to its first mask; `None` where none was started.
    pub cold_start: Option<ColdStart>,
    /// Bytes of the network's arena on the device.
    pub arena_bytes: u64,
    /// Resident bytes at most of a process that has loaded the network and segmented a frame; of this process where
    /// there was no other.
    pub peak_resident_bytes: Option<u64>,
    /// Bytes of the device's own memory that such a process has taken beyond what the driver keeps for itself; `None` where the
    /// device has none, or no process was started.
    pub device_memory_bytes: Option<u64>,
}

/// What was measured.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Configuration {
    /// Base width.
    pub width: usize,
    /// How the input is reduced.
    pub stem: String,
    /// Frames read on each side of the middle one.
    pub n: usize,
    /// Channels of a frame.
    pub in_channels: usize,
    /// Side of the square that the network sees.
    pub size: usize,
    /// Width and height of the frames and masks.
    pub frame: Size,
    /// Frames at a time.
    pub batch: usize,
    /// What convolutions multiply.
    pub precision: String,
    /// Where the weights come from.
    pub weights: String,
    /// The device as it was asked for.
    pub device: String,
    /// Whether a run is one captured graph.
    pub graph: bool,
}

impl Configuration {
    /// Of a network of this configuration; the rest is the caller's to fill in.
    pub fn of(config: Config, size: usize, frame: Size) -> Configuration {
        Configuration {
            width: config.width(),
            stem: config.stem().to_string(),
            n: config.neighbours(),
            in_channels: config.in_channels(),
            size,
            frame,
            batch: 1,
            precision: String::new(),
            weights: String::new(),
            device: String::new(),
            graph: false,
        }
    }
}

/// How it was measured.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Method {
    /// Frames before the first that counts, in each mode.
    pub warm_up: usize,
    /// Frames that count, in each mode.
    pub frames: usize,
    /// Frames a second in the paced mode.
    pub paced_fps: f64,
    /// What lies between the first and the last moment of a frame.
    pub end_to_end: &'static str,
    /// How percentiles are taken.
    pub percentiles: &'static str,
    /// How steps are timed.
    pub steps: &'static str,
}

impl Method {
    /// With all around the network on the host, or on the device.
    pub fn new(warm_up: usize, frames: usize, paced_fps: f64, is_on_device: bool) -> Method {
        Method {
            warm_up,
            frames,
            paced_fps,
            end_to_end: if is_on_device {
                "host memory to host memory: an 8-bit frame goes to the device, is resized, scaled and put together with \
                 the 2N frames before it, the network runs, the probability is resized and becomes a mask without small \
                 components, the mask comes back"
            } else {
                "host memory to host memory: an 8-bit frame is resized and scaled, the window of 2N+1 frames goes to the \
                 device, the network runs, the probability comes back, is resized and becomes a mask without small \
                 components"
            },
            percentiles: "nearest rank, over all frames that count",
            steps: "median of up to 20 further frames in which each step is waited for by itself",
        }
    }
}

/// One mode.
#[derive(Debug, Clone, Serialize)]
pub struct ModeReport {
    /// `warm`, `flushed` or `paced`.
    pub mode: &'static str,
    /// Frame to mask, then its parts.
    pub metrics: Vec<Metric>,
}

/// One quantity, in milliseconds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Metric {
    /// `end_to_end`, `prepare`, `h2d`, `enqueue`, `compute`, `d2h` or `post`.
    pub name: &'static str,
    /// What people compare.
    #[serde(flatten)]
    pub latency: Latency,
    /// Every sample, in the order of the frames.
    pub samples_ms: Vec<f64>,
}

impl Metric {
    fn of(name: &'static str, samples: &[Duration]) -> Option<Metric> {
        let samples_ms = samples.iter().map(|sample| sample.as_secs_f64() * 1e3).collect();
        Some(Metric { name, latency: Latency::of(samples)?, samples_ms })
    }
}

impl ModeReport {
    /// Of frames measured in one mode; `enqueue` is left out where the device does not work beside the host.
    pub fn of(mode: Mode, times: &[FrameTimes]) -> ModeReport {
        let metric = |name, part: &dyn Fn(&FrameTimes) -> Option<Duration>| {
            Metric::of(name, &times.iter().filter_map(part).collect::<Vec<_>>())
        };
        let metrics = [
            metric("end_to_end", &|times| Some(times.end_to_end)),
            metric("prepare", &|times| Some(times.prepare)),
            metric("h2d", &|times| Some(times.engine.upload)),
            metric("enqueue", &|times| times.engine.enqueue),
            metric("compute", &|times| Some(times.engine.compute)),
            metric("d2h", &|times| Some(times.engine.download)),
            metric("post", &|times| Some(times.post)),
        ];
        ModeReport { mode: mode.name(), metrics: metrics.into_iter().flatten().collect() }
    }

    /// A quantity by its name.
    pub fn metric(&self, name: &str) -> Option<&Metric> {
        self.metrics.iter().find(|metric| metric.name == name)
    }
}

/// What a step, or all steps of a kernel, have reached.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Cell {
    /// Milliseconds.
    pub ms: f64,
    /// 10^9 floating-point operations a second.
    pub gflops: f64,
    /// 10^9 bytes a second.
    pub gbytes: f64,
    /// Of the ceiling of arithmetic or traffic, whichever binds.
    pub share_of_ceiling: Option<f64>,
    /// Floating-point operations.
    pub flops: u64,
    /// Bytes at least.
    pub bytes: u64,
    /// Kernels launched, where the device has such.
    pub launches: usize,
}

impl Cell {
    fn of(step: &StepTime, ceilings: Option<&Ceilings>) -> Cell {
        let (flops, bytes, seconds) = (step.flops as f64, step.bytes as f64, step.time.as_secs_f64());
        Cell {
            ms: seconds * 1e3,
            gflops: flops / seconds / 1e9,
            gbytes: bytes / seconds / 1e9,
            share_of_ceiling: ceilings.map(|ceilings| ceilings.share(flops, bytes, step.time)),
            flops: step.flops,
            bytes: step.bytes,
            launches: step.launches,
        }
    }
}

/// All steps of a kernel.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct KernelRow {
    /// The operator with what is done to its result as it is written.
    pub kernel: String,
    /// How many steps.
    pub steps: usize,
    /// Of the time of all steps.
    pub share_of_time: f64,
    /// What they have reached.
    #[serde(flatten)]
    pub cell: Cell,
}

/// One step.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StepRow {
    /// The node.
    pub step: String,
    /// The operator with what is done to its result as it is written.
    pub kernel: String,
    /// What it has reached.
    #[serde(flatten)]
    pub cell: Cell,
}

impl KernelRow {
    /// A row for each kernel.
    pub fn of(steps: &[StepTime], ceilings: Option<&Ceilings>) -> Vec<KernelRow> {
        let all: f64 = steps.iter().map(|step| step.time.as_secs_f64()).sum();
        let row = |kind: StepTime| KernelRow {
            cell: Cell::of(&kind, ceilings),
            share_of_time: kind.time.as_secs_f64() / all,
            steps: kind.steps,
            kernel: kind.kernel,
        };
        super::by_kernel(steps).into_iter().map(row).collect()
    }
}

impl StepRow {
    /// A row for each step.
    pub fn of(steps: &[StepTime], ceilings: Option<&Ceilings>) -> Vec<StepRow> {
        let row = |step: &StepTime| StepRow {
            step: step.name.clone(),
            kernel: step.kernel.clone(),
            cell: Cell::of(step, ceilings),
        };
        steps.iter().map(row).collect()
    }
}

/// Processes that were started to time their first mask.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ColdStart {
    /// From the start of the process: its program and the weights are read (from the system's file cache, if they are
    /// there), the device is opened, the network loaded, one window computed, and its mask is there.
    #[serde(flatten)]
    pub latency: Latency,
    /// One for each process.
    pub samples_ms: Vec<f64>,
}

impl ColdStart {
    /// `None` without samples.
    pub fn of(samples: &[Duration]) -> Option<ColdStart> {
        let samples_ms = samples.iter().map(|sample| sample.as_secs_f64() * 1e3).collect();
        Some(ColdStart { latency: Latency::of(samples)?, samples_ms })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::segment::EngineTimes;

    #[test]
    fn a_cell_says_what_was_reached_of_what_there_is() {
        let step = StepTime {
            name: "a".into(),
            kernel: "conv".into(),
            steps: 1,
            launches: 1,
            flops: 4_000_000_000,
            bytes: 1_000_000_000,
            time: Duration::from_millis(500),
        };
        let ceilings = Ceilings { flops: 16e9, bytes: 10e9 };
        let cell = Cell::of(&step, Some(&ceilings));
        assert_eq!((cell.ms, cell.gflops, cell.gbytes, cell.share_of_ceiling), (500.0, 8.0, 2.0, Some(0.5)));
        assert_eq!(Cell::of(&step, None).share_of_ceiling, None);
        let rows = KernelRow::of(&[step.clone(), StepTime { kernel: "pool".into(), ..step }], None);
        assert_eq!(rows[0].share_of_time, 0.5);
    }

    #[test]
    fn enqueue_is_only_there_where_the_device_works_beside_the_host() {
        let ms = Duration::from_millis;
        let times = |enqueue| FrameTimes {
            end_to_end: ms(10),
            prepare: ms(1),
            engine: EngineTimes { upload: ms(2), enqueue, compute: ms(4), download: ms(1) },
            post: ms(2),
        };
        let names = |report: ModeReport| report.metrics.iter().map(|metric| metric.name).collect::<Vec<_>>();
        let host = ModeReport::of(Mode::Warm, &[times(None); 2]);
        assert_eq!(host.metric("compute").unwrap().samples_ms, [4.0, 4.0]);
        assert_eq!(names(host), ["end_to_end", "prepare", "h2d", "compute", "d2h", "post"]);
        assert!(names(ModeReport::of(Mode::Paced, &[times(Some(ms(3)))])).contains(&"enqueue"));
    }
}
