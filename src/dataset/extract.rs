//! Clips of any kind into a data set: every frame as a PNG of the very samples that were decoded.
//!
//! `NAME/frames/NNNN.png`, `NAME/labels/NNNN.png` where labels are given, and `NAME/source.json`, which says where they
//! are from. NNNN is the frame's number in the source, counted from 0. All clips of a run are put in place together
//! once they are complete, or none is.

mod name;
mod place;
#[cfg(test)]
mod tests;

pub use name::ClipName;

use super::{FRAMES, LABELS, Watcher, go_on};
use crate::error::{Error, Result};
use crate::media::output::{frame_digits, mask_png, picture_png};
use crate::media::{
    ClipReader, ClipSummary, Frame, FrameRange, LabelReader, Mask, Size, VESSEL, expect_end, expect_frame,
};
use crate::staging::Staging;
use name::own_name;
use place::{check_place, check_same_labels};
use rayon::prelude::*;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Where a clip's frames are from; a folder that holds one was written here.
const SOURCE: &str = "source.json";
/// Name and version of its format; the version changes when a field changes its meaning or goes.
const SCHEMA: &str = "coronet/extract";
const SCHEMA_VERSION: u32 = 1;

/// One clip to take over.
#[derive(Debug, Clone)]
pub struct ClipToExtract {
    /// Whatever [`crate::media::open`] reads.
    pub path: PathBuf,
    /// What it will be called.
    pub name: ClipName,
    /// The frames to take; all of them when `None`.
    pub frames: Option<FrameRange>,
    /// Its labels, one for every frame of the whole clip, as [`LabelReader::open`] has them.
    pub labels: Option<PathBuf>,
}

/// What a clip has become.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExtractedClip {
    /// Its folder.
    pub folder: PathBuf,
    /// The size of its frames.
    pub size: Size,
    /// Their numbers.
    pub frames: FrameRange,
    /// Whether they have labels.
    pub labelled: bool,
}

/// What `source.json` says.
#[derive(serde::Serialize)]
struct SourceDocument {
    schema: &'static str,
    schema_version: u32,
    coronet: &'static str,
    /// The `path` in it is the file's name alone.
    source: ClipSummary,
    frames: FrameRange,
    /// The file's or folder's name alone.
    labels: Option<String>,
}

/// Takes `clips` over into the data set in `folder`, which is made where it is missing: all of them, or none.
///
/// Frames are kept grey or RGB as they were decoded; RGB without any colour becomes grey. Labels become 0 and 255.
/// With `overwrite` a clip that an earlier run wrote is replaced, unless something would be lost that this run does not
/// write again: labels that differ, or files of others.
///
/// # Errors
/// [`Error::Request`] when a name is taken or wanted twice, or frames or labels do not fit their clip; what
/// [`crate::media::open`] and the readers report; [`Error::Io`] when the folder cannot be written to;
/// [`Error::Interrupted`] when the watcher says so. The data set is then as it was.
pub fn extract(
    clips: &[ClipToExtract],
    folder: &Path,
    overwrite: bool,
    watcher: &dyn Watcher,
) -> Result<Vec<ExtractedClip>> {
    check_names(clips)?;
    let check_places = || clips.iter().try_for_each(|clip| check_place(folder, clip, overwrite));
    check_places()?;
    let staging = Staging::create(folder)?;
    // What a run that was killed had moved aside may be there again.
    check_places()?;
    let mut extracted = Vec::with_capacity(clips.len());
    for clip in clips {
        extracted.push(stage_clip(clip, &staging, watcher).map_err(|error| staging.with_final_path(error))?);
    }
    go_on(watcher)?;
    // Much may have happened meanwhile.
    check_places()?;
    for clip in clips {
        let name = clip.name.as_str();
        check_same_labels(&folder.join(name).join(LABELS), &staging.path().join(name).join(LABELS))?;
    }
    staging.commit(&clips.iter().map(|clip| clip.name.as_str()).collect::<Vec<_>>())?;
    Ok(extracted)
}

fn check_names(clips: &[ClipToExtract]) -> Result<()> {
    for (position, clip) in clips.iter().enumerate() {
        if let Some(other) = clips[..position].iter().find(|other| other.name == clip.name) {
            return Err(Error::Request(format!(
                "{} and {} would both be the clip '{}'; extract one of them by itself with another --name",
                other.path.display(),
                clip.path.display(),
                clip.name
            )));
        }
    }
    Ok(())
}

