//! The overlay video through the machine's FFmpeg, where this build has it.

use super::{OpenVideo, VideoSink};
#[cfg(feature = "video")]
use crate::error::Error;
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
        match crate::media::VideoWriter::create(path, size, frame_time) {
            Ok(video) => Ok(Ok(Box::new(video))),
            // FFmpeg has no encoder that takes it: the masks do not depend on that.
            Err(Error::Media { problem, .. }) => {
                std::fs::remove_file(path).map_err(Error::io("remove", path))?;
                Ok(Err(problem))
            }
            Err(error) => Err(error),
        }
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

#[cfg(all(test, feature = "video"))]
mod tests {
    use super::*;

    #[test]
    fn where_no_encoder_takes_the_video_there_is_none_and_a_reason() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("overlay.mp4");
        let refused = OverlayVideo.open(&path, Size { width: 70_000, height: 2 }, None).unwrap();
        let reason = refused.err().unwrap();
        assert!(reason.starts_with("the encoder ") && reason.contains("refuses a video of 70000x2"), "{reason}");
        assert!(!path.exists());
        assert!(OverlayVideo.open(&path, Size { width: 64, height: 48 }, None).unwrap().is_ok());
    }
}
