//! `coronet evaluate`: the same numbers as training's, the folds of a cross-validation together, and what it refuses.

use super::place::{CORONET, Place, sentence, tree};
use serde_json::Value;
use std::process::{Command, Output};

fn coronet(place: &Place, verb: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(CORONET);
    command.env_remove("RUST_BACKTRACE").current_dir(place.path()).arg(verb).args(arguments).output().unwrap()
}

fn done(output: Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn refused(output: Output) -> String {
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty());
    sentence(std::str::from_utf8(&output.stderr).unwrap())
}

fn evaluate(place: &Place, arguments: &[&str]) -> Output {
    coronet(place, "evaluate", &[&["data", "--device", "cpu"], arguments].concat())
}

fn json(place: &Place, arguments: &[&str]) -> Value {
    serde_json::from_str(&done(evaluate(place, &[arguments, &["--json", "--quiet"]].concat()))).unwrap()
}

/// Three clips of the phantom, six frames each.
fn data_set(place: &Place) {
    let options = ["data", "--clips", "3", "--frames", "6", "--size", "96", "--start", "1", "--no-video", "--quiet"];
    done(coronet(place, "phantom", &options));
}

fn train(place: &Place, run: &str, epochs: &str, extra: &[&str]) {
    let small = ["--width", "4", "--size", "96", "--batch", "2", "--epochs", epochs, "--rate", "0.01", "--quiet"];
    done(coronet(place, "train", &[&["data", "--device", "cpu", "--out", run], &small[..], extra].concat()));
}

#[test]
fn a_run_scores_as_it_did_while_it_was_trained() {
    let place = Place::new();
    data_set(&place);
    train(&place, "run", "2", &[]);
    let metrics = std::fs::read_to_string(place.at("run/metrics.csv")).unwrap();
    let last: Vec<&str> = metrics.lines().last().unwrap().split(',').collect();
    let columns: Vec<&str> = metrics.lines().next().unwrap().split(',').collect();
    let scores = json(&place, &["--run", "run"]);
    for name in ["iou", "dice", "sensitivity", "specificity", "accuracy"] {
        let trained: f64 = last[columns.iter().position(|c| *c == format!("test_{name}")).unwrap()].parse().unwrap();
        let found = scores["raw"]["mean"][name]["mean"].as_f64().unwrap();
        assert!((trained - found).abs() < 1e-6, "{name}: {trained} while training, {found} now");
    }
    assert_eq!(scores["post_processed"]["frames"], 3, "a sixth of each clip");
    assert_eq!(scores["networks"][0]["network"]["input_size"]["width"], 96);

    // The same weights on everything, at another threshold, into a folder.
    let all = ["--weights", "run/last.safetensors", "--size", "96", "--threshold", "0.3", "--out", "scores"];
    let text = done(evaluate(&place, &all));
    assert!(text.contains("95 % interval over clips") && text.contains("18 frames in 3 clips; "), "{text}");
    let rows = std::fs::read_to_string(place.at("scores/frames.csv")).unwrap();
    assert_eq!(rows.lines().count(), 1 + 18);
    let written: Value = serde_json::from_slice(&std::fs::read(place.at("scores/evaluation.json")).unwrap()).unwrap();
    let mean = &written["post_processed"]["mean"]["dice"];
    let (low, high) = (mean["interval"]["low"].as_f64().unwrap(), mean["interval"]["high"].as_f64().unwrap());
    assert!(low <= mean["mean"].as_f64().unwrap() && mean["mean"].as_f64().unwrap() <= high);

    // What is there stays there until it may go.
    let before = tree(&place.at("scores"));
    assert!(refused(evaluate(&place, &[&all[..], &["--quiet"]].concat())).contains("already holds results"));
    assert_eq!(tree(&place.at("scores")), before);
    done(evaluate(&place, &[&all[..], &["--overwrite", "--quiet"]].concat()));
    assert_eq!(tree(&place.at("scores")).len(), before.len());
}

#[test]
fn the_folds_of_a_cross_validation_count_together() {
    let place = Place::new();
    data_set(&place);
    for fold in ["0", "1", "2"] {
        train(&place, &format!("fold{fold}"), "1", &["--folds", "3", "--fold", fold]);
    }
    let together = json(&place, &["--run", "fold0", "--run", "fold1", "--run", "fold2"]);
    assert_eq!(together["post_processed"]["frames"], 18);
    assert_eq!(together["clips"].as_array().unwrap().len(), 3);
    let alone: Vec<f64> = ["fold0", "fold1", "fold2"]
        .map(|run| json(&place, &["--run", run])["raw"]["mean"]["iou"]["mean"].as_f64().unwrap())
        .to_vec();
    let mean = together["raw"]["mean"]["iou"]["mean"].as_f64().unwrap();
    assert!((mean - alone.iter().sum::<f64>() / 3.0).abs() < 1e-9, "{mean} of {alone:?}");

    // One fold as --weights and --folds see it.
    let fold = ["--weights", "fold1/last.safetensors", "--size", "96", "--folds", "3", "--fold", "1"];
    assert_eq!(json(&place, &fold)["raw"]["mean"]["iou"]["mean"].as_f64().unwrap(), alone[1]);

    // That is said at once: what would be found wrong while the first run is scored has not been found yet.
    for clip in 0..3 {
        let label = place.at(&format!("data/phantom-{clip:04}/labels/0003.png"));
        let bytes = std::fs::read(&label).unwrap();
        std::fs::write(&label, &bytes[..bytes.len() / 2]).unwrap();
    }
    let spoilt = refused(evaluate(&place, &["--run", "fold0", "--quiet"]));
    assert!(spoilt.contains("labels/0003.png"), "{spoilt}");
    let twice = refused(evaluate(&place, &["--run", "fold0", "--run", "fold0", "--quiet"]));
    assert!(twice.ends_with("would be scored twice; give each frame to one network"), "{twice}");
}

