use super::super::fixture::{SIZE, write_clip};
use super::super::{Dataset, FrameId, Watcher};
use super::*;
use crate::media::Colour;
use std::sync::atomic::{AtomicUsize, Ordering};
use tempfile::TempDir;

/// A folder with a source clip of 12 frames, as a data set has them, and room for a data set.
struct Place(TempDir);

impl Place {
    fn new() -> Place {
        let folder = TempDir::new().unwrap();
        write_clip(folder.path(), "source", 12);
        Place(folder)
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn clip(&self, labels: bool) -> ClipToExtract {
        ClipToExtract {
            path: self.at("source/frames"),
            name: "clip".parse().unwrap(),
            frames: None,
            labels: labels.then(|| self.at("source/labels")),
        }
    }

    fn extract(&self, clip: &ClipToExtract, overwrite: bool) -> Result<Vec<ExtractedClip>> {
        extract(std::slice::from_ref(clip), &self.at("set"), overwrite, &())
    }

    /// What is said, and that nothing has changed.
    fn refusal(&self, clip: &ClipToExtract, overwrite: bool) -> String {
        let before = files(self.0.path());
        let said = self.extract(clip, overwrite).unwrap_err().to_string();
        assert_eq!(files(self.0.path()), before, "{said}");
        said.replace(&format!("{}/", self.0.path().display()), "")
    }
}

fn files(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match std::fs::read(&path) {
            Ok(bytes) => found.push((path, bytes)),
            Err(_) => {
                found.extend(files(&path));
                found.push((path, Vec::new()));
            }
        }
    }
    found.sort();
    found
}

#[test]
fn frames_keep_their_samples_and_numbers_and_labels_become_masks() {
    let place = Place::new();
    let range = FrameRange { start: 3, end: 11 };
    let clip = ClipToExtract { frames: Some(range), ..place.clip(true) };
    let extracted = place.extract(&clip, false).unwrap();
    let folder = place.at("set/clip");
    assert_eq!(extracted, [ExtractedClip { folder, size: SIZE, frames: range, labelled: true }]);
    let dataset = Dataset::open(&place.at("set")).unwrap();
    let frames = &dataset.clips()[0].frames;
    assert_eq!(frames.len(), 8);
    for (position, frame) in frames.iter().enumerate() {
        let (id, number) = (FrameId { clip: 0, frame: position }, position + 3);
        assert!(frame.path.ends_with(format!("set/clip/frames/{number:04}.png")));
        assert_eq!(dataset.read_frame(id).unwrap().samples(), [10 * number as u8; 20]);
        assert_eq!(dataset.read_label(id).unwrap().vessel_pixels(), number);
    }
    let source: serde_json::Value =
        serde_json::from_slice(&std::fs::read(place.at("set/clip/source.json")).unwrap()).unwrap();
    let expected = serde_json::json!({
        "schema": "coronet/extract",
        "schema_version": 1,
        "coronet": env!("CARGO_PKG_VERSION"),
        "source": {
            "path": "frames", "kind": "images", "description": "folder of 12 images, the first PNG",
            "width": 5, "height": 4, "frames": 12, "frame_time_ms": null,
        },
        "frames": {"start": 3, "end": 11},
        "labels": "labels",
    });
    assert_eq!(source, expected);
}

#[test]
fn colour_is_kept_and_rgb_without_colour_becomes_grey() {
    let place = Place::new();
    let rgb = |name: &str, blue: u8| {
        let samples = [80, 80, blue].repeat(SIZE.area());
        let frame = Frame::new(SIZE, Colour::Rgb, samples).unwrap();
        std::fs::write(place.at(&format!("source/frames/{name}")), picture_png(&frame).unwrap()).unwrap();
        frame
    };
    let (colourful, plain) = (rgb("0001.png", 81), rgb("0002.png", 80));
    place.extract(&place.clip(false), false).unwrap();
    let read = |name| crate::media::read_image(&place.at(&format!("set/clip/frames/{name}"))).unwrap();
    assert_eq!(read("0001.png"), colourful);
    assert_eq!(read("0002.png"), plain.into_grey());
}

#[test]
fn a_clip_of_an_earlier_run_is_replaced_on_request_only_and_others_never_are() {
    let place = Place::new();
    place.extract(&place.clip(false), false).unwrap();
    let taken = "set/clip exists; choose another name with --name, or replace it with --overwrite";
    assert_eq!(place.refusal(&place.clip(false), false), taken);
    let shorter = ClipToExtract { frames: Some(FrameRange { start: 4, end: 6 }), ..place.clip(true) };
    place.extract(&shorter, true).unwrap();
    let left = std::fs::read_dir(place.at("set/clip/frames")).unwrap().count();
    assert_eq!((left, std::fs::read_dir(place.at("set")).unwrap().count()), (2, 1));

    std::fs::remove_file(place.at("set/clip/source.json")).unwrap();
    let foreign = "set/clip exists and is no clip of `coronet dataset extract`; choose another name with --name";
    assert_eq!(place.refusal(&place.clip(true), true), foreign);
    std::fs::remove_dir_all(place.at("set/clip")).unwrap();
    std::os::unix::fs::symlink(place.at("source"), place.at("set/clip")).unwrap();
    assert_eq!(place.refusal(&place.clip(true), true), foreign);
    std::fs::rename(place.at("source"), place.at("frames")).unwrap();
    let one_clip = extract(&[place.clip(false)], place.0.path(), false, &()).unwrap_err().to_string();
    assert!(one_clip.ends_with("is one clip; give the folder that holds it"), "{one_clip}");
}

