//! Frames one after the other, and what they come to: by frame, by clip, over all.

use super::{ComparedAt, FrameScores, Metric, PerMetric, for_each_prediction};
use crate::dataset::{Dataset, FrameId, Section, Watcher};
use crate::error::{Error, Result};
use crate::media::Mask;
use crate::metrics::{Agreement, Bootstrap, Counts, Interval, Scores, Sweep};
use crate::post::{MinimumArea, PostProcessing};
use crate::segment::WindowNetwork;
use std::collections::HashSet;

/// Takes the frames of a data set as networks see them.
#[derive(Debug)]
pub struct Evaluator<'a> {
    dataset: &'a Dataset,
    post: PostProcessing,
    at: ComparedAt,
    networks: Vec<ScoredNetwork>,
    frames: Vec<ScoredFrame>,
    sweep: Sweep,
    worst: Vec<PoorFrame>,
}

/// A network that frames were scored with.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct ScoredNetwork {
    /// How many frames.
    pub frames: usize,
    /// What it says about itself.
    pub network: serde_json::Value,
}

/// A frame's two masks.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct ScoredFrame {
    pub id: FrameId,
    /// After the threshold and small components.
    pub processed: FrameScores,
    /// After the threshold alone.
    pub raw: FrameScores,
}

/// A frame whose mask agrees less with its label than most.
#[derive(Debug, Clone, PartialEq)]
pub struct PoorFrame {
    /// The frame.
    pub id: FrameId,
    /// The Dice coefficient of its mask.
    pub dice: f64,
    /// Its mask after post-processing.
    pub mask: Mask,
    /// Its label.
    pub label: Mask,
}

/// How many of them are kept.
const WORST: usize = 10;

impl<'a> Evaluator<'a> {
    /// Without any frame.
    pub fn new(dataset: &'a Dataset, post: PostProcessing, at: ComparedAt) -> Evaluator<'a> {
        let (networks, frames, worst) = (Vec::new(), Vec::new(), Vec::new());
        Evaluator { dataset, post, at, networks, frames, sweep: Sweep::new(), worst }
    }

    /// How many frames `sections` have to score; it can be asked of all parts before the first of them is scored.
    ///
    /// # Errors
    /// [`Error::Request`] when there is none, or when a frame is there twice or has been scored before, since nothing may
    /// count twice.
    pub fn frames_to_score<'s>(&self, sections: impl IntoIterator<Item = &'s Section>) -> Result<usize> {
        match self.count_once(sections)? {
            0 => Err(nothing_to_score(self.dataset)),
            frames => Ok(frames),
        }
    }

    /// How many labelled frames there are, none of them twice and none scored before.
    fn count_once<'s>(&self, sections: impl IntoIterator<Item = &'s Section>) -> Result<usize> {
        let mut scored: HashSet<FrameId> = self.frames.iter().map(|frame| frame.id).collect();
        for section in sections {
            if let Some(id) = section.labelled(self.dataset).find(|&id| !scored.insert(id)) {
                let path = self.dataset.frame(id).path.display();
                return Err(Error::Request(format!("{path} would be scored twice; give each frame to one network")));
            }
        }
        Ok(scored.len() - self.frames.len())
    }

    /// Scores every labelled frame of `sections` as `network` sees it: all of them count, or after an error none.
    ///
    /// # Errors
    /// Those of [`for_each_prediction`]; [`Error::Interrupted`] when the watcher asks for it; [`Error::Request`] when a
    /// frame is there twice or has been scored before, since nothing may count twice.
    pub fn add(&mut self, network: &mut dyn WindowNetwork, sections: &[Section], watcher: &dyn Watcher) -> Result<()> {
        self.count_once(sections)?;
        let (mut frames, mut sweep, mut worst) = (Vec::new(), Sweep::new(), Vec::new());
        let bare = PostProcessing { minimum_area: MinimumArea::Pixels(0), ..self.post };
        for_each_prediction(network, self.dataset, sections, self.at, |prediction| {
            if watcher.interrupted() {
                return Err(Error::Interrupted);
            }
            let (id, label) = (prediction.id, prediction.label);
            sweep.add(&prediction.probability, &label)?;
            let raw_mask = bare.mask(&prediction.probability);
            let mask = self.post.mask(&prediction.probability);
            let raw = FrameScores::of(&raw_mask, &label)?;
            let processed = if mask == raw_mask { raw } else { FrameScores::of(&mask, &label)? };
            frames.push(ScoredFrame { id, processed, raw });
            keep_if_poor(&mut worst, PoorFrame { id, dice: processed.counts.dice(), mask, label });
            watcher.frame_done();
            Ok(())
        })?;
        self.networks.push(ScoredNetwork { frames: frames.len(), network: network.describe() });
        self.frames.append(&mut frames);
        self.sweep += &sweep;
        worst.into_iter().for_each(|frame| keep_if_poor(&mut self.worst, frame));
        Ok(())
    }

    /// What all frames come to.
    ///
    /// # Errors
    /// [`Error::Request`] without frames.
    pub fn finish(self, bootstrap: &Bootstrap) -> Result<Evaluation<'a>> {
        let Evaluator { dataset, post, at, networks, mut frames, sweep, worst } = self;
        frames.sort_by_key(|frame| frame.id);
        let none = || nothing_to_score(dataset);
        let by_clip: Vec<&[ScoredFrame]> = frames.chunk_by(|a, b| a.id.clip == b.id.clip).collect();
        let outcome = |pick: fn(&ScoredFrame) -> &FrameScores| {
            let clips: Vec<Vec<FrameScores>> =
                by_clip.iter().map(|frames| frames.iter().map(|frame| *pick(frame)).collect()).collect();
            Outcome::of(&clips, bootstrap)
        };
        let (processed, raw) =
            (outcome(|frame| &frame.processed).ok_or_else(none)?, outcome(|frame| &frame.raw).ok_or_else(none)?);
        let clips = by_clip.iter().map(|frames| {
            let mean = |pick: fn(&ScoredFrame) -> &FrameScores| {
                PerMetric::from_fn(|metric| average(frames.iter().filter_map(|frame| pick(frame).get(metric))))
            };
            let without_hd95 = |pick: fn(&ScoredFrame) -> &FrameScores| {
                frames.iter().filter(|frame| pick(frame).hd95.is_none()).count()
            };
            ClipResult {
                clip: dataset.clip(frames[0].id).name.clone(),
                frames: frames.len(),
                processed: mean(|f| &f.processed),
                raw: mean(|f| &f.raw),
                without_hd95: without_hd95(|f| &f.processed),
                raw_without_hd95: without_hd95(|f| &f.raw),
            }
        });
        let clips = clips.collect();
        let bootstrap = *bootstrap;
        Ok(Evaluation { dataset, post, at, bootstrap, networks, processed, raw, clips, frames, sweep, worst })
    }
}

