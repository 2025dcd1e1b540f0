//! One use of the engine: a data set goes in, trained weights come out.
//!
//! A run is a folder ([`RunFolder`]). What happens in it depends on its [`Settings`], the data and the device alone:
//! the order of samples and what is done to them are drawn from the seed and the step, and a checkpoint holds every
//! other number that the next step needs. A run that goes on after a stop ends with the bits of one that never stopped.

mod augment;
mod batches;
mod checkpoint;
mod configuration;
mod recipe;
mod report;
mod run_folder;
mod tensorboard;

pub use augment::Augmentation;
pub use batches::{Batch, for_each_batch};
pub use configuration::{Configuration, Start};
pub use recipe::{Preset, Recipe, Schedule};
pub use report::{Epoch, StepReport};
pub use run_folder::{RunFolder, file};

use crate::dataset::{Dataset, Section, Split, SplitChoice};
use crate::device::{Device, Session};
use crate::error::{Error, Result};
use crate::evaluate::{ComparedAt, for_each_prediction};
use crate::graph::ValueId;
use crate::metrics::{Agreement, Counts};
use crate::model::{CeNet, TrainingStep};
use crate::post::{MinimumArea, PostProcessing};
use crate::program::{Placement, Program};
use crate::segment::EngineNetwork;
use crate::weights::Weights;
use batches::Batches;
use report::{Progress, Sums};
use std::fmt::Write as _;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// What decides a run's outcome, beside the data, its first weights and the device.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// How the network is trained.
    pub recipe: Recipe,
    /// How the data set is divided.
    pub split: SplitChoice,
    /// What is drawn at random.
    pub seed: u64,
}

/// What a run starts from, and where.
pub struct Training<'a> {
    /// What is learned from and tested on.
    pub dataset: &'a Dataset,
    /// How it is divided.
    pub split: &'a Split,
    /// How the network is trained.
    pub settings: &'a Settings,
    /// The first weights; they say which network it is.
    pub start: &'a Weights,
    /// Where to compute.
    pub device: &'a dyn Device,
    /// Threads that read samples ahead; at least one is taken.
    pub workers: usize,
    /// A checkpoint is written after every epoch, and within one when so much time has gone.
    pub between_checkpoints: Duration,
}

impl Training<'_> {
    /// Whether the device can do it: what would only be found once a run has its folder.
    ///
    /// # Errors
    /// [`Error::Request`] when the settings do not fit, [`Error::Device`] when the device lacks memory or what it takes.
    pub fn check(&self) -> Result<()> {
        self.load().map(|_| ())
    }

    /// The program of a step, bound to memory.
    fn load(&self) -> Result<(TrainingStep, Box<dyn Session>)> {
        let Settings { recipe, .. } = self.settings;
        recipe.check()?;
        let network = CeNet::build(self.start.config(), recipe.batch, recipe.side, recipe.side)?;
        let step = TrainingStep::build(network, recipe.objective, recipe.optimizer)?;
        let outputs: [ValueId; 3] = [step.total_loss, step.dice_loss, step.network.probability];
        let program = Program::lower(&step.network.graph, &outputs, self.device, Placement::Shared)?;
        let session = self.device.load(program)?;
        Ok((step, session))
    }
}

/// Watches a run from outside and may stop it.
pub trait TrainingObserver: Sync {
    /// The run begins, or goes on: an epoch has so many steps, and so many steps have been done.
    fn started(&self, _steps_an_epoch: u64, _epochs: usize, _done: u64) {}

    /// A step has been done.
    fn step_done(&self, _report: &StepReport) {}

    /// An epoch is complete.
    fn epoch_done(&self, _epoch: &Epoch, _is_best: bool) {}

    /// Whether the run shall save itself and stop with [`Error::InterruptedRun`]; asked after each step.
    fn interrupted(&self) -> bool {
        false
    }
}

/// The observer that does not look.
impl TrainingObserver for () {}

/// A run that has ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// All its epochs.
    pub epochs: Vec<Epoch>,
    /// The position of the best one, whose weights are in [`file::BEST`].
    pub best: usize,
}

