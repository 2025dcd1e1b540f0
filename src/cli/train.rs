//! `coronet train`: a data set in, trained weights out, in a folder that can be gone on with.

use super::device::DeviceOptions;
use super::progress::{interrupted, listen_for_ctrl_c};
use super::{check_outside, note, print};
use clap::{Args, ValueHint};
use coronet::dataset::{Dataset, Split, SplitChoice};
use coronet::device::Precision;
use coronet::model::Stem;
use coronet::train::{
    Configuration, Epoch, Preset, RunFolder, Settings, Start, StepReport, Training, TrainingObserver, file, train,
};
use coronet::{Error, Result};
use indicatif::{ProgressBar, ProgressStyle};
use std::io::{self, IsTerminal};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Train a network on a data set of clips with labels
///
/// The data set is a folder of clips, each with frames/NNNN.png and labels/NNNN.png. The run is a folder: configuration,
/// split, metrics, curves, TensorBoard events, a log, a checkpoint, the last and the best weights. Ctrl-C, or anything
/// worse, loses at most what came after the last checkpoint; --resume goes on from there to the same bits.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The data set
    #[arg(value_hint = ValueHint::DirPath)]
    data: PathBuf,

    /// Folder of the run, made where it is missing
    #[arg(long, value_name = "RUN", value_hint = ValueHint::DirPath)]
    out: PathBuf,

    /// Go on with the run in the folder, as it was begun
    #[arg(long, conflicts_with_all = [
        "preset", "width", "stem", "n", "in_channels", "size", "epochs", "batch", "rate", "seed", "folds", "all",
        "encoder", "init", "precision",
    ])]
    resume: bool,

    /// How to train: article (its protocol to the letter) or better (AdamW, warm-up and cosine, cross entropy beside Dice,
    /// augmentation)
    #[arg(long, default_value_t = Preset::Better)]
    preset: Preset,

    /// Base width of the network: channels of the first encoder, a multiple of 4; 16 by default
    #[arg(long, value_name = "W", conflicts_with = "init")]
    width: Option<usize>,

    /// How the input is reduced before the first encoder: half or quarter; half by default
    #[arg(long, conflicts_with = "init")]
    stem: Option<Stem>,

    /// N, the frames read on each side of the middle one: 0 to 3; 1 by default
    #[arg(long, conflicts_with = "init")]
    n: Option<usize>,

    /// Channels of a frame: 1 (luminance) or 3; 1 by default
    #[arg(long, conflicts_with = "init")]
    in_channels: Option<usize>,

    /// Side of the square the network sees, in pixels [default: the preset's, 448]
    #[arg(long, value_name = "S")]
    size: Option<usize>,

    /// How often every window is seen [default: the preset's, 100]
    #[arg(long, value_name = "COUNT")]
    epochs: Option<usize>,

    /// Windows a step [default: the preset's, 4]
    #[arg(long, value_name = "COUNT")]
    batch: Option<usize>,

    /// The highest learning rate [default: the preset's]
    #[arg(long, value_name = "RATE", allow_negative_numbers = true)]
    rate: Option<f32>,

    /// What is drawn at random: first weights, split, order, augmentation
    #[arg(long, value_name = "S", default_value = "1")]
    seed: u64,

    /// Test on one of so many parts, made of whole clips, instead of on a sixth of each clip
    #[arg(long, value_name = "K", requires = "fold", conflicts_with = "all")]
    folds: Option<usize>,

    /// Which part to test on, counted from 0
    #[arg(long, value_name = "I", requires = "folds")]
    fold: Option<usize>,

    /// Learn from everything and test on nothing
    #[arg(long)]
    all: bool,

    /// Encoders to start from: torchvision's ResNet-34 (.pth, .safetensors); its width is 64
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, conflicts_with_all = ["init", "width"])]
    encoder: Option<PathBuf>,

    /// Weights to start from; they say which network it is
    #[arg(long, value_name = "W", value_hint = ValueHint::FilePath)]
    init: Option<PathBuf>,

    #[command(flatten)]
    device: DeviceOptions,

    /// What convolutions, but for the temporal one, multiply: float32, or on the tensor cores of a GPU tf32, float16 or
    /// bfloat16, rounded from float32 and summed in it
    #[arg(long, value_name = "P", default_value_t = Precision::Float32)]
    precision: Precision,

    /// Threads that read frames ahead
    #[arg(long, value_name = "COUNT", default_value = "2")]
    workers: NonZeroUsize,

    /// Minutes between two checkpoints within an epoch; there is one after every epoch, too
    #[arg(long, value_name = "MINUTES", default_value = "10", allow_negative_numbers = true)]
    checkpoint_every: f64,

    /// No progress and no closing lines
    #[arg(long)]
    quiet: bool,
}

