//! A clip goes in, a mask for every frame comes out, and mask i belongs to frame i.

use super::clips::{self, SIZE};
use super::place::{Place, results, within};
use image::{ColorType, GrayImage};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

const FRAMES: usize = 7;

fn names(indices: std::ops::Range<usize>) -> Vec<String> {
    indices.map(|index| format!("{index:04}.png")).collect()
}

/// Runs over `input` with probabilities and gives back what is left, without the summary.
fn run(place: &Place, input: &Path, neighbours: usize, extra: &[&str]) -> BTreeMap<String, Vec<u8>> {
    let out = place.at("out");
    place.segment(input, neighbours, &out).args(["--probability", "--overwrite"]).args(extra).assert().success();
    results(&out)
}

/// The probability of frame `index` of a clip of `frames`.
fn probability(place: &Place, frames: &[GrayImage], neighbours: usize, index: usize) -> Vec<u8> {
    let input = clips::folder(place.at(&format!("window{}", frames.len())), frames);
    run(place, &input, neighbours, &[])[&format!("probability/{index:04}.png")].clone()
}

/// Holds for every kind of source: a run of its own leaves all that belongs to `FRAMES` frames.
fn assert_complete(place: &Place, input: &Path, kind: &str) {
    let out = place.at("complete");
    place.segment(input, 1, &out).arg("--overwrite").assert().success();
    let left = results(&out);
    assert_eq!(within(&left, "masks").keys().copied().collect::<Vec<_>>(), names(0..FRAMES));
    let mut seen = [false; 256];
    for name in names(0..FRAMES) {
        let mask = image::open(out.join("masks").join(name)).unwrap();
        assert_eq!((mask.color(), mask.width(), mask.height()), (ColorType::L8, 64, 48));
        mask.as_bytes().iter().for_each(|&value| seen[usize::from(value)] = true);
    }
    let values: Vec<usize> = (0..256).filter(|&value| seen[value]).collect();
    assert_eq!(values, [0, 255], "a mask is vessel or not, and this network finds some");
    let sheet = image::open(out.join("contact_sheet.png")).unwrap();
    assert!(sheet.width() > 4 * 64 && sheet.color() == ColorType::Rgb8);

    let summary: Value = serde_json::from_slice(&std::fs::read(out.join("summary.json")).unwrap()).unwrap();
    assert_eq!(summary["input"]["kind"], kind);
    assert_eq!(summary["input"]["frames"], FRAMES);
    let areas = summary["areas"].as_array().unwrap();
    for (index, area) in areas.iter().enumerate() {
        let mask = image::open(out.join(format!("masks/{index:04}.png"))).unwrap();
        let vessel = mask.as_bytes().iter().filter(|&&value| value == 255).count();
        assert_eq!((&area["frame"], &area["vessel_pixels"]), (&index.into(), &vessel.into()));
    }
    assert_eq!(areas.len(), FRAMES);
    let latency =
        ["min", "median", "p90", "p95", "p99", "max"].map(|name| summary["network_ms"][name].as_f64().unwrap());
    assert!(latency.is_sorted() && latency[0] > 0.0, "{latency:?}");
    assert_overlay(&out, &summary);
}

#[cfg(feature = "video")]
fn assert_overlay(out: &Path, summary: &Value) {
    assert_eq!(summary["outputs"]["overlay"], "overlay.mp4");
    let mut overlay = coronet::media::open(&out.join("overlay.mp4")).unwrap();
    let shown = std::iter::from_fn(|| overlay.next_frame().unwrap()).count();
    assert_eq!((overlay.info().frames, shown), (FRAMES, FRAMES));
}

#[cfg(not(feature = "video"))]
fn assert_overlay(out: &Path, summary: &Value) {
    assert!(!out.join("overlay.mp4").exists());
    assert_eq!(summary["outputs"]["overlay"], Value::Null);
    assert!(summary["outputs"]["overlay_note"].as_str().unwrap().contains("feature `video`"));
}

#[test]
fn a_folder_of_images_gets_a_mask_for_every_frame() {
    let place = Place::new();
    let input = clips::folder(place.at("clip"), &clips::frames(FRAMES));
    assert_complete(&place, &input, "images");
}

