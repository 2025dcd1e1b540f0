use super::super::fixture::{SIZE, write_clip, write_frame};
use super::*;
use crate::media::output::picture_png;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use tempfile::TempDir;

fn inspected(folder: &TempDir) -> Inspection {
    Inspection::of(folder.path(), &()).unwrap()
}

/// Problems without the folder's path.
fn problems(folder: &TempDir) -> Vec<String> {
    let place = format!("{}/", folder.path().display());
    inspected(folder).problems.iter().map(|problem| problem.replace(&place, "")).collect()
}

/// Writes a picture whose pixels have these values in turn.
fn write_grey(path: PathBuf, values: &[u8]) {
    let samples = values.iter().copied().cycle().take(SIZE.area()).collect();
    let frame = Frame::new(SIZE, Colour::Grey, samples).unwrap();
    std::fs::write(path, picture_png(&frame).unwrap()).unwrap();
}

#[test]
fn frames_labels_and_vessel_are_counted() {
    let folder = TempDir::new().unwrap();
    let a = write_clip(folder.path(), "a", 8);
    write_clip(folder.path(), "b", 21);
    std::fs::remove_file(a.join("labels/0007.png")).unwrap();
    std::fs::remove_file(a.join("labels/0006.png")).unwrap();
    let seen = inspected(&folder);
    assert_eq!(seen.problems, [""; 0]);
    assert_eq!(
        seen.clips.iter().map(|clip| (clip.name.as_str(), clip.size)).collect::<Vec<_>>(),
        [("a", SIZE), ("b", SIZE)]
    );
    // Labels of 0 to 5 pixels of 20.
    let share = VesselShare { mean: 0.125, min: 0.0, max: 0.25 };
    let expected =
        Tally { frames: 8, labelled_frames: 6, empty_labels: 1, vessel_share: Some(share), ..Tally::default() };
    assert_eq!(seen.clips[0].tally, expected);
    assert_eq!((seen.clips[1].tally.full_labels, seen.clips[1].tally.empty_labels), (1, 1));
    assert_eq!((seen.totals.frames, seen.totals.labelled_frames, seen.totals.empty_labels), (29, 27, 2));
    assert_eq!(seen.totals.vessel_share.map(|share| share.max), Some(1.0));
    assert_eq!(
        seen.notes,
        [
            "frames without a label are only neighbours of others: a (2 of 8)",
            "labels are nothing but vessel: b (1 of 21)"
        ]
    );
}

#[test]
fn what_is_damaged_or_does_not_fit_is_named_all_of_it() {
    let folder = TempDir::new().unwrap();
    let (a, b) = (write_clip(folder.path(), "a", 6), write_clip(folder.path(), "b", 6));
    for path in [a.join("frames/0002.png"), a.join("labels/0002.png"), a.join("labels/0004.png")] {
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(path, &whole[..whole.len() - 20]).unwrap();
    }
    std::fs::remove_file(b.join("frames/0005.png")).unwrap();
    let said = problems(&folder);
    assert_eq!(said[0], "b/labels/0005.png: is a label without a frame: frames/ holds none of its name");
    let files = ["a/frames/0002.png", "a/labels/0002.png", "a/labels/0004.png"];
    for (said, file) in said[1..].iter().zip(files) {
        assert!(said.starts_with(&format!("{file}: the PNG image is damaged or of a kind not read")), "{said}");
    }
    assert_eq!(said.len(), 4);
    let totals = inspected(&folder).totals;
    assert_eq!((totals.frames, totals.labelled_frames, totals.repeated_frames), (6, 6, 0));
}