/// Trains to the end of the last epoch, from the folder's checkpoint if it has one.
///
/// # Errors
/// [`Error::Request`] when the data or the settings do not fit; [`Error::Network`] when the loss is not finite any more;
/// [`Error::InterruptedRun`] when the observer asks for it; [`Error::Io`] and [`Error::Media`] when files fail. Whatever
/// it is, the folder's checkpoint is complete, and the run can go on from it.
pub fn train(training: &Training<'_>, run: &mut RunFolder, observer: &dyn TrainingObserver) -> Result<Outcome> {
    let mut trainer = Trainer::new(training, run)?;
    let Training { dataset, split, settings, .. } = *training;
    let config = training.start.config();
    let batches = Batches::new(dataset, &split.train, config, &settings.recipe, settings.seed);
    let (samples, steps) = (batches.samples(), batches.steps());
    trainer.log(&format!(
        "{} at step {} of {steps}: {config}, {samples} windows, on {}",
        if trainer.progress.step == 0 { "begins" } else { "goes on" },
        trainer.progress.step,
        training.device.describe()
    ))?;
    observer.started(batches.steps_an_epoch(), settings.recipe.epochs, trainer.progress.step);
    let trained = batches.read_ahead(trainer.progress.step, training.workers, |next| {
        trainer.all_epochs(batches.steps_an_epoch(), next, observer)
    });
    if let Err(error) = &trained {
        // The disk may be what failed: that the log cannot take it is not the news.
        let _ = trainer.log(&format!("stopped at step {}: {error}", trainer.progress.step));
    }
    trained?;
    let Progress { epochs, .. } = &trainer.progress;
    let best = trainer.progress.best().ok_or_else(|| Error::Internal("a run without an epoch".into()))?;
    let outcome = Outcome { best, epochs: epochs.clone() };
    trainer.log(&format!("complete; the best epoch was {}", best + 1))?;
    Ok(outcome)
}

struct Trainer<'a> {
    training: &'a Training<'a>,
    run: &'a mut RunFolder,
    step: TrainingStep,
    session: Box<dyn Session>,
    progress: Progress,
    /// When the last checkpoint was written, and the step it holds.
    saved: (Instant, u64),
    /// Room for the probabilities of a batch.
    probability: Vec<f32>,
}

