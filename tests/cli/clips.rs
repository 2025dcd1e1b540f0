//! Clips of a few frames that can be told apart, as a folder of images, a video and a DICOM file.

use coronet::media::Size;
use image::{GrayImage, ImageFormat, Luma};
use std::fs;
use std::path::{Path, PathBuf};

pub const SIZE: Size = Size { width: 64, height: 48 };

/// A bright field with two dark vessels that wander from frame to frame.
pub fn frame(index: usize) -> GrayImage {
    let at = index as f32;
    GrayImage::from_fn(SIZE.width as u32, SIZE.height as u32, |x, y| {
        let (x, y) = (x as f32, y as f32);
        let upright = (x - 10.0 - 6.0 * at - 4.0 * (y / 7.0).sin()).abs();
        let lying = (y - 40.0 + 4.0 * at - 3.0 * (x / 9.0).cos()).abs();
        let shade = 120.0 * (-upright * upright / 6.0).exp() + 90.0 * (-lying * lying / 4.0).exp();
        Luma([(210.0 - 0.5 * x - shade).clamp(0.0, 255.0) as u8])
    })
}

pub fn frames(count: usize) -> Vec<GrayImage> {
    (0..count).map(frame).collect()
}

/// The frames as PNGs whose natural order is not the alphabet's: 8.png comes before 10.png.
pub fn folder(path: PathBuf, frames: &[GrayImage]) -> PathBuf {
    fs::create_dir_all(&path).unwrap();
    for (index, frame) in frames.iter().enumerate() {
        png(&path.join(format!("{}.png", index + 8)), frame);
    }
    path
}

pub fn png(path: &Path, frame: &GrayImage) {
    frame.save_with_format(path, ImageFormat::Png).unwrap();
}

#[cfg(feature = "video")]
pub fn video(path: PathBuf, frames: &[GrayImage]) -> PathBuf {
    use coronet::media::{Colour, Frame, VideoWriter};
    let mut writer = VideoWriter::create(&path, SIZE, Some(std::time::Duration::from_millis(40))).unwrap();
    for frame in frames {
        writer.write(&Frame::new(SIZE, Colour::Grey, frame.as_raw().clone()).unwrap()).unwrap();
    }
    writer.finish().unwrap();
    path
}

#[cfg(feature = "dicom")]
pub fn dicom(path: PathBuf, frames: &[GrayImage]) -> PathBuf {
    use dicom_core::{DataElement, PrimitiveValue, VR};
    use dicom_dictionary_std::{tags, uids};
    use dicom_object::{FileMetaTableBuilder, InMemDicomObject};
    let mut object = InMemDicomObject::new_empty();
    for (tag, vr, value) in [
        (tags::SOP_CLASS_UID, VR::UI, uids::X_RAY_ANGIOGRAPHIC_IMAGE_STORAGE),
        (tags::SOP_INSTANCE_UID, VR::UI, "1.2.3.4"),
        (tags::MODALITY, VR::CS, "XA"),
        (tags::PHOTOMETRIC_INTERPRETATION, VR::CS, "MONOCHROME2"),
        (tags::NUMBER_OF_FRAMES, VR::IS, &frames.len().to_string()),
        (tags::FRAME_TIME, VR::DS, "40"),
    ] {
        object.put(DataElement::new(tag, vr, PrimitiveValue::from(value)));
    }
    for (tag, value) in [
        (tags::SAMPLES_PER_PIXEL, 1),
        (tags::ROWS, SIZE.height as u16),
        (tags::COLUMNS, SIZE.width as u16),
        (tags::BITS_ALLOCATED, 8),
        (tags::BITS_STORED, 8),
        (tags::HIGH_BIT, 7),
        (tags::PIXEL_REPRESENTATION, 0),
    ] {
        object.put(DataElement::new(tag, VR::US, PrimitiveValue::from(value)));
    }
    let pixels: Vec<u8> = frames.iter().flat_map(|frame| frame.as_raw().iter().copied()).collect();
    object.put(DataElement::new(tags::PIXEL_DATA, VR::OB, PrimitiveValue::from(pixels)));
    let meta = FileMetaTableBuilder::new().transfer_syntax(uids::EXPLICIT_VR_LITTLE_ENDIAN);
    object.with_meta(meta).unwrap().write_to_file(&path).unwrap();
    path
}
