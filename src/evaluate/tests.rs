//! Networks whose masks are known, on a data set whose labels are.

use super::*;
use crate::dataset::fixture::{SIZE, write_clip};
use crate::dataset::{Dataset, FrameId, Section};
use crate::error::{Error, Result};
use crate::media::{Colour, Size};
use crate::metrics::Bootstrap;
use crate::post::{MinimumArea, PostProcessing, Threshold};
use crate::result_folder::ResultFolder;
use crate::segment::WindowNetwork;
use approx::assert_abs_diff_eq;
use std::sync::atomic::{AtomicUsize, Ordering};
use tempfile::TempDir;

/// Calls `too_many` pixels more vessel than the label does, in scan order, and is less sure of every further one. Frame i
/// of a fixture is all 10 i, and its label has its first i pixels set.
struct Generous {
    too_many: usize,
    scale: usize,
}

impl WindowNetwork for Generous {
    fn neighbours(&self) -> usize {
        1
    }

    fn colour(&self) -> Colour {
        Colour::Grey
    }

    fn input_size(&self) -> Size {
        Size { width: SIZE.width * self.scale, height: SIZE.height * self.scale }
    }

    fn run(&mut self, window: &[&[f32]], probability: &mut [f32]) -> Result<()> {
        let index = ((window[1][0] + 1.6) / 3.2 * 255.0 / 10.0).round() as usize;
        for (at, p) in probability.iter_mut().enumerate() {
            let width = SIZE.width * self.scale;
            let pixel = at / width / self.scale * SIZE.width + at % width / self.scale;
            *p = if pixel < index + self.too_many { 0.9 - 0.01 * pixel as f32 } else { 0.1 };
        }
        Ok(())
    }

    fn describe(&self) -> serde_json::Value {
        serde_json::json!({ "too_many": self.too_many })
    }
}

fn data_set(clips: &[(&str, usize)]) -> (TempDir, Dataset) {
    let folder = TempDir::new().unwrap();
    for (name, frames) in clips {
        write_clip(folder.path(), name, *frames);
    }
    let dataset = Dataset::open(folder.path()).unwrap();
    (folder, dataset)
}

fn whole(dataset: &Dataset) -> Vec<Section> {
    Section::whole_clips(dataset).collect()
}

fn post(pixels: usize) -> PostProcessing {
    PostProcessing { threshold: Threshold::default(), minimum_area: MinimumArea::Pixels(pixels) }
}

fn scored(dataset: &Dataset, pixels: usize, too_many: usize) -> Evaluation<'_> {
    let mut evaluator = Evaluator::new(dataset, post(pixels), ComparedAt::SourceSize);
    evaluator.add(&mut Generous { too_many, scale: 1 }, &whole(dataset), &()).unwrap();
    evaluator.finish(&Bootstrap::default()).unwrap()
}

/// Label i has i pixels, mask i has i + 1: IoU i / (i + 1), and 0 where there is no vessel.
#[test]
fn frames_clips_and_pixels_are_averaged_by_hand() {
    let (_folder, dataset) = data_set(&[("a", 2), ("b", 4)]);
    let evaluation = scored(&dataset, 0, 1);
    let Outcome { frames, mean, pooled, without_hd95, .. } = &evaluation.processed;
    assert_eq!((*frames, *without_hd95), (6, 2), "frames 0 have an empty label");
    let iou = [0.0, 1.0 / 2.0, 0.0, 1.0 / 2.0, 2.0 / 3.0, 3.0 / 4.0];
    assert_abs_diff_eq!(mean.iou.mean.unwrap(), iou.iter().sum::<f64>() / 6.0, epsilon = 1e-12);
    // 7 pixels of vessel, all found, and 6 more.
    assert_abs_diff_eq!(pooled.iou, 7.0 / 13.0, epsilon = 1e-12);
    assert_abs_diff_eq!(pooled.sensitivity, 1.0, epsilon = 1e-12);
    assert_abs_diff_eq!(pooled.accuracy, 1.0 - 6.0 / 120.0, epsilon = 1e-12);

    let clips: Vec<_> =
        evaluation.clips.iter().map(|c| (c.clip.as_str(), c.frames, c.processed.iou.unwrap())).collect();
    assert_eq!(clips, [("a", 2, 0.25), ("b", 4, iou[2..].iter().sum::<f64>() / 4.0)]);
    // Two clips: one of them twice is one draw in two.
    let interval = mean.iou.interval.unwrap();
    assert_abs_diff_eq!(interval.low, 0.25, epsilon = 1e-12);
    assert_abs_diff_eq!(interval.high, clips[1].2, epsilon = 1e-12);
    assert_eq!(evaluation.processed, evaluation.raw, "no component is smaller than 0 pixels");
}

