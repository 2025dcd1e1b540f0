//! From stored values to 8-bit grey: the grey-scale pipeline of PS3.3 C.11 and PS3.4 N.2.
//!
//! Modality (rescale or table), then value of interest (table, else the first window), then MONOCHROME1 inverted,
//! so that frames always look as MONOCHROME2 does. Where a file gives neither table nor window, the range that is
//! stretched to 0..=255 is, for values of up to 8 bits, all values there are (identity for plain 8-bit files) and,
//! for deeper ones, the lowest to the highest value that occurs anywhere in the clip: one map for every frame, and
//! none of the 8 bits lost on values that a 12- or 14-bit detector never gives.

use super::attributes::{Attributes, Dataset, Photometric, StoredBits, number, text};
use super::codec::Samples;
use dicom_core::Tag;
use dicom_dictionary_std::tags;
use dicom_pixeldata::{Rescale, VoiLutFunction, WindowLevel, WindowLevelTransform};

/// What the header says about turning stored values into grey.
pub(super) struct Transform {
    stored: StoredBits,
    inverted: bool,
    modality: Modality,
    interest: Option<Interest>,
}

enum Modality {
    Linear(Rescale),
    Table(Table),
}

impl Modality {
    fn value(&self, stored: f64) -> f64 {
        match self {
            Modality::Linear(rescale) => rescale.apply(stored),
            Modality::Table(table) => table.entry(stored),
        }
    }
}

enum Interest {
    Window(WindowLevelTransform),
    Table(Table),
}

impl Transform {
    pub(super) fn from_dataset(dataset: &Dataset, attributes: &Attributes) -> Result<Transform, String> {
        let stored = attributes.stored_bits();
        let modality = modality(dataset, attributes.signed)?;
        let values = (0..stored.count()).map(|index| modality.value(stored.value(index)));
        // What a table of interest maps are values behind the modality's step, whatever the sign of the stored ones.
        let signed = values.fold(f64::INFINITY, f64::min) < 0.0;
        Ok(Transform {
            stored,
            inverted: attributes.photometric == Photometric::Monochrome1,
            modality,
            interest: interest(dataset, signed)?,
        })
    }

    /// Whether the header says which values are of interest.
    pub(super) fn is_windowed(&self) -> bool {
        self.interest.is_some()
    }

    /// The map for a clip in which every value may occur.
    pub(super) fn over_all_values(&self) -> Greyscale {
        self.over(&Occurring { stored: self.stored, seen: vec![true; self.stored.count()] })
    }

    /// The map for a clip of the values that occur in it.
    pub(super) fn over(&self, occurring: &Occurring) -> Greyscale {
        let (low, high) = self.modality_range(occurring);
        let grey_of = |stored: f64| {
            let value = self.modality.value(stored);
            let grey = match &self.interest {
                Some(Interest::Window(window)) => window.apply(value, 255.0),
                Some(Interest::Table(table)) => table.fraction(value) * 255.0,
                None if high > low => (value - low) / (high - low) * 255.0,
                None => 0.0,
            };
            // Also sweeps up NaN, which `as` makes 0.
            let grey = grey.round().clamp(0.0, 255.0);
            if self.inverted { 255.0 - grey } else { grey }
        };
        let table = (0..self.stored.count()).map(|index| grey_of(self.stored.value(index)) as u8).collect();
        Greyscale { stored: self.stored, table }
    }

    fn modality_range(&self, occurring: &Occurring) -> (f64, f64) {
        let values = occurring.indices().map(|index| self.modality.value(self.stored.value(index)));
        values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)))
    }
}

/// Which values occur in a clip.
pub(super) struct Occurring {
    stored: StoredBits,
    seen: Vec<bool>,
}

impl Occurring {
    pub(super) fn new(stored: StoredBits) -> Occurring {
        Occurring { stored, seen: vec![false; stored.count()] }
    }

    pub(super) fn add(&mut self, samples: &Samples) {
        match samples {
            Samples::Eight(s) => s.iter().for_each(|&v| self.seen[self.stored.index(v.into())] = true),
            Samples::Sixteen(s) => s.iter().for_each(|&v| self.seen[self.stored.index(v)] = true),
        }
    }

    fn indices(&self) -> impl Iterator<Item = usize> {
        self.seen.iter().enumerate().filter(|&(_, &seen)| seen).map(|(index, _)| index)
    }
}

/// The map from stored values to grey.
#[derive(Debug)]
pub(super) struct Greyscale {
    stored: StoredBits,
    table: Vec<u8>,
}

impl Greyscale {
    pub(super) fn apply(&self, samples: &Samples) -> Vec<u8> {
        match samples {
            Samples::Eight(s) => s.iter().map(|&v| self.table[self.stored.index(v.into())]).collect(),
            Samples::Sixteen(s) => s.iter().map(|&v| self.table[self.stored.index(v)]).collect(),
        }
    }
}

/// A look-up table of the header: a Modality LUT or a VOI LUT.
struct Table {
    first: f64,
    entries: Vec<u16>,
    /// The largest value an entry can have.
    full: f64,
}

