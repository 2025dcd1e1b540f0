//! `coronet phantom`: what it writes, that a seed decides every byte, and what it refuses.

use super::place::{CORONET, Place, sentence, tree};
use assert_cmd::Command;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

fn phantom(place: &Place, out: &str, extra: &[&str]) -> Command {
    let mut command = Command::new(CORONET);
    command.env_remove("RUST_BACKTRACE").current_dir(place.path()).args(["phantom", out, "--size", "96"]).args(extra);
    command
}

fn drawn(place: &Place, out: &str, extra: &[&str]) -> BTreeMap<String, Vec<u8>> {
    phantom(place, out, extra).arg("--quiet").assert().success().stdout("").stderr("");
    tree(&place.at(out))
}

fn grey(bytes: &[u8]) -> image::GrayImage {
    image::load_from_memory(bytes).unwrap().into_luma8()
}

fn truth(files: &BTreeMap<String, Vec<u8>>, clip: &str) -> serde_json::Value {
    serde_json::from_slice(&files[&format!("{clip}/phantom.json")]).unwrap()
}

#[test]
fn a_seed_decides_every_byte_whatever_the_number_of_threads() {
    let place = Place::new();
    let options = ["--frames", "5", "--clips", "2", "--start", "0.8"];
    let with = |out: &str, more: &[&str]| drawn(&place, out, &[&options[..], more].concat());
    let one = with("one", &["--threads", "1"]);
    assert_eq!(one, with("three", &["--threads", "3"]));
    let other = with("other", &["--seed", "2"]);
    assert_ne!(one["phantom-0000/frames/0002.png"], other["phantom-0000/frames/0002.png"]);
    assert_ne!(one["phantom-0000/labels/0002.png"], other["phantom-0000/labels/0002.png"]);
}

#[test]
fn frames_come_with_labels_a_video_and_the_truth() {
    let place = Place::new();
    let files = drawn(&place, "set", &["--frames", "12", "--start", "-0.2", "--fps", "5", "--stenoses", "2"]);
    let truth = truth(&files, "phantom-0000");
    assert_eq!(truth["stenoses"].as_array().unwrap().len(), 2);
    assert!(!truth["r_waves_seconds"].as_array().unwrap().is_empty());
    let frames = truth["frames"].as_array().unwrap();
    assert_eq!(frames.len(), 12);
    for (index, about) in frames.iter().enumerate() {
        let frame = grey(&files[&format!("phantom-0000/frames/{index:04}.png")]);
        let label = grey(&files[&format!("phantom-0000/labels/{index:04}.png")]);
        assert_eq!((frame.dimensions(), label.dimensions()), ((96, 96), (96, 96)));
        assert!(label.pixels().all(|p| matches!(p.0[0], 0 | 255)));
        let vessel = label.pixels().filter(|p| p.0[0] == 255).count();
        assert_eq!(about["vessel_pixels"], vessel);
        assert_eq!(about["stenoses_xy"].as_array().unwrap().len(), 2);
    }
    // Before the injection there is nothing to see; later there is.
    assert_eq!(frames[0]["vessel_pixels"], 0);
    assert!(frames[9]["vessel_pixels"].as_u64().unwrap() > 100);
    assert_eq!(files.contains_key("phantom-0000/clip.mp4"), cfg!(feature = "video"));
}

/// The masks are those of the pictures: vessels are darker than what is around them, frame after frame.
#[test]
fn vessels_are_dark_where_the_mask_is() {
    let place = Place::new();
    let options = ["--size", "256", "--frames", "4", "--start", "1.6", "--clips", "4", "--no-video"];
    let mut command = Command::new(CORONET);
    command.current_dir(place.path()).args(["phantom", "set", "--quiet"]).args(options).assert().success();
    let files = tree(&place.at("set"));
    for clip in 0..4 {
        for index in 0..4 {
            let frame = grey(&files[&format!("phantom-{clip:04}/frames/{index:04}.png")]);
            let label = grey(&files[&format!("phantom-{clip:04}/labels/{index:04}.png")]);
            let contrast = |shift: i64| {
                let (mut sum, mut count) = (0.0, 0.0);
                for (x, y, pixel) in label.enumerate_pixels() {
                    if pixel.0[0] == 255 {
                        let near: Vec<f64> = [(9, 0), (-9, 0), (0, 9), (0, -9)]
                            .into_iter()
                            .map(|(dx, dy)| (i64::from(x) + dx, i64::from(y) + dy))
                            .filter(|&(x, y)| (0..256).contains(&x) && (0..256).contains(&y))
                            .filter(|&(x, y)| label.get_pixel(x as u32, y as u32).0[0] == 0)
                            .map(|(x, y)| f64::from(frame.get_pixel(x as u32, y as u32).0[0]))
                            .collect();
                        let at = (i64::from(x) + shift).clamp(0, 255) as u32;
                        if !near.is_empty() {
                            sum +=
                                near.iter().sum::<f64>() / near.len() as f64 - f64::from(frame.get_pixel(at, y).0[0]);
                            count += 1.0;
                        }
                    }
                }
                sum / count
            };
            let there = contrast(0);
            assert!(there > 5.0, "clip {clip}, frame {index}: {there} grey levels");
            assert!(there > contrast(6) && there > contrast(-6), "clip {clip}, frame {index} is off");
        }
    }
}

