//! `coronet tune`: which way to cut each convolution is the quickest on this GPU, kept in a table for later runs.

use clap::{Args, ValueHint};
use coronet::device::{DeviceChoice, PrecisionChoice};
use coronet::model::Stem;
use std::num::NonZeroUsize;
use std::path::PathBuf;

/// Measure on this GPU which way to cut each convolution of a network is the quickest, and keep that in a file
#[derive(Debug, Args)]
pub struct Arguments {
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

    /// What convolutions multiply: auto, tf32, float16 or bfloat16; in float32 there is nothing to choose
    #[arg(long, value_name = "P", default_value_t = PrecisionChoice::Auto)]
    precision: PrecisionChoice,

    /// The GPU: auto (the first that fits), cuda, cuda:1 (counted from 0), or emulated, whose times say nothing
    #[arg(long, value_name = "DEVICE", default_value_t = DeviceChoice::Auto)]
    device: DeviceChoice,

    /// The table; what it says of other convolutions stays. By default a file of the GPU's name in the folder that
    /// CORONET_TUNING names, else in the user's caches, where every verb finds it
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    out: Option<PathBuf>,

    /// No progress
    #[arg(long)]
    quiet: bool,
}

/// Runs the verb.
#[cfg(not(any(feature = "cuda", feature = "emulator")))]
pub fn run(_arguments: &Arguments) -> coronet::Result<()> {
    let problem = "this build has no code for GPUs; build with the feature `cuda` for that";
    Err(coronet::Error::Device(problem.into()))
}

#[cfg(any(feature = "cuda", feature = "emulator"))]
pub use gpu::run;

#[cfg(any(feature = "cuda", feature = "emulator"))]
mod gpu {
    use super::super::progress::{Progress, interrupted, listen_for_ctrl_c};
    use super::super::tuning::default_file;
    use super::super::{count, note, print};
    use super::Arguments;
    use coronet::device::cuda::{CudaDevice, Runs, Tuned, TunedConvolution, Ways};
    use coronet::device::{Device, PrecisionChoice, Session};
    use coronet::model::{CeNet, Config};
    use coronet::new_file::NewFile;
    use coronet::program::{Placement, Program};
    use coronet::weights::Weights;
    use coronet::{Error, Result};
    use std::fmt::Write;
    use std::fs;
    use std::io;
    use std::path::{Path, PathBuf};

    /// What random weights are drawn from.
    const SEED: u64 = 1;

    /// Runs the verb.
    pub fn run(arguments: &Arguments) -> Result<()> {
        let &Arguments { width, stem, n, in_channels, quiet, .. } = arguments;
        let (config, side) = (Config::new(width, stem, n, in_channels)?, arguments.size.get());
        config.check_size(side, side)?;
        let device = opened(arguments)?;
        let gpu = device.as_cuda().ok_or_else(|| {
            Error::Device(format!("there is nothing to choose on {}; `coronet tune` is for GPUs", device.describe()))
        })?;
        let place = Place::find(arguments.out.as_deref(), gpu, quiet)?;
        let runs = if gpu.is_hardware() { Runs::OF_A_GPU } else { Runs::ONE };
        if !gpu.is_hardware() && !quiet {
            note("coronet: the GPU is an emulated one; its times say nothing");
        }
        listen_for_ctrl_c();
        let tuned = measured(gpu, config, side, runs, quiet)?;
        let head = format!("{config}, {side}x{side}, on {}", device.describe());
        // Steps are timed one by one, and what wins so may lose in one go.
        let kept = if gpu.is_hardware() && tuned.by_best >= tuned.by_rule {
            format!("which is no gain: {} stays as it was", place.path.display())
        } else {
            let (path, kept) = place.complete(&tuned.convolutions, gpu)?;
            format!("{} in {}", count(kept, "way"), path.display())
        };
        print(&mut io::stdout().lock(), &format!("{head}\n{}\n{kept}", table(&tuned)))
    }

    /// The device, by the rule throughout.
    fn opened(arguments: &Arguments) -> Result<Box<dyn Device>> {
        let opened = arguments.device.open(None)?;
        if let Some(reason) = opened.reason.filter(|_| !arguments.quiet) {
            note(&format!("coronet: {reason}"));
        }
        let precision = match arguments.precision {
            PrecisionChoice::Only(precision) => precision,
            PrecisionChoice::Auto => opened.device.fastest_precision().0,
        };
        opened.device.with_precision(precision)
    }

    fn measured(gpu: &CudaDevice, config: Config, side: usize, runs: Runs, quiet: bool) -> Result<Tuned> {
        let (network, weights) = (CeNet::build(config, 1, side, side)?, Weights::seeded(config, SEED)?);
        let window: Vec<f32> =
            (0..network.graph.shape(network.window).elements()).map(|i| (i as f32 * 0.7).sin()).collect();
        let mut load = |device: &CudaDevice| -> Result<Box<dyn Session>> {
            let program = Program::lower(&network.graph, &[network.probability], device, Placement::Shared)?;
            let mut session = device.load(program)?;
            weights.write_into(&network, |id, numbers| session.write(id, numbers))?;
            session.write(network.window, &window)?;
            Ok(session)
        };
        let progress = Progress::new("passes", quiet);
        let mut go_on = |done: usize, all: usize| {
            if done == 0 {
                progress.begin(all);
            } else {
                progress.advance();
            }
            !interrupted()
        };
        gpu.tune(runs, &mut load, &mut go_on)
    }