#[test]
fn post_processing_drops_what_is_small_and_the_raw_mask_keeps_it() {
    let (_folder, dataset) = data_set(&[("a", 4)]);
    let evaluation = scored(&dataset, 3, 1);
    // Masks of 1 and 2 pixels go, and with them the vessel of frame 1.
    let counts = evaluation.processed.counts;
    assert_eq!((counts.true_positive, counts.false_positive, counts.false_negative), (2 + 3, 1 + 1, 1));
    let counts = evaluation.raw.counts;
    assert_eq!((counts.true_positive, counts.false_positive, counts.false_negative), (1 + 2 + 3, 4, 0));
    assert_eq!(evaluation.processed.mean.dice.interval, None, "one clip says nothing about others");
    // Frame 0: empty against empty after post-processing.
    assert_abs_diff_eq!(evaluation.processed.mean.iou.mean.unwrap(), (1.0 + 0.0 + 2.0 / 3.0 + 3.0 / 4.0) / 4.0);
}

/// Only with post-processing is the mask of frame 0 as empty as its label, and that of frame 1 empty at all.
#[test]
fn clips_say_how_many_frames_have_no_hd95() {
    let (_folder, dataset) = data_set(&[("a", 1), ("b", 4)]);
    let evaluation = scored(&dataset, 3, 1);
    let without: Vec<_> = evaluation.clips.iter().map(|c| (c.without_hd95, c.raw_without_hd95)).collect();
    assert_eq!(without, [(0, 1), (1, 1)]);
    assert_eq!((evaluation.processed.without_hd95, evaluation.raw.without_hd95), (1, 2));
}

#[test]
fn the_worst_frames_come_first_and_no_more_than_ten() {
    let (_folder, dataset) = data_set(&[("a", 7), ("b", 7)]);
    let evaluation = scored(&dataset, 0, 1);
    let worst: Vec<_> = evaluation.worst.iter().map(|poor| (poor.id.frame, poor.id.clip)).collect();
    let expected = [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1), (3, 0), (3, 1), (4, 0), (4, 1)];
    assert_eq!(worst, expected);
    assert_eq!(evaluation.worst[2].dice, 2.0 / 3.0);
    assert_eq!((evaluation.worst[2].mask.vessel_pixels(), evaluation.worst[2].label.vessel_pixels()), (2, 1));
}

/// Probabilities fall by 0.01 from pixel to pixel, and only those that are not vessel are below their frame's last.
#[test]
fn the_sweep_sees_probabilities_and_not_masks() {
    let (_folder, dataset) = data_set(&[("a", 4)]);
    let evaluation = scored(&dataset, 3, 1);
    let at = |threshold: f32| {
        let points = evaluation.sweep.operating_points();
        *points.iter().find(|point| (point.threshold - threshold).abs() < 1e-6).unwrap()
    };
    assert_eq!(at(0.5).dice, evaluation.raw.pooled.dice);
    // 0.9 is the first pixel of each frame: vessel in frames 1 to 3.
    assert_eq!((at(0.9).precision, at(0.9).sensitivity), (3.0 / 4.0, 3.0 / 6.0));
}

