//! DICOM files made in code, for tests.

use dicom_core::value::{DataSetSequence, PixelFragmentSequence, Value};
use dicom_core::{DataElement, Length, PrimitiveValue, Tag, VR};
use dicom_dictionary_std::{tags, uids};
use dicom_encoding::adapters::EncodeOptions;
use dicom_encoding::transfer_syntax::{Codec, TransferSyntaxIndex};
use dicom_object::{FileMetaTableBuilder, InMemDicomObject};
use dicom_transfer_syntax_registry::TransferSyntaxRegistry;
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
    lut(object, tags::VOILUT_SEQUENCE, first, bits, entries);
}

/// A look-up table that maps `first`, `first` + 1, ... to `entries`, in a sequence of its own.
pub(in crate::media) fn lut(object: &mut InMemDicomObject, sequence: Tag, first: u16, bits: u16, entries: &[u16]) {
    let mut item = InMemDicomObject::new_empty();
    let descriptor = PrimitiveValue::U16([entries.len() as u16, first, bits].into_iter().collect());
    item.put(DataElement::new(tags::LUT_DESCRIPTOR, VR::US, descriptor));
    let data = PrimitiveValue::U16(entries.iter().copied().collect());
    item.put(DataElement::new(tags::LUT_DATA, VR::US, data));
    let items = DataSetSequence::new(vec![item], Length::UNDEFINED);
    object.put(DataElement::new(sequence, VR::SQ, Value::from(items)));
}

/// Writes 8-bit native pixel data.
pub(in crate::media) fn save_bytes(path: &Path, mut object: InMemDicomObject, pixels: &[u8]) {
    object.put(DataElement::new(tags::PIXEL_DATA, VR::OB, PrimitiveValue::from(pixels)));
    save(path, object, uids::EXPLICIT_VR_LITTLE_ENDIAN);
}

/// Writes 8-bit native pixel data, all of the data set deflated.
pub(in crate::media) fn save_deflated(path: &Path, mut object: InMemDicomObject, pixels: &[u8]) {
    object.put(DataElement::new(tags::PIXEL_DATA, VR::OB, PrimitiveValue::from(pixels)));
    save(path, object, uids::DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN);
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

/// One grey frame as JPEG lossless (ITU-T T.81 annex H, predictor 1, the sample to the left), `bits` a sample.
pub(in crate::media) fn jpeg_lossless(samples: &[u16], width: usize, bits: u8) -> Vec<u8> {
    jpeg_lossless_of(1, samples, width, bits)
}

/// The same of `components` interleaved colours.
pub(in crate::media) fn jpeg_lossless_of(components: usize, samples: &[u16], width: usize, bits: u8) -> Vec<u8> {
    let count = components as u8;
    let height = (samples.len() / components / width) as u8;
    let mut stream = vec![0xFF, 0xD8, 0xFF, 0xC3, 0, 8 + 3 * count, bits, 0, height, 0, width as u8, count];
    (1..=count).for_each(|component| stream.extend([component, 0x11, 0]));
    // The 17 categories of differences, each with a code of five bits: its own number.
    stream.extend([0xFF, 0xC4, 0, 36, 0, 0, 0, 0, 0, 17, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    stream.extend(0..=16);
    stream.extend([0xFF, 0xDA, 0, 6 + 2 * count, count]);
    (1..=count).for_each(|component| stream.extend([component, 0]));
    stream.extend([1, 0, 0]);
    let mut written = String::new();
    for (at, &sample) in samples.iter().enumerate() {
        let predicted = match at / components {
            0 => 1 << (bits - 1),
            // A row begins with the sample above.
            pixel if pixel % width == 0 => samples[at - width * components],
            _ => samples[at - components],
        };
        let difference = i32::from(sample.wrapping_sub(predicted) as i16);
        let category = 32 - difference.unsigned_abs().leading_zeros() as usize;
        written += &format!("{category:05b}");
        if (1..16).contains(&category) {
            let below = difference + if difference < 0 { (1 << category) - 1 } else { 0 };
            written += &format!("{below:0category$b}");
        }
    }
    while !written.len().is_multiple_of(8) {
        written.push('1');
    }
    for byte in written.as_bytes().chunks(8) {
        let byte = byte.iter().fold(0, |value, bit| value << 1 | (bit - b'0'));
        stream.push(byte);
        // What looks like a marker and is none is followed by a zero.
        if byte == 0xFF {
            stream.push(0);
        }
    }
    stream.extend([0xFF, 0xD9]);
    stream.resize(stream.len().next_multiple_of(2), 0);
    stream
}

/// The only frame of `object`, 16-bit native samples, by the registry's own encoder for a transfer syntax.
pub(in crate::media) fn encoded_by_the_registry(
    mut object: InMemDicomObject,
    samples: &[u16],
    transfer_syntax: &str,
) -> Vec<u8> {
    let value = PrimitiveValue::U16(samples.iter().copied().collect());
    object.put(DataElement::new(tags::PIXEL_DATA, VR::OW, value));
    let meta = FileMetaTableBuilder::new().transfer_syntax(uids::EXPLICIT_VR_LITTLE_ENDIAN);
    let native = object.with_meta(meta).unwrap();
    let syntax = TransferSyntaxRegistry.get(transfer_syntax).unwrap();
    let Codec::EncapsulatedPixelData(_, Some(encoder)) = syntax.codec() else {
        panic!("{} has no encoder", syntax.name());
    };
    let mut stream = Vec::new();
    encoder.encode_frame(&native, 0, EncodeOptions::default(), &mut stream).unwrap();
    stream.resize(stream.len().next_multiple_of(2), 0);
    stream
}
