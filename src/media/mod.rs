//! Frames and masks from and to files: DICOM, video, folders of images; masks, overlays, contact sheets.
//!
//! A path goes in and a [`ClipReader`] comes out, which hands over one frame at a time so that memory does not
//! grow with the clip. What a file is, is decided by its content, never by its suffix.

mod clip_summary;
#[cfg(feature = "dicom")]
mod dicom;
mod frame;
mod images;
mod labels;
pub mod output;
mod prepare;
mod range;
mod resize;
mod stream;
#[cfg(feature = "video")]
mod video;
#[cfg(feature = "video")]
mod video_writer;

pub use clip_summary::ClipSummary;
pub(crate) use frame::VESSEL;
pub use frame::{Colour, Frame, Mask, ProbabilityMap, Size, luminance};
pub(crate) use images::files_in_natural_order;
pub use images::{image_size, read_image};
pub use labels::LabelReader;
pub use prepare::FramePreparer;
pub(crate) use prepare::wrong_size;
pub use range::FrameRange;
pub use resize::BilinearResize;
pub use stream::{FrameStream, MaskStream};
#[cfg(feature = "video")]
pub use video_writer::VideoWriter;

use crate::error::{Error, Result};
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::time::Duration;

/// Where a clip came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ClipKind {
    /// DICOM X-ray angiography, single- or multi-frame.
    Dicom,
    /// A video container.
    Video,
    /// A folder of images, or one image.
    Images,
}

/// What is known about a clip before its first frame is decoded.
#[derive(Debug, Clone, PartialEq)]
pub struct ClipInfo {
    /// The kind of source.
    pub kind: ClipKind,
    /// Size of every frame.
    pub size: Size,
    /// Number of frames. Readers count exactly, without decoding where the format allows it.
    pub frames: usize,
    /// Time from one frame to the next, where the source states it.
    pub frame_time: Option<Duration>,
    /// One line for people: format, codec or transfer syntax, bit depth.
    pub description: String,
}

/// A source of frames in the order of acquisition, all of one size.
pub trait ClipReader: Send {
    /// What is known about the clip.
    fn info(&self) -> &ClipInfo;

    /// The next frame, or `None` after the last. After an error every further call is an error or `None`.
    ///
    /// # Errors
    /// [`crate::Error::Media`] when the frame is damaged, missing or of another size than the first.
    fn next_frame(&mut self) -> Result<Option<Frame>>;
}

/// Frame `index` of a clip that is read in order, held against what [`ClipReader::info`] promised.
///
/// # Errors
/// Those of the reader; [`Error::Request`] when the clip has ended, or the frame has another size.
pub(crate) fn expect_frame(reader: &mut dyn ClipReader, index: usize) -> Result<Frame> {
    let (size, frames) = (reader.info().size, reader.info().frames);
    let Some(frame) = reader.next_frame()? else {
        return Err(Error::Request(format!(
            "the clip ends after {index} frames, but should have {frames}; it is damaged"
        )));
    };
    if frame.size() != size {
        let problem =
            format!("frame {index} is {}, but the clip is {size}; all frames must have one size", frame.size());
        return Err(Error::Request(problem));
    }
    Ok(frame)
}

/// That a clip ends behind its last frame.
///
/// # Errors
/// Those of the reader; [`Error::Request`] when it does not.
pub(crate) fn expect_end(reader: &mut dyn ClipReader) -> Result<()> {
    match reader.next_frame()? {
        None => Ok(()),
        Some(_) => {
            let frames = reader.info().frames;
            Err(Error::Request(format!("the clip goes on after its {frames} frames; it is damaged")))
        }
    }
}

