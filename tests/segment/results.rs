//! What a run leaves behind, and that a failed run leaves nothing.

use super::fakes::{Clip, Fault, Network, SIZE};
use super::result_folder::{contents, names};
use coronet::media::{Frame, FrameRange, Size};
use coronet::post::{MinimumArea, PostProcessing};
use coronet::result_folder::ResultFolder;
use coronet::segment::{
    NoVideo, Observer, OpenVideo, RESULTS, ResultsOptions, SegmentOptions, Summary, VideoSink, segment_into,
};
use coronet::{Error, Result};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A run into a folder, step by step changeable.
struct Case<'a> {
    clip: Clip,
    network: Network,
    frames: Option<FrameRange>,
    probability: bool,
    overwrite: bool,
    video: &'a dyn OpenVideo,
    observer: &'a dyn Observer,
}

impl Case<'_> {
    fn of(frames: usize, no_video: &NoVideo) -> Case<'_> {
        Case {
            clip: Clip::of(frames),
            network: Network::with(1),
            frames: None,
            probability: false,
            overwrite: false,
            video: no_video,
            observer: &(),
        }
    }

    fn run(mut self, out: &Path) -> Result<Summary> {
        let post = PostProcessing { minimum_area: MinimumArea::Pixels(0), ..Default::default() };
        let options = SegmentOptions { frames: self.frames, post, probability: false };
        let files = ResultsOptions { probability: self.probability, video: self.video, labels: None };
        let folder = ResultFolder::create(out, &RESULTS, self.overwrite)?;
        let input = Path::new("some/clip.dcm");
        segment_into(folder, input, &mut self.clip, &mut self.network, &options, files, self.observer)
    }
}

fn no_video() -> NoVideo {
    NoVideo("nobody asked for one".into())
}

#[test]
fn masks_are_named_after_their_frames_and_hold_them() {
    let place = tempfile::tempdir().unwrap();
    let no_video = no_video();
    let frames = Some(FrameRange { start: 98, end: 103 });
    Case { frames, probability: true, ..Case::of(120, &no_video) }.run(place.path()).unwrap();

    assert_eq!(names(place.path()), ["contact_sheet.png", "masks", "probability", "summary.json"]);
    let expected = ["0098.png", "0099.png", "0100.png", "0101.png", "0102.png"];
    assert_eq!(names(&place.path().join("masks")), expected);
    assert_eq!(names(&place.path().join("probability")), expected);
    for index in 98..103 {
        let read = |folder: &str| image::open(place.path().join(format!("{folder}/{index:04}.png"))).unwrap();
        let mask = read("masks");
        assert_eq!((mask.color(), mask.width(), mask.height()), (image::ColorType::L8, 16, 12));
        let marked: Vec<usize> = (0..SIZE.area()).filter(|&i| mask.as_bytes()[i] != 0).collect();
        assert_eq!((marked.as_slice(), mask.as_bytes()[index]), (&[index][..], 255));
        let probability = read("probability");
        assert_eq!(probability.color(), image::ColorType::L16);
        let probability = probability.to_luma16().into_raw();
        assert_eq!((probability[index], probability[0]), (49151, 16384));
    }
}

