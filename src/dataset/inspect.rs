//! Every pixel of a data set looked at: what is damaged, what is labelled and how, and what learning should know.

use super::split::FEWEST_FRAMES_CUT;
use super::{Clip, Dataset, FrameId, LABELS, Watcher, go_on};
use crate::error::{Error, Result};
use crate::media::{Colour, Frame, Size, VESSEL};
use rayon::prelude::*;
use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;

/// Name and version of the format; the version changes when a field changes its meaning or goes.
const SCHEMA: &str = "coronet/dataset-check";
const SCHEMA_VERSION: u32 = 1;

/// What a data set holds and what is wrong with it.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Inspection {
    /// `coronet/dataset-check`.
    pub schema: &'static str,
    /// The version of this layout.
    pub schema_version: u32,
    /// The version of Coronet.
    pub coronet: &'static str,
    /// The data set, as it was given.
    pub folder: String,
    /// What must be put right before anything can be learned from it, a sentence each.
    pub problems: Vec<String>,
    /// What may be meant so, a sentence each.
    pub notes: Vec<String>,
    /// Over all clips.
    pub totals: Tally,
    /// Clips whose files fit together, in the data set's order.
    pub clips: Vec<ClipInspection>,
}

/// One clip.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct ClipInspection {
    /// Its folder's name.
    pub name: String,
    /// The size of its frames and labels.
    #[serde(flatten)]
    pub size: Size,
    /// What is in it.
    #[serde(flatten)]
    pub tally: Tally,
}

/// What frames and labels hold. Those that cannot be read count as frames and labels, and as nothing else.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize)]
pub struct Tally {
    /// Frames.
    pub frames: usize,
    /// Frames that have a label.
    pub labelled_frames: usize,
    /// Labels without vessel.
    pub empty_labels: usize,
    /// Labels that are nothing but vessel.
    pub full_labels: usize,
    /// Labels with other values than 0 and 255, such as soft edges.
    pub grey_labels: usize,
    /// Pixels of these values.
    pub grey_label_pixels: usize,
    /// Frames with colour: pixels whose red, green and blue differ.
    pub colour_frames: usize,
    /// Frames that are the same as the one before them in their clip, pixel for pixel.
    pub repeated_frames: usize,
    /// The share of vessel in a label, over the labels; none without labels.
    pub vessel_share: Option<VesselShare>,
}

/// The share of pixels that are vessel, each 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct VesselShare {
    /// The mean over labels.
    pub mean: f64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
}

impl Inspection {
    /// Reads every frame and label of the data set in `folder`, by all threads of the current rayon pool.
    ///
    /// # Errors
    /// As [`Dataset::survey`], and [`Error::Interrupted`] when the watcher says so. Whatever else is wrong is among
    /// [`Inspection::problems`].
    pub fn of(folder: &Path, watcher: &dyn Watcher) -> Result<Inspection> {
        let (dataset, mut problems) = Dataset::survey(folder)?;
        let ids = |clip: usize| (0..dataset.clips()[clip].frames.len()).map(move |frame| FrameId { clip, frame });
        let all: Vec<FrameId> = (0..dataset.clips().len()).flat_map(ids).collect();
        watcher.begun(all.len());
        let looks: Result<Vec<Look>> = all
            .par_iter()
            .map(|&id| {
                go_on(watcher)?;
                let look = Look::at(&dataset, id);
                watcher.frame_done();
                Ok(look)
            })
            .collect();
        let mut looks = looks?;
        problems.extend(looks.iter_mut().flat_map(|look| std::mem::take(&mut look.problems)));

        let mut rest = &mut looks[..];
        let mut clips = Vec::with_capacity(dataset.clips().len());
        for clip in dataset.clips() {
            let (of_clip, behind) = std::mem::take(&mut rest).split_at_mut(clip.frames.len());
            rest = behind;
            find_repeats(of_clip);
            problems.extend(dim_labels(&dataset, clip, of_clip));
            clips.push(ClipInspection { name: clip.name.clone(), size: clip.size, tally: Tally::of(of_clip) });
        }
        Ok(Inspection {
            schema: SCHEMA,
            schema_version: SCHEMA_VERSION,
            coronet: env!("CARGO_PKG_VERSION"),
            folder: folder.to_string_lossy().into_owned(),
            problems: problems.iter().map(Error::to_string).collect(),
            notes: notes(&clips),
            totals: Tally::of(&looks),
            clips,
        })
    }
}

