//! Which frames the network sees, which mask belongs to which frame, and how a run ends early.

use super::fakes::{Clip, Fault, Kept, Network, SIZE};
use coronet::media::{Colour, FrameRange, Size};
use coronet::post::{MinimumArea, PostProcessing};
use coronet::segment::{
    FrameReport, MaskSink, Observer, Run, SegmentOptions, SegmentedFrame, WindowNetwork, segment_clip,
};
use coronet::{Error, Result};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

/// Keeps the single pixel that the pretended network marks.
fn options(frames: Option<(usize, usize)>) -> SegmentOptions {
    let post = PostProcessing { minimum_area: MinimumArea::Pixels(0), ..Default::default() };
    SegmentOptions { frames: frames.map(|(start, end)| FrameRange { start, end }), post, probability: true }
}

fn segment(clip: &mut Clip, network: &mut Network, frames: Option<(usize, usize)>, sink: &mut Kept) -> Result<Run> {
    segment_clip(clip, network, &options(frames), sink, &())
}

/// Checks one run against the plain statement of what has to happen.
fn check(neighbours: usize, total: usize, range: Option<(usize, usize)>) {
    let case = format!("N={neighbours}, {total} frames, range {range:?}");
    let (mut clip, mut network, mut kept) = (Clip::of(total), Network::with(neighbours), Kept::default());
    let run = segment(&mut clip, &mut network, range, &mut kept).unwrap();

    let (start, end) = range.unwrap_or((0, total));
    let clamped = |index: isize| index.clamp(0, total as isize - 1) as usize;
    let n = neighbours as isize;
    let windows: Vec<Vec<usize>> =
        (start..end).map(|middle| (-n..=n).map(|d| clamped(middle as isize + d)).collect()).collect();
    assert_eq!(*network.windows.lock().unwrap(), windows, "{case}");

    assert_eq!(run.frames, start..end, "{case}");
    assert_eq!(run.reports.iter().map(|r| r.index).collect::<Vec<_>>(), (start..end).collect::<Vec<_>>(), "{case}");
    assert_eq!(kept.frames.len(), end - start, "{case}");
    for (segmented, index) in kept.frames.iter().zip(start..end) {
        assert_eq!(segmented.index, index, "{case}");
        assert!(segmented.frame.samples().iter().all(|&grey| usize::from(grey) == index), "{case}");
        let marked: Vec<usize> = (0..SIZE.area()).filter(|&i| segmented.mask.pixels[i] == 255).collect();
        assert_eq!(marked, [index], "{case}");
        assert_eq!(segmented.probability.as_ref().unwrap().values[index], 0.75, "{case}");
    }
    assert_eq!(clip.read.load(Ordering::SeqCst), (end + neighbours).min(total), "{case}: frames read");
}

#[test]
fn mask_i_belongs_to_frame_i_for_every_window_clip_and_range() {
    for neighbours in 0..=3 {
        for total in [1, 2, 3, 5, 9] {
            check(neighbours, total, None);
            for start in 0..total {
                for end in start + 1..=total {
                    check(neighbours, total, Some((start, end)));
                }
            }
        }
    }
}

#[test]
fn frames_the_clip_does_not_have_are_refused_before_anything_is_read() {
    for (range, problem) in
        [((3, 6), "reach beyond the clip"), ((2, 2), "are none at all"), ((4, 1), "are none at all")]
    {
        let mut clip = Clip::of(5);
        let error = segment(&mut clip, &mut Network::with(1), Some(range), &mut Kept::default()).unwrap_err();
        let text = error.to_string();
        assert!(text.contains(problem) && text.contains("the clip has 5 frames, 0..5"), "{text}");
        assert_eq!(clip.read.load(Ordering::SeqCst), 0);
    }
}

#[test]
fn colours_are_converted_to_what_the_network_reads() {
    for (clip_colour, network_colour) in
        [(Colour::Rgb, Colour::Grey), (Colour::Grey, Colour::Rgb), (Colour::Rgb, Colour::Rgb)]
    {
        let mut clip = Clip { colour: clip_colour, ..Clip::of(4) };
        let mut network = Network { colour: network_colour, ..Network::with(1) };
        let mut kept = Kept::default();
        segment(&mut clip, &mut network, None, &mut kept).unwrap();
        assert_eq!(*network.windows.lock().unwrap(), [[0, 0, 1], [0, 1, 2], [1, 2, 3], [2, 3, 3]]);
        assert!(kept.frames.iter().all(|segmented| segmented.frame.colour() == clip_colour));
    }
}

/// A network of another size than the clip, that finds vessel in the left half of everything.
struct LeftHalf;

impl WindowNetwork for LeftHalf {
    fn neighbours(&self) -> usize {
        0
    }

    fn colour(&self) -> Colour {
        Colour::Grey
    }