#[test]
fn the_summary_says_what_went_in_what_was_done_and_what_came_out() {
    let place = tempfile::tempdir().unwrap();
    let no_video = no_video();
    let frames = Some(FrameRange { start: 2, end: 5 });
    Case { frames, ..Case::of(9, &no_video) }.run(place.path()).unwrap();
    let text = std::fs::read(place.path().join("summary.json")).unwrap();
    let mut summary: serde_json::Value = serde_json::from_slice(&text).unwrap();

    let latency = summary["network_ms"].take();
    let figures = ["min", "median", "p90", "p95", "p99", "max"].map(|name| latency[name].as_f64().unwrap());
    assert!(figures.is_sorted() && figures[0] >= 0.0, "{latency}");
    assert!(latency["mean"].is_f64());
    let seconds = summary["wall_seconds"].take().as_f64().unwrap();
    let speed = summary["frames_per_second"].take().as_f64().unwrap();
    assert!((speed * seconds - 3.0).abs() < 1e-6, "three masks in {seconds} s are not {speed} a second");

    let busy = summary["busy"].take();
    for stage in ["decoding", "network", "finishing"] {
        let share = busy[stage].as_f64().unwrap();
        assert!((0.0..=1.0).contains(&share), "{busy}");
    }

    let area = |frame: usize| serde_json::json!({"frame": frame, "vessel_pixels": 1, "vessel_fraction": 1.0 / 192.0});
    let expected = serde_json::json!({
        "schema": "coronet/segment",
        "schema_version": 1,
        "coronet": env!("CARGO_PKG_VERSION"),
        "input": {
            "path": "some/clip.dcm", "kind": "images", "description": "made up",
            "width": 16, "height": 12, "frames": 9, "frame_time_ms": 40.0,
        },
        "frames": {"start": 2, "end": 5},
        "network": {"device": "pretended", "neighbours": 1},
        "threshold": 0.5,
        "minimum_area_pixels": 0,
        "outputs": {
            "masks": "masks", "probability": null, "overlay": null, "overlay_note": "nobody asked for one",
            "contact_sheet": "contact_sheet.png",
        },
        "areas": [area(2), area(3), area(4)],
        "labels": null,
        "network_ms": null, "wall_seconds": null, "frames_per_second": null, "busy": null,
    });
    assert_eq!(summary, expected);
}

#[test]
fn the_contact_sheet_shows_the_frames_of_the_range() {
    let place = tempfile::tempdir().unwrap();
    let no_video = no_video();
    Case::of(40, &no_video).run(place.path()).unwrap();
    let sheet = image::open(place.path().join("contact_sheet.png")).unwrap();
    // Sixteen tiles of 320x240 with a line of text and a margin each, four in a row.
    assert_eq!((sheet.width(), sheet.height()), (4 * 326 + 6, 4 * 270 + 6));
}

/// Remembers what a video would have held.
#[derive(Default)]
struct Film {
    opened: Mutex<Option<(PathBuf, Size, Option<Duration>)>>,
    written: Arc<Mutex<Vec<Size>>>,
    finished: Arc<Mutex<bool>>,
    fails_at: Option<usize>,
}

struct Reel {
    path: PathBuf,
    written: Arc<Mutex<Vec<Size>>>,
    finished: Arc<Mutex<bool>>,
    fails_at: Option<usize>,
}

impl OpenVideo for Film {
    fn open(
        &self,
        path: &Path,
        size: Size,
        frame_time: Option<Duration>,
    ) -> Result<Result<Box<dyn VideoSink>, String>> {
        *self.opened.lock().unwrap() = Some((path.to_path_buf(), size, frame_time));
        std::fs::write(path, "video").unwrap();
        let (written, finished) = (self.written.clone(), self.finished.clone());
        Ok(Ok(Box::new(Reel { path: path.to_path_buf(), written, finished, fails_at: self.fails_at })))
    }
}