fn nothing_to_score(dataset: &Dataset) -> Error {
    Error::Request(format!("{} has no labelled frame to score", dataset.folder().display()))
}

/// Keeps the frame if it is one of the ten with the lowest Dice coefficients; of equals the earlier one.
fn keep_if_poor(worst: &mut Vec<PoorFrame>, frame: PoorFrame) {
    let place = worst.partition_point(|other| (other.dice, other.id) <= (frame.dice, frame.id));
    worst.insert(place, frame);
    worst.truncate(WORST);
}

fn average(values: impl Iterator<Item = f64>) -> Option<f64> {
    let values: Vec<f64> = values.collect();
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// What all frames come to.
#[derive(Debug, Clone)]
pub struct Evaluation<'a> {
    pub(super) dataset: &'a Dataset,
    /// How probabilities became masks.
    pub post: PostProcessing,
    /// At which size they were compared.
    pub at: ComparedAt,
    /// How the intervals were drawn.
    pub bootstrap: Bootstrap,
    /// The networks, in the order they came.
    pub networks: Vec<ScoredNetwork>,
    /// With post-processing: threshold and small components.
    pub processed: Outcome,
    /// Without: the threshold alone.
    pub raw: Outcome,
    /// Clip by clip, in the data set's order.
    pub clips: Vec<ClipResult>,
    pub(super) frames: Vec<ScoredFrame>,
    /// The probabilities at every threshold, all pixels together.
    pub sweep: Sweep,
    /// The frames with the lowest Dice coefficients after post-processing, the lowest first.
    pub worst: Vec<PoorFrame>,
}

/// Scores over all frames.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Outcome {
    /// How many frames.
    pub frames: usize,
    /// Means over the frames: every frame counts the same.
    pub mean: PerMetric<Estimate>,
    /// The scores of all pixels together: every pixel counts the same.
    pub pooled: Scores,
    /// All pixels.
    pub counts: Counts,
    /// How many frames have no HD95; the mean is over the others.
    pub without_hd95: usize,
}

/// A mean and how sure it is.
#[derive(Debug, Clone, Copy, PartialEq, Default, serde::Serialize)]
pub struct Estimate {
    /// `None` when no frame has a value.
    pub mean: Option<f64>,
    /// Over clips; `None` with fewer than two, which say nothing about how clips differ.
    pub interval: Option<Interval>,
}

impl Outcome {
    /// `None` without frames.
    fn of(clips: &[Vec<FrameScores>], bootstrap: &Bootstrap) -> Option<Outcome> {
        let frames = || clips.iter().flatten();
        let counts: Vec<Counts> = frames().map(|frame| frame.counts).collect();
        let agreement = Agreement::over(&counts)?;
        let estimate = |metric: Metric| {
            let values = |clip: &Vec<FrameScores>| clip.iter().filter_map(|f| f.get(metric)).collect::<Vec<f64>>();
            let values: Vec<Vec<f64>> = clips.iter().map(values).collect();
            Estimate { mean: average(values.iter().flatten().copied()), interval: bootstrap.mean(&values) }
        };
        Some(Outcome {
            frames: counts.len(),
            mean: PerMetric::from_fn(estimate),
            pooled: agreement.pooled,
            counts: agreement.counts,
            without_hd95: frames().filter(|frame| frame.hd95.is_none()).count(),
        })
    }
}

/// Means over the frames of one clip.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct ClipResult {
    /// Its name.
    pub clip: String,
    /// How many of its frames were scored.
    pub frames: usize,
    /// With post-processing.
    #[serde(rename = "post_processed")]
    pub processed: PerMetric<Option<f64>>,
    /// Without.
    pub raw: PerMetric<Option<f64>>,
    /// How many of its frames have no HD95 with post-processing; the mean is over the others.
    pub without_hd95: usize,
    /// How many have none without.
    pub raw_without_hd95: usize,
}