    fn input_size(&self) -> Size {
        Size { width: 8, height: 8 }
    }

    fn run(&mut self, window: &[&[f32]], probability: &mut [f32]) -> Result<()> {
        assert_eq!(window[0].len(), 64);
        for (i, p) in probability.iter_mut().enumerate() {
            *p = if i % 8 < 4 { 1.0 } else { 0.0 };
        }
        Ok(())
    }

    fn describe(&self) -> serde_json::Value {
        serde_json::Value::Null
    }
}

#[test]
fn masks_have_the_clips_size_whatever_the_networks() {
    let mut kept = Kept::default();
    segment_clip(&mut Clip::of(2), &mut LeftHalf, &options(None), &mut kept, &()).unwrap();
    for segmented in &kept.frames {
        assert_eq!((segmented.mask.size, segmented.probability.as_ref().unwrap().size), (SIZE, SIZE));
        let left = |i: usize| if i % SIZE.width < SIZE.width / 2 { 255 } else { 0 };
        assert_eq!(segmented.mask.pixels, (0..SIZE.area()).map(left).collect::<Vec<u8>>());
    }
}

/// A sink that takes its time.
struct Slow;

const TAKES: Duration = Duration::from_millis(20);

impl MaskSink for Slow {
    fn accept(&mut self, _: SegmentedFrame) -> Result<()> {
        std::thread::sleep(TAKES);
        Ok(())
    }
}

#[test]
fn a_stage_that_waits_for_a_slow_one_does_not_count_as_busy() {
    let run = segment_clip(&mut Clip::of(20), &mut Network::with(1), &options(None), &mut Slow, &()).unwrap();
    assert!(run.busy.finishing >= 20 * TAKES && run.busy.finishing <= run.wall, "{:?}", run.busy);
    // Frames of 16x12 pixels: what is left is a share of the wait.
    assert!(run.busy.network < 10 * TAKES && run.busy.decoding < 10 * TAKES, "{:?}", run.busy);
}

#[test]
fn the_first_error_of_any_stage_comes_back() {
    for stage in ["reader", "network", "sink"] {
        for at in [0, 5, 19] {
            for fault in [Fault::Error, Fault::Panic] {
                let trouble = Some((at, fault));
                let (mut clip, mut network, mut kept) = (Clip::of(20), Network::with(2), Kept::default());
                match stage {
                    "reader" => clip.trouble = trouble,
                    "network" => network.trouble = trouble,
                    _ => kept.trouble = trouble,
                }
                let error = segment(&mut clip, &mut network, None, &mut kept).unwrap_err();
                match fault {
                    Fault::Error => assert_eq!(error.to_string(), format!("the {stage} fails on purpose")),
                    Fault::Panic => {
                        assert!(matches!(error, Error::Internal(_)), "{error:?}");
                        assert!(error.to_string().ends_with(&format!("the {stage} panics on purpose")), "{error}");
                    }
                }
                assert!(kept.frames.len() <= at);
            }
        }
    }
}

#[test]
fn a_probability_that_is_no_number_is_an_error_that_names_the_frame() {
    for (value, name) in [(f32::NAN, "NaN"), (f32::INFINITY, "infinity"), (f32::NEG_INFINITY, "infinity")] {
        let mut network = Network { poison: Some((3, value)), ..Network::with(1) };
        let error = segment(&mut Clip::of(6), &mut network, None, &mut Kept::default()).unwrap_err();
        let expected = format!("the network produced {name} in frame 3 at column 1, row 1; check its weights");
        assert_eq!(error.to_string(), expected);
    }
}

#[test]
fn a_clip_that_is_shorter_or_longer_than_it_said_is_damaged() {
    let mut short = Clip { actual: 4, ..Clip::of(6) };
    let error = segment(&mut short, &mut Network::with(1), None, &mut Kept::default()).unwrap_err();
    assert_eq!(error.to_string(), "the clip ends after 4 frames, but should have 6; it is damaged");
    let mut boastful = Clip { actual: 3, ..Clip::of(usize::MAX) };
    let error = segment(&mut boastful, &mut Network::with(1), None, &mut Kept::default()).unwrap_err();
    assert!(error.to_string().starts_with("the clip ends after 3 frames, but should have "), "{error}");
    let mut long = Clip { actual: 7, ..Clip::of(6) };
    let error = segment(&mut long, &mut Network::with(1), None, &mut Kept::default()).unwrap_err();
    assert_eq!(error.to_string(), "the clip goes on after its 6 frames; it is damaged");
    let error = segment(&mut Clip::of(0), &mut Network::with(1), None, &mut Kept::default()).unwrap_err();
    assert_eq!(error.to_string(), "the clip holds no frames");
}

