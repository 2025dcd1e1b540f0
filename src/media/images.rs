//! A folder of images in natural order as a clip, or one image as a clip of one frame.
//!
//! png, jpg, bmp, tif and pgm/ppm, told apart by content. Files that are no images, hidden files and sub-folders
//! are passed over. 16-bit samples become 8-bit ones by the full 16-bit range (v / 257, rounded); alpha is dropped,
//! palettes are expanded, EXIF orientation is not applied (masks belong to the stored pixels), and of a TIFF file
//! the first page counts.

use super::{ClipInfo, ClipKind, ClipReader, Colour, Frame, MAX_SIDE, Size, checked_size, first_bytes, without_panic};
use crate::error::{Error, Result};
use image::{DynamicImage, ImageFormat};
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

/// The most memory that decoding one image may take.
const MAX_DECODE_BYTES: u64 = 1 << 30;

/// Whether a file that begins like this is an image of a format read here.
pub(super) fn recognised(head: &[u8]) -> bool {
    format_of(head).is_some()
}

fn format_of(head: &[u8]) -> Option<ImageFormat> {
    let format = image::guess_format(head).ok()?;
    let read = match format {
        ImageFormat::Png | ImageFormat::Jpeg | ImageFormat::Bmp | ImageFormat::Tiff => true,
        // `P5` opens many a text; a netpbm header goes on with white space.
        ImageFormat::Pnm => head.get(2).is_some_and(u8::is_ascii_whitespace),
        _ => false,
    };
    read.then_some(format)
}

/// The size that an image's header states.
///
/// # Errors
/// [`Error::Io`] when it cannot be read, [`Error::Media`] when it is no image, damaged, or too large to be meant.
pub fn image_size(path: &Path) -> Result<Size> {
    stated_size(path, recognise(path)?)
}

/// One image as a frame.
///
/// # Errors
/// As [`image_size`], and [`Error::Media`] for samples that are not read.
pub fn read_image(path: &Path) -> Result<Frame> {
    let format = recognise(path)?;
    stated_size(path, format)?;
    to_frame(path, decode(path, format)?)
}

fn recognise(path: &Path) -> Result<ImageFormat> {
    format_of(&first_bytes(path)?).ok_or_else(|| Error::media(path, "is not an image"))
}

/// Reads images one after the other.
pub(super) struct ImageReader {
    info: ClipInfo,
    images: Vec<(PathBuf, ImageFormat)>,
    next: usize,
}

impl ImageReader {
    /// The images of a folder, in natural order of their names (`2.png` before `10.png`).
    pub(super) fn open_folder(folder: &Path) -> Result<ImageReader> {
        let mut images = Vec::new();
        for path in files_in_natural_order(folder)? {
            if let Some(format) = format_of(&first_bytes(&path)?) {
                images.push((path, format));
            }
        }
        if images.is_empty() {
            return Err(Error::media(folder, "the folder holds no png, jpg, bmp, tif or pgm image"));
        }
        ImageReader::new(images)
    }

    /// One image, a clip of one frame.
    pub(super) fn open_file(path: &Path) -> Result<ImageReader> {
        ImageReader::new(vec![(path.to_path_buf(), recognise(path)?)])
    }

    /// Reads every header, so that an image of another size is found before any frame is handed over.
    fn new(images: Vec<(PathBuf, ImageFormat)>) -> Result<ImageReader> {
        let mut clip_size: Option<Size> = None;
        for (path, format) in &images {
            let size = stated_size(path, *format)?;
            match clip_size {
                Some(first) if first != size => {
                    let problem =
                        format!("the image is {size}, but the images before it are {first}; a clip has one size");
                    return Err(Error::media(path, problem));
                }
                _ => clip_size = Some(size),
            }
        }
        let (Some(size), Some((_, first_format))) = (clip_size, images.first()) else {
            return Err(Error::Request("a clip needs at least one image".into()));
        };
        let description = if images.len() == 1 {
            format!("{} image", name_of(*first_format))
        } else {
            format!("folder of {} images, the first {}", images.len(), name_of(*first_format))
        };
        let info = ClipInfo { kind: ClipKind::Images, size, frames: images.len(), frame_time: None, description };
        Ok(ImageReader { info, images, next: 0 })
    }
}

