//! Decoding, the network and everything behind it, side by side on three threads.
//!
//! Short bounded channels join them, so a slow stage holds the others back and memory stays the same however long
//! the clip is. The first error of any stage stops all; a panic in a stage is an error like any other.

use super::WindowNetwork;
use super::answer::{Answer, Asked, answer, take};
use super::window::{Prepared, Window};
use crate::error::{Error, Result};
use crate::media::{
    BilinearResize, ClipReader, Frame, FramePreparer, FrameRange, Mask, ProbabilityMap, Size, expect_end, expect_frame,
};
use crate::post::PostProcessing;
use std::any::Any;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

/// How many frames wait between two stages: enough to smooth out a slow frame.
const WAITING: usize = 2;

/// What to segment and how a probability becomes a mask.
#[derive(Debug, Clone, Copy, Default)]
pub struct SegmentOptions {
    /// The frames that get a mask; all of them when `None`. Their neighbours come from the whole clip.
    pub frames: Option<FrameRange>,
    /// Threshold and minimum area.
    pub post: PostProcessing,
    /// Whether the sink wants the probabilities, too. A device that makes the masks by itself keeps them otherwise.
    pub probability: bool,
}

/// One frame with everything that was found out about it.
#[derive(Debug, Clone, PartialEq)]
pub struct SegmentedFrame {
    /// The frame's number in the whole clip, counted from 0.
    pub index: usize,
    /// The frame as it was read.
    pub frame: Frame,
    /// Vessel probability at the frame's own size, where it was asked for.
    pub probability: Option<ProbabilityMap>,
    /// The vessel mask at the frame's own size.
    pub mask: Mask,
}

/// Takes the masks as they come, in the order of the clip.
pub trait MaskSink: Send {
    /// Takes one frame and its mask.
    ///
    /// # Errors
    /// Whatever goes wrong; it stops the run.
    fn accept(&mut self, segmented: SegmentedFrame) -> Result<()>;
}

/// Watches a run from outside and may stop it.
pub trait Observer: Sync {
    /// The run begins; so many frames will get a mask.
    fn started(&self, _frames: usize) {}

    /// A frame's mask has been handed to the sink.
    fn frame_done(&self, _report: &FrameReport) {}

    /// Whether the run shall stop with [`Error::Interrupted`]; asked before each frame of each stage.
    fn interrupted(&self) -> bool {
        false
    }
}

/// The observer that does not look.
impl Observer for () {}

/// What a run says about one frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameReport {
    /// The frame's number in the whole clip.
    pub index: usize,
    /// Pixels of the mask that are vessel.
    pub vessel_pixels: usize,
    /// How long the network step took; where the device makes the masks, what it still had to do with the newest frame
    /// included.
    pub network: Duration,
}

/// A finished run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// The frames that got a mask.
    pub frames: Range<usize>,
    /// One report for each of them, in order.
    pub reports: Vec<FrameReport>,
    /// From the first frame read to the last mask handed over.
    pub wall: Duration,
    /// How long each stage worked in that time.
    pub busy: Busy,
}

/// How long the stages of a run worked, waits for each other left out. They run side by side: the one that was busy for most of
/// the time bounds the run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Busy {
    /// Reading frames and preparing them for the network.
    pub decoding: Duration,
    /// The network.
    pub network: Duration,
    /// Back to the source's size, to masks, and what the sink does with them.
    pub finishing: Duration,
}

/// Adds up the time that a stage works.
struct Work<'a> {
    total: &'a mut Duration,
    since: Instant,
}

impl<'a> Work<'a> {
    fn begin(total: &'a mut Duration) -> Work<'a> {
        Work { total, since: Instant::now() }
    }

    /// Does what may wait for another stage, which is no work.
    fn wait<T>(&mut self, waiting: impl FnOnce() -> T) -> T {
        *self.total += self.since.elapsed();
        let result = waiting();
        self.since = Instant::now();
        result
    }
}

impl Drop for Work<'_> {
    fn drop(&mut self) {
        *self.total += self.since.elapsed();
    }
}

/// Segments the frames of a clip, each with its neighbours; mask i belongs to frame i.
///
/// The clip's first and last frame stand in for the neighbours that lie outside of it, so every frame gets a mask.
///
/// # Errors
/// [`Error::Request`] for frames the clip does not have, and for a clip that does not keep what it promised (its
/// number of frames, their size); [`Error::Network`] when a probability is not a number, [`Error::Interrupted`] when the observer asks for it, and
/// whatever the reader, the network or the sink report.
pub fn segment_clip(
    reader: &mut dyn ClipReader,
    network: &mut dyn WindowNetwork,
    options: &SegmentOptions,
    sink: &mut dyn MaskSink,
    observer: &dyn Observer,
) -> Result<Run> {
    let begun = Instant::now();
    let plan = Plan::new(reader, network, options)?;
    let is_prepared_here = network.on_device(plan.asked.source, &plan.asked.post)?.is_none();
    let prepare = || FramePreparer::new(plan.asked.source, network.colour(), plan.input);
    let preparer = is_prepared_here.then(prepare).transpose()?;
    observer.started(plan.frames.len());

    let first_error = OnceLock::new();
    // Grows as frames arrive: how many a damaged clip promises is no measure of memory.
    let mut reports = Vec::new();
    let mut busy = Busy::default();
    std::thread::scope(|threads| {
        let (to_network, from_decoder) = sync_channel(WAITING);
        let (to_finish, from_network) = sync_channel(WAITING);
        let (plan, first_error, reports) = (&plan, &first_error, &mut reports);
        let [decoding, networking, finishing] =
            [&mut busy.decoding, &mut busy.network, &mut busy.finishing].map(Work::begin);
        threads.spawn(move || {
            stage("decoding", first_error, || decode(plan, reader, preparer, to_network, observer, decoding));
        });
        threads.spawn(move || {
            stage("finishing", first_error, || finish(plan, from_network, sink, reports, observer, finishing));
        });
        stage("network", first_error, || estimate(plan, network, from_decoder, to_finish, observer, networking));
    });

    match first_error.into_inner() {
        Some(error) => Err(error),
        None if reports.len() < plan.frames.len() => {
            Err(Error::Internal(format!("{} of {} frames got a mask", reports.len(), plan.frames.len())))
        }
        None => Ok(Run { frames: plan.frames, reports, wall: begun.elapsed(), busy }),
    }
}

