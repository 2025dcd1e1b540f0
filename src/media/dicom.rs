//! DICOM X-ray angiography, single- and multi-frame, as a clip of 8-bit frames.
//!
//! The header is read once; frames are then fetched from the file and decoded one at a time. Stored values become
//! 8-bit ones as a viewer would show them (modality, value of interest, MONOCHROME1 inverted; see
//! `dicom/greyscale.rs`). dicom-parser parses, the codecs of dicom-transfer-syntax-registry decode; finding each
//! frame's bytes is done here, because a frame may be spread over several fragments without an offset table.

mod attributes;
mod codec;
#[cfg(test)]
mod fixture;
mod greyscale;
mod pixel_data;
mod source;
#[cfg(test)]
mod tests;

use super::{ClipInfo, ClipKind, ClipReader, Colour, Frame};
use crate::error::{Error, Result};
use attributes::Attributes;
use codec::{FrameCodec, Samples};
use greyscale::Greyscale;
use pixel_data::PixelData;
use source::Source;
use std::path::{Path, PathBuf};

/// Reads the frames of one DICOM file.
#[derive(Debug)]
pub(super) struct DicomReader {
    path: PathBuf,
    info: ClipInfo,
    attributes: Attributes,
    pixel_data: PixelData,
    codec: FrameCodec,
    greyscale: Option<Greyscale>,
    next: usize,
}

impl DicomReader {
    /// Reads the header and finds every frame in the file.
    pub(super) fn open(path: &Path) -> Result<DicomReader> {
        let in_file = |problem: String| Error::media(path, problem);
        let (mut source, transfer_syntax) = Source::open(path)?;
        let dataset = source.read_header(path, &transfer_syntax)?;
        let attributes = Attributes::from_dataset(path, &dataset)?;
        let codec = FrameCodec::new(&transfer_syntax, &attributes).map_err(in_file)?;
        let pixel_data = PixelData::find(path, source, &transfer_syntax, &attributes)?;
        let description = format!(
            "DICOM {}, {}, {} bit, {}",
            attributes.modality,
            codec.name(),
            attributes.bits_stored,
            attributes.photometric
        );
        let info = ClipInfo {
            kind: ClipKind::Dicom,
            size: attributes.size,
            frames: attributes.frames,
            frame_time: attributes.frame_time,
            description,
        };
        let path = path.to_path_buf();
        let mut reader = DicomReader { path, info, attributes, pixel_data, codec, greyscale: None, next: 0 };
        // Says at once what is wrong with a codec or a size, before anything is written for this clip.
        reader.decode(0)?;
        if reader.attributes.is_grey() {
            reader.greyscale = Some(reader.greyscale(&dataset)?);
        }
        Ok(reader)
    }

    fn decode(&mut self, index: usize) -> Result<Samples> {
        let encoded = self.pixel_data.frame(index)?;
        self.codec
            .decode(&encoded, &self.attributes)
            .map_err(|cause| Error::media(&self.path, format!("frame {index} cannot be decoded: {cause}")))
    }

    /// The map from stored values to grey, one for the whole clip.
    fn greyscale(&mut self, dataset: &attributes::Dataset) -> Result<Greyscale> {
        let transform = greyscale::Transform::from_dataset(dataset, &self.attributes)
            .map_err(|problem| Error::media(&self.path, problem))?;
        if transform.is_windowed() || self.attributes.bits_stored <= 8 {
            return Ok(transform.over_all_values());
        }
        let mut occurring = greyscale::Occurring::new(self.attributes.stored_bits());
        for index in 0..self.attributes.frames {
            occurring.add(&self.decode(index)?);
        }
        Ok(transform.over(&occurring))
    }
}

impl ClipReader for DicomReader {
    fn info(&self) -> &ClipInfo {
        &self.info
    }

    fn next_frame(&mut self) -> Result<Option<Frame>> {
        if self.next >= self.info.frames {
            return Ok(None);
        }
        let samples = self.decode(self.next)?;
        self.next += 1;
        let (colour, bytes) = match (&self.greyscale, samples) {
            (Some(greyscale), samples) => (Colour::Grey, greyscale.apply(&samples)),
            (None, Samples::Eight(rgb)) => (Colour::Rgb, rgb),
            (None, Samples::Sixteen(_)) => {
                return Err(Error::media(&self.path, "holds colour of more than 8 bits a sample, which is not read"));
            }
        };
        Frame::new(self.info.size, colour, bytes).map(Some)
    }
}
