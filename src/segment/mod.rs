//! One use of the engine: a clip goes in, a mask for every frame comes out.
//!
//! [`segment_clip`] is the pipeline: frames stream through a sliding window of 2N+1, mask i belongs to frame i, and
//! memory does not grow with the clip. [`RESULTS`] are what a run leaves in its
//! folder, all of them or none.

mod engine;
mod labels;
mod latency;
mod overlay_video;
mod pipeline;
mod results;
mod stream;
mod summary;
mod window;

pub use engine::{EngineNetwork, EngineTimes};
pub use labels::{LabelAgreement, Labels};
pub use latency::Latency;
pub use overlay_video::OverlayVideo;
pub(crate) use pipeline::check_numbers;
pub use pipeline::{FrameReport, MaskSink, Observer, Run, SegmentOptions, SegmentedFrame, segment_clip};
pub use results::{NoVideo, OpenVideo, RESULTS, ResultsOptions, VideoSink, segment_into};
pub use stream::{Delay, StreamSegmenter};
pub use summary::{FrameArea, OutputSummary, Summary};

use crate::error::Result;
use crate::media::{Colour, Size};

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

    /// Configuration and device, for `summary.json`.
    fn describe(&self) -> serde_json::Value;
}
