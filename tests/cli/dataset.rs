//! `coronet dataset`: what extract writes is what was decoded, check finds nothing wrong with it, and both say what is.

use super::clips::{self, SIZE};
use super::place::{CORONET, Disk, Place, sentence, tree, within};
use assert_cmd::Command;
use image::{DynamicImage, GrayImage, Luma};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

fn dataset(place: &Place, verb: &str) -> Command {
    let mut command = Command::new(CORONET);
    command.env_remove("RUST_BACKTRACE").current_dir(place.path()).args(["dataset", verb]);
    command
}

fn extract(place: &Place, extra: &[&str]) -> Command {
    let mut command = dataset(place, "extract");
    command.args(["--out", "data"]).args(extra);
    command
}

/// What the verb prints where nothing is wrong.
fn done(command: &mut Command) -> String {
    let run = command.assert().success().stderr("");
    String::from_utf8(run.get_output().stdout.clone()).unwrap()
}

/// What `check` prints on stdout and the sentence on stderr, where something is wrong.
fn found(place: &Place, extra: &[&str]) -> (String, String) {
    let output = dataset(place, "check").arg("data").args(extra).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    (String::from_utf8(output.stdout).unwrap(), sentence(std::str::from_utf8(&output.stderr).unwrap()))
}

/// The lines of a report that begin so.
fn lines<'a>(report: &'a str, start: &str) -> Vec<&'a str> {
    report.lines().filter_map(|line| line.strip_prefix(start)).collect()
}

/// Labels of `count` frames, each with a bar that grows.
fn bars(count: usize) -> Vec<GrayImage> {
    let bar = |index| move |x, _| Luma([if x < index as u32 { 255 } else { 0 }]);
    (0..count).map(|index| GrayImage::from_fn(SIZE.width as u32, SIZE.height as u32, bar(index))).collect()
}

/// A data set of one clip of seven frames, of which all are labelled.
fn good_set() -> (Place, PathBuf) {
    let place = Place::new();
    clips::folder(place.at("clip"), &clips::frames(7));
    clips::folder(place.at("drawn"), &bars(7));
    done(&mut extract(&place, &["clip", "--labels", "drawn"]));
    let clip = place.at("data/clip");
    (place, clip)
}

fn source(place: &Place, clip: &str) -> Value {
    serde_json::from_slice(&fs::read(place.at(&format!("data/{clip}/source.json"))).unwrap()).unwrap()
}

#[test]
fn a_folder_with_labels_becomes_a_clip_that_check_finds_good() {
    let (place, clip) = good_set();
    let files = tree(&clip);
    assert_eq!(files.len(), 3 + 2 * 7, "frames/, labels/, source.json and the images: {:?}", files.keys());
    for (index, (frame, bar)) in clips::frames(7).into_iter().zip(bars(7)).enumerate() {
        let read = |folder| image::open(clip.join(format!("{folder}/{index:04}.png"))).unwrap();
        assert_eq!(read("frames"), DynamicImage::ImageLuma8(frame));
        assert_eq!(read("labels"), DynamicImage::ImageLuma8(bar));
    }
    let report = done(dataset(&place, "check").arg("data"));
    let rows: Vec<&str> = report.lines().collect();
    let expected = [
        "clip   size  frames  labels  empty  full  vessel     min     max  colour",
        "clip  64x48       7       7      1     0  4.69 %  0.00 %  9.38 %       0",
        "1 clip, 7 frames, 7 labels, 4.69 % vessel on average; no problems",
    ];
    assert_eq!(rows, expected);
    assert_eq!(done(dataset(&place, "check").args(["data", "--quiet"])), "");
    let json: Value = serde_json::from_str(&done(dataset(&place, "check").args(["data", "--json"]))).unwrap();
    assert_eq!((&json["schema"], &json["schema_version"]), (&"coronet/dataset-check".into(), &1.into()));
    assert_eq!((&json["folder"], &json["problems"]), (&"data".into(), &serde_json::json!([])));
    let clip = &json["clips"][0];
    assert_eq!((&clip["name"], &clip["width"], &clip["height"]), (&"clip".into(), &64.into(), &48.into()));
    assert_eq!((&clip["frames"], &clip["empty_labels"], &json["totals"]["frames"]), (&7.into(), &1.into(), &7.into()));
    assert_eq!(clip["vessel_share"]["max"], 6.0 / 64.0);
}