#[test]
#[cfg(feature = "video")]
fn a_video_gets_a_mask_for_every_frame_and_they_are_those_of_its_decoded_frames() {
    let place = Place::new();
    let input = clips::video(place.at("clip.mp4"), &clips::frames(FRAMES));
    assert_complete(&place, &input, "video");

    let mut reader = coronet::media::open(&input).unwrap();
    let decoded: Vec<GrayImage> = std::iter::from_fn(|| reader.next_frame().unwrap())
        .map(|frame| GrayImage::from_raw(64, 48, frame.into_grey().samples().to_vec()).unwrap())
        .collect();
    let images = clips::folder(place.at("decoded"), &decoded);
    let (video, images) = (run(&place, &input, 1, &[]), run(&place, &images, 1, &[]));
    assert_eq!(within(&video, "masks"), within(&images, "masks"));
    assert_eq!(within(&video, "probability"), within(&images, "probability"));
}

#[test]
#[cfg(feature = "dicom")]
fn a_dicom_clip_gets_the_masks_that_the_same_frames_get_as_images() {
    let place = Place::new();
    let input = clips::dicom(place.at("clip.dcm"), &clips::frames(FRAMES));
    assert_complete(&place, &input, "dicom");

    let images = clips::folder(place.at("images"), &clips::frames(FRAMES));
    let (dicom, images) = (run(&place, &input, 1, &[]), run(&place, &images, 1, &[]));
    assert_eq!(within(&dicom, "masks"), within(&images, "masks"));
    assert_eq!(within(&dicom, "probability"), within(&images, "probability"));
}

#[test]
fn one_image_is_a_clip_of_one_frame() {
    let place = Place::new();
    clips::png(&place.at("still.png"), &clips::frame(0));
    let left = run(&place, &place.at("still.png"), 2, &[]);
    assert_eq!(within(&left, "masks").keys().copied().collect::<Vec<_>>(), ["0000.png"]);
}

/// A network of one frame must give each frame what it gives that frame alone, also where one frame is like no other.
#[test]
fn the_mask_of_a_frame_is_that_of_the_frame_alone_when_the_network_has_no_neighbours() {
    let place = Place::new();
    let mut clip = clips::frames(FRAMES);
    clip[3] = GrayImage::from_fn(64, 48, |x, y| image::Luma([if (x / 8 + y / 8) % 2 == 0 { 20 } else { 230 }]));
    let whole = run(&place, &clips::folder(place.at("clip"), &clip), 0, &[]);
    let mut different = std::collections::BTreeSet::new();
    for (index, frame) in clip.iter().enumerate() {
        clips::png(&place.at("alone.png"), frame);
        let alone = run(&place, &place.at("alone.png"), 0, &[]);
        for kind in ["masks", "probability"] {
            assert_eq!(whole[&format!("{kind}/{index:04}.png")], alone[&format!("{kind}/0000.png")], "{kind} {index}");
        }
        different.insert(alone["probability/0000.png"].clone());
    }
    assert_eq!(different.len(), FRAMES, "frames that give the same prove nothing");
}

#[test]
fn the_mask_of_a_frame_comes_from_its_neighbours_and_the_ends_are_repeated() {
    let place = Place::new();
    let clip = clips::frames(FRAMES);
    let whole = run(&place, &clips::folder(place.at("clip"), &clip), 1, &[]);
    for index in 0..FRAMES {
        let window = [index.saturating_sub(1), index, (index + 1).min(FRAMES - 1)].map(|i| clip[i].clone());
        let of_window = probability(&place, &window, 1, 1);
        assert_eq!(whole[&format!("probability/{index:04}.png")], of_window, "frame {index}");
        // The neighbours count: the same frame between copies of itself gives something else.
        let still = probability(&place, &[clip[index].clone()], 1, 0);
        assert_ne!(of_window, still, "frame {index}");
    }
}

#[test]
fn a_range_of_frames_gives_the_masks_of_the_whole_clip() {
    let place = Place::new();
    let input = clips::folder(place.at("clip"), &clips::frames(FRAMES));
    let whole = run(&place, &input, 2, &[]);
    for range in [2..5, 0..1, 6..7] {
        let part = run(&place, &input, 2, &["--frames", &format!("{}..{}", range.start, range.end)]);
        for kind in ["masks", "probability"] {
            let (part, whole) = (within(&part, kind), within(&whole, kind));
            assert_eq!(part.keys().copied().collect::<Vec<_>>(), names(range.clone()));
            assert!(part.iter().all(|(name, bytes)| whole[name] == *bytes), "{kind} of {range:?}");
        }
    }
}

#[test]
fn every_run_leaves_the_same_bytes_whatever_the_number_of_threads() {
    let place = Place::new();
    let input = clips::folder(place.at("clip"), &clips::frames(FRAMES));
    let first = run(&place, &input, 1, &["--threads", "1"]);
    for threads in ["1", "2", "3"] {
        assert_eq!(run(&place, &input, 1, &["--threads", threads]), first, "{threads} threads");
    }
    assert!(first.contains_key("contact_sheet.png") && first.contains_key("masks/0006.png"));
}