#[test]
fn two_networks_on_two_parts_count_together_and_no_frame_twice() {
    let (_folder, dataset) = data_set(&[("a", 4), ("b", 4)]);
    let sections = whole(&dataset);
    let mut evaluator = Evaluator::new(&dataset, post(0), ComparedAt::SourceSize);
    // The later clip first: what comes out is in the data set's order.
    evaluator.add(&mut Generous { too_many: 0, scale: 1 }, &sections[1..], &()).unwrap();
    evaluator.add(&mut Generous { too_many: 1, scale: 1 }, &sections[..1], &()).unwrap();
    let error = evaluator.add(&mut Generous { too_many: 1, scale: 1 }, &sections, &()).unwrap_err().to_string();
    assert!(error.ends_with("a/frames/0000.png would be scored twice; give each frame to one network"), "{error}");
    let evaluation = evaluator.finish(&Bootstrap::default()).unwrap();
    let clips: Vec<_> = evaluation.clips.iter().map(|c| (c.clip.as_str(), c.processed.iou.unwrap())).collect();
    assert_eq!(clips, [("a", (0.5 + 2.0 / 3.0 + 0.75) / 4.0), ("b", 1.0)]);
    let networks: Vec<_> = evaluation.networks.iter().map(|n| (n.frames, n.network["too_many"].as_u64())).collect();
    assert_eq!(networks, [(4, Some(0)), (4, Some(1))]);
}

#[test]
fn no_frame_counts_twice_within_one_part() {
    let (_folder, dataset) = data_set(&[("a", 4)]);
    let mut evaluator = Evaluator::new(&dataset, post(0), ComparedAt::SourceSize);
    let overlapping = [Section { clip: 0, frames: 0..3 }, Section { clip: 0, frames: 2..4 }];
    let error = evaluator.add(&mut Generous { too_many: 0, scale: 1 }, &overlapping, &()).unwrap_err().to_string();
    assert!(error.ends_with("a/frames/0002.png would be scored twice; give each frame to one network"), "{error}");
}

#[test]
fn frames_are_counted_and_refused_before_any_is_scored() {
    let (_folder, dataset) = data_set(&[("a", 4), ("b", 3)]);
    let sections = whole(&dataset);
    let mut evaluator = Evaluator::new(&dataset, post(0), ComparedAt::SourceSize);
    let twice = "a/frames/0000.png would be scored twice; give each frame to one network";
    assert_eq!(evaluator.frames_to_score(&sections).unwrap(), 7);
    let error = evaluator.frames_to_score(sections.iter().chain(&sections)).unwrap_err().to_string();
    assert!(error.ends_with(twice), "{error}");
    let error = evaluator.frames_to_score(&sections[..0]).unwrap_err().to_string();
    assert!(error.ends_with(" has no labelled frame to score"), "{error}");
    evaluator.add(&mut Generous { too_many: 0, scale: 1 }, &sections[..1], &()).unwrap();
    assert_eq!(evaluator.frames_to_score(&sections[1..]).unwrap(), 3);
    assert!(evaluator.frames_to_score(&sections).unwrap_err().to_string().ends_with(twice));
}

/// Looked at for the third time, it says to stop: two frames have been scored by then.
#[test]
fn nothing_counts_of_a_part_that_was_stopped() {
    struct StopAtThird(AtomicUsize);
    impl crate::dataset::Watcher for StopAtThird {
        fn interrupted(&self) -> bool {
            self.0.fetch_add(1, Ordering::Relaxed) == 2
        }
    }
    let (_folder, dataset) = data_set(&[("a", 4), ("b", 4)]);
    let mut evaluator = Evaluator::new(&dataset, post(0), ComparedAt::SourceSize);
    let mut network = Generous { too_many: 1, scale: 1 };
    let stopped = evaluator.add(&mut network, &whole(&dataset), &StopAtThird(AtomicUsize::new(0)));
    assert!(matches!(stopped, Err(Error::Interrupted)));
    evaluator.add(&mut network, &whole(&dataset), &()).unwrap();
    let (evaluation, undisturbed) = (evaluator.finish(&Bootstrap::default()).unwrap(), scored(&dataset, 0, 1));
    assert_eq!((&evaluation.frames, &evaluation.networks), (&undisturbed.frames, &undisturbed.networks));
    assert_eq!((&evaluation.sweep, &evaluation.worst), (&undisturbed.sweep, &undisturbed.worst));
}

