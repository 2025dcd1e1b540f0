//! A run is a folder: what was asked for, which frames were learned from, how it went, and the networks it made.

use super::configuration::SCHEMA;
use super::report::Epoch;
use super::tensorboard::{Scalar, event_file};
use crate::calendar::utc_now;
use crate::error::{Error, Result};
use crate::new_file::{HIDDEN, NewFile};
use crate::plot::{Chart, Series, Style};
use crate::staging::has_schema;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fs::{self, DirEntry, File, OpenOptions, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};

/// The names of a run's files.
pub mod file {
    /// What was asked for, JSON.
    pub const CONFIGURATION: &str = "config.json";
    /// Which frames were learned from and which tested on, JSON.
    pub const SPLIT: &str = "split.json";
    /// One line an epoch.
    pub const METRICS: &str = "metrics.csv";
    /// The same for TensorBoard.
    pub const EVENTS: &str = "events.out.tfevents.coronet";
    /// The loss against the epochs.
    pub const LOSS_CURVE: &str = "loss.svg";
    /// IoU against the epochs.
    pub const IOU_CURVE: &str = "iou.svg";
    /// What happened when.
    pub const LOG: &str = "log.txt";
    /// All that the next step depends on.
    pub const CHECKPOINT: &str = "checkpoint.safetensors";
    /// The weights after the last complete epoch.
    pub const LAST: &str = "last.safetensors";
    /// The weights after the best epoch.
    pub const BEST: &str = "best.safetensors";
    /// Locked while a run lives.
    pub(super) const LOCK: &str = ".lock";
}

/// Reads what [`RunFolder::write_json`] has written.
///
/// # Errors
/// [`Error::Io`]; [`Error::Request`] when it is damaged or of another version.
pub(super) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = fs::read(path).map_err(Error::io("read", path))?;
    serde_json::from_slice(&text).map_err(|error| Error::Request(format!("{}: {error}", path.display())))
}

/// The folder of a run that goes on, for as long as this value lives its own.
#[derive(Debug)]
pub struct RunFolder {
    path: PathBuf,
    log: File,
    _lock: File,
}

impl RunFolder {
    /// A folder for a new run, made where it is missing.
    ///
    /// # Errors
    /// [`Error::Request`] when there is something in it, or another run is at work there; [`Error::Io`].
    pub fn create(path: &Path) -> Result<RunFolder> {
        fs::create_dir_all(path).map_err(Error::io("create", path))?;
        // Asked first: a folder that belongs to somebody else is left as it is.
        let is_of_a_run = holds_a_run(path);
        let mut entries = fs::read_dir(path).map_err(Error::io("read", path))?.flatten();
        let place = path.display();
        let is_of_others = |entry: &DirEntry| !is_left_behind(path, &entry.file_name().to_string_lossy());
        if !is_of_a_run && let Some(other) = entries.find(is_of_others) {
            let name = other.file_name();
            let name = name.to_string_lossy();
            return Err(Error::Request(format!("{place} is not empty (it holds {name}); choose another folder")));
        }
        let folder = RunFolder::locked(path)?;
        if is_of_a_run {
            return Err(Error::Request(format!("{place} holds a run; go on with --resume, or choose another folder")));
        }
        Ok(folder)
    }

    /// The folder of a run that was stopped.
    ///
    /// # Errors
    /// [`Error::Request`] when no run has begun there, or it is still at work; [`Error::Io`].
    pub fn resume(path: &Path) -> Result<RunFolder> {
        if !holds_a_run(path) {
            let (place, name) = (path.display(), file::CONFIGURATION);
            let problem = match path.join(name).exists() {
                true => format!("its {name} is not one of a run"),
                false => format!("it has no {name}"),
            };
            return Err(Error::Request(format!("{place} holds no run to go on with: {problem}")));
        }
        let is_there = |name: &str| path.join(name).symlink_metadata().is_ok();
        // The first thing that a run writes: without it this one would begin again, in the place of what it has learned.
        if let Some(learned) = [file::LAST, file::BEST, file::METRICS].into_iter().find(|name| is_there(name))
            && !path.join(file::CHECKPOINT).is_file()
        {
            return Err(Error::Request(format!(
                "{} holds {learned}, but no {} to go on from; begin another run, with --init {learned} perhaps",
                path.display(),
                file::CHECKPOINT
            )));
        }
        RunFolder::locked(path)
    }