impl ClipReader for ImageReader {
    fn info(&self) -> &ClipInfo {
        &self.info
    }

    fn next_frame(&mut self) -> Result<Option<Frame>> {
        let Some((path, format)) = self.images.get(self.next) else {
            return Ok(None);
        };
        self.next += 1;
        let frame = to_frame(path, decode(path, *format)?)?;
        if frame.size() != self.info.size {
            let problem =
                format!("the image is {} now, but was {} when the clip was opened", frame.size(), self.info.size);
            return Err(Error::media(path, problem));
        }
        Ok(Some(frame))
    }
}

/// The files of a folder that are not hidden, in natural order of their names (`2.png` before `10.png`).
pub(crate) fn files_in_natural_order(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(Error::io("read", folder))? {
        let entry = entry.map_err(Error::io("read", folder))?;
        let hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
        let path = entry.path();
        if !hidden && path.is_file() {
            files.push((entry.file_name().to_string_lossy().into_owned(), path));
        }
    }
    // Names that natural order holds equal (`01` and `1`) still need an order of their own.
    files.sort_by(|a, b| natord::compare(&a.0, &b.0).then_with(|| a.1.cmp(&b.1)));
    Ok(files.into_iter().map(|(_, path)| path).collect())
}

fn name_of(format: ImageFormat) -> &'static str {
    match format {
        ImageFormat::Png => "PNG",
        ImageFormat::Jpeg => "JPEG",
        ImageFormat::Bmp => "BMP",
        ImageFormat::Tiff => "TIFF",
        _ => "PGM/PPM",
    }
}

fn stated_size(path: &Path, format: ImageFormat) -> Result<Size> {
    let reader = reader(path, format)?;
    let (width, height) = without_panic(|| reader.into_dimensions().map_err(|e| e.to_string()))
        .map_err(|cause| damaged(path, format, &cause))?;
    checked_size(path, width as usize, height as usize)
}

fn decode(path: &Path, format: ImageFormat) -> Result<DynamicImage> {
    let reader = reader(path, format)?;
    let image =
        without_panic(|| reader.decode().map_err(|e| e.to_string())).map_err(|cause| damaged(path, format, &cause))?;
    if format == ImageFormat::Jpeg && !jpeg_goes_on_to_its_end(&std::fs::read(path).map_err(Error::io("read", path))?) {
        return Err(damaged(path, format, "it ends before the picture does"));
    }
    Ok(image)
}

/// Whether there is an end-of-image marker behind the scans of a JPEG stream. The decoder gives a picture that is
/// cut off as if it were whole, with what is missing in grey, which in a label would be vessel.
fn jpeg_goes_on_to_its_end(stream: &[u8]) -> bool {
    let mut scanned = false;
    // Behind the start-of-image marker.
    let mut at = 2;
    // In the data of a scan an FF that is followed by 0 or a restart marker's byte begins no segment; before any
    // marker there may be more of FF.
    let begins_segment = |pair: &[u8]| pair[0] == 0xFF && !matches!(pair[1], 0 | 1 | 0xD0..=0xD8 | 0xFF);
    while let Some(found) = stream.get(at..).and_then(|rest| rest.windows(2).position(begins_segment)) {
        let segment = at + found + 2;
        match stream[segment - 1] {
            0xD9 => return scanned,
            0xDA => scanned = true,
            _ => {}
        }
        // What is in a segment, a thumbnail of its own perhaps, is passed over.
        let Some(&[high, low]) = stream.get(segment..segment + 2) else { return false };
        at = segment + usize::from(u16::from_be_bytes([high, low]));
    }
    false
}

fn reader(path: &Path, format: ImageFormat) -> Result<image::ImageReader<BufReader<File>>> {
    let file = File::open(path).map_err(Error::io("read", path))?;
    let mut reader = image::ImageReader::with_format(BufReader::new(file), format);
    let mut limits = image::Limits::default();
    limits.max_image_width = Some(MAX_SIDE as u32);
    limits.max_image_height = Some(MAX_SIDE as u32);
    limits.max_alloc = Some(MAX_DECODE_BYTES);
    reader.limits(limits);
    Ok(reader)
}

