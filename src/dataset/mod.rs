//! A data set: a folder of clips, each a folder with `frames/NNNN.png` and `labels/NNNN.png`.
//!
//! A label belongs to the frame of the same name (without the suffix) and holds vessel where its value is at least
//! 128. Frames without a label are neighbours of others and nothing else. Any image format that clips may have will do.

mod extract;
mod inspect;
mod split;

pub use extract::{ClipName, ClipToExtract, ExtractedClip, extract};
pub use inspect::{ClipInspection, Inspection, Tally, VesselShare};
pub use split::{Section, Split, SplitChoice};

use crate::error::{Error, Result};
use crate::media::{Frame, Mask, Size, files_in_natural_order, image_size, read_image};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Watches long work on a data set from outside and may stop it.
pub trait Watcher: Sync {
    /// Work on so many frames begins.
    fn begun(&self, _frames: usize) {}

    /// One of them is done.
    fn frame_done(&self) {}

    /// Whether to stop with [`Error::Interrupted`]; asked before each frame.
    fn interrupted(&self) -> bool {
        false
    }
}

/// The watcher that does not look.
impl Watcher for () {}

fn go_on(watcher: &dyn Watcher) -> Result<()> {
    if watcher.interrupted() { Err(Error::Interrupted) } else { Ok(()) }
}

/// A folder of clips whose files fit together; no pixel has been read yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dataset {
    folder: PathBuf,
    clips: Vec<Clip>,
}

/// Consecutive frames of one size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Clip {
    /// Its folder's name.
    pub name: String,
    /// The size of its frames and labels.
    pub size: Size,
    /// Its frames in the order of acquisition, at least one.
    pub frames: Vec<ClipFrame>,
}

/// One frame of a clip and what somebody has drawn on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClipFrame {
    /// The frame's file.
    pub path: PathBuf,
    /// The label's file, where there is one.
    pub label: Option<PathBuf>,
}

/// A frame of a data set, by the positions of its clip and its own in that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FrameId {
    /// Position in [`Dataset::clips`].
    pub clip: usize,
    /// Position in [`Clip::frames`].
    pub frame: usize,
}

impl Dataset {
    /// The data set in `folder`, its clips in natural order of their names.
    ///
    /// # Errors
    /// [`Error::Io`] when a folder cannot be read; [`Error::Media`] when there is no clip, a clip has no frames, a
    /// number is missing among them, sizes differ, a label has no frame, or an image cannot be read.
    pub fn open(folder: &Path) -> Result<Dataset> {
        let (dataset, problems) = Dataset::survey(folder)?;
        problems.into_iter().next().map_or(Ok(dataset), Err)
    }

    /// As [`Dataset::open`], with what fits together and all that does not, each named by itself.
    ///
    /// # Errors
    /// [`Error::Io`] when `folder` cannot be read, [`Error::Media`] when it holds no clip at all.
    pub fn survey(folder: &Path) -> Result<(Dataset, Vec<Error>)> {
        let (mut clips, mut problems) = (Vec::new(), Vec::new());
        for clip in folders_in_natural_order(folder)? {
            match survey_clip(&clip, &mut problems) {
                Ok(clip) => clips.extend(clip),
                Err(error) => problems.push(error),
            }
        }
        if clips.is_empty() && problems.is_empty() {
            let problem = if folder.join(FRAMES).is_dir() {
                "is one clip; give the folder that holds it"
            } else {
                "holds no clip, which is a folder with frames/NNNN.png and labels/NNNN.png"
            };
            return Err(Error::media(folder, problem));
        }
        Ok((Dataset { folder: folder.to_path_buf(), clips }, problems))
    }

    /// Where it is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Its clips.
    pub fn clips(&self) -> &[Clip] {
        &self.clips
    }

    /// The clip that a frame is of.
    pub fn clip(&self, id: FrameId) -> &Clip {
        &self.clips[id.clip]
    }

    /// The files of a frame.
    pub fn frame(&self, id: FrameId) -> &ClipFrame {
        &self.clips[id.clip].frames[id.frame]
    }

    /// Decodes a frame.
    ///
    /// # Errors
    /// [`Error::Io`] and [`Error::Media`] when it cannot be read, or has another size than when the set was opened.
    pub fn read_frame(&self, id: FrameId) -> Result<Frame> {
        self.read(id, &self.frame(id).path)
    }

    /// Decodes the label of a frame that has one.
    ///
    /// # Errors
    /// As [`Dataset::read_frame`]; [`Error::Request`] when there is none.
    pub fn read_label(&self, id: FrameId) -> Result<Mask> {
        self.read_label_image(id).map(Mask::of_label)
    }

    /// The label before it is made a mask.
    fn read_label_image(&self, id: FrameId) -> Result<Frame> {
        let frame = self.frame(id);
        let none = || Error::Request(format!("{} has no label", frame.path.display()));
        self.read(id, frame.label.as_ref().ok_or_else(none)?)
    }

