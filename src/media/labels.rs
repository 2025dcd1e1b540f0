//! Masks that somebody else holds for true, read beside a clip.

use super::{ClipReader, Frame};
use crate::error::{Error, Result};
use std::path::Path;

/// The labels of a clip: label i belongs to frame i.
pub struct LabelReader {
    name: String,
    reader: Box<dyn ClipReader>,
    /// The number of the label that the reader gives next.
    next: usize,
}

impl std::fmt::Debug for LabelReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LabelReader").field("name", &self.name).field("next", &self.next).finish_non_exhaustive()
    }
}

impl LabelReader {
    /// The labels at `path` for `clip`: a folder of images, or any other clip, with a label for every frame.
    ///
    /// # Errors
    /// Those of [`open`](super::open); [`Error::Media`] when there are more or fewer labels than frames, or they
    /// have another size.
    pub fn open(path: &Path, clip: &dyn ClipReader) -> Result<LabelReader> {
        let reader = super::open(path)?;
        let (labels, frames) = (reader.info(), clip.info());
        if labels.frames != frames.frames {
            let problem = format!(
                "holds {} labels, but the clip has {} frames; every frame needs its label",
                labels.frames, frames.frames
            );
            return Err(Error::media(path, problem));
        }
        if labels.size != frames.size {
            let problem = format!("the labels are {}, but the frames are {}", labels.size, frames.size);
            return Err(Error::media(path, problem));
        }
        Ok(LabelReader { name: path.to_string_lossy().into_owned(), reader, next: 0 })
    }

    /// The label of frame `index`. Frames come in rising order.
    ///
    /// # Errors
    /// Those of the reader; [`Error::Request`] when the labels end early.
    pub fn read(&mut self, index: usize) -> Result<Frame> {
        loop {
            let Some(label) = self.reader.next_frame()? else {
                return Err(Error::Request(format!("the labels in {} end before frame {index}", self.name)));
            };
            self.next += 1;
            if self.next > index {
                return Ok(label);
            }
        }
    }

    /// Where they are read, as it was given.
    pub fn name(&self) -> &str {
        &self.name
    }
}