#[test]
fn labels_of_zeros_and_ones_are_a_problem_and_soft_edges_are_not() {
    let folder = TempDir::new().unwrap();
    let clip = write_clip(folder.path(), "clip", 8);
    write_grey(clip.join("labels/0003.png"), &[0, 64, 128, 255]);
    assert_eq!(problems(&folder), [""; 0]);
    let seen = inspected(&folder);
    assert_eq!((seen.totals.grey_labels, seen.totals.grey_label_pixels), (1, 10));
    let note = "labels hold other values than 0 and 255, of which 128 and more are vessel: clip (1 of 8)";
    assert_eq!(seen.notes, [note]);

    write_grey(clip.join("labels/0003.png"), &[0, 1]);
    let said =
        "clip/labels: 1 label holds values 0 and 1; vessel is 128 and more, so there is none (the first is 0003.png)";
    assert_eq!(problems(&folder), [said]);
    write_grey(clip.join("labels/0005.png"), &[0, 2]);
    assert!(problems(&folder)[0].starts_with("clip/labels: 2 labels hold values 0, 1 and 2; vessel is 128 and more"));
    write_grey(clip.join("labels/0005.png"), &[0, 10, 40, 90, 127]);
    assert!(problems(&folder)[0].contains("hold values 0 to 127; vessel is 128 and more"));
    write_grey(clip.join("labels/0003.png"), &[0, 255]);
    write_grey(clip.join("labels/0005.png"), &[100]);
    assert!(problems(&folder)[0].contains("1 label holds values 100; vessel is 128 and more"));
}

#[test]
fn colour_and_repeated_frames_are_seen() {
    let folder = TempDir::new().unwrap();
    let clip = write_clip(folder.path(), "clip", 6);
    let rgb = |red: u8, name: &str| {
        let frame = Frame::new(SIZE, Colour::Rgb, [red, 10, 10].repeat(SIZE.area())).unwrap();
        std::fs::write(clip.join("frames").join(name), picture_png(&frame).unwrap()).unwrap();
    };
    // RGB without colour repeats the grey frame before it, and is no colour.
    rgb(10, "0002.png");
    rgb(11, "0004.png");
    let seen = inspected(&folder);
    assert_eq!((seen.totals.colour_frames, seen.totals.repeated_frames), (1, 1));
    assert!(seen.notes.contains(&"frames are the same as the one before: clip (1 of 6)".to_owned()));
    // The last frame of a clip and the first of the next have nothing to do with each other.
    let other = write_clip(folder.path(), "clip2", 6);
    std::fs::copy(clip.join("frames/0005.png"), other.join("frames/0000.png")).unwrap();
    assert_eq!(inspected(&folder).totals.repeated_frames, 1);
}

#[test]
fn short_clips_and_labels_drawn_the_other_way_round_are_noted() {
    let folder = TempDir::new().unwrap();
    for (name, frames) in [("a", 2), ("b", 3), ("c", 5), ("d", 6)] {
        let clip = write_clip(folder.path(), name, frames);
        if name == "d" {
            (0..6).for_each(|index| write_grey(clip.join(format!("labels/{index:04}.png")), &[255, 255, 255, 0]));
        }
    }
    assert_eq!(
        inspected(&folder).notes,
        [
            "clips under 3 frames repeat their ends in every window of N = 1: a",
            "clips under 5 frames repeat their ends in every window of N = 2: a, b",
            "clips under 7 frames repeat their ends in every window of N = 3: a, b, c, d",
            "clips under 6 frames go whole into one part of a split: a, b, c",
            "labels are vessel for the most part, perhaps drawn the other way round: d (75 %)",
        ]
    );
    for index in 0..10 {
        write_clip(folder.path(), &format!("e{index}"), 1);
    }
    assert!(inspected(&folder).notes[0].ends_with(": a, e0, e1, e2, e3, e4, e5, e6 and 3 more"));
}

#[test]
fn whoever_watches_sees_every_frame_and_may_stop() {
    struct Count(AtomicUsize, AtomicUsize, usize);
    impl Watcher for Count {
        fn begun(&self, frames: usize) {
            self.0.store(frames, Ordering::SeqCst);
        }
        fn frame_done(&self) {
            self.1.fetch_add(1, Ordering::SeqCst);
        }
        fn interrupted(&self) -> bool {
            self.1.load(Ordering::SeqCst) >= self.2
        }
    }
    let folder = TempDir::new().unwrap();
    let clip = write_clip(folder.path(), "clip", 9);
    write_frame(&clip, 9, SIZE);
    let count = |most| Count(AtomicUsize::new(0), AtomicUsize::new(0), most);
    let all = count(usize::MAX);
    Inspection::of(folder.path(), &all).unwrap();
    assert_eq!((all.0.into_inner(), all.1.into_inner()), (10, 10));
    assert!(matches!(Inspection::of(folder.path(), &count(0)), Err(Error::Interrupted)));
}
