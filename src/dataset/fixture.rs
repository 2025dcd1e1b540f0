//! Small data sets for tests.

use crate::media::output::{mask_png, picture_png};
use crate::media::{Colour, Frame, Mask, Size};
use std::path::{Path, PathBuf};

pub const SIZE: Size = Size { width: 5, height: 4 };

/// Writes a clip whose frame i is all `10 i` and whose label has its first i pixels set.
pub fn write_clip(dataset: &Path, name: &str, frames: usize) -> PathBuf {
    let clip = dataset.join(name);
    std::fs::create_dir_all(clip.join("frames")).unwrap();
    std::fs::create_dir_all(clip.join("labels")).unwrap();
    for i in 0..frames {
        write_frame(&clip, i, SIZE);
        write_label(&clip, i, SIZE);
    }
    clip
}

pub fn write_frame(clip: &Path, index: usize, size: Size) {
    let frame = Frame::new(size, Colour::Grey, vec![10 * index as u8; size.area()]).unwrap();
    std::fs::write(clip.join(format!("frames/{index:04}.png")), picture_png(&frame).unwrap()).unwrap();
}

pub fn write_label(clip: &Path, index: usize, size: Size) {
    let pixels = (0..size.area()).map(|pixel| if pixel < index { 255 } else { 0 }).collect();
    let mask = Mask { size, pixels };
    std::fs::write(clip.join(format!("labels/{index:04}.png")), mask_png(&mask).unwrap()).unwrap();
}