impl<'a> Trainer<'a> {
    /// The run's program with its first numbers, or its checkpoint's.
    fn new(training: &'a Training<'a>, run: &'a mut RunFolder) -> Result<Trainer<'a>> {
        let Settings { recipe, .. } = training.settings;
        let (step, mut session) = training.load()?;
        let path = run.file(file::CHECKPOINT);
        let progress = if path.exists() {
            checkpoint::load(&path, &step.network.graph, &mut *session)?
        } else {
            training.start.write_into(&step.network, |id, numbers| session.write(id, numbers))?;
            Progress { begun: now(), step: 0, epochs: Vec::new(), sums: Sums::default() }
        };
        let saved = (Instant::now(), progress.step);
        let probability = vec![0.0; recipe.batch * recipe.size().area()];
        let trainer = Trainer { training, run, step, session, progress, saved, probability };
        if !path.exists() {
            trainer.write_checkpoint()?;
        }
        Ok(trainer)
    }

    fn all_epochs(
        &mut self,
        steps_an_epoch: u64,
        next: &mut dyn FnMut() -> Result<Batch>,
        observer: &dyn TrainingObserver,
    ) -> Result<()> {
        while self.progress.epochs.len() < self.training.settings.recipe.epochs {
            while self.progress.sums.steps < steps_an_epoch {
                let begun = Instant::now();
                let batch = match next() {
                    Ok(batch) => batch,
                    // A file that cannot be read costs none of the steps before it.
                    Err(error) => return Err(self.save().err().unwrap_or(error)),
                };
                self.one_step(&batch, steps_an_epoch)?;
                self.progress.sums.seconds += begun.elapsed().as_secs_f64();
                observer.step_done(&self.step_report());
                if observer.interrupted() {
                    self.save()?;
                    return Err(Error::InterruptedRun { step: self.progress.step, folder: self.run.path().into() });
                }
                if self.saved.0.elapsed() >= self.training.between_checkpoints {
                    self.save()?;
                }
            }
            self.complete_epoch(observer)?;
        }
        Ok(())
    }

    fn one_step(&mut self, batch: &Batch, steps_an_epoch: u64) -> Result<()> {
        let Settings { recipe, .. } = self.training.settings;
        let (step, steps) = (self.progress.step, steps_an_epoch * recipe.epochs as u64);
        let session = &mut self.session;
        session.write(self.step.network.window, &batch.window)?;
        session.write(self.step.mask, &batch.mask)?;
        self.step.write_schedule(step + 1, recipe.rate_at(step, steps), |id, numbers| session.write(id, numbers))?;
        session.run()?;
        let loss = |id| session.read(id).map(|tensor| f64::from(tensor.data()[0]));
        let (total, dice) = (loss(self.step.total_loss)?, loss(self.step.dice_loss)?);
        if !total.is_finite() {
            return Err(self.diverged(step + 1, &format!("the loss is {total}"), Some(batch)));
        }
        session.read_into(self.step.network.probability, &mut self.probability)?;
        let sums = &mut self.progress.sums;
        sums.counts += counts(&self.probability, &batch.mask);
        sums.loss += total;
        sums.dice_loss += dice;
        sums.steps += 1;
        self.progress.step += 1;
        Ok(())
    }

    /// The run has left the numbers behind: in which step, counted from 1, on what, and what is still good.
    fn diverged(&self, step: u64, what: &str, batch: Option<&Batch>) -> Error {
        let mut sentence = format!("{what} in step {step}");
        // Writing to a String cannot fail.
        if let Some(batch) = batch {
            let _ = write!(sentence, ", on {}", batch.names.join(", "));
        }
        let _ = write!(
            sentence,
            "; the checkpoint in {} is of step {} and good; a lower --rate may help",
            self.run.path().display(),
            self.saved.1
        );
        Error::Network(sentence)
    }

    fn step_report(&self) -> StepReport {
        let Progress { step, sums, epochs, .. } = &self.progress;
        StepReport {
            step: *step,
            epoch: epochs.len() + 1,
            loss: sums.loss / sums.steps as f64,
            train_iou: sums.counts.iou(),
        }
    }

    /// Tests, and writes what an epoch leaves behind; its checkpoint last, so that whatever is cut short is done again.
    fn complete_epoch(&mut self, observer: &dyn TrainingObserver) -> Result<()> {
        let step = self.progress.step;
        let weights = match Weights::read_from(&self.step.network, |id| self.session.read(id)) {
            Err(Error::Network(what)) => return Err(self.diverged(step, &what, None)),
            other => other?,
        };
        let test = match self.test(&weights, observer) {
            Ok(test) => test,
            Err(Error::Interrupted) => {
                self.save()?;
                return Err(Error::InterruptedRun { step, folder: self.run.path().into() });
            }
            // Weights so large that nothing comes of them are not to be saved.
            Err(Error::Network(_)) => {
                return Err(self.diverged(step, "the network gives no numbers for the test part any more", None));
            }
            // As of a file of the training part.
            Err(error) => return Err(self.save().err().unwrap_or(error)),
        };
        let Settings { recipe, .. } = self.training.settings;
        let Sums { steps, loss, dice_loss, counts, seconds } = self.progress.sums;
        let all_steps = steps * recipe.epochs as u64;
        let epoch = Epoch {
            number: self.progress.epochs.len() + 1,
            step: self.progress.step,
            rate: f64::from(recipe.rate_at(self.progress.step - 1, all_steps)),
            loss: loss / steps as f64,
            dice_loss: dice_loss / steps as f64,
            train_iou: counts.iou(),
            test: test.map(|agreement| agreement.mean),
            seconds,
            samples_per_second: (steps * recipe.batch as u64) as f64 / seconds,
            time: now(),
        };
        self.progress.epochs.push(epoch);
        self.progress.sums = Sums::default();
        let is_best = self.progress.best() == Some(self.progress.epochs.len() - 1);
        if is_best {
            weights.save(&self.run.file(file::BEST))?;
        }
        weights.save(&self.run.file(file::LAST))?;
        self.run.write_epochs(self.progress.begun, &self.progress.epochs)?;
        self.save()?;
        if let Some(epoch) = self.progress.epochs.last() {
            let test = epoch.test.map_or(String::new(), |scores| format!(", test IoU {:.4}", scores.iou));
            let line = format!(
                "epoch {}: loss {:.5}, training IoU {:.4}{test}, {:.1} windows/s{}",
                epoch.number,
                epoch.loss,
                epoch.train_iou,
                epoch.samples_per_second,
                if is_best { ", the best so far" } else { "" }
            );
            self.run.log(&line)?;
            observer.epoch_done(epoch, is_best);
        }
        Ok(())
    }

    /// The scores on the test part, if there is one.
    fn test(&self, weights: &Weights, observer: &dyn TrainingObserver) -> Result<Option<Agreement>> {
        let Training { dataset, split, settings, device, .. } = *self.training;
        if split.test.is_empty() {
            return Ok(None);
        }
        let mut network = EngineNetwork::load(weights, device, settings.recipe.size())?;
        // The bare threshold: what small components do is for `evaluate` to say.
        let post = PostProcessing { minimum_area: MinimumArea::Pixels(0), ..PostProcessing::default() };
        let mut scored = Vec::new();
        for_each_prediction(&mut network, dataset, &split.test, ComparedAt::default(), |prediction| {
            scored.push(Counts::of(&post.mask(&prediction.probability), &prediction.label)?);
            if observer.interrupted() { Err(Error::Interrupted) } else { Ok(()) }
        })?;
        Ok(Agreement::over(&scored))
    }

    fn save(&mut self) -> Result<()> {
        match self.write_checkpoint() {
            Err(Error::Network(what)) => return Err(self.diverged(self.progress.step, &what, None)),
            other => other?,
        }
        self.saved = (Instant::now(), self.progress.step);
        Ok(())
    }

    fn write_checkpoint(&self) -> Result<()> {
        checkpoint::save(&self.run.file(file::CHECKPOINT), &self.step.network.graph, &*self.session, &self.progress)
    }

    fn log(&mut self, line: &str) -> Result<()> {
        self.run.log(line)
    }
}

/// Vessel from a probability of one half on, against masks of 0 and 1.
fn counts(probability: &[f32], mask: &[f32]) -> Counts {
    let mut counts = Counts::default();
    for (&p, &y) in probability.iter().zip(mask) {
        match (p >= 0.5, y >= 0.5) {
            (true, true) => counts.true_positive += 1,
            (true, false) => counts.false_positive += 1,
            (false, false) => counts.true_negative += 1,
            (false, true) => counts.false_negative += 1,
        }
    }
    counts
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// The frames of a split by their clips' names and their files', as [`file::SPLIT`] holds them.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct SplitList {
    /// Learned from.
    pub train: Vec<ListedSection>,
    /// Tested on.
    pub test: Vec<ListedSection>,
}

/// A section by its names.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ListedSection {
    /// The clip.
    pub clip: String,
    /// The files of its frames.
    pub frames: Vec<String>,
    /// Those of them that have a label.
    pub labelled: Labelled,
}

