//! The attributes of a DICOM image that decide how its pixels are read, checked once.

use super::super::{Size, checked_size};
use crate::error::{Error, Result};
use dicom_core::Tag;
use dicom_dictionary_std::tags;
use dicom_object::InMemDicomObject;
use std::path::Path;
use std::time::Duration;

/// A data set without its pixel data.
pub(super) type Dataset = InMemDicomObject;

/// How colours are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Photometric {
    /// The lowest value is white.
    Monochrome1,
    /// The lowest value is black.
    Monochrome2,
    /// Red, green, blue.
    Rgb,
    /// Luminance and colour differences, full range.
    YbrFull,
    /// A colour space that only exists inside a JPEG or JPEG 2000 stream; its decoder gives RGB.
    YbrCompressed,
}

impl std::fmt::Display for Photometric {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Photometric::Monochrome1 => "MONOCHROME1",
            Photometric::Monochrome2 => "MONOCHROME2",
            Photometric::Rgb => "RGB",
            Photometric::YbrFull | Photometric::YbrCompressed => "YBR",
        })
    }
}

/// What the pixels are.
#[derive(Debug, Clone)]
pub(super) struct Attributes {
    pub(super) modality: String,
    pub(super) size: Size,
    pub(super) frames: usize,
    pub(super) samples_per_pixel: usize,
    pub(super) photometric: Photometric,
    /// Colour planes one after the other instead of interleaved.
    pub(super) planar: bool,
    pub(super) bits_allocated: u16,
    pub(super) bits_stored: u16,
    pub(super) high_bit: u16,
    pub(super) signed: bool,
    pub(super) frame_time: Option<Duration>,
}

/// Where in a sample its value lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct StoredBits {
    /// How far the lowest bit of the value is from the lowest of the sample.
    pub(super) shift: u32,
    /// How many bits the value has, 1 to 16.
    pub(super) bits: u32,
    /// Whether the value is in two's complement.
    pub(super) signed: bool,
}

impl StoredBits {
    /// The value's bits as an index, 0 to 2^bits - 1.
    pub(super) fn index(self, sample: u16) -> usize {
        (usize::from(sample) >> self.shift) & ((1 << self.bits) - 1)
    }

    /// The value that an index stands for.
    pub(super) fn value(self, index: usize) -> f64 {
        let count = 1i64 << self.bits;
        let index = index as i64;
        (if self.signed && index >= count / 2 { index - count } else { index }) as f64
    }

    /// How many values there are.
    pub(super) fn count(self) -> usize {
        1 << self.bits
    }
}

impl Attributes {
    pub(super) fn from_dataset(path: &Path, dataset: &Dataset) -> Result<Attributes> {
        let problem = |problem: String| Error::media(path, problem);
        let modality = text(dataset, tags::MODALITY).unwrap_or_else(|| "image".into());
        if dataset.get(tags::ROWS).is_none() || dataset.get(tags::COLUMNS).is_none() {
            return Err(problem(format!("the DICOM file (modality {modality}) is truncated or holds no image")));
        }
        let required = |tag: Tag, name: &str| {
            whole(dataset, tag).ok_or_else(|| problem(format!("the DICOM header is truncated or lacks a valid {name}")))
        };
        let rows = required(tags::ROWS, "Rows")?;
        let columns = required(tags::COLUMNS, "Columns")?;
        let bits_allocated = required(tags::BITS_ALLOCATED, "Bits Allocated")? as u16;
        let bits_stored = whole(dataset, tags::BITS_STORED).map_or(bits_allocated, |v| v as u16);
        let attributes = Attributes {
            modality,
            size: checked_size(path, columns as usize, rows as usize)?,
            frames: match dataset.get(tags::NUMBER_OF_FRAMES) {
                // Present but empty is common in single-frame files.
                Some(element) if !element.value().to_str().unwrap_or_default().trim().is_empty() => {
                    required(tags::NUMBER_OF_FRAMES, "Number of Frames")? as usize
                }
                _ => 1,
            },
            samples_per_pixel: whole(dataset, tags::SAMPLES_PER_PIXEL).unwrap_or(1) as usize,
            photometric: photometric(dataset).map_err(problem)?,
            planar: whole(dataset, tags::PLANAR_CONFIGURATION) == Some(1),
            bits_allocated,
            bits_stored,
            high_bit: whole(dataset, tags::HIGH_BIT).map_or(bits_stored.saturating_sub(1), |v| v as u16),
            signed: whole(dataset, tags::PIXEL_REPRESENTATION) == Some(1),
            frame_time: frame_time(dataset),
        };
        attributes.check().map_err(problem)?;
        Ok(attributes)
    }

