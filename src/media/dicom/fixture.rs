//! DICOM files made in code, for tests.

use dicom_core::value::{DataSetSequence, PixelFragmentSequence, Value};
use dicom_core::{DataElement, Length, PrimitiveValue, Tag, VR};
use dicom_dictionary_std::{tags, uids};
use dicom_object::{FileMetaTableBuilder, InMemDicomObject};
use std::path::Path;

/// An XA image of `frames` frames of 16x8 pixels, still without pixel data.
pub(in crate::media) fn image(frames: usize, allocated: u16, stored: u16) -> InMemDicomObject {
    let mut object = InMemDicomObject::new_empty();
    text(&mut object, tags::SOP_CLASS_UID, VR::UI, uids::X_RAY_ANGIOGRAPHIC_IMAGE_STORAGE);
    text(&mut object, tags::SOP_INSTANCE_UID, VR::UI, "1.2.3.4");
    text(&mut object, tags::MODALITY, VR::CS, "XA");
    text(&mut object, tags::PHOTOMETRIC_INTERPRETATION, VR::CS, "MONOCHROME2");
    text(&mut object, tags::NUMBER_OF_FRAMES, VR::IS, &frames.to_string());
    text(&mut object, tags::FRAME_TIME, VR::DS, "66.5");
    for (tag, value) in [
        (tags::SAMPLES_PER_PIXEL, 1),
        (tags::ROWS, 8),
        (tags::COLUMNS, 16),
        (tags::BITS_ALLOCATED, allocated),
        (tags::BITS_STORED, stored),
        (tags::HIGH_BIT, stored - 1),
        (tags::PIXEL_REPRESENTATION, 0),
    ] {
        number(&mut object, tag, value);
    }
    object
}

pub(in crate::media) fn text(object: &mut InMemDicomObject, tag: Tag, vr: VR, value: &str) {
    object.put(DataElement::new(tag, vr, PrimitiveValue::from(value)));
}

pub(in crate::media) fn number(object: &mut InMemDicomObject, tag: Tag, value: u16) {
    object.put(DataElement::new(tag, VR::US, PrimitiveValue::from(value)));
}

/// A VOI LUT that maps `first`, `first` + 1, ... to `entries`.
pub(in crate::media) fn voi_lut(object: &mut InMemDicomObject, first: u16, bits: u16, entries: &[u16]) {
    let mut item = InMemDicomObject::new_empty();
    let descriptor = PrimitiveValue::U16([entries.len() as u16, first, bits].into_iter().collect());
    item.put(DataElement::new(tags::LUT_DESCRIPTOR, VR::US, descriptor));
    let data = PrimitiveValue::U16(entries.iter().copied().collect());
    item.put(DataElement::new(tags::LUT_DATA, VR::US, data));
    let sequence = DataSetSequence::new(vec![item], Length::UNDEFINED);
    object.put(DataElement::new(tags::VOILUT_SEQUENCE, VR::SQ, Value::from(sequence)));
}

/// Writes 8-bit native pixel data.
pub(in crate::media) fn save_bytes(path: &Path, mut object: InMemDicomObject, pixels: &[u8]) {
    object.put(DataElement::new(tags::PIXEL_DATA, VR::OB, PrimitiveValue::from(pixels)));
    save(path, object, uids::EXPLICIT_VR_LITTLE_ENDIAN);
}

/// Writes 16-bit native pixel data.
pub(in crate::media) fn save_words(path: &Path, mut object: InMemDicomObject, pixels: &[u16]) {
    let value = PrimitiveValue::U16(pixels.iter().copied().collect());
    object.put(DataElement::new(tags::PIXEL_DATA, VR::OW, value));
    save(path, object, uids::EXPLICIT_VR_LITTLE_ENDIAN);
}

/// Writes encapsulated pixel data.
pub(in crate::media) fn save_fragments(
    path: &Path,
    mut object: InMemDicomObject,
    transfer_syntax: &str,
    offset_table: Vec<u32>,
    fragments: Vec<Vec<u8>>,
) {
    let sequence = PixelFragmentSequence::new(offset_table, fragments);
    object.put(DataElement::new(tags::PIXEL_DATA, VR::OB, Value::from(sequence)));
    save(path, object, transfer_syntax);
}

fn save(path: &Path, object: InMemDicomObject, transfer_syntax: &str) {
    let meta = FileMetaTableBuilder::new().transfer_syntax(transfer_syntax);
    object.with_meta(meta).unwrap().write_to_file(path).unwrap();
}

/// One frame in RLE, all literal runs, one segment a byte plane, padded to an even length.
pub(in crate::media) fn run_length(planes: &[Vec<u8>]) -> Vec<u8> {
    let mut header = vec![planes.len() as u32];
    let mut body = Vec::new();
    for plane in planes {
        header.push(64 + body.len() as u32);
        for run in plane.chunks(128) {
            body.push(run.len() as u8 - 1);
            body.extend_from_slice(run);
        }
    }
    header.resize(16, 0);
    body.resize(body.len().next_multiple_of(2), 0);
    header.into_iter().flat_map(u32::to_le_bytes).chain(body).collect()
}