/// What every stage must know.
struct Plan {
    /// Frames of the clip.
    total: usize,
    /// Frames that get a mask.
    frames: Range<usize>,
    /// Frames the network sees: those and their neighbours.
    seen: Range<usize>,
    neighbours: usize,
    input: Size,
    asked: Asked,
}

impl Plan {
    fn new(reader: &dyn ClipReader, network: &dyn WindowNetwork, options: &SegmentOptions) -> Result<Plan> {
        let total = reader.info().frames;
        if total == 0 {
            return Err(Error::Request("the clip holds no frames".into()));
        }
        let frames = match options.frames {
            Some(range) => range.within(total)?,
            None => 0..total,
        };
        let neighbours = network.neighbours();
        let seen = frames.start.saturating_sub(neighbours)..frames.end.saturating_add(neighbours).min(total);
        let SegmentOptions { post, probability, .. } = *options;
        let asked = Asked { source: reader.info().size, post, probability };
        Ok(Plan { total, frames, seen, neighbours, input: network.input_size(), asked })
    }
}

/// What the network hands on.
struct Estimate {
    index: usize,
    frame: Frame,
    answer: Answer,
}

/// Runs one stage and keeps its error, or its panic as an error, if it is the first.
///
/// A stage whose neighbour has gone away ends with `Ok`: the neighbour has said why.
fn stage(name: &str, first_error: &OnceLock<Error>, body: impl FnOnce() -> Result<()>) {
    let error = match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => return,
        Ok(Err(error)) => error,
        Err(panic) => Error::Internal(format!("the {name} stage panicked: {}", panic_text(&*panic))),
    };
    // A second error is a consequence of the first, or came later: the first one explains the run.
    let _ = first_error.set(error);
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no reason given")
}

fn go_on(observer: &dyn Observer) -> Result<()> {
    if observer.interrupted() { Err(Error::Interrupted) } else { Ok(()) }
}

/// The first stage: reads the clip up to the last frame the network sees, prepares what it sees unless the device does.
fn decode(
    plan: &Plan,
    reader: &mut dyn ClipReader,
    mut preparer: Option<FramePreparer>,
    to_network: SyncSender<Prepared>,
    observer: &dyn Observer,
    mut work: Work<'_>,
) -> Result<()> {
    for index in 0..plan.seen.end {
        go_on(observer)?;
        let frame = expect_frame(reader, index)?;
        if index < plan.seen.start {
            continue;
        }
        let mut planes = Vec::new();
        if let Some(preparer) = &mut preparer {
            planes = vec![0.0; preparer.values()];
            preparer.prepare(&frame, &mut planes)?;
        }
        // Neighbours outside of the range are only looked at.
        let frame = (preparer.is_none() || plan.frames.contains(&index)).then_some(frame);
        if work.wait(|| to_network.send(Prepared { index, frame, planes }).is_err()) {
            return Ok(());
        }
    }
    if plan.seen.end == plan.total { expect_end(reader) } else { Ok(()) }
}

/// The second stage: the network over the sliding window.
fn estimate(
    plan: &Plan,
    network: &mut dyn WindowNetwork,
    from_decoder: Receiver<Prepared>,
    to_finish: SyncSender<Estimate>,
    observer: &dyn Observer,
    mut work: Work<'_>,
) -> Result<()> {
    let mut window = Window::new(plan.neighbours, plan.total);
    for index in plan.frames.clone() {
        while window.wants_for(index) {
            match work.wait(|| from_decoder.recv()) {
                Ok(prepared) => take(network, &mut window, &plan.asked, prepared)?,
                Err(_) => return Ok(()),
            }
        }
        go_on(observer)?;
        let answer = answer(network, &window, &plan.asked, index)?;
        let Some(frame) = window.take_frame(index) else {
            return Err(Error::Internal(format!("frame {index} is not in its own window")));
        };
        if work.wait(|| to_finish.send(Estimate { index, frame, answer }).is_err()) {
            return Ok(());
        }
    }
    Ok(())
}

/// The third stage: back to the source's size, to a mask, to the sink.
fn finish(
    plan: &Plan,
    from_network: Receiver<Estimate>,
    sink: &mut dyn MaskSink,
    reports: &mut Vec<FrameReport>,
    observer: &dyn Observer,
    mut work: Work<'_>,
) -> Result<()> {
    let mut resize = BilinearResize::new(plan.input, plan.asked.source)?;
    while let Ok(Estimate { index, frame, answer }) = work.wait(|| from_network.recv()) {
        go_on(observer)?;
        let network = answer.took;
        let (mask, probability) = answer.finished(&mut resize, &plan.asked)?;
        let report = FrameReport { index, vessel_pixels: mask.vessel_pixels(), network };
        sink.accept(SegmentedFrame { index, frame, probability, mask })?;
        observer.frame_done(&report);
        reports.push(report);
    }
    Ok(())
}
