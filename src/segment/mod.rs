//! One use of the engine: a clip goes in, a mask for every frame comes out.
//!
//! [`segment_clip`] is the pipeline: frames stream through a sliding window of 2N+1, mask i belongs to frame i, and
//! memory does not grow with the clip. [`RESULTS`] are what a run leaves in its
//! folder, all of them or none.

mod answer;
mod engine;
mod labels;
mod latency;
mod overlay_video;
mod pipeline;
mod results;
mod stream;
mod summary;
mod window;

pub(crate) use answer::{check_numbers, not_finite};
pub use engine::{EngineNetwork, EngineTimes};
pub use labels::{LabelAgreement, Labels};
pub use latency::Latency;
pub use overlay_video::OverlayVideo;
pub use pipeline::{Busy, FrameReport, MaskSink, Observer, Run, SegmentOptions, SegmentedFrame, segment_clip};
pub use results::{NoVideo, OpenVideo, RESULTS, ResultsOptions, VideoSink, segment_into};
pub use stream::{Delay, StreamSegmenter};
pub use summary::{BusyShares, FrameArea, OutputSummary, Summary};

use crate::device::FrameSession;
use crate::error::Result;
use crate::media::{Colour, Size};
use crate::post::PostProcessing;

/// A network ready to run, as the pipeline sees it.
pub trait WindowNetwork: Send {
    /// N: how many frames are needed on each side of the middle one.
    fn neighbours(&self) -> usize;

    /// What the network looks at: grey (one channel) or RGB (three).
    fn colour(&self) -> Colour;

    /// The size of the frames that go in and of the probability that comes out.
    fn input_size(&self) -> Size;

    /// Computes the vessel probability of the middle frame.
    ///
    /// `window` holds 2N+1 prepared frames, oldest first, each `C * H * W` values, planar; `probability` takes
    /// `H * W` values, rows from the top.
    ///
    /// # Errors
    /// Whatever the device or the network reports.
    fn run(&mut self, window: &[&[f32]], probability: &mut [f32]) -> Result<()>;

    /// The network's device as one that makes masks of grey frames of `source` size by itself, so that
    /// [`WindowNetwork::run`] is not needed; `None` where it does not. The same whenever it is asked for the same.
    ///
    /// # Errors
    /// Whatever the device reports.
    fn on_device(&mut self, source: Size, post: &PostProcessing) -> Result<Option<&mut dyn FrameSession>> {
        let _ = (source, post);
        Ok(None)
    }

    /// Configuration and device, for `summary.json`.
    fn describe(&self) -> serde_json::Value;
}