/// From threshold 0 on the mask is the whole image, and too small for a minimum area of one pixel more.
#[test]
fn frames_without_hd95_are_counted_with_post_processing_and_without() {
    let place = Place::new();
    data_set(&place);
    for clip in 0..3 {
        // No vessel in the first clip, nothing else in the others.
        let label = image::GrayImage::from_pixel(96, 96, image::Luma([if clip == 0 { 0 } else { 255 }]));
        (0..6).for_each(|i| label.save(place.at(&format!("data/phantom-{clip:04}/labels/{i:04}.png"))).unwrap());
    }
    let weights = place.weights(1);
    let weights = ["--weights", weights.to_str().unwrap(), "--size", "96"];
    let scored = |extra: &[&str]| done(evaluate(&place, &[&weights[..], &["--threshold", "0"], extra].concat()));
    let text = scored(&["--min-area", "9217px", "--out", "scores"]);
    let counted = "; left out of HD95, since mask or label is empty: 12 frames with post-processing, 6 without; ";
    assert!(text.contains(counted), "{text}");
    let clips = std::fs::read_to_string(place.at("scores/clips.csv")).unwrap();
    let counts: Vec<_> = clips.lines().map(|line| line.rsplitn(3, ',').take(2).collect::<Vec<_>>()).collect();
    assert_eq!(counts, [["raw_without_hd95", "without_hd95"], ["6", "0"], ["0", "6"], ["0", "6"]]);

    // The raw masks alone have such frames.
    std::fs::remove_dir_all(place.at("data/phantom-0001")).unwrap();
    std::fs::remove_dir_all(place.at("data/phantom-0002")).unwrap();
    let text = scored(&["--min-area", "9217px"]);
    assert!(text.contains(" is empty: 0 frames with post-processing, 6 without; "), "{text}");
}

#[test]
fn only_what_is_scored_needs_labels() {
    let place = Place::new();
    data_set(&place);
    let weights = place.weights(1);
    let run = |extra: &[&str]| {
        let weights = ["--weights", weights.to_str().unwrap(), "--size", "96", "--quiet", "--json"];
        evaluate(&place, &[&weights[..], extra].concat())
    };
    let unlabelled = |clip: &str| std::fs::remove_dir_all(place.at("data").join(clip).join("labels")).unwrap();
    unlabelled("phantom-0000");
    unlabelled("phantom-0002");
    // One fold tests on the clip that has labels and has none to learn from; the other has none to test on.
    let [first, second] = ["0", "1"].map(|fold| run(&["--folds", "2", "--fold", fold]));
    let (scored, empty) = if first.status.success() { (first, second) } else { (second, first) };
    let document: Value = serde_json::from_str(&done(scored)).unwrap();
    assert_eq!(document["post_processed"]["frames"], 6);
    let said = refused(empty);
    assert!(said.starts_with("data has no labelled frame to score in fold ") && said.ends_with(" of 2"), "{said}");

    unlabelled("phantom-0001");
    assert_eq!(refused(run(&[])), "data has no labelled frame to score");
}

#[test]
fn what_cannot_be_scored_is_a_sentence_and_leaves_nothing() {
    let place = Place::new();
    data_set(&place);
    let quiet = |arguments: &[&str]| refused(evaluate(&place, &[arguments, &["--quiet", "--out", "scores"]].concat()));
    let says = |arguments: &[&str], what: &str| {
        let said = quiet(arguments);
        assert!(said.contains(what), "{said}");
    };
    says(&["--weights", "absent.safetensors"], "absent.safetensors: No such file");
    says(&["--run", "absent"], "absent holds no run: it has no config.json");
    says(&["--size", "97"], "97");

    let inside = refused(evaluate(&place, &["--size", "192", "--quiet", "--out", "data/scores"]));
    assert_eq!(inside, "data/scores lies in the data set data; choose a folder outside of it");
    let inside = coronet(&place, "train", &["data", "--out", "data/run", "--device", "cpu"]);
    assert_eq!(refused(inside), "data/run lies in the data set data; choose a folder outside of it");

    train(&place, "run", "1", &["--all"]);
    says(&["--run", "run"], "the run in run learned from everything");
    std::fs::write(place.at("run/config.json"), "{").unwrap();
    says(&["--run", "run"], "run/config.json: ");

    std::fs::write(place.at("data/phantom-0002/labels/0003.png"), "no image").unwrap();
    says(&["--size", "192"], "labels/0003.png");
    let label = std::fs::read(place.at("data/phantom-0002/labels/0004.png")).unwrap();
    std::fs::write(place.at("data/phantom-0002/labels/0003.png"), &label[..label.len() / 2]).unwrap();
    says(&["--size", "192"], "labels/0003.png");
    std::fs::remove_file(place.at("data/phantom-0002/frames/0002.png")).unwrap();
    says(&["--size", "192"], "0002");
    assert!(!place.at("scores").exists());
}