/// Frames that have a label.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(untagged)]
pub enum Labelled {
    /// By the files of the frames.
    Frames(Vec<String>),
    /// How many there are, which is all that lists of earlier builds say.
    Count(usize),
}

impl Labelled {
    fn agrees_with(&self, other: &Labelled) -> bool {
        let count = |labelled: &Labelled| match labelled {
            Labelled::Frames(frames) => frames.len(),
            Labelled::Count(count) => *count,
        };
        match (self, other) {
            (Labelled::Frames(frames), Labelled::Frames(others)) => frames == others,
            _ => count(self) == count(other),
        }
    }
}

impl ListedSection {
    fn agrees_with(&self, other: &ListedSection) -> bool {
        (&self.clip, &self.frames) == (&other.clip, &other.frames) && self.labelled.agrees_with(&other.labelled)
    }
}

impl SplitList {
    /// The list of a split.
    pub fn of(dataset: &Dataset, split: &Split) -> SplitList {
        let listed = |section: &Section| {
            let clip = &dataset.clips()[section.clip];
            let name =
                |frame: usize| clip.frames[frame].path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            ListedSection {
                clip: clip.name.clone(),
                frames: section.frames.clone().map(name).collect(),
                labelled: Labelled::Frames(section.labelled(dataset).map(|id| name(id.frame)).collect()),
            }
        };
        let list = |part: &[Section]| part.iter().map(listed).collect();
        SplitList { train: list(&split.train), test: list(&split.test) }
    }

    /// Whether another list has the same frames, and labels of the same.
    pub fn agrees_with(&self, other: &SplitList) -> bool {
        let agree = |ours: &[ListedSection], theirs: &[ListedSection]| {
            ours.len() == theirs.len() && ours.iter().zip(theirs).all(|(a, b)| a.agrees_with(b))
        };
        agree(&self.train, &other.train) && agree(&self.test, &other.test)
    }
}

#[cfg(test)]
mod tests;