#[test]
fn every_problem_has_a_line_and_the_sentence_counts_them() {
    let (place, clip) = good_set();
    clips::folder(place.at("ones"), &clips::frames(3));
    done(&mut extract(&place, &["ones"]));
    let ones: Vec<_> = (0..3).map(|_| GrayImage::from_fn(64, 48, |x, _| Luma([u8::from(x > 50)]))).collect();
    clips::folder(place.at("data/ones/labels"), &ones);
    for (index, name) in ["8.png", "9.png", "10.png"].iter().enumerate() {
        let labels = place.at("data/ones/labels");
        fs::rename(labels.join(name), labels.join(format!("{index:04}.png"))).unwrap();
    }
    fs::create_dir_all(place.at("data/empty/frames")).unwrap();
    fs::create_dir_all(place.at("data/notes")).unwrap();
    let damaged = clip.join("frames/0003.png");
    let whole = fs::read(&damaged).unwrap();
    fs::write(&damaged, &whole[..whole.len() / 2]).unwrap();

    let (report, said) = found(&place, &[]);
    assert_eq!(said, "4 problems in data");
    let problems = lines(&report, "problem: ");
    assert_eq!(problems[0], "data/empty/frames: holds no png, jpg, bmp, tif or pgm image");
    assert_eq!(problems[1], "data/notes: is no clip: it has no folder frames/");
    assert!(problems[2].starts_with("data/clip/frames/0003.png: the PNG image is damaged"), "{report}");
    let values = "3 labels hold values 0 and 1; vessel is 128 and more, so there is none (the first is 0000.png)";
    assert_eq!(problems[3..], [format!("data/ones/labels: {values}")]);
    assert!(lines(&report, "note: ").contains(&"clips under 6 frames go whole into one part of a split: ones"));
    assert!(report.lines().last().unwrap().ends_with("; 4 problems"), "{report}");

    let (quiet, _) = found(&place, &["--quiet"]);
    assert_eq!(lines(&quiet, "problem: "), problems);
    assert_eq!(quiet.lines().count(), 4);
    let (json, said) = found(&place, &["--json"]);
    assert_eq!(said, "4 problems in data");
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["problems"], serde_json::json!(problems));
    assert_eq!(json["clips"].as_array().unwrap().len(), 2);
}

#[test]
fn what_is_no_data_set_is_refused() {
    let (place, _) = good_set();
    fs::create_dir(place.at("nothing")).unwrap();
    for (folder, said) in [
        ("absent", "cannot read absent: No such file or directory"),
        ("nothing", "nothing: holds no clip, which is a folder with frames/NNNN.png and labels/NNNN.png"),
        ("data/clip", "data/clip: is one clip; give the folder that holds it"),
    ] {
        let sentence = place.refusal(dataset(&place, "check").arg(folder));
        assert!(sentence.starts_with(said), "{sentence}");
    }
}

#[test]
fn single_images_become_clips_of_one_frame_each_and_range_and_name_are_kept() {
    let place = Place::new();
    clips::png(&place.at("a still.png"), &clips::frame(3));
    clips::png(&place.at("b.png"), &clips::frame(4));
    let said = done(&mut extract(&place, &["a still.png", "b.png"]));
    assert_eq!(said, "1 frame of 64x48 in data/a-still\n1 frame of 64x48 in data/b\n");
    assert_eq!(image::open(place.at("data/b/frames/0000.png")).unwrap(), DynamicImage::ImageLuma8(clips::frame(4)));
    let document = source(&place, "a-still");
    assert_eq!((&document["source"]["path"], &document["source"]["kind"]), (&"a still.png".into(), &"images".into()));

    clips::folder(place.at("clip"), &clips::frames(9));
    let said = done(&mut extract(&place, &["clip", "--frames", "4..9", "--name", "late"]));
    assert_eq!(said, "5 frames of 64x48 in data/late\n");
    let names: Vec<_> = tree(&place.at("data/late/frames")).into_keys().collect();
    assert_eq!(names, ["0004.png", "0005.png", "0006.png", "0007.png", "0008.png"]);
    assert_eq!(source(&place, "late")["frames"], serde_json::json!({"start": 4, "end": 9}));
    let report = done(dataset(&place, "check").arg("data"));
    assert!(report.ends_with("3 clips, 7 frames, 0 labels; no problems\n"), "{report}");
}