#[test]
fn overwriting_takes_nothing_that_somebody_made() {
    let place = Place::new();
    let goes = "would go with the clip that --overwrite replaces; ";
    place.extract(&place.clip(false), false).unwrap();
    for (own, said) in [
        ("notes.txt", "move it to another place first"),
        ("frames/0099.jpg", "move it to another place first"),
        ("labels", "move it to another place first"),
    ] {
        std::fs::write(place.at(&format!("set/clip/{own}")), "mine").unwrap();
        assert_eq!(place.refusal(&place.clip(true), true), format!("set/clip/{own} {goes}{said}"));
        std::fs::remove_file(place.at(&format!("set/clip/{own}"))).unwrap();
    }

    // An empty folder is nothing; a drawn label is.
    std::fs::create_dir(place.at("set/clip/labels")).unwrap();
    place.extract(&place.clip(false), true).unwrap();
    std::fs::create_dir(place.at("set/clip/labels")).unwrap();
    let drawn = place.at("set/clip/labels/0005.png");
    std::fs::copy(place.at("source/labels/0005.png"), &drawn).unwrap();
    assert_eq!(
        place.refusal(&place.clip(false), true),
        format!("set/clip/labels {goes}give --labels, or move it first")
    );
    let without = ClipToExtract { frames: Some(FrameRange { start: 0, end: 5 }), ..place.clip(true) };
    assert!(place.refusal(&without, true).starts_with("set/clip/labels/0005.png is not what --labels says"));
    std::fs::copy(place.at("source/labels/0006.png"), &drawn).unwrap();
    assert!(place.refusal(&place.clip(true), true).starts_with("set/clip/labels/0005.png is not what --labels says"));
    std::fs::copy(place.at("source/labels/0005.png"), &drawn).unwrap();
    place.extract(&place.clip(true), true).unwrap();
}

#[test]
fn labels_that_would_all_come_out_empty_are_refused_and_empty_ones_are_not() {
    let place = Place::new();
    for (value, said) in [(0, None), (1, Some("the largest value is 1")), (127, Some("the largest value is 127"))] {
        let label = Frame::new(SIZE, Colour::Grey, vec![value; SIZE.area()]).unwrap();
        for index in 0..12 {
            std::fs::write(place.at(&format!("source/labels/{index:04}.png")), picture_png(&label).unwrap()).unwrap();
        }
        match said {
            None => assert!(place.extract(&place.clip(true), false).is_ok()),
            Some(said) => {
                let expected = format!("source/labels: no label holds vessel, which is 128 and more; {said}");
                assert_eq!(place.refusal(&place.clip(true), true), expected);
            }
        }
    }
}

#[test]
fn of_several_clips_all_are_taken_or_none() {
    let place = Place::new();
    let clip = |name: &str| ClipToExtract { name: name.parse().unwrap(), ..place.clip(false) };
    let run = |clips: &[ClipToExtract]| extract(clips, &place.at("set"), false, &()).map_err(|e| e.to_string());
    let twice = run(&[clip("a"), clip("b"), clip("a")]).unwrap_err();
    assert!(
        twice.ends_with("would both be the clip 'a'; extract one of them by itself with another --name"),
        "{twice}"
    );
    let absent = ClipToExtract { path: place.at("absent"), ..clip("b") };
    assert!(run(&[clip("a"), absent]).unwrap_err().starts_with("cannot read "));
    let last = place.at("source/frames/0011.png");
    let whole = std::fs::read(&last).unwrap();
    std::fs::write(&last, &whole[..whole.len() - 20]).unwrap();
    let damaged = run(&[clip("a")]).unwrap_err();
    assert!(damaged.starts_with(&format!("{}: the PNG image is damaged", last.display())), "{damaged}");
    assert!(!place.at("set").exists());
    std::fs::write(&last, whole).unwrap();
    // The names that a hidden folder uses itself.
    assert_eq!(run(&[clip("new"), clip("old"), clip("lock")]).unwrap().len(), 3);
    assert_eq!(Dataset::open(&place.at("set")).unwrap().clips().len(), 3);
}

#[test]
fn a_run_that_is_stopped_leaves_nothing() {
    struct StopAfter(AtomicUsize);
    impl Watcher for StopAfter {
        fn begun(&self, frames: usize) {
            assert_eq!(frames, 12);
        }
        fn frame_done(&self) {
            self.0.fetch_sub(1, Ordering::SeqCst);
        }
        fn interrupted(&self) -> bool {
            self.0.load(Ordering::SeqCst) == 0
        }
    }
    let place = Place::new();
    // Behind the last frame, too.
    for frames in [0, 1, 12] {
        let stop = StopAfter(AtomicUsize::new(frames));
        let stopped = rayon::ThreadPoolBuilder::new()
            .num_threads(1)
            .build()
            .unwrap()
            .install(|| extract(&[place.clip(true)], &place.at("set"), false, &stop));
        assert!(matches!(stopped, Err(Error::Interrupted)));
        assert!(!place.at("set").exists());
    }
}