/// A clip that is being read.
struct Source<'a> {
    clip: &'a ClipToExtract,
    reader: Box<dyn ClipReader>,
    frames: Range<usize>,
    labels: Option<LabelReader>,
    /// The largest value of all labels.
    largest: u8,
}

impl Source<'_> {
    fn open(clip: &ClipToExtract) -> Result<Source<'_>> {
        let reader = crate::media::open(&clip.path)?;
        let total = reader.info().frames;
        let frames = clip.frames.map_or(Ok(0..total), |range| range.within(total))?;
        let labels = clip.labels.as_ref().map(|path| LabelReader::open(path, &*reader)).transpose()?;
        Ok(Source { clip, reader, frames, labels, largest: 0 })
    }

    /// Frame `index`, the next one, and its label where there are some.
    fn next(&mut self, index: usize) -> Result<Numbered> {
        let frame = expect_frame(&mut *self.reader, index)?.without_equal_samples();
        let label = self.labels.as_mut().map(|labels| labels.read(index)).transpose()?.map(Frame::into_grey);
        let largest = label.as_ref().and_then(|label| label.samples().iter().copied().max());
        self.largest = self.largest.max(largest.unwrap_or(0));
        Ok(Numbered { index, frame, label: label.map(Mask::of_label) })
    }

    /// Labels of values such as 0 and 1 would come out empty.
    fn check_labels(&self) -> Result<()> {
        match &self.clip.labels {
            Some(path) if (1..VESSEL).contains(&self.largest) => {
                let largest = self.largest;
                let problem =
                    format!("no label holds vessel, which is {VESSEL} and more; the largest value is {largest}");
                Err(Error::media(path, problem))
            }
            _ => Ok(()),
        }
    }

    fn document(&self) -> Result<Vec<u8>> {
        let name = |path: &Path| own_name(path).map(|name| name.to_string_lossy().into_owned());
        let document = SourceDocument {
            schema: SCHEMA,
            schema_version: SCHEMA_VERSION,
            coronet: env!("CARGO_PKG_VERSION"),
            source: ClipSummary::new(Path::new(&name(&self.clip.path)?), self.reader.info()),
            frames: FrameRange { start: self.frames.start, end: self.frames.end },
            labels: self.clip.labels.as_deref().map(name).transpose()?,
        };
        serde_json::to_vec_pretty(&document).map_err(|e| Error::Internal(format!("the source is not JSON: {e}")))
    }
}

struct Numbered {
    index: usize,
    frame: Frame,
    label: Option<Mask>,
}

/// Writes a clip into the hidden folder.
fn stage_clip(clip: &ClipToExtract, staging: &Staging, watcher: &dyn Watcher) -> Result<ExtractedClip> {
    let mut source = Source::open(clip)?;
    let info = source.reader.info().clone();
    let frames = source.frames.clone();
    let digits = frame_digits(info.frames);
    watcher.begun(frames.len());
    for index in 0..frames.start {
        go_on(watcher)?;
        expect_frame(&mut *source.reader, index)?;
    }
    // Frames are decoded in turn, but made PNGs in groups, one for each thread.
    let group = rayon::current_num_threads().max(1);
    for first in frames.clone().step_by(group) {
        let group: Vec<Numbered> =
            (first..(first + group).min(frames.end)).map(|index| source.next(index)).collect::<Result<_>>()?;
        group.into_par_iter().try_for_each(|Numbered { index, frame, label }| {
            go_on(watcher)?;
            let path = |folder: &str| format!("{}/{folder}/{index:0digits$}.png", clip.name);
            staging.write(&path(FRAMES), &picture_png(&frame)?)?;
            if let Some(label) = label {
                staging.write(&path(LABELS), &mask_png(&label)?)?;
            }
            watcher.frame_done();
            Ok(())
        })?;
    }
    if frames.end == info.frames {
        expect_end(&mut *source.reader)?;
    }
    source.check_labels()?;
    staging.write(&format!("{}/{SOURCE}", clip.name), &source.document()?)?;
    Ok(ExtractedClip {
        folder: staging.folder().join(clip.name.as_str()),
        size: info.size,
        frames: FrameRange { start: frames.start, end: frames.end },
        labelled: clip.labels.is_some(),
    })
}
