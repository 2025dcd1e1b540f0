//! How well the masks of a run agree with those that somebody else holds for true.

use crate::error::Result;
use crate::media::{LabelReader, Mask};
use crate::metrics::{Agreement, Counts};

/// The labels of the run's clip, and what has been compared with them.
#[derive(Debug)]
pub struct Labels {
    reader: LabelReader,
    scored: Vec<Counts>,
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
    /// Nothing is compared yet.
    pub fn new(reader: LabelReader) -> Labels {
        Labels { reader, scored: Vec::new() }
    }

    /// Compares the mask of frame `index` with its label. Frames come in rising order.
    ///
    /// # Errors
    /// As [`LabelReader::read`]; [`Error::Request`](crate::Error::Request) when the sizes differ.
    pub fn compare(&mut self, index: usize, mask: &Mask) -> Result<()> {
        let label = self.reader.read(index)?;
        self.scored.push(Counts::of(mask, &Mask::of_label(label))?);
        Ok(())
    }

    /// What came of it; `None` when no frame was compared.
    pub fn agreement(self) -> Option<LabelAgreement> {
        let agreement = Agreement::over(&self.scored)?;
        let path = self.reader.name().to_owned();
        Some(LabelAgreement { path, agreement, dice: self.scored.iter().map(Counts::dice).collect() })
    }
}
