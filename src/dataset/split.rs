//! Which frames are learned from and which are tested on.

use super::{Dataset, FrameId};
use crate::error::{Error, Result};
use crate::random::Random;
use std::ops::Range;

/// Consecutive frames of one clip within which windows stay: before its first and behind its last frame these two are
/// repeated.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Section {
    /// Position in [`Dataset::clips`].
    pub clip: usize,
    /// Positions in [`super::Clip::frames`], at least one.
    pub frames: Range<usize>,
}

impl Section {
    /// Every clip whole, in the data set's order.
    pub fn whole_clips(dataset: &Dataset) -> impl Iterator<Item = Section> {
        dataset.clips().iter().enumerate().map(|(clip, c)| Section { clip, frames: 0..c.frames.len() })
    }

    /// Its frames that have labels.
    pub fn labelled<'a>(&'a self, dataset: &'a Dataset) -> impl Iterator<Item = FrameId> + 'a {
        let ids = self.frames.clone().map(|frame| FrameId { clip: self.clip, frame });
        ids.filter(|&id| dataset.frame(id).label.is_some())
    }

    /// The 2N+1 frames around `middle`, oldest first.
    pub fn window(&self, middle: usize, neighbours: usize) -> impl Iterator<Item = FrameId> {
        let (clip, first, last) = (self.clip, self.frames.start, self.frames.end - 1);
        let before = (1..=neighbours).rev().map(move |distance| middle.saturating_sub(distance).max(first));
        let after = (0..=neighbours).map(move |distance| middle.saturating_add(distance).min(last));
        before.chain(after).map(move |frame| FrameId { clip, frame })
    }
}

/// How a data set is divided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum SplitChoice {
    /// The article's: of each clip the first sixth or the last sixth of the frames is tested on, drawn from the seed.
    /// Clips under 6 frames go whole into one part, one in six of them to the test.
    PerClip,
    /// Whole clips in `folds` parts, of which part `fold`, counted from 0, is tested on.
    Folds {
        /// Number of parts.
        folds: usize,
        /// Which of them is tested on.
        fold: usize,
    },
    /// Everything is learned from and nothing tested on.
    All,
}

/// A data set in two parts.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Split {
    /// Learned from.
    pub train: Vec<Section>,
    /// Tested on.
    pub test: Vec<Section>,
}

/// Clips with fewer frames are not cut.
pub(super) const FEWEST_FRAMES_CUT: usize = 6;

impl Split {
    /// Divides `dataset`; the same seed divides the same clips (by name) alike.
    ///
    /// # Errors
    /// [`Error::Request`] when a part that should not be empty has no labelled frame, or a fold does not exist.
    pub fn new(dataset: &Dataset, choice: SplitChoice, seed: u64) -> Result<Split> {
        let split = match choice {
            SplitChoice::PerClip => per_clip(dataset, seed),
            SplitChoice::Folds { folds, fold } => by_folds(dataset, folds, fold, seed)?,
            SplitChoice::All => Split { train: Section::whole_clips(dataset).collect(), test: Vec::new() },
        };
        let place = dataset.folder().display();
        let labelled = |part: &[Section]| part.iter().any(|section| section.labelled(dataset).next().is_some());
        if !labelled(&split.train) {
            return Err(Error::Request(format!("{place} has no labelled frame to learn from")));
        }
        if choice != SplitChoice::All && !labelled(&split.test) {
            let clips = dataset.clips().len();
            return Err(Error::Request(format!(
                "{place} leaves no labelled frame to test on ({clips} clip{}); add clips, or train on all of it",
                if clips == 1 { "" } else { "s" }
            )));
        }
        Ok(split)
    }

    /// What [`SplitChoice::Folds`] tests on. Nothing needs to be learned from, so no frame needs to have a label.
    ///
    /// # Errors
    /// [`Error::Request`] when the fold does not exist.
    pub fn fold(dataset: &Dataset, folds: usize, fold: usize, seed: u64) -> Result<Vec<Section>> {
        Ok(by_folds(dataset, folds, fold, seed)?.test)
    }
}

fn per_clip(dataset: &Dataset, seed: u64) -> Split {
    let mut split = Split { train: Vec::new(), test: Vec::new() };
    let mut short = Vec::new();
    for Section { clip, frames } in Section::whole_clips(dataset) {
        let count = frames.len();
        if count < FEWEST_FRAMES_CUT {
            short.push(Section { clip, frames });
            continue;
        }
        let tested = (count + 3) / 6; // count / 6, rounded
        let (test, train) = if of_clip(dataset, clip, seed).bits() & 1 == 0 {
            (0..tested, tested..count)
        } else {
            (count - tested..count, 0..count - tested)
        };
        split.test.push(Section { clip, frames: test });
        split.train.push(Section { clip, frames: train });
    }
    short.sort_by_key(|section| of_clip(dataset, section.clip, seed).bits());
    let tested = (short.len() + 3) / 6;
    split.train.extend(short.split_off(tested));
    split.test.extend(short);
    in_order(split)
}

fn by_folds(dataset: &Dataset, folds: usize, fold: usize, seed: u64) -> Result<Split> {
    let clips = dataset.clips().len();
    if folds < 2 || fold >= folds {
        return Err(Error::Request(format!(
            "fold {fold} of {folds} does not exist; folds are counted from 0, of 2 or more"
        )));
    }
    if folds > clips {
        let place = dataset.folder().display();
        return Err(Error::Request(format!("{folds} folds need as many clips, and {place} has {clips}")));
    }
    let mut order: Vec<Section> = Section::whole_clips(dataset).collect();
    order.sort_by_key(|section| of_clip(dataset, section.clip, seed).bits());
    let mut split = Split { train: Vec::new(), test: Vec::new() };
    for (position, section) in order.into_iter().enumerate() {
        if position % folds == fold { split.test.push(section) } else { split.train.push(section) }
    }
    Ok(in_order(split))
}

fn in_order(mut split: Split) -> Split {
    split.train.sort_by_key(|section| section.clip);
    split.test.sort_by_key(|section| section.clip);
    split
}

/// What is drawn for a clip depends on its name alone, so that other clips may come and go.
fn of_clip(dataset: &Dataset, clip: usize, seed: u64) -> Random {
    // FNV-1a, the same everywhere and for ever.
    let name = dataset.clips()[clip].name.bytes();
    let hash =
        name.fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    Random::of(&[seed, hash])
}