/// Opens a clip: a DICOM file, a video, one image, or a folder of images (see the README for what each may be).
///
/// The first bytes of a file decide what it is; its name does not matter.
///
/// # Errors
/// [`Error::Io`] when the path cannot be read, [`Error::Media`] when it holds no clip, is truncated or needs a
/// feature that this build lacks.
pub fn open(path: &Path) -> Result<Box<dyn ClipReader>> {
    let metadata = std::fs::metadata(path).map_err(Error::io("read", path))?;
    if metadata.is_dir() {
        return Ok(Box::new(images::ImageReader::open_folder(path)?));
    }
    if !metadata.is_file() {
        return Err(Error::media(path, "is neither a file nor a folder"));
    }
    let head = first_bytes(path)?;
    match content(&head) {
        Content::Nothing => Err(Error::media(path, "the file is empty")),
        Content::Image => Ok(Box::new(images::ImageReader::open_file(path)?)),
        Content::Dicom => open_dicom(path),
        Content::Other => open_video(path),
    }
}

/// What the first bytes of a file say it is.
#[derive(Debug, PartialEq, Eq)]
enum Content {
    Nothing,
    Dicom,
    Image,
    /// Perhaps a video: FFmpeg decides.
    Other,
}

/// Enough of a file to tell its format: the DICOM preamble and its magic word.
const HEAD_BYTES: u64 = 132;

fn first_bytes(path: &Path) -> Result<Vec<u8>> {
    let mut head = Vec::with_capacity(HEAD_BYTES as usize);
    let file = File::open(path).map_err(Error::io("read", path))?;
    file.take(HEAD_BYTES).read_to_end(&mut head).map_err(Error::io("read", path))?;
    Ok(head)
}

fn content(head: &[u8]) -> Content {
    // The preamble may hold anything, a TIFF header among others (dual-personality files), so DICM comes first.
    // Files that start with the magic word or right with the file meta group lack the preamble only.
    let without_preamble = head.starts_with(b"DICM") || head.starts_with(b"\x02\0\0\0UL\x04\0");
    if head.is_empty() {
        Content::Nothing
    } else if head.get(128..132) == Some(b"DICM") || without_preamble {
        Content::Dicom
    } else if images::recognised(head) {
        Content::Image
    } else {
        Content::Other
    }
}

#[cfg(feature = "dicom")]
fn open_dicom(path: &Path) -> Result<Box<dyn ClipReader>> {
    Ok(Box::new(dicom::DicomReader::open(path)?))
}

#[cfg(not(feature = "dicom"))]
fn open_dicom(path: &Path) -> Result<Box<dyn ClipReader>> {
    Err(Error::media(path, "is a DICOM file, which this build cannot read: build it with the feature `dicom`"))
}

#[cfg(feature = "video")]
fn open_video(path: &Path) -> Result<Box<dyn ClipReader>> {
    Ok(Box::new(video::VideoReader::open(path)?))
}

#[cfg(not(feature = "video"))]
fn open_video(path: &Path) -> Result<Box<dyn ClipReader>> {
    let problem = "is neither DICOM nor an image; if it is a video, build Coronet with the feature `video`";
    Err(Error::media(path, problem))
}

/// The longest side of a frame, in pixels.
const MAX_SIDE: usize = 16_384;
/// The most pixels of a frame: four times the largest flat detectors, and little enough for one frame's buffers.
const MAX_PIXELS: usize = 64 << 20;

/// Refuses sizes that only damaged or hostile headers state, before anything is allocated for them.
fn checked_size(path: &Path, width: usize, height: usize) -> Result<Size> {
    if width == 0 || height == 0 {
        return Err(Error::media(path, format!("states a frame size of {width}x{height}, which holds no pixels")));
    }
    if width > MAX_SIDE || height > MAX_SIDE || width * height > MAX_PIXELS {
        let problem = format!(
            "states a frame size of {width}x{height}; at most {MAX_SIDE} a side and {MAX_PIXELS} pixels are read"
        );
        return Err(Error::media(path, problem));
    }
    Ok(Size { width, height })
}

/// Runs a decoder that may panic on damaged data and turns the panic into a sentence.
///
/// The closure must not leave anything behind that is used after it failed.
fn without_panic<T>(decode: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(decode))
        .unwrap_or_else(|_| Err("the decoder gave up on damaged data".into()))
}

#[cfg(test)]
mod tests;
