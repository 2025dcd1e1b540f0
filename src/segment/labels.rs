//! Masks that somebody else holds for true, read beside a clip, and how well the run's own agree with them.

use crate::error::{Error, Result};
use crate::media::{ClipReader, Frame, Mask};
use crate::metrics::{Agreement, Counts};
use std::path::Path;

/// The labels of a clip: label i belongs to frame i.
pub struct Labels {
    name: String,
    reader: Box<dyn ClipReader>,
    /// The number of the label that the reader gives next.
    next: usize,
    scored: Vec<Counts>,
}

impl std::fmt::Debug for Labels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Labels").field("name", &self.name).field("next", &self.next).finish_non_exhaustive()
    }
}

/// The masks of a run against the labels.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct LabelAgreement {
    /// Where the labels were read, as it was given.
    pub path: String,
    /// Scores over all frames that got a mask, after post-processing.
    pub agreement: Agreement,
    /// The Dice coefficient of each of these frames, in their order.
    pub dice: Vec<f64>,
}

impl Labels {
    /// The labels at `path` for `clip`: a folder of images, or any other clip, with a label for every frame.
    ///
    /// # Errors
    /// Those of [`crate::media::open`]; [`Error::Media`] when there are more or fewer labels than frames, or they
    /// have another size.
    pub fn open(path: &Path, clip: &dyn ClipReader) -> Result<Labels> {
        let reader = crate::media::open(path)?;
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
        Ok(Labels { name: path.to_string_lossy().into_owned(), reader, next: 0, scored: Vec::new() })
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

    /// Compares the mask of frame `index` with its label. Frames come in rising order.
    ///
    /// # Errors
    /// As [`Labels::read`]; [`Error::Request`] when the sizes differ.
    pub fn compare(&mut self, index: usize, mask: &Mask) -> Result<()> {
        let label = self.read(index)?;
        self.scored.push(Counts::of(mask, &Mask::of_label(label))?);
        Ok(())
    }

    /// What came of it; `None` when no frame was compared.
    pub fn agreement(self) -> Option<LabelAgreement> {
        let agreement = Agreement::over(&self.scored)?;
        Some(LabelAgreement { path: self.name, agreement, dice: self.scored.iter().map(Counts::dice).collect() })
    }
}
