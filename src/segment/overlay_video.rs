//! The overlay video through the machine's FFmpeg, where this build has it.

use super::{OpenVideo, VideoSink};
use crate::error::Result;
use crate::media::Size;
use std::path::Path;
use std::time::Duration;

/// Makes the overlay video, or says that this build cannot.
#[derive(Debug, Clone, Copy, Default)]
pub struct OverlayVideo;

#[cfg(feature = "video")]
impl OpenVideo for OverlayVideo {
    fn open(
        &self,
        path: &Path,
        size: Size,
        frame_time: Option<Duration>,
    ) -> Result<Result<Box<dyn VideoSink>, String>> {
        Ok(Ok(Box::new(crate::media::VideoWriter::create(path, size, frame_time)?)))
    }
}

#[cfg(feature = "video")]
impl VideoSink for crate::media::VideoWriter {
    fn write(&mut self, picture: &crate::media::Frame) -> Result<()> {
        crate::media::VideoWriter::write(self, picture)
    }

    fn finish(self: Box<Self>) -> Result<()> {
        crate::media::VideoWriter::finish(*self)
    }

    fn codec(&self) -> String {
        self.encoder().to_owned()
    }
}

#[cfg(not(feature = "video"))]
impl OpenVideo for OverlayVideo {
    fn open(&self, _: &Path, _: Size, _: Option<Duration>) -> Result<Result<Box<dyn VideoSink>, String>> {
        Ok(Err("this build has no video support; build Coronet with its feature `video`".into()))
    }
}
