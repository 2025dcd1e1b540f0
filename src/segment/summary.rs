//! `summary.json`: what went in, what was done, what came out and how long it took.

use super::pipeline::Busy;
use super::results::RESULTS;
use super::{LabelAgreement, Latency, Run, SegmentOptions};
use crate::media::{ClipSummary, FrameRange};
use std::time::Duration;

/// Raised when a field changes its meaning or goes away; new fields do not raise it.
const SCHEMA_VERSION: u32 = 1;

/// What a run leaves as `summary.json`.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Summary {
    /// `coronet/segment`.
    pub schema: &'static str,
    /// The version of this layout.
    pub schema_version: u32,
    /// The version of Coronet.
    pub coronet: &'static str,
    /// What was read.
    pub input: ClipSummary,
    /// The frames that got a mask.
    pub frames: FrameRange,
    /// The network's own description: configuration and device.
    pub network: serde_json::Value,
    /// A pixel is vessel from this probability on.
    pub threshold: f32,
    /// Components of fewer pixels were dropped.
    pub minimum_area_pixels: usize,
    /// The files written, relative to the summary.
    pub outputs: OutputSummary,
    /// The vessel area of every mask.
    pub areas: Vec<FrameArea>,
    /// How well the masks agree with labels, where some were given.
    pub labels: Option<LabelAgreement>,
    /// Milliseconds of the network step per frame, without decoding, resizing and writing; where the device makes the masks by
    /// itself, what it still had to do with the newest frame included.
    pub network_ms: Option<Latency>,
    /// Seconds from the first frame read to the last file closed.
    pub wall_seconds: f64,
    /// Masks per second of that time.
    pub frames_per_second: f64,
    /// For what share of that time, 0 to 1, each stage worked; they run side by side.
    pub busy: BusyShares,
}

/// How much of a run's time its stages worked, waits for each other left out.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct BusyShares {
    /// Reading frames and preparing them.
    pub decoding: f64,
    /// The network.
    pub network: f64,
    /// Masks, images, the video.
    pub finishing: f64,
}

impl BusyShares {
    fn of(busy: Busy, wall: Duration) -> BusyShares {
        let share = |time: Duration| time.as_secs_f64() / wall.as_secs_f64().max(1e-9);
        let Busy { decoding, network, finishing } = busy;
        BusyShares { decoding: share(decoding), network: share(network), finishing: share(finishing) }
    }

    /// The stage that was busy for most of the time, in words.
    pub fn bound(&self) -> &'static str {
        let stages = [(self.network, "the network"), (self.finishing, "writing"), (self.decoding, "decoding")];
        stages.into_iter().reduce(|most, next| if next.0 > most.0 { next } else { most }).map_or("", |stage| stage.1)
    }
}

/// The files of a run. What is `null` was not asked for, or could not be made.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct OutputSummary {
    /// The folder of masks.
    pub masks: &'static str,
    /// The folder of 16-bit probabilities.
    pub probability: Option<&'static str>,
    /// The overlay video.
    pub overlay: Option<&'static str>,
    /// How the overlay video is encoded, or why there is none.
    pub overlay_note: String,
    /// The contact sheet.
    pub contact_sheet: &'static str,
}

/// How much of one frame is vessel.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct FrameArea {
    /// The frame's number in the whole clip, counted from 0.
    pub frame: usize,
    /// Pixels of the mask that are vessel.
    pub vessel_pixels: usize,
    /// The same as a share of the image, 0 to 1.
    pub vessel_fraction: f64,
}

impl Summary {
    /// Puts together what a finished run has to say.
    pub fn new(
        input: ClipSummary,
        network: serde_json::Value,
        options: &SegmentOptions,
        outputs: OutputSummary,
        run: &Run,
    ) -> Summary {
        let size = crate::media::Size { width: input.width, height: input.height };
        let area = |pixels: usize| pixels as f64 / size.area().max(1) as f64;
        let times: Vec<_> = run.reports.iter().map(|report| report.network).collect();
        let areas = run.reports.iter().map(|report| FrameArea {
            frame: report.index,
            vessel_pixels: report.vessel_pixels,
            vessel_fraction: area(report.vessel_pixels),
        });
        let wall_seconds = run.wall.as_secs_f64();
        Summary {
            schema: RESULTS.schema,
            schema_version: SCHEMA_VERSION,
            coronet: env!("CARGO_PKG_VERSION"),
            frames: FrameRange { start: run.frames.start, end: run.frames.end },
            network,
            threshold: options.post.threshold.value(),
            minimum_area_pixels: options.post.minimum_area.pixels(size),
            outputs,
            areas: areas.collect(),
            labels: None,
            network_ms: Latency::of(&times),
            wall_seconds,
            frames_per_second: run.reports.len() as f64 / wall_seconds.max(1e-9),
            busy: BusyShares::of(run.busy, run.wall),
            input,
        }
    }
}