impl VideoSink for Reel {
    fn write(&mut self, picture: &Frame) -> Result<()> {
        let mut written = self.written.lock().unwrap();
        if self.fails_at == Some(written.len()) {
            return Err(Error::media(&self.path, "the encoder gave up"));
        }
        written.push(picture.size());
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<()> {
        *self.finished.lock().unwrap() = true;
        Ok(())
    }

    fn codec(&self) -> String {
        "h264".into()
    }
}

#[test]
fn the_overlay_video_gets_every_frame_at_the_clips_speed() {
    let place = tempfile::tempdir().unwrap();
    let (no_video, film) = (no_video(), Film::default());
    let summary = Case { video: &film, ..Case::of(7, &no_video) }.run(place.path()).unwrap();
    let (path, size, frame_time) = film.opened.lock().unwrap().clone().unwrap();
    assert_eq!(path.file_name().unwrap(), "overlay.mp4");
    assert_eq!(frame_time, Some(Duration::from_millis(40)));
    assert_eq!((size.width % 2, size.height % 2), (0, 0));
    assert_eq!(*film.written.lock().unwrap(), vec![size; 7]);
    assert!(*film.finished.lock().unwrap());
    assert_eq!((summary.outputs.overlay, summary.outputs.overlay_note.as_str()), (Some("overlay.mp4"), "h264"));
    assert_eq!(contents(place.path())["overlay.mp4"], b"video");
}

#[test]
fn an_encoder_that_fails_is_reported_under_the_final_name() {
    let place = tempfile::tempdir().unwrap();
    let (no_video, film) = (no_video(), Film { fails_at: Some(2), ..Film::default() });
    let error = Case { video: &film, ..Case::of(7, &no_video) }.run(place.path()).unwrap_err();
    let expected = format!("{}: the encoder gave up", place.path().join("overlay.mp4").display());
    assert_eq!(error.to_string(), expected);
    assert!(names(place.path()).is_empty());
}

struct Stopped;

impl Observer for Stopped {
    fn interrupted(&self) -> bool {
        true
    }
}

#[test]
fn a_run_that_fails_or_is_stopped_leaves_nothing() {
    let place = tempfile::tempdir().unwrap();
    let (out, no_video) = (place.path().join("new/out"), no_video());
    let case = || Case { probability: true, ..Case::of(9, &no_video) };
    for fault in [Fault::Error, Fault::Panic] {
        let network = Network { trouble: Some((6, fault)), ..Network::with(1) };
        assert!(Case { network, ..case() }.run(&out).is_err());
        let clip = Clip { trouble: Some((6, fault)), ..Clip::of(9) };
        assert!(Case { clip, ..case() }.run(&out).is_err());
    }
    assert!(Case { frames: Some(FrameRange { start: 3, end: 10 }), ..case() }.run(&out).is_err());
    assert!(matches!(Case { observer: &Stopped, ..case() }.run(&out), Err(Error::Interrupted)));
    assert!(names(place.path()).is_empty(), "{:?}", names(place.path()));
}

#[test]
fn a_failed_run_leaves_the_results_it_was_to_replace() {
    let place = tempfile::tempdir().unwrap();
    let no_video = no_video();
    Case { probability: true, ..Case::of(9, &no_video) }.run(place.path()).unwrap();
    let before = contents(place.path());
    let network = Network { trouble: Some((6, Fault::Error)), ..Network::with(1) };
    assert!(Case { network, overwrite: true, ..Case::of(9, &no_video) }.run(place.path()).is_err());
    assert_eq!(contents(place.path()), before);

    Case { overwrite: true, ..Case::of(4, &no_video) }.run(place.path()).unwrap();
    assert_eq!(names(place.path()), ["contact_sheet.png", "masks", "summary.json"]);
    assert_eq!(names(&place.path().join("masks")), ["0000.png", "0001.png", "0002.png", "0003.png"]);
}

/// A file system of `bytes`, for root only; gone when dropped.
struct TinyDisk(tempfile::TempDir);

impl TinyDisk {
    fn mount(bytes: usize) -> Option<TinyDisk> {
        let place = tempfile::tempdir().unwrap();
        let options = format!("size={bytes}");
        let mounted = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "tmpfs"])
            .arg(place.path())
            .stderr(std::process::Stdio::null())
            .status();
        mounted.is_ok_and(|status| status.success()).then_some(TinyDisk(place))
    }
}

impl Drop for TinyDisk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg(self.0.path()).status();
    }
}

#[test]
fn a_full_disk_is_one_sentence_and_leaves_nothing() {
    let Some(disk) = TinyDisk::mount(64 * 1024) else {
        eprintln!("skipped: only root may mount a tiny file system");
        return;
    };
    let no_video = no_video();
    // Every PNG takes a page of 4 KiB, and there are sixteen.
    let error = Case::of(30, &no_video).run(disk.0.path()).unwrap_err();
    let mask = disk.0.path().join("masks/00");
    let text = error.to_string();
    assert!(text.starts_with(&format!("cannot write {}", mask.display())), "{text}");
    assert!(text.contains("No space left on device"), "{text}");
    assert!(names(disk.0.path()).is_empty());
}
