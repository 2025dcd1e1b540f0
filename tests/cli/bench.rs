//! `coronet bench`: what it measures on every device of this build, and when it fails.

use super::place::{CORONET, Place, sentence, tree};
use assert_cmd::Command;
use serde_json::Value;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

fn bench(options: &[&str]) -> Command {
    let mut command = Command::new(CORONET);
    command.env_remove("RUST_BACKTRACE").args(["bench", "--quiet"]).args(options);
    command
}

/// A network that takes no time, on one device.
fn small(device: &str) -> Vec<&str> {
    let frames = ["--frames", "2", "--warm-up", "0", "--cold-starts", "1"];
    [&["--width", "4", "--n", "1", "--size", "96", "--device", device][..], &frames].concat()
}

fn document(options: &[&str]) -> Value {
    let output = bench(options).arg("--json").output().unwrap();
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && err.is_empty(), "{err}");
    serde_json::from_slice(&output.stdout).unwrap()
}

const DEVICES: &[&str] = if cfg!(feature = "emulator") { &["cpu", "emulated"] } else { &["cpu"] };

#[test]
fn every_device_is_measured_from_frame_to_mask_and_from_the_start_of_a_process() {
    for device in DEVICES {
        let document = document(&small(device));
        assert_eq!(document["config"]["device"], *device);
        assert!(document["median_ms"].as_f64().is_some_and(|ms| ms > 0.0));
        let metrics = document["modes"][0]["metrics"].as_array().unwrap();
        let names: Vec<&str> = metrics.iter().map(|metric| metric["name"].as_str().unwrap()).collect();
        let is_asynchronous = *device == "emulated";
        assert_eq!(names.contains(&"enqueue"), is_asynchronous, "{names:?}");
        assert_eq!(document["config"]["graph"], is_asynchronous);
        let method = document["method"]["end_to_end"].as_str().unwrap();
        assert_eq!(method.contains("the mask comes back"), is_asynchronous, "{method}");
        let sum: f64 =
            metrics[1..].iter().filter(|m| m["name"] != "enqueue").map(|m| m["mean"].as_f64().unwrap()).sum();
        let whole = metrics[0]["mean"].as_f64().unwrap();
        assert!(sum <= whole && sum > 0.9 * whole, "{sum} of {whole} ms");
        let launches: u64 =
            document["kernels"].as_array().unwrap().iter().map(|k| k["launches"].as_u64().unwrap()).sum();
        assert_eq!(launches > 0, is_asynchronous);
        // A process has more to do than a frame.
        let cold = document["cold_start"]["median"].as_f64().unwrap();
        assert!(cold > metrics[0]["min"].as_f64().unwrap() / 2.0, "{cold}");
        assert!(document["peak_resident_bytes"].as_u64().is_some_and(|bytes| bytes > 1 << 20));
        // The emulator says nothing about what a GPU could do.
        assert_eq!(document["ceilings"].is_null(), is_asynchronous);
    }
}

#[test]
fn weights_of_a_file_are_measured_and_two_runs_compared() {
    let folder = tempfile::tempdir().unwrap();
    let weights = folder.path().join("w.safetensors");
    let config = coronet::model::Config::new(8, coronet::model::Stem::Quarter, 0, 1).unwrap();
    coronet::weights::Weights::seeded(config, 3).unwrap().save(&weights).unwrap();
    let of_file = ["--weights", weights.to_str().unwrap(), "--size", "192", "--device", "cpu", "--threads", "1"];
    let quick = ["--frames", "2", "--warm-up", "0", "--cold-starts", "1", "--mode", "paced,warm", "--fps", "50"];
    let first = document(&[&of_file[..], &quick].concat());
    assert_eq!((&first["config"]["width"], &first["config"]["stem"]), (&8.into(), &"quarter".into()));
    assert_eq!(first["config"]["weights"], weights.to_str().unwrap());

    let [a, b] = ["a.json", "b.json"].map(|name| folder.path().join(name));
    std::fs::write(&a, first.to_string()).unwrap();
    std::fs::write(&b, document(&small("cpu")).to_string()).unwrap();
    let compare = |a: &Path, b: &Path| {
        let output = bench(&["--compare", a.to_str().unwrap(), b.to_str().unwrap()]).output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, text, err) = compare(&a, &b);
    assert_eq!((code, err.as_str()), (Some(0), ""));
    assert!(text.contains("width differs: A 8, B 4\n") && text.contains("\nwarm end_to_end "), "{text}");
    let (code, text, err) = compare(&a, &weights);
    assert_eq!((code, text.as_str()), (Some(1), ""));
    assert!(sentence(&err).contains("w.safetensors"), "{err}");
}

#[test]
fn a_limit_that_is_missed_and_what_cannot_be_measured_is_one_sentence() {
    let refused = |options: &[&str], code: i32| {
        let output = bench(options).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{options:?}");
        sentence(&String::from_utf8(output.stderr).unwrap()).to_owned()
    };
    let slow = refused(&[&small("cpu")[..], &["--assert-p99", "0.0001"]].concat(), 1);
    assert!(slow.contains("the 99th percentile is ") && slow.ends_with("more than the 0.0001 ms allowed"), "{slow}");
    let size = refused(&["--device", "cpu", "--size", "100"], 1);
    assert!(size.contains("100"), "{size}");
    let precision = refused(&["--device", "cpu", "--precision", "float16", "--width", "4", "--size", "96"], 1);
    assert!(precision.contains("a CPU multiplies in float32 or bfloat16"), "{precision}");
    assert!(refused(&["--weights", "nowhere.safetensors"], 1).contains("nowhere.safetensors"));
    refused(&["--mode", "cold"], 2);
    refused(&["--frames", "0"], 2);
    refused(&["--assert-p99", "NaN"], 2);
    refused(&["--compare", "a.json"], 2);
    refused(&["--compare", "a.json", "b.json", "--assert-p99", "1"], 2);
}

#[test]
fn ctrl_c_while_processes_are_started_is_no_failure_of_theirs() {
    let place = Place::new();
    let mut command = std::process::Command::new(CORONET);
    command.env_remove("RUST_BACKTRACE").env("TMPDIR", place.path());
    command.args(["bench", "--quiet", "--width", "4", "--n", "1", "--size", "96", "--device", "cpu"]);
    command.args(["--cold-starts", "100000"]).stdout(Stdio::piped()).stderr(Stdio::piped());
    // As a terminal has it: Ctrl-C goes to all processes of the group.
    let child = std::os::unix::process::CommandExt::process_group(&mut command, 0).spawn().unwrap();
    let begun = Instant::now();
    let has_weights = |entry: std::fs::DirEntry| entry.path().join("weights.safetensors").exists();
    while !std::fs::read_dir(place.path()).unwrap().flatten().any(has_weights) {
        assert!(begun.elapsed() < Duration::from_secs(60), "no weights after a minute");
        std::thread::sleep(Duration::from_millis(5));
    }
    // By then such processes run, nearly all of the time.
    std::thread::sleep(Duration::from_millis(300));
    let group = format!("-{}", child.id());
    assert!(std::process::Command::new("kill").args(["-INT", "--", &group]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    let err = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(130), "{err}");
    assert!(output.stdout.is_empty());
    assert_eq!(sentence(&err), "stopped before the end; nothing was written");
    assert!(tree(place.path()).is_empty());
}