    fn check(&self) -> Result<(), String> {
        let Attributes { bits_allocated: allocated, bits_stored: stored, high_bit, .. } = *self;
        if self.frames == 0 {
            return Err("the DICOM header states 0 frames".into());
        }
        if allocated != 8 && allocated != 16 {
            return Err(format!("has {allocated} bits allocated per sample; 8 and 16 are read"));
        }
        if stored == 0 || stored > allocated || high_bit >= allocated || high_bit + 1 < stored {
            return Err(format!(
                "the DICOM header contradicts itself: {allocated} bits allocated, {stored} stored, high bit {high_bit}"
            ));
        }
        let samples = if self.is_grey() { 1 } else { 3 };
        if self.samples_per_pixel != samples {
            let found = self.samples_per_pixel;
            return Err(format!("has {found} samples per pixel, but {} has {samples}", self.photometric));
        }
        if samples == 3 && (allocated != 8 || stored != 8) {
            return Err(format!("holds colour of {stored} bits a sample; colour is read at 8 bits only"));
        }
        Ok(())
    }

    /// Whether a pixel is one grey value.
    pub(super) fn is_grey(&self) -> bool {
        matches!(self.photometric, Photometric::Monochrome1 | Photometric::Monochrome2)
    }

    /// Where in a sample its value lies.
    pub(super) fn stored_bits(&self) -> StoredBits {
        StoredBits {
            shift: u32::from(self.high_bit + 1 - self.bits_stored),
            bits: u32::from(self.bits_stored),
            signed: self.signed,
        }
    }

    /// Samples of one frame.
    pub(super) fn frame_samples(&self) -> usize {
        self.size.area() * self.samples_per_pixel
    }
}

fn photometric(dataset: &Dataset) -> Result<Photometric, String> {
    let name = text(dataset, tags::PHOTOMETRIC_INTERPRETATION);
    match name.as_deref() {
        Some("MONOCHROME1") => Ok(Photometric::Monochrome1),
        Some("MONOCHROME2") => Ok(Photometric::Monochrome2),
        Some("RGB") => Ok(Photometric::Rgb),
        Some("YBR_FULL") => Ok(Photometric::YbrFull),
        Some("YBR_FULL_422" | "YBR_RCT" | "YBR_ICT") => Ok(Photometric::YbrCompressed),
        Some(other) => Err(format!("has the photometric interpretation {other}, which is not read")),
        None => Err("the DICOM header is truncated or lacks a Photometric Interpretation".into()),
    }
}

/// Frame Time, else the mean of Frame Time Vector, else one over the nominal frame rate.
fn frame_time(dataset: &Dataset) -> Option<Duration> {
    let positive = |v: f64| (v.is_finite() && v > 0.0).then_some(v);
    let milliseconds = number(dataset, tags::FRAME_TIME)
        .and_then(positive)
        .or_else(|| {
            // The vector's first entry is the time before the first frame: 0.
            let increments = dataset.get(tags::FRAME_TIME_VECTOR)?.to_multi_float64().ok()?;
            let increments = increments.get(1..).filter(|i| !i.is_empty())?;
            positive(increments.iter().sum::<f64>() / increments.len() as f64)
        })
        .or_else(|| {
            let rate = number(dataset, tags::CINE_RATE)
                .and_then(positive)
                .or_else(|| number(dataset, tags::RECOMMENDED_DISPLAY_FRAME_RATE).and_then(positive))?;
            Some(1000.0 / rate)
        })?;
    Duration::try_from_secs_f64(milliseconds / 1000.0).ok().filter(|d| !d.is_zero())
}

/// A string attribute without padding; `None` when absent or empty.
pub(super) fn text(dataset: &Dataset, tag: Tag) -> Option<String> {
    let text = dataset.get(tag)?.value().to_str().ok()?;
    let text = text.trim_matches(|c: char| c.is_whitespace() || c == '\0');
    (!text.is_empty()).then(|| text.to_string())
}

/// A number, the first when there are several; `None` when absent or not a finite number.
pub(super) fn number(dataset: &Dataset, tag: Tag) -> Option<f64> {
    let values = dataset.get(tag)?.to_multi_float64().ok()?;
    values.first().copied().filter(|v| v.is_finite())
}

fn whole(dataset: &Dataset, tag: Tag) -> Option<u32> {
    dataset.get(tag)?.to_int::<i64>().ok().and_then(|v| u32::try_from(v).ok())
}