/// Runs the verb.
pub fn run(arguments: &Arguments) -> Result<()> {
    listen_for_ctrl_c();
    let between_checkpoints = arguments.checkpoint_every * 60.0;
    let between_checkpoints = Duration::try_from_secs_f64(between_checkpoints)
        .map_err(|_| Error::Request(format!("{} minutes between checkpoints cannot be", arguments.checkpoint_every)))?;
    // What is cheap to find wrong comes first.
    let dataset = Dataset::open(&arguments.data)?;
    let (folder, configuration, split) = if arguments.resume {
        let (folder, configuration, split) = resumed(arguments, &dataset)?;
        (Some(folder), configuration, split)
    } else {
        let (configuration, split) = planned(arguments, &dataset)?;
        (None, configuration, split)
    };
    let Configuration { settings, precision, .. } = &configuration;
    let start = configuration.weights(folder.as_ref())?;
    let device = arguments.device.open(arguments.quiet)?.with_precision(*precision)?;
    let training = Training {
        dataset: &dataset,
        split: &split,
        settings,
        start: &start,
        device: &*device,
        workers: arguments.workers.get(),
        between_checkpoints,
    };
    let mut folder = match folder {
        Some(folder) => folder,
        None => {
            training.check()?;
            let folder = RunFolder::create(&arguments.out)?;
            configuration.begin(&folder, &dataset, &split)?;
            folder
        }
    };
    let progress = TrainingProgress::new(arguments.quiet, settings.recipe.batch);
    let outcome = train(&training, &mut folder, &progress)?;
    drop(progress);
    if arguments.quiet {
        return Ok(());
    }
    let best = &outcome.epochs[outcome.best];
    let scores = best.test.map_or(String::new(), |scores| {
        format!(": IoU {:.4}, Dice {:.4} on the test part, without post-processing", scores.iou, scores.dice)
    });
    let text = format!(
        "{} epochs with {} steps; the best was epoch {}{scores}\nweights in {}",
        outcome.epochs.len(),
        outcome.epochs.last().map_or(0, |epoch| epoch.step),
        best.number,
        folder.file(file::BEST).display()
    );
    print(&mut io::stdout().lock(), &text)
}

/// Where the first weights come from.
fn start(arguments: &Arguments) -> Start {
    let stem = arguments.stem.unwrap_or(Stem::Half);
    let (neighbours, in_channels) = (arguments.n.unwrap_or(1), arguments.in_channels.unwrap_or(1));
    match (&arguments.init, &arguments.encoder) {
        (Some(file), _) => Start::Weights { file: file.clone() },
        (None, Some(file)) => Start::Encoder { file: file.clone(), stem, neighbours, in_channels },
        (None, None) => Start::Seeded { width: arguments.width.unwrap_or(16), stem, neighbours, in_channels },
    }
}

/// A new run, which has no folder yet: that is made when everything has been checked.
fn planned(arguments: &Arguments, dataset: &Dataset) -> Result<(Configuration, Split)> {
    let mut recipe = arguments.preset.recipe();
    fn set<T>(target: &mut T, value: Option<T>) {
        if let Some(value) = value {
            *target = value;
        }
    }
    set(&mut recipe.side, arguments.size);
    set(&mut recipe.epochs, arguments.epochs);
    set(&mut recipe.batch, arguments.batch);
    set(&mut recipe.rate, arguments.rate);
    recipe.check()?;
    check_outside(&arguments.data, &arguments.out)?;
    let split = match (arguments.folds, arguments.fold) {
        (Some(folds), Some(fold)) => SplitChoice::Folds { folds, fold },
        _ if arguments.all => SplitChoice::All,
        _ => SplitChoice::PerClip,
    };
    let settings = Settings { recipe, split, seed: arguments.seed };
    let start = start(arguments);
    let network = start.weights(settings.seed)?.config();
    network.check_size(settings.recipe.side, settings.recipe.side)?;
    let split = Split::new(dataset, settings.split, settings.seed)?;
    let configuration = Configuration::new(&arguments.data, start, network, arguments.precision, settings)?;
    Ok((configuration, split))
}