/// What one frame and its label show.
#[derive(Debug, Default)]
struct Look {
    picture: Option<Picture>,
    has_label: bool,
    label: Option<Label>,
    repeats: bool,
    problems: Vec<Error>,
}

#[derive(Debug)]
struct Picture {
    digest: u64,
    colour: bool,
}

#[derive(Debug)]
struct Label {
    pixels: usize,
    vessel: usize,
    grey: usize,
    /// All values of a label that holds some above 0, but none that is vessel.
    dim: Vec<u8>,
}

impl Look {
    fn at(dataset: &Dataset, id: FrameId) -> Look {
        let mut look = Look { has_label: dataset.frame(id).label.is_some(), ..Look::default() };
        match dataset.read_frame(id) {
            Ok(frame) => look.picture = Some(Picture::of(frame)),
            Err(error) => look.problems.push(error),
        }
        if look.has_label {
            match dataset.read_label_image(id) {
                Ok(image) => look.label = Some(Label::of(image)),
                Err(error) => look.problems.push(error),
            }
        }
        look
    }
}

impl Picture {
    fn of(frame: Frame) -> Picture {
        let frame = frame.without_equal_samples();
        let mut hasher = DefaultHasher::new();
        frame.samples().hash(&mut hasher);
        Picture { digest: hasher.finish(), colour: frame.colour() == Colour::Rgb }
    }
}

impl Label {
    fn of(image: Frame) -> Label {
        let mut histogram = [0; 256];
        image.into_grey().samples().iter().for_each(|&value| histogram[usize::from(value)] += 1);
        let (dark, vessel) = histogram.split_at(usize::from(VESSEL));
        let vessel = vessel.iter().sum();
        let occurring = || (0..VESSEL).filter(|&value| dark[usize::from(value)] > 0).collect::<Vec<u8>>();
        let is_dim = vessel == 0 && dark[1..].iter().any(|&count| count > 0);
        Label {
            pixels: histogram.iter().sum(),
            vessel,
            grey: histogram[1..255].iter().sum(),
            dim: if is_dim { occurring() } else { Vec::new() },
        }
    }

    fn share(&self) -> f64 {
        self.vessel as f64 / self.pixels.max(1) as f64
    }
}

impl Tally {
    fn of(looks: &[Look]) -> Tally {
        let count = |holds: fn(&Look) -> bool| looks.iter().filter(|look| holds(look)).count();
        let label =
            |holds: fn(&Label) -> bool| looks.iter().filter_map(|look| look.label.as_ref()).filter(move |l| holds(l));
        Tally {
            frames: looks.len(),
            labelled_frames: count(|look| look.has_label),
            empty_labels: label(|label| label.vessel == 0).count(),
            full_labels: label(|label| label.vessel == label.pixels).count(),
            grey_labels: label(|label| label.grey > 0).count(),
            grey_label_pixels: label(|_| true).map(|label| label.grey).sum(),
            colour_frames: count(|look| look.picture.as_ref().is_some_and(|picture| picture.colour)),
            repeated_frames: count(|look| look.repeats),
            vessel_share: VesselShare::over(label(|_| true).map(Label::share)),
        }
    }
}

impl VesselShare {
    fn over(shares: impl Iterator<Item = f64>) -> Option<VesselShare> {
        let (mut count, mut sum, mut min, mut max) = (0, 0.0, f64::INFINITY, 0.0_f64);
        for share in shares {
            (count, sum, min, max) = (count + 1, sum + share, min.min(share), max.max(share));
        }
        (count > 0).then(|| VesselShare { mean: sum / f64::from(count), min, max })
    }
}