fn damaged(path: &Path, format: ImageFormat, cause: &str) -> Error {
    // Decoders write more than one line at times, and a full stop; an error here is one sentence without.
    let cause = cause.split_whitespace().collect::<Vec<_>>().join(" ");
    let cause = cause.trim_end_matches('.');
    Error::media(path, format!("the {} image is damaged or of a kind not read: {cause}", name_of(format)))
}

fn to_frame(path: &Path, image: DynamicImage) -> Result<Frame> {
    let size = Size { width: image.width() as usize, height: image.height() as usize };
    let grey = |samples| Frame::new(size, Colour::Grey, samples);
    let rgb = |samples| Frame::new(size, Colour::Rgb, samples);
    match image {
        DynamicImage::ImageLuma8(i) => grey(i.into_raw()),
        DynamicImage::ImageLumaA8(i) => grey(i.pixels().map(|p| p.0[0]).collect()),
        DynamicImage::ImageRgb8(i) => rgb(i.into_raw()),
        DynamicImage::ImageRgba8(i) => rgb(i.pixels().flat_map(|p| [p.0[0], p.0[1], p.0[2]]).collect()),
        DynamicImage::ImageLuma16(i) => grey(i.as_raw().iter().map(|&v| narrow(v)).collect()),
        DynamicImage::ImageLumaA16(i) => grey(i.pixels().map(|p| narrow(p.0[0])).collect()),
        DynamicImage::ImageRgb16(i) => rgb(i.as_raw().iter().map(|&v| narrow(v)).collect()),
        DynamicImage::ImageRgba16(i) => rgb(i.pixels().flat_map(|p| [p.0[0], p.0[1], p.0[2]].map(narrow)).collect()),
        _ => Err(Error::media(path, "holds floating-point samples; 8- and 16-bit images are read")),
    }
}

/// 0..=65535 onto 0..=255, rounded to nearest: v / 257.
fn narrow(sample: u16) -> u8 {
    ((u32::from(sample) + 128) / 257) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sixteen_bits_narrow_by_the_full_range_and_round_to_nearest() {
        assert_eq!(narrow(0), 0);
        assert_eq!(narrow(128), 0);
        assert_eq!(narrow(129), 1);
        assert_eq!(narrow(257), 1);
        assert_eq!(narrow(65535), 255);
        assert_eq!(narrow(65535 - 129), 254);
        for v in 0..=255u16 {
            assert_eq!(narrow(v * 257), v as u8);
        }
    }

    #[test]
    fn a_jpeg_stream_ends_behind_its_last_scan() {
        // Progressive: a thumbnail in an APP1 segment, two scans with a zero and a restart marker in their data, a
        // table between them, and fill bytes before the end.
        let start = b"\xFF\xD8\xFF\xE1\0\x0A\xFF\xD8\xFF\xDA\0\x02\xFF\xD9\xFF\xC2\0\x04..";
        let scan = b"\xFF\xDA\0\x04\xFF\xD9ab\xFF\0\xD9c\xFF\xD0d\xD9\xFF\0";
        let table = b"\xFF\xC4\0\x04\xFF\xD9";
        let cut = [&start[..], scan, table, scan, b"\xFF\xFF"].concat();
        for length in 0..=cut.len() {
            assert!(!jpeg_goes_on_to_its_end(&cut[..length]), "{length}");
        }
        let whole = [&cut[..], b"\xD9"].concat();
        assert!(jpeg_goes_on_to_its_end(&whole));
        assert!(jpeg_goes_on_to_its_end(&[&whole[..], b"more \xFF\xDA"].concat()));
        assert!(!jpeg_goes_on_to_its_end(&[&start[..], b"\xFF\xD9"].concat()));
    }

    #[test]
    fn a_text_that_begins_with_a_netpbm_magic_is_no_image() {
        assert!(recognised(b"P5\n2 2\n255\n...."));
        assert!(!recognised(b"P5 is not".strip_suffix(b" is not").unwrap()));
        assert!(!recognised(b"P2P networks"));
    }
}