    fn locked(path: &Path) -> Result<RunFolder> {
        let append = |name: &str| {
            let file = path.join(name);
            OpenOptions::new().create(true).append(true).open(&file).map_err(Error::io("write", &file))
        };
        let lock = append(file::LOCK)?;
        match lock.try_lock() {
            Err(TryLockError::WouldBlock) => {
                return Err(Error::Request(format!(
                    "another run is at work in {}; choose another folder",
                    path.display()
                )));
            }
            Ok(()) => remove_unfinished(path),
            // Without locks nobody can tell; a second run is then the user's to avoid.
            Err(TryLockError::Error(_)) => {}
        }
        Ok(RunFolder { path: path.to_path_buf(), log: append(file::LOG)?, _lock: lock })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A file of it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Writes `value` as JSON, whole or not at all.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write_json(&self, name: &str, value: &impl Serialize) -> Result<()> {
        let text = serde_json::to_vec_pretty(value);
        self.write(name, &text.map_err(|error| Error::Internal(format!("{name} cannot be written ({error})")))?)
    }

    /// Adds a line to the log.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn log(&mut self, line: &str) -> Result<()> {
        let line = format!("{} {line}\n", utc_now());
        self.log.write_all(line.as_bytes()).map_err(Error::io("write", &self.path.join(file::LOG)))
    }

    /// Tables and curves of the epochs so far.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(super) fn write_epochs(&self, begun: f64, epochs: &[Epoch]) -> Result<()> {
        let mut table = format!("{}\n", Epoch::HEADER);
        for epoch in epochs {
            table.push_str(&epoch.row());
            table.push('\n');
        }
        self.write(file::METRICS, table.as_bytes())?;
        self.write_events(&event_file(begun, &epochs.iter().flat_map(scalars).collect::<Vec<_>>()))?;
        let curve = |name: &str, value: &dyn Fn(&Epoch) -> Option<f64>| Series {
            name: name.to_owned(),
            points: epochs.iter().filter_map(|epoch| Some((epoch.number as f64, value(epoch)?))).collect(),
            style: Style::Line,
        };
        let chart = |title: &str, y_label: &str, series| Chart {
            title: title.into(),
            x_label: "epoch".into(),
            y_label: y_label.into(),
            series,
            ..Chart::default()
        };
        let loss = vec![curve("loss", &|e| Some(e.loss)), curve("Dice loss", &|e| Some(e.dice_loss))];
        self.write(file::LOSS_CURVE, chart("Loss while training", "loss", loss).svg()?.as_bytes())?;
        let iou = vec![
            curve("training", &|epoch| Some(epoch.train_iou)),
            curve("test", &|epoch| epoch.test.map(|scores| scores.iou)),
        ];
        self.write(file::IOU_CURVE, chart("Intersection over union", "IoU", iou).svg()?.as_bytes())
    }

    /// Readers follow this file while it grows: what they have read stays.
    fn write_events(&self, bytes: &[u8]) -> Result<()> {
        let path = self.file(file::EVENTS);
        let there = fs::read(&path).unwrap_or_default();
        let written = match bytes.strip_prefix(there.as_slice()) {
            Some(new) => OpenOptions::new().create(true).append(true).open(&path).and_then(|mut f| f.write_all(new)),
            None => fs::write(&path, bytes),
        };
        written.map_err(Error::io("write", &path))
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        NewFile::create(&self.file(name))?.complete(bytes)
    }
}

/// Removes files that a run was writing when it was killed: nobody else is at work in the folder.
fn remove_unfinished(path: &Path) {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    for entry in entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(HIDDEN)) {
        if entry.file_type().is_ok_and(|of| of.is_file()) {
            // They are only in the way: one that stays is no reason not to go on.
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Whether a run has begun there: many programs call a file [`file::CONFIGURATION`].
fn holds_a_run(folder: &Path) -> bool {
    has_schema(&folder.join(file::CONFIGURATION), SCHEMA)
}

/// Files of a run that was killed before it had begun.
fn is_left_behind(folder: &Path, name: &str) -> bool {
    let is_lock_or_log = name == file::LOCK || name == file::LOG;
    // Runs write it after their lock; alone it may be anybody's.
    let is_split_of_a_run = name == file::SPLIT && folder.join(file::LOCK).exists();
    is_lock_or_log || is_split_of_a_run || name.starts_with(HIDDEN)
}

fn scalars(epoch: &Epoch) -> Vec<Scalar> {
    let mut scalars = vec![
        ("train/loss", epoch.loss),
        ("train/dice_loss", epoch.dice_loss),
        ("train/iou", epoch.train_iou),
        ("train/rate", epoch.rate),
        ("train/samples_per_second", epoch.samples_per_second),
    ];
    if let Some(test) = epoch.test {
        scalars.extend([
            ("test/iou", test.iou),
            ("test/dice", test.dice),
            ("test/sensitivity", test.sensitivity),
            ("test/specificity", test.specificity),
            ("test/accuracy", test.accuracy),
        ]);
    }
    let at = |(tag, value)| Scalar { tag, step: epoch.step, time: epoch.time, value: value as f32 };
    scalars.into_iter().map(at).collect()
}