/// The frames that a reader gives and those that were written, one by one.
#[cfg(any(feature = "dicom", feature = "video"))]
fn assert_as_decoded(place: &Place, input: &Path, kind: &str) {
    done(&mut extract(place, &[input.to_str().unwrap(), "--name", kind]));
    let (mut decoded, folder) = (coronet::media::open(input).unwrap(), place.at(&format!("data/{kind}/frames")));
    let mut written = coronet::media::open(&folder).unwrap();
    assert_eq!(written.info().frames, 7);
    for _ in 0..7 {
        assert_eq!(written.next_frame().unwrap().unwrap(), decoded.next_frame().unwrap().unwrap());
    }
    let document = source(place, kind);
    assert_eq!((&document["source"]["kind"], &document["source"]["frame_time_ms"]), (&kind.into(), &40.0.into()));
    let report = done(dataset(place, "check").arg("data"));
    assert!(report.ends_with("; no problems\n"), "{report}");
}

#[test]
#[cfg(feature = "dicom")]
fn dicom_frames_are_written_as_they_were_decoded() {
    let place = Place::new();
    let input = clips::dicom(place.at("clip.dcm"), &clips::frames(7));
    assert_as_decoded(&place, &input, "dicom");
}

#[test]
#[cfg(feature = "video")]
fn video_frames_are_written_as_they_were_decoded() {
    let place = Place::new();
    let input = clips::video(place.at("clip.mp4"), &clips::frames(7));
    assert_as_decoded(&place, &input, "video");
}

#[test]
fn what_cannot_be_extracted_is_refused_and_leaves_nothing() {
    let place = Place::new();
    let clip = clips::folder(place.at("clip"), &clips::frames(9));
    clips::folder(place.at("other/clip"), &clips::frames(2));
    clips::folder(place.at("frames"), &clips::frames(2));
    clips::folder(place.at("few"), &bars(8));
    fs::write(place.at("file"), "text").unwrap();
    for (options, said) in [
        (
            &["clip", "other/clip"][..],
            "clip and other/clip would both be the clip 'clip'; extract one of them by itself",
        ),
        (&["clip", "few", "--name", "x"], "--name is for one clip, and there are 2; extract them one by one"),
        (&["clip", "few", "--labels", "few"], "--labels is for one clip, and there are 2; extract them one by one"),
        (&["clip", "--name", "a/b"], "'a/b' cannot be the name of a clip"),
        (&["frames"], "frames gives its clip no name that it can have; choose one with --name"),
        (&["clip", "--frames", "8..10"], "frames 8..10 reach beyond the clip; the clip has 9 frames, 0..9"),
        (&["clip", "--labels", "few"], "few: holds 8 labels, but the clip has 9 frames; every frame needs its label"),
        (&["clip", "absent"], "cannot read absent: No such file"),
        (&["clip", "--out", "file"], "the argument '--out <DATA>' cannot be used multiple times"),
        (&[], "the following required arguments were not provided: <CLIP>..."),
    ] {
        let sentence = place.refusal(&mut extract(&place, options));
        assert!(sentence.contains(said), "{sentence}");
    }
    let out = |out: &str| place.refusal(dataset(&place, "extract").args(["clip", "--out", out]));
    assert_eq!(out("file"), "file is not a folder; choose another place");
    fs::create_dir_all(place.at("one/frames")).unwrap();
    assert_eq!(out("one"), "one is one clip; give the folder that holds it");
    if Path::new("/proc/self").is_dir() {
        assert!(out("/proc/coronet").starts_with("cannot create /proc/coronet: "));
    }

    let damaged = clip.join("14.png");
    let whole = fs::read(&damaged).unwrap();
    fs::write(&damaged, &whole[..whole.len() - 20]).unwrap();
    let sentence = place.refusal(&mut extract(&place, &["few", "clip"]));
    assert!(sentence.starts_with("clip/14.png: the PNG image is damaged"), "{sentence}");
    // The frames before it can be had.
    done(&mut extract(&place, &["clip", "--frames", "0..6"]));
}