#[test]
fn less_dose_is_noisier_and_the_catheter_is_vessel_only_on_request() {
    let place = Place::new();
    let options = ["--frames", "1", "--start", "1.5", "--no-video"];
    let with = |out: &str, more: &[&str]| drawn(&place, out, &[&options[..], more].concat());
    let noise = |files: &BTreeMap<String, Vec<u8>>| {
        let frame = grey(&files["phantom-0000/frames/0000.png"]);
        let rough = |x, y| f64::from(frame.get_pixel(x, y).0[0]) - f64::from(frame.get_pixel(x + 2, y).0[0]);
        (30..60).flat_map(|y| (30..60).map(move |x| (x, y))).map(|(x, y)| rough(x, y).powi(2)).sum::<f64>()
    };
    let usual = with("usual", &[]);
    assert!(noise(&with("low", &["--dose", "2"])) > 2.0 * noise(&usual));
    let vessel = |files: &BTreeMap<String, Vec<u8>>| {
        grey(&files["phantom-0000/labels/0000.png"]).pixels().filter(|p| p.0[0] == 255).count()
    };
    assert!(vessel(&with("catheter", &["--catheter-in-mask"])) > vessel(&usual));
}

#[test]
fn what_cannot_be_drawn_is_refused_with_a_sentence() {
    let place = Place::new();
    for (options, said) in [
        (&["--frames", "0"][..], "number of frames must be 1 to 100000, not 0"),
        (&["--size", "12"], "size must be 64 to 4096 pixels a side, not 12x12"),
        (&["--size", "wide"], "a size is a side or WIDTHxHEIGHT"),
        (&["--clips", "100000000000000"], "number of clips must be 1 to 10000, not 100000000000000"),
        (&["--frames", "100000", "--fps", "0.1"], "clip must be at most 3600 seconds long, not 1000000"),
        (&["--dose", "nan"], "dose must be 0.1 to 100000 nGy a frame, not NaN"),
        (&["--fps", "-3"], "frame rate must be 0.1 to 1000 frames a second, not -3"),
        (&["--angles", "30"], "angles are two numbers"),
        (&["--angles", "300,0"], "primary angle must be -120 to 120 degrees, not 300"),
        (&["--preset", "best"], "the presets are reference and varied; there is no best"),
        (&["--stenoses", "99"], "number of stenoses must be 0 to 8, not 99"),
    ] {
        let mut command = Command::new(CORONET);
        command.env_remove("RUST_BACKTRACE").current_dir(place.path()).args(["phantom", "set"]).args(options);
        let sentence = place.refusal(&mut command);
        assert!(sentence.contains(said), "{sentence}");
    }
}

#[test]
fn clips_are_replaced_on_request_and_nothing_else_ever_is() {
    let place = Place::new();
    let options = ["--frames", "2", "--no-video"];
    let before = drawn(&place, "set", &options);
    let said = place.refusal(phantom(&place, "set", &options).arg("--clips").arg("3"));
    assert!(said.contains("exists; choose another place, or replace it with --overwrite"), "{said}");
    assert_eq!(tree(&place.at("set")), before);
    let after = drawn(&place, "set", &[&options[..], &["--seed", "9", "--overwrite"]].concat());
    assert_eq!(after.keys().collect::<Vec<_>>(), before.keys().collect::<Vec<_>>());
    assert_ne!(after, before);

    std::fs::create_dir_all(place.at("mine/phantom-0000")).unwrap();
    std::fs::write(place.at("mine/phantom-0000/notes.txt"), "precious").unwrap();
    let said = place.refusal(phantom(&place, "mine", &options).arg("--overwrite"));
    assert!(said.contains("is no clip of the phantom"), "{said}");
    std::fs::write(place.at("file"), "").unwrap();
    let said = place.refusal(&mut phantom(&place, "file", &options));
    assert!(said.contains("is not a folder"), "{said}");
}

#[test]
fn ctrl_c_keeps_complete_clips_and_nothing_half_done() {
    let place = Place::new();
    let mut command = std::process::Command::new(CORONET);
    command.env_remove("RUST_BACKTRACE").current_dir(place.path());
    command.args(["phantom", "set", "--size", "96", "--frames", "4", "--clips", "3000", "--no-video"]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let begun = Instant::now();
    while !Path::new(&place.at("set/phantom-0001")).exists() {
        assert!(begun.elapsed() < Duration::from_secs(60), "no clip after a minute");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    let err = String::from_utf8(output.stderr).unwrap();
    let said = sentence(err.lines().last().unwrap());
    assert!(said.starts_with("stopped before the end; ") && said.contains("clips complete"), "{said}");
    for clip in std::fs::read_dir(place.at("set")).unwrap().map(|entry| entry.unwrap().path()) {
        assert!(clip.join("phantom.json").exists(), "{}", clip.display());
        assert_eq!(std::fs::read_dir(clip.join("frames")).unwrap().count(), 4);
    }
}