    fn read(&self, id: FrameId, path: &Path) -> Result<Frame> {
        let (frame, size) = (read_image(path)?, self.clip(id).size);
        if frame.size() != size {
            let problem = format!("the image is {} now, but was {size} when the data set was opened", frame.size());
            return Err(Error::media(path, problem));
        }
        Ok(frame)
    }
}

/// The folders within a clip's.
const FRAMES: &str = "frames";
const LABELS: &str = "labels";

/// The clip in a folder, or `None` when what it holds does not make one, which `problems` then says.
fn survey_clip(folder: &Path, problems: &mut Vec<Error>) -> Result<Option<Clip>> {
    let (frames, labels) = (folder.join(FRAMES), folder.join(LABELS));
    if !frames.is_dir() {
        problems.push(Error::media(folder, "is no clip: it has no folder frames/"));
        return Ok(None);
    }
    let before = problems.len();
    let frames = images(&frames, problems)?;
    let mut labels = if labels.is_dir() { images(&labels, problems)? } else { BTreeMap::new() };
    let Some(&(ref first, size)) = frames.values().next() else {
        if problems.len() == before {
            problems.push(Error::media(&folder.join(FRAMES), "holds no png, jpg, bmp, tif or pgm image"));
        }
        return Ok(None);
    };
    for (path, other) in frames.values().filter(|(_, other)| *other != size) {
        let first = first.file_name().unwrap_or_default().to_string_lossy();
        problems.push(Error::media(path, format!("the frame is {other}, but {first} is {size}; a clip has one size")));
    }
    missing_number(folder, frames.keys(), problems);
    let mut joined = Vec::with_capacity(frames.len());
    for (name, (path, frame_size)) in frames {
        let label = labels.remove(&name);
        if let Some((path, label_size)) = label.as_ref().filter(|(_, size)| *size != frame_size) {
            problems.push(Error::media(path, format!("the label is {label_size}, but its frame is {frame_size}")));
        }
        joined.push(ClipFrame { path, label: label.map(|(path, _)| path) });
    }
    for (path, _) in labels.values() {
        problems.push(Error::media(path, "is a label without a frame: frames/ holds none of its name"));
    }
    let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok((problems.len() == before).then_some(Clip { name, size, frames: joined }))
}

/// A file's name without its suffix; they sort naturally.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stem(String);

impl Ord for Stem {
    fn cmp(&self, other: &Stem) -> std::cmp::Ordering {
        natord::compare(&self.0, &other.0).then_with(|| self.0.cmp(&other.0))
    }
}

impl PartialOrd for Stem {
    fn partial_cmp(&self, other: &Stem) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// The suffixes of files that are meant to be images.
const SUFFIXES: [&str; 9] = ["png", "jpg", "jpeg", "bmp", "tif", "tiff", "pgm", "ppm", "pnm"];

/// The images of a folder with their sizes, by name.
fn images(folder: &Path, problems: &mut Vec<Error>) -> Result<BTreeMap<Stem, (PathBuf, Size)>> {
    let mut found: BTreeMap<Stem, (PathBuf, Size)> = BTreeMap::new();
    for path in files_in_natural_order(folder)? {
        let suffix = path.extension().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
        if !SUFFIXES.contains(&suffix.as_str()) {
            continue;
        }
        let stem = Stem(path.file_stem().unwrap_or_default().to_string_lossy().into_owned());
        match image_size(&path) {
            Err(error) => problems.push(error),
            Ok(size) => {
                if let Some((other, _)) = found.insert(stem, (path.clone(), size)) {
                    let other = other.file_name().unwrap_or_default().to_string_lossy().into_owned();
                    problems.push(Error::media(&path, format!("stands for the same frame as {other}")));
                }
            }
        }
    }
    Ok(found)
}

/// Where all names are numbers, one that is missing would put frames side by side that are not.
fn missing_number<'a>(clip: &Path, names: impl Iterator<Item = &'a Stem>, problems: &mut Vec<Error>) {
    let numbers: Option<Vec<u64>> = names.map(|name| name.0.parse().ok()).collect();
    let Some(numbers) = numbers else { return };
    if let Some(pair) = numbers.windows(2).find(|pair| pair[1] != pair[0] + 1) {
        let problem = format!("frame {} is missing: the clip goes on with frame {}", pair[0] + 1, pair[1]);
        problems.push(Error::media(&clip.join(FRAMES), problem));
    }
}

fn folders_in_natural_order(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut folders = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(Error::io("read", folder))? {
        let entry = entry.map_err(Error::io("read", folder))?;
        let hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
        let path = entry.path();
        let is_of_a_clip = path.file_name().is_some_and(|name| name == FRAMES || name == LABELS);
        if !hidden && !is_of_a_clip && path.is_dir() {
            folders.push((Stem(entry.file_name().to_string_lossy().into_owned()), path));
        }
    }
    folders.sort();
    Ok(folders.into_iter().map(|(_, path)| path).collect())
}

#[cfg(test)]
pub(crate) mod fixture;
#[cfg(test)]
mod tests;