/// At twice the size every label pixel is four. At the frame's size the bilinear steps fall on the same side of one half.
#[test]
fn at_the_networks_size_it_is_the_label_that_is_resized() {
    let (_folder, dataset) = data_set(&[("a", 4)]);
    let counted = |at| {
        let mut evaluator = Evaluator::new(&dataset, post(0), at);
        evaluator.add(&mut Generous { too_many: 0, scale: 2 }, &whole(&dataset), &()).unwrap();
        evaluator.finish(&Bootstrap::default()).unwrap().raw.counts
    };
    let (own, network) = (counted(ComparedAt::SourceSize), counted(ComparedAt::NetworkSize));
    assert_eq!(own.total(), 4 * 20);
    assert_eq!(network.total(), 4 * 80);
    assert_eq!((own.true_positive, own.false_negative), (6, 0));
    assert_eq!(network.true_positive + network.false_negative, 24);
}

#[test]
fn without_labels_there_is_nothing_to_score() {
    let (folder, _) = data_set(&[("a", 2)]);
    std::fs::remove_dir_all(folder.path().join("a/labels")).unwrap();
    let dataset = Dataset::open(folder.path()).unwrap();
    let mut evaluator = Evaluator::new(&dataset, post(0), ComparedAt::SourceSize);
    evaluator.add(&mut Generous { too_many: 0, scale: 1 }, &whole(&dataset), &()).unwrap();
    let error = evaluator.finish(&Bootstrap::default()).unwrap_err().to_string();
    assert!(error.ends_with(" has no labelled frame to score"), "{error}");
}

#[test]
fn a_watcher_stops_between_frames() {
    struct Stop;
    impl crate::dataset::Watcher for Stop {
        fn interrupted(&self) -> bool {
            true
        }
    }
    let (_folder, dataset) = data_set(&[("a", 2)]);
    let mut evaluator = Evaluator::new(&dataset, post(0), ComparedAt::SourceSize);
    let stopped = evaluator.add(&mut Generous { too_many: 0, scale: 1 }, &whole(&dataset), &Stop);
    assert!(matches!(stopped, Err(Error::Interrupted)));
}

/// Probabilities are 0.9, 0.89, 0.88, ... and the last of each frame's is not vessel.
#[test]
fn thresholds_in_the_document_are_the_decimals_that_were_meant() {
    let (_folder, dataset) = data_set(&[("a", 4)]);
    let post = PostProcessing { threshold: Threshold::new(0.3).unwrap(), ..post(0) };
    let mut evaluator = Evaluator::new(&dataset, post, ComparedAt::SourceSize);
    evaluator.add(&mut Generous { too_many: 1, scale: 1 }, &whole(&dataset), &()).unwrap();
    let document = evaluator.finish(&Bootstrap::default()).unwrap().document().unwrap();
    assert_eq!(document["threshold"], 0.3);
    assert_eq!(document["best_threshold"]["threshold"], 0.88);
    assert_eq!(document["best_threshold"]["dice"], 12.0 / 15.0);
    let points = document["thresholds"].as_array().unwrap();
    assert_eq!((points.len(), points[28]["threshold"].as_f64()), (99, Some(0.29)));
    assert_eq!(points[87], document["best_threshold"]);
    assert_eq!(points[88]["sensitivity"], 5.0 / 6.0);
}