impl Table {
    fn entry(&self, value: f64) -> f64 {
        let last = self.entries.len() - 1;
        // A float that is too large or no number becomes a valid index too.
        let index = (value - self.first).round().clamp(0.0, last as f64) as usize;
        f64::from(self.entries[index])
    }

    fn fraction(&self, value: f64) -> f64 {
        self.entry(value) / self.full
    }

    /// The table of the first item of a sequence.
    fn from_sequence(dataset: &Dataset, sequence: Tag, signed: bool) -> Result<Option<Table>, String> {
        let Some(item) = first_item(dataset, sequence) else {
            return Ok(None);
        };
        let broken = || "the DICOM header holds a look-up table that is empty or damaged".to_string();
        let descriptor =
            item.get(tags::LUT_DESCRIPTOR).and_then(|e| e.to_multi_int::<i32>().ok()).ok_or_else(broken)?;
        let &[count, first, bits] = descriptor.as_slice() else { return Err(broken()) };
        // 16-bit fields: 0 entries means 65536, and the first value is signed when the values to map are, whatever
        // the value representation says.
        let count = if count & 0xFFFF == 0 { 65536 } else { (count & 0xFFFF) as usize };
        let first = if signed { f64::from(first as u16 as i16) } else { f64::from(first as u16) };
        let mut entries = table_entries(item, count).ok_or_else(broken)?;
        entries.truncate(count);
        let declared = u32::try_from(bits).ok().filter(|b| (1..=16).contains(b)).ok_or_else(broken)?;
        let highest = entries.iter().copied().max().ok_or_else(broken)?;
        // Some devices declare 16 bits for 12-bit entries, which would make every frame almost black.
        let used = u16::BITS - highest.leading_zeros();
        let bits = if used == 0 || used > declared { declared.max(used) } else { used };
        Ok(Some(Table { first, entries, full: f64::from((1u32 << bits) - 1) }))
    }
}

/// LUT Data is words, or, for 8-bit tables of some writers, two entries a word.
fn table_entries(item: &Dataset, count: usize) -> Option<Vec<u16>> {
    let data = item.get(tags::LUT_DATA)?;
    let words: Vec<u16> = data.to_multi_int::<i32>().ok()?.into_iter().map(|v| v as u16).collect();
    if words.len() < count && words.len() * 2 >= count {
        return Some(words.iter().flat_map(|w| w.to_le_bytes().map(u16::from)).collect());
    }
    (!words.is_empty()).then_some(words)
}

fn modality(dataset: &Dataset, signed: bool) -> Result<Modality, String> {
    if let Some(table) = Table::from_sequence(dataset, tags::MODALITY_LUT_SEQUENCE, signed)? {
        return Ok(Modality::Table(table));
    }
    let group = functional_group(dataset, tags::PIXEL_VALUE_TRANSFORMATION_SEQUENCE);
    let value = |tag| number(dataset, tag).or_else(|| number(group?, tag));
    // A slope of 0 would make every pixel the same; writers that put it mean "none".
    let slope = value(tags::RESCALE_SLOPE).filter(|&slope| slope != 0.0).unwrap_or(1.0);
    Ok(Modality::Linear(Rescale::new(slope, value(tags::RESCALE_INTERCEPT).unwrap_or(0.0))))
}

fn interest(dataset: &Dataset, signed: bool) -> Result<Option<Interest>, String> {
    let group = functional_group(dataset, tags::FRAME_VOILUT_SEQUENCE);
    for place in [Some(dataset), group].into_iter().flatten() {
        if let Some(table) = Table::from_sequence(place, tags::VOILUT_SEQUENCE, signed)? {
            return Ok(Some(Interest::Table(table)));
        }
        if let Some(window) = window(place) {
            return Ok(Some(Interest::Window(window)));
        }
    }
    Ok(None)
}

/// The first window; a width that is not positive says nothing and counts as none.
fn window(dataset: &Dataset) -> Option<WindowLevelTransform> {
    let center = number(dataset, tags::WINDOW_CENTER)?;
    let width = number(dataset, tags::WINDOW_WIDTH).filter(|&w| w > 0.0)?;
    let function = match text(dataset, tags::VOILUT_FUNCTION).as_deref() {
        Some("LINEAR_EXACT") => VoiLutFunction::LinearExact,
        Some("SIGMOID") => VoiLutFunction::Sigmoid,
        _ => VoiLutFunction::Linear,
    };
    Some(WindowLevelTransform::new(function, WindowLevel { width, center }))
}

/// Enhanced XA keeps these in functional groups: those shared by all frames, else the first frame's, so that one
/// map serves the clip.
fn functional_group(dataset: &Dataset, sequence: Tag) -> Option<&Dataset> {
    [tags::SHARED_FUNCTIONAL_GROUPS_SEQUENCE, tags::PER_FRAME_FUNCTIONAL_GROUPS_SEQUENCE]
        .into_iter()
        .find_map(|groups| first_item(first_item(dataset, groups)?, sequence))
}

fn first_item(dataset: &Dataset, sequence: Tag) -> Option<&Dataset> {
    dataset.get(sequence)?.items()?.first()
}
