//! What documents of results say about the clip that they were made of.

use super::{ClipInfo, ClipKind};
use std::path::Path;

/// A clip, as documents of results describe it.
#[derive(Debug, Clone, serde::Serialize)]
pub struct ClipSummary {
    /// The path as it was given.
    pub path: String,
    /// DICOM, video or images.
    pub kind: ClipKind,
    /// Format, codec or transfer syntax, bit depth, for people.
    pub description: String,
    /// Pixels per row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// Frames of the whole clip.
    pub frames: usize,
    /// Milliseconds from frame to frame, where the source states them.
    pub frame_time_ms: Option<f64>,
}

impl ClipSummary {
    /// What is known about the clip at `path`.
    pub fn new(path: &Path, info: &ClipInfo) -> ClipSummary {
        ClipSummary {
            path: path.to_string_lossy().into_owned(),
            kind: info.kind,
            description: info.description.clone(),
            width: info.size.width,
            height: info.size.height,
            frames: info.frames,
            frame_time_ms: info.frame_time.map(|time| time.as_secs_f64() * 1e3),
        }
    }
}