#[test]
fn a_disk_that_cannot_be_written_to_or_fills_up_keeps_what_was_there() {
    let place = Place::new();
    clips::folder(place.at("clip"), &clips::frames(9));
    let refusal = |disk: &Disk| {
        let out = disk.0.join("data");
        let sentence = place.refusal(dataset(&place, "extract").arg("clip").arg("--out").arg(&out));
        assert!(sentence.contains(out.to_str().unwrap()) && !sentence.contains("/.coronet"), "{sentence}");
        sentence
    };
    let Some(disk) = Disk::mount(place.at("disk"), "size=1m,ro") else { return };
    assert!(refusal(&disk).contains("Read-only file system"));
    drop(disk);
    let Some(disk) = Disk::mount(place.at("disk"), "size=16k") else { return };
    assert!(refusal(&disk).contains("No space left on device"));
}

#[test]
fn clips_of_an_earlier_run_are_replaced_on_request_and_drawn_labels_never_are() {
    let (place, clip) = good_set();
    let again = ["clip", "--labels", "drawn"];
    let sentence = place.refusal(&mut extract(&place, &again));
    let exists = "data/clip exists; choose another name with --name, or replace it with --overwrite";
    assert_eq!(sentence, exists);
    let before = tree(&clip);
    let overwrite = [&again[..], &["--overwrite", "--quiet"]].concat();
    assert_eq!(done(&mut extract(&place, &overwrite)), "");
    assert_eq!(tree(&clip), before);

    // Without labels, with fewer, and with others than those that somebody has corrected.
    let refused = |options: &[&str], said: &str| {
        let before = tree(&clip);
        let sentence = place.refusal(&mut extract(&place, options));
        assert!(sentence.starts_with(said), "{sentence}");
        assert_eq!(tree(&clip), before);
    };
    let labels = "data/clip/labels would go with the clip that --overwrite replaces; give --labels, or move it first";
    refused(&["clip", "--overwrite"], labels);
    let fewer = [&overwrite[..], &["--frames", "0..5"]].concat();
    refused(&fewer, "data/clip/labels/0005.png is not what --labels says of this frame, and labels are never replaced");
    clips::png(&clip.join("labels/0002.png"), &bars(7)[3]);
    refused(&overwrite, "data/clip/labels/0002.png is not what --labels says of this frame");

    // Once they are elsewhere, the clip is replaced, and nothing of the old one stays.
    fs::rename(clip.join("labels"), place.at("corrected")).unwrap();
    done(&mut extract(&place, &["clip", "--overwrite", "--frames", "0..5"]));
    assert_eq!(within(&tree(&clip), "frames").len(), 5);
    assert_eq!(tree(&place.at("data")).keys().filter(|name| !name.contains('/')).count(), 1, "no hidden folder stays");

    fs::write(clip.join("notes.txt"), "precious").unwrap();
    refused(&["clip", "--overwrite"], "data/clip/notes.txt would go with the clip that --overwrite replaces");
    fs::create_dir_all(place.at("data/mine/frames")).unwrap();
    let sentence = place.refusal(&mut extract(&place, &["clip", "--name", "mine", "--overwrite"]));
    assert!(sentence.starts_with("data/mine exists and is no clip of `coronet dataset extract`"), "{sentence}");
}

/// A clip long enough to be stopped in the middle: one image under many names.
fn long_clip(folder: &Path) {
    clips::folder(folder.to_path_buf(), &clips::frames(1));
    (9..4000).for_each(|index| fs::hard_link(folder.join("8.png"), folder.join(format!("{index}.png"))).unwrap());
}

fn stopped(place: &Place, arguments: &[&str], wait: impl Fn() -> bool) {
    let mut command = std::process::Command::new(CORONET);
    command.env_remove("RUST_BACKTRACE").current_dir(place.path()).arg("dataset").args(arguments);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let begun = Instant::now();
    while !wait() {
        assert!(begun.elapsed() < Duration::from_secs(60), "nothing after a minute");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stdout.len()), (Some(130), 0));
    let said = std::str::from_utf8(&output.stderr).unwrap().lines().last().unwrap();
    assert_eq!(sentence(said), "stopped before the end; nothing was written");
}

#[test]
fn ctrl_c_leaves_nothing_half_extracted() {
    let place = Place::new();
    long_clip(&place.at("clip"));
    fs::create_dir(place.at("data")).unwrap();
    stopped(&place, &["extract", "clip", "--out", "data"], || {
        tree(&place.at("data")).keys().any(|name| name.ends_with("frames/0001.png"))
    });
    assert!(tree(&place.at("data")).is_empty());
}