#[test]
fn a_frame_of_another_size_is_an_error_that_names_both() {
    let mut clip = Clip { narrow: Some(2), ..Clip::of(6) };
    let error = segment(&mut clip, &mut Network::with(1), None, &mut Kept::default()).unwrap_err();
    assert_eq!(error.to_string(), "frame 2 is 15x12, but the clip is 16x12; all frames must have one size");
}

/// Counts how many frames are on their way between reader and sink, with a sink slower than everything before it.
struct SlowSink {
    read: Arc<AtomicUsize>,
    accepted: usize,
    most: usize,
}

impl MaskSink for SlowSink {
    fn accept(&mut self, _: SegmentedFrame) -> Result<()> {
        std::thread::sleep(Duration::from_millis(1));
        self.most = self.most.max(self.read.load(Ordering::SeqCst) - self.accepted);
        self.accepted += 1;
        Ok(())
    }
}

#[test]
fn the_number_of_frames_in_memory_does_not_grow_with_the_clip() {
    for neighbours in [0, 2] {
        let mut clip = Clip::of(150);
        let mut sink = SlowSink { read: clip.read.clone(), accepted: 0, most: 0 };
        segment_clip(&mut clip, &mut Network::with(neighbours), &options(None), &mut sink, &()).unwrap();
        assert_eq!(sink.accepted, 150);
        // N ahead of the middle, two in each channel, one in the hands of each stage.
        assert!(sink.most <= neighbours + 2 * 2 + 3, "{} frames in memory with N={neighbours}", sink.most);
    }
}

/// A place where one stage waits until another has come far enough.
#[derive(Default)]
struct Meeting(Mutex<usize>, Condvar);

impl Meeting {
    fn arrive(&self) {
        *self.0.lock().unwrap() += 1;
        self.1.notify_all();
    }

    fn wait_for(&self, arrivals: usize) {
        let enough = |count: &mut usize| *count < arrivals;
        let (_guard, waited) =
            self.1.wait_timeout_while(self.0.lock().unwrap(), Duration::from_secs(20), enough).unwrap();
        assert!(!waited.timed_out(), "the other stage stands still meanwhile");
    }
}

struct WaitingSink<'a>(&'a Meeting);

impl MaskSink for WaitingSink<'_> {
    fn accept(&mut self, segmented: SegmentedFrame) -> Result<()> {
        // The network must get to the next two frames while this one is being written.
        self.0.wait_for((segmented.index + 3).min(6));
        Ok(())
    }
}

struct MeetingNetwork<'a> {
    inner: Network,
    begun: &'a Meeting,
    read: Arc<AtomicUsize>,
}

impl WindowNetwork for MeetingNetwork<'_> {
    fn neighbours(&self) -> usize {
        self.inner.neighbours
    }

    fn colour(&self) -> Colour {
        self.inner.colour
    }

    fn input_size(&self) -> Size {
        SIZE
    }

    fn run(&mut self, window: &[&[f32]], probability: &mut [f32]) -> Result<()> {
        self.begun.arrive();
        self.inner.run(window, probability)?;
        // The reader must get ahead while the network works.
        let index = self.inner.windows.lock().unwrap().len() - 1;
        for _ in 0..20_000 {
            if self.read.load(Ordering::SeqCst) >= (index + 3).min(6) {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        panic!("the reader stands still while the network works");
    }

    fn describe(&self) -> serde_json::Value {
        self.inner.describe()
    }
}

#[test]
fn reading_the_network_and_writing_overlap() {
    let mut clip = Clip::of(6);
    let begun = Meeting::default();
    let mut network = MeetingNetwork { inner: Network::with(0), begun: &begun, read: clip.read.clone() };
    segment_clip(&mut clip, &mut network, &options(None), &mut WaitingSink(&begun), &()).unwrap();
}

/// Presses Ctrl-C after a few frames.
#[derive(Default)]
struct Impatient {
    started: AtomicUsize,
    done: AtomicUsize,
    pressed: AtomicBool,
}

impl Observer for Impatient {
    fn started(&self, frames: usize) {
        self.started.store(frames, Ordering::SeqCst);
    }

    fn frame_done(&self, report: &FrameReport) {
        assert_eq!((report.index, report.vessel_pixels), (self.done.load(Ordering::SeqCst), 1));
        if self.done.fetch_add(1, Ordering::SeqCst) + 1 == 3 {
            self.pressed.store(true, Ordering::SeqCst);
        }
    }

    fn interrupted(&self) -> bool {
        self.pressed.load(Ordering::SeqCst)
    }
}

#[test]
fn an_observer_can_stop_a_run() {
    let (mut kept, observer) = (Kept::default(), Impatient::default());
    let error = segment_clip(&mut Clip::of(50), &mut Network::with(1), &options(None), &mut kept, &observer);
    assert!(matches!(error, Err(Error::Interrupted)), "{error:?}");
    assert_eq!(observer.started.load(Ordering::SeqCst), 50);
    assert_eq!(kept.frames.len(), 3);
}