/// A run that goes on, on the same frames.
fn resumed(arguments: &Arguments, dataset: &Dataset) -> Result<(RunFolder, Configuration, Split)> {
    let folder = RunFolder::resume(&arguments.out)?;
    let configuration = Configuration::read(&arguments.out)?;
    let split = configuration.split(&arguments.out, dataset)?;
    Ok((folder, configuration, split))
}

/// Shows a run: a bar an epoch on a terminal, a line an epoch and now and then one between elsewhere.
struct TrainingProgress {
    quiet: bool,
    bar: Option<ProgressBar>,
    batch: usize,
    state: Mutex<State>,
}

struct State {
    begun: Instant,
    told: Instant,
    steps_an_epoch: u64,
    epochs: usize,
    /// Steps that were done before this process.
    before: u64,
}

/// Between two lines where there is no terminal.
const BETWEEN_LINES: Duration = Duration::from_secs(30);

impl TrainingProgress {
    fn new(quiet: bool, batch: usize) -> TrainingProgress {
        let now = Instant::now();
        // The template is a constant; were it wrong, the plain bar would do.
        let style = ProgressStyle::with_template("{prefix} {bar:30} {pos}/{len} steps, {msg}")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = (!quiet && io::stderr().is_terminal()).then(|| ProgressBar::new(0).with_style(style));
        let state = State { begun: now, told: now, steps_an_epoch: 1, epochs: 1, before: 0 };
        TrainingProgress { quiet, bar, batch, state: Mutex::new(state) }
    }

    fn with_state<T>(&self, use_it: impl FnOnce(&mut State) -> T) -> T {
        use_it(&mut self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner()))
    }
}

/// `1 h 05 min`, `3 min 20 s`, `12 s`.
fn duration(seconds: f64) -> String {
    let seconds = seconds.round() as u64;
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, seconds) => format!("{seconds} s"),
        (0, minutes, seconds) => format!("{minutes} min {seconds:02} s"),
        (hours, minutes, _) => format!("{hours} h {minutes:02} min"),
    }
}

impl TrainingObserver for TrainingProgress {
    fn started(&self, steps_an_epoch: u64, epochs: usize, done: u64) {
        self.with_state(|state| {
            let now = Instant::now();
            *state = State { begun: now, told: now, steps_an_epoch, epochs, before: done };
        });
        if let Some(bar) = &self.bar {
            bar.set_length(steps_an_epoch);
        }
    }

    fn step_done(&self, report: &StepReport) {
        self.with_state(|state| {
            let seconds = state.begun.elapsed().as_secs_f64();
            let per_step = seconds / (report.step - state.before).max(1) as f64;
            let left = (state.steps_an_epoch * state.epochs as u64).saturating_sub(report.step) as f64 * per_step;
            let text = format!(
                "loss {:.4}, IoU {:.4}, {:.1} windows/s, {} left",
                report.loss,
                report.train_iou,
                self.batch as f64 / per_step,
                duration(left)
            );
            let of = state.epochs;
            let within = (report.step - 1) % state.steps_an_epoch + 1;
            if let Some(bar) = &self.bar {
                bar.set_prefix(format!("epoch {}/{of}", report.epoch));
                bar.set_position(within);
                bar.set_message(text);
            } else if !self.quiet && state.told.elapsed() >= BETWEEN_LINES {
                state.told = Instant::now();
                let steps = state.steps_an_epoch;
                note(&format!("coronet: epoch {} of {of}, step {within} of {steps}: {text}", report.epoch));
            }
        });
    }

    fn epoch_done(&self, epoch: &Epoch, is_best: bool) {
        let of = self.with_state(|state| {
            state.told = Instant::now();
            state.epochs
        });
        let test = epoch.test.map_or(String::new(), |s| format!(", test IoU {:.4}, Dice {:.4}", s.iou, s.dice));
        let line = format!(
            "coronet: epoch {} of {of}: loss {:.4}, training IoU {:.4}{test}, {:.1} windows/s{}",
            epoch.number,
            epoch.loss,
            epoch.train_iou,
            epoch.samples_per_second,
            if is_best { ", the best so far" } else { "" }
        );
        match &self.bar {
            Some(bar) => bar.suspend(|| note(&line)),
            None if !self.quiet => note(&line),
            None => {}
        }
    }

    fn interrupted(&self) -> bool {
        interrupted()
    }
}

impl Drop for TrainingProgress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_for_people() {
        assert_eq!([0.4, 75.0, 3900.0].map(duration), ["0 s", "1 min 15 s", "1 h 05 min"]);
    }
}
