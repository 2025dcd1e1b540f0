//! Frames and masks from and to files: DICOM, video, folders of images; masks, overlays, contact sheets.
//!
//! A path goes in and a [`ClipReader`] comes out, which hands over one frame at a time so that memory does not
//! grow with the clip. What a file is, is decided by its content, never by its suffix.

mod frame;
pub mod output;
mod resize;

pub use frame::{Colour, Frame, Mask, ProbabilityMap, Size, luminance};
pub use resize::BilinearResize;

use crate::error::Result;
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

    /// The next frame, or `None` after the last.
    ///
    /// # Errors
    /// [`crate::Error::Media`] when the frame is damaged, missing or of another size than the first.
    fn next_frame(&mut self) -> Result<Option<Frame>>;
}