/// The label of a fixture's first frame is empty.
#[test]
fn without_vessel_in_any_label_no_recall_is_drawn() {
    let (_folder, dataset) = data_set(&[("a", 1)]);
    let out = TempDir::new().unwrap();
    let folder = ResultFolder::create(out.path(), &RESULTS, false).unwrap();
    scored(&dataset, 0, 1).write(&folder).unwrap();
    folder.commit().unwrap();
    let chart = std::fs::read_to_string(out.path().join("precision_recall.svg")).unwrap();
    assert!(chart.contains("no vessel in any label") && !chart.contains("threshold 0.5"), "{chart}");
}

#[test]
fn the_files_hold_what_the_evaluation_does() {
    let (_folder, dataset) = data_set(&[("a, b", 3), ("c", 12)]);
    let evaluation = scored(&dataset, 2, 1);
    let out = TempDir::new().unwrap();
    let folder = ResultFolder::create(out.path(), &RESULTS, false).unwrap();
    evaluation.write(&folder).unwrap();
    folder.commit().unwrap();
    let mut names: Vec<_> =
        std::fs::read_dir(out.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    let mut expected = RESULTS.names.to_vec();
    names.sort();
    expected.sort_unstable();
    assert_eq!(names, expected);

    let read = |name: &str| std::fs::read_to_string(out.path().join(name)).unwrap();
    let frames: Vec<String> = read("frames.csv").lines().map(str::to_owned).collect();
    assert_eq!(frames.len(), 1 + 15);
    assert!(frames[0].starts_with("clip,frame,iou,dice,") && frames[0].ends_with(",raw_cl_dice,raw_hd95"));
    // Frame 1 of the first clip: one pixel of vessel, two called; too small for nothing.
    assert!(frames[2].starts_with("\"a, b\",0001.png,0.500000,0.666667,1.000000,"), "{}", frames[2]);
    // Frame 0: one pixel called where none is, and dropped.
    assert!(frames[1].starts_with("\"a, b\",0000.png,1.000000,") && frames[1].ends_with(','), "{}", frames[1]);
    let clips: Vec<String> = read("clips.csv").lines().map(str::to_owned).collect();
    assert_eq!(clips.len(), 3);
    assert!(clips[0].starts_with("clip,frames,iou,"), "{}", clips[0]);
    assert!(clips[0].ends_with(",raw_hd95,without_hd95,raw_without_hd95"), "{}", clips[0]);
    // Frame 0 once more: empty against empty, and without post-processing one pixel against none.
    assert!(clips[1].starts_with("\"a, b\",3,") && clips[1].ends_with(",0,1"), "{}", clips[1]);
    assert_eq!(read("thresholds.csv").lines().count(), 100);
    assert!(read("precision_recall.csv").lines().count() > 3);
    let chart = read("precision_recall.svg");
    assert!(chart.contains("average precision") && chart.contains("threshold 0.5"), "{chart}");
    assert!(read("thresholds.svg").contains("best Dice"));
    assert_eq!(std::fs::read_dir(out.path().join("worst")).unwrap().count(), 10);
    let picture = image::open(out.path().join("worst/01.png")).unwrap();
    assert!(picture.width() > 3 * 256 && picture.height() > 200);

    let document: serde_json::Value = serde_json::from_str(&read("evaluation.json")).unwrap();
    assert_eq!(document, evaluation.document().unwrap());
    assert_eq!(document["schema"], RESULTS.schema);
    assert_eq!(document["post_processed"]["frames"], 15);
    let first = &evaluation.worst[0];
    let FrameId { clip, frame } = first.id;
    assert_eq!(document["worst"][0]["clip"], dataset.clips()[clip].name);
    assert_eq!(document["worst"][0]["frame"], format!("{frame:04}.png"));
    assert_eq!(document["clips"][1]["post_processed"]["dice"], evaluation.clips[1].processed.dice.unwrap());
}