#[test]
fn probabilities_have_16_bits_and_the_mask_follows_from_them() {
    let place = Place::new();
    let input = clips::folder(place.at("clip"), &clips::frames(2));
    run(&place, &input, 0, &["--threshold", "0.25", "--min-area", "0px"]);
    for name in names(0..2) {
        let probability = image::open(place.at("out/probability").join(&name)).unwrap();
        assert_eq!((probability.color(), probability.width(), probability.height()), (ColorType::L16, 64, 48));
        let mask = image::open(place.at("out/masks").join(&name)).unwrap();
        for (p, m) in probability.to_luma16().as_raw().iter().zip(mask.as_bytes()) {
            // 16384 / 65535 is just above a quarter; what rounds to it may lie on either side.
            assert!(*p == 16384 || (*p > 16384) == (*m == 255), "probability {p}, mask {m}");
        }
    }
}

#[test]
fn results_are_replaced_only_with_overwrite() {
    let place = Place::new();
    let (input, out) = (clips::folder(place.at("clip"), &clips::frames(3)), place.at("out"));
    place.segment(&input, 0, &out).assert().success();
    let before = super::place::tree(&out);

    let problem = place.refusal(&mut place.segment(&input, 0, &out));
    let expected =
        format!("{} already holds results; choose another folder, or replace them with --overwrite", out.display());
    assert_eq!(problem, expected);
    assert_eq!(super::place::tree(&out), before);

    place.segment(&input, 0, &out).args(["--overwrite", "--frames", "1..2"]).assert().success();
    assert_eq!(within(&results(&out), "masks").keys().copied().collect::<Vec<_>>(), ["0001.png"]);
}

#[test]
fn json_is_all_there_is_on_stdout_and_quiet_says_nothing() {
    let place = Place::new();
    let (input, out) = (clips::folder(place.at("clip"), &clips::frames(3)), place.at("out"));
    let told = place.segment(&input, 0, &out).args(["--json", "--overwrite"]).assert().success();
    let summary: Value = serde_json::from_slice(&told.get_output().stdout).unwrap();
    let written: Value = serde_json::from_slice(&std::fs::read(out.join("summary.json")).unwrap()).unwrap();
    assert_eq!(summary, written);
    assert_eq!(summary["schema"], "coronet/segment");

    place.segment(&input, 0, &out).args(["--quiet", "--overwrite"]).assert().success().stdout("").stderr("");
    let told = place.segment(&input, 0, &out).arg("--overwrite").assert().success();
    let lines = String::from_utf8(told.get_output().stdout.clone()).unwrap();
    assert!(lines.starts_with(&format!("3 masks of {SIZE} in {}/masks\n", out.display())), "{lines}");
}

#[test]
fn paths_with_spaces_and_foreign_letters_work() {
    let place = Place::new();
    let input = clips::folder(place.at("clip: 1 % ü #"), &clips::frames(2));
    place.segment(&input, 0, &place.at("out: é %02d")).assert().success();
    assert_eq!(within(&results(&place.at("out: é %02d")), "masks").len(), 2);
}

#[test]
#[cfg(feature = "dicom")]
fn a_real_cine_gets_96_masks_and_its_frames_as_images_get_the_same() {
    let input = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/rca_cine.dcm");
    if !input.exists() {
        eprintln!("skipped: {} is not there", input.display());
        return;
    }
    let place = Place::new();
    let out = place.at("out");
    place.segment(&input, 1, &out).assert().success();
    let left = results(&out);
    assert_eq!(within(&left, "masks").keys().copied().collect::<Vec<_>>(), names(0..96));
    let last = image::open(out.join("masks/0095.png")).unwrap();
    assert_eq!((last.width(), last.height()), (512, 512));

    let mut reader = coronet::media::open(&input).unwrap();
    let frames: Vec<GrayImage> = std::iter::from_fn(|| reader.next_frame().unwrap())
        .map(|frame| GrayImage::from_raw(512, 512, frame.into_grey().samples().to_vec()).unwrap())
        .collect();
    let images = clips::folder(place.at("images"), &frames);
    place.segment(&images, 1, &out).args(["--overwrite", "--frames", "90..96"]).assert().success();
    let part = results(&out);
    for (name, mask) in within(&part, "masks") {
        assert_eq!(mask, left[&format!("masks/{name}")], "{name}");
    }
}
