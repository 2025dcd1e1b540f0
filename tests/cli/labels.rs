//! `coronet segment --labels`, and segmenting with nothing but a clip.

use super::clips::{folder, frames};
use super::place::{CORONET, Place, tree};
use assert_cmd::Command;
use std::fs;

/// A run on `clip`, its own masks held for the labels of a second run.
#[test]
fn masks_that_are_held_against_themselves_agree_and_the_closing_line_says_so() {
    let place = Place::new();
    let clip = folder(place.at("clip"), &frames(5));
    place.segment(&clip, 1, &place.at("first")).arg("--quiet").assert().success();
    let labels = place.at("first/masks");
    let run = place.segment(&clip, 1, &place.at("second")).arg("--labels").arg(&labels).assert().success();
    let out = String::from_utf8(run.get_output().stdout.clone()).unwrap();
    let line = format!("Dice 1.000 over all pixels, 1.000 as mean of the frames, against {}", labels.display());
    assert_eq!(out.lines().last(), Some(line.as_str()));

    // Labels are found by number: the last frame alone is compared with the last label alone.
    let range =
        place.segment(&clip, 1, &place.at("third")).args(["--frames", "4..5"]).arg("--labels").arg(&labels).ok();
    assert!(range.is_ok());
    let summary: serde_json::Value =
        serde_json::from_slice(&fs::read(place.at("third/summary.json")).unwrap()).unwrap();
    assert_eq!(summary["labels"]["dice"], serde_json::json!([1.0]));
}

#[test]
fn labels_of_the_wrong_frame_do_not_agree() {
    let place = Place::new();
    let clip = folder(place.at("clip"), &frames(5));
    place.segment(&clip, 0, &place.at("first")).arg("--quiet").assert().success();
    // The same labels, each one frame late.
    let masks: Vec<_> = tree(&place.at("first/masks")).into_values().collect();
    fs::create_dir(place.at("late")).unwrap();
    for (index, mask) in masks.iter().enumerate() {
        fs::write(place.at(&format!("late/{}.png", (index + 1) % masks.len())), mask).unwrap();
    }
    let mut command = place.segment(&clip, 0, &place.at("second"));
    command.args(["--quiet", "--labels"]).arg(place.at("late")).assert().success();
    let summary: serde_json::Value =
        serde_json::from_slice(&fs::read(place.at("second/summary.json")).unwrap()).unwrap();
    assert!(summary["labels"]["agreement"]["mean"]["dice"].as_f64().unwrap() < 1.0, "{}", summary["labels"]);
}

#[test]
fn labels_that_do_not_belong_to_the_clip_are_refused() {
    let place = Place::new();
    let clip = folder(place.at("clip"), &frames(4));
    let few = folder(place.at("few"), &frames(3));
    let small: Vec<_> = (0..4).map(|_| image::GrayImage::new(32, 32)).collect();
    let small = folder(place.at("small"), &small);
    place.weights(1);
    let labels = folder(place.at("labels"), &frames(4));
    let sentence = place.refusal(place.segment(&clip, 1, &labels).arg("--labels").arg(&labels));
    assert!(sentence.ends_with("labels is the labels' own folder; choose another one for the results"), "{sentence}");
    for (labels, said) in [
        (few, "few: holds 3 labels, but the clip has 4 frames; every frame needs its label"),
        (small, "small: the labels are 32x32, but the frames are 64x48"),
        (place.at("absent"), "absent"),
    ] {
        let sentence = place.refusal(place.segment(&clip, 1, &place.at("out")).arg("--labels").arg(labels));
        assert!(sentence.contains(said), "{sentence}");
    }
}

#[test]
fn without_weights_the_embedded_ones_are_used_and_named() {
    let place = Place::new();
    let clip = folder(place.at("clip"), &frames(2));
    let mut command = Command::new(CORONET);
    command.current_dir(place.path()).arg("segment").arg(&clip).args(["--out", "out", "--size", "192"]);
    let run = command.assert().success();
    let err = String::from_utf8(run.get_output().stderr.clone()).unwrap();
    assert!(err.starts_with("coronet: no --weights: using the weights that Coronet carries along"), "{err}");
    assert!(err.contains("not for clinical use"), "{err}");
    let summary: serde_json::Value = serde_json::from_slice(&fs::read(place.at("out/summary.json")).unwrap()).unwrap();
    assert!(summary["network"]["weights"].as_str().unwrap().starts_with("weights that Coronet carries along"));

    let other = place.segment(&clip, 1, &place.at("other")).assert().success();
    assert!(!String::from_utf8(other.get_output().stderr.clone()).unwrap().contains("carries along"));
}