fn find_repeats(clip: &mut [Look]) {
    let digests: Vec<Option<u64>> = clip.iter().map(|look| look.picture.as_ref().map(|p| p.digest)).collect();
    for (look, pair) in clip.iter_mut().skip(1).zip(digests.windows(2)) {
        look.repeats = pair[0].is_some() && pair[0] == pair[1];
    }
}

/// Labels of values such as 0 and 1 would be all background.
fn dim_labels(dataset: &Dataset, clip: &Clip, looks: &[Look]) -> Option<Error> {
    let dim = |look: &Look| look.label.as_ref().map_or(&[][..], |label| &label.dim).to_vec();
    let values: BTreeSet<u8> = looks.iter().flat_map(dim).collect();
    let mut found = looks.iter().zip(&clip.frames).filter(|(look, _)| !dim(look).is_empty());
    let (_, first) = found.next()?;
    let labels = match found.count() {
        0 => "1 label holds".to_owned(),
        others => format!("{} labels hold", others + 1),
    };
    let first = first.label.as_ref()?.file_name()?.to_string_lossy();
    let problem = format!(
        "{labels} values {}; vessel is {VESSEL} and more, so there is none (the first is {first})",
        in_words(&values)
    );
    Some(Error::media(&dataset.folder().join(&clip.name).join(LABELS), problem))
}

/// `0 and 1`, `0, 1 and 2`, `0 to 97`.
fn in_words(values: &BTreeSet<u8>) -> String {
    let texts: Vec<String> = values.iter().map(u8::to_string).collect();
    match &texts[..] {
        [] => String::new(),
        [one] => one.clone(),
        [before @ .., last] if before.len() < 4 => format!("{} and {last}", before.join(", ")),
        [first, .., last] => format!("{first} to {last}"),
    }
}

/// A sentence for each thing to know, with the clips that it is about.
fn notes(clips: &[ClipInspection]) -> Vec<String> {
    let about = |what: &str, of_clip: &dyn Fn(&ClipInspection) -> Option<String>| {
        let found: Vec<String> = clips.iter().filter_map(of_clip).collect();
        (!found.is_empty()).then(|| format!("{what}: {}", listed(&found)))
    };
    let counted = |what: &str, number: fn(&Tally) -> (usize, usize)| {
        about(what, &|clip| match number(&clip.tally) {
            (0, _) => None,
            (number, all) => Some(format!("{} ({number} of {all})", clip.name)),
        })
    };
    let shorter =
        |what: &str, frames: usize| about(what, &|clip| (clip.tally.frames < frames).then(|| clip.name.clone()));
    let half = |clip: &ClipInspection| {
        let share = clip.tally.vessel_share.filter(|share| share.mean > 0.5)?;
        Some(format!("{} ({:.0} %)", clip.name, share.mean * 100.0))
    };
    let split = format!("clips under {FEWEST_FRAMES_CUT} frames go whole into one part of a split");
    let grey = format!("labels hold other values than 0 and 255, of which {VESSEL} and more are vessel");
    [
        counted("frames without a label are only neighbours of others", |t| (t.frames - t.labelled_frames, t.frames)),
        shorter("clips under 3 frames repeat their ends in every window of N = 1", 3),
        shorter("clips under 5 frames repeat their ends in every window of N = 2", 5),
        shorter("clips under 7 frames repeat their ends in every window of N = 3", 7),
        shorter(&split, FEWEST_FRAMES_CUT),
        counted("frames are the same as the one before", |t| (t.repeated_frames, t.frames)),
        counted("labels are nothing but vessel", |t| (t.full_labels, t.labelled_frames)),
        about("labels are vessel for the most part, perhaps drawn the other way round", &half),
        counted(&grey, |t| (t.grey_labels, t.labelled_frames)),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// So many names tell enough.
const MOST_NAMED: usize = 8;

fn listed(names: &[String]) -> String {
    match names.len().checked_sub(MOST_NAMED) {
        Some(more @ 1..) => format!("{} and {more} more", names[..MOST_NAMED].join(", ")),
        _ => names.join(", "),
    }
}

#[cfg(test)]
mod tests;