    /// Where the table goes.
    struct Place {
        path: PathBuf,
        /// By the user.
        is_named: bool,
        file: NewFile,
    }

    impl Place {
        /// Finds out before anything is measured whether the file can be written. One that somebody has named is not
        /// replaced by a table unless it is one of this GPU.
        fn find(named: Option<&Path>, gpu: &CudaDevice, quiet: bool) -> Result<Place> {
            let path = named.map(Path::to_path_buf).or_else(|| default_file(gpu)).ok_or_else(|| {
                Error::Request("neither CORONET_TUNING nor HOME says where tables are; choose a file by --out".into())
            })?;
            kept(&path, named.is_some(), gpu, quiet)?;
            if let Some(folder) = path.parent().filter(|_| named.is_none()) {
                fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
            }
            Ok(Place { file: NewFile::create(&path)?, path, is_named: named.is_some() })
        }

        /// Writes the table with what was found; where, and how many ways it has.
        fn complete(self, tuned: &[TunedConvolution], gpu: &CudaDevice) -> Result<(PathBuf, usize)> {
            // Not what was there before: another process may have written meanwhile what it has found.
            let mut ways = kept(&self.path, self.is_named, gpu, true)?;
            for TunedConvolution { key, rule, best, .. } in tuned {
                if best.way == rule.way {
                    ways.remove(key);
                } else {
                    ways.set(*key, *best, *rule);
                }
            }
            ways.write(self.file)?;
            Ok((self.path, ways.len()))
        }
    }

    /// What the table says already and goes on saying; unless `quiet`, why that is nothing.
    fn kept(path: &Path, is_named: bool, gpu: &CudaDevice, quiet: bool) -> Result<Ways> {
        let say = |text: String| {
            if !quiet {
                note(&format!("coronet: {text}; it is made anew"));
            }
        };
        match Ways::read(path).and_then(|ways| ways.check_device(gpu).map(|()| ways)) {
            Ok(ways) if ways.are_of_this_build() => return Ok(ways),
            Ok(_) => say(format!("{} was measured with other kernels", path.display())),
            Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            Err(error) if is_named => return Err(error),
            Err(error) => say(error.to_string()),
        }
        Ok(Ways::none_of(gpu))
    }

    /// A row for each convolution, the slowest first, a line of them all, and one of the whole network.
    fn table(Tuned { convolutions: tuned, by_rule, by_best }: &Tuned) -> String {
        let layer = |it: &TunedConvolution| match it.steps {
            1 => it.name.clone(),
            steps => format!("{} and {} more", it.name, steps - 1),
        };
        let mut rows: Vec<&TunedConvolution> = tuned.iter().collect();
        let time = |it: &TunedConvolution| it.steps as f64 * it.rule.microseconds;
        rows.sort_by(|a, b| time(b).total_cmp(&time(a)));
        let cells = rows.iter().map(|it| {
            let (rule, best) = (it.rule.microseconds, it.best.microseconds);
            [
                layer(it),
                it.key.to_string(),
                it.rule.way.to_string(),
                format!("{rule:.1}"),
                it.best.way.to_string(),
                format!("{best:.1}"),
                gain(rule, best),
            ]
        });
        let heads = ["layer", "convolution", "by rule", "us", "best", "us", "gain"].map(str::to_owned);
        let cells: Vec<[String; 7]> = std::iter::once(heads).chain(cells).collect();
        let widths: [usize; 7] =
            std::array::from_fn(|column| cells.iter().map(|row| row[column].len()).max().unwrap_or(0));
        let mut text = String::new();
        for row in &cells {
            let [layer, convolution, rule, rule_us, best, best_us, gain] = row;
            let [a, b, c, d, e, f, g] = widths;
            // Writing to a String cannot fail.
            let _ = writeln!(
                text,
                "{layer:a$}  {convolution:b$}  {rule:c$}  {rule_us:>d$}  {best:e$}  {best_us:>f$}  {gain:>g$}"
            );
        }
        let all = |microseconds: &dyn Fn(&TunedConvolution) -> f64| {
            tuned.iter().map(|it| it.steps as f64 * microseconds(it)).sum::<f64>()
        };
        let (rule, best) = (all(&|it| it.rule.microseconds), all(&|it| it.best.microseconds));
        let (steps, ways) =
            (tuned.iter().map(|it| it.steps).sum::<usize>(), tuned.iter().map(|it| it.ways).sum::<usize>());
        let _ = writeln!(
            text,
            "all {steps} convolutions: {rule:.1} us by rule, {best:.1} us by the best of {ways} ways, {} less",
            gain(rule, best)
        );
        let [rule, best] = [by_rule, by_best].map(|time| time.as_secs_f64() * 1e6);
        let gain = gain(rule, best);
        let _ = write!(text, "the network in one go: {rule:.1} us by rule, {best:.1} us by these ways, {gain} less");
        text
    }

    fn gain(rule: f64, best: f64) -> String {
        format!("{:.1} %", 100.0 * (1.0 - best / rule.max(f64::MIN_POSITIVE)))
    }
}
